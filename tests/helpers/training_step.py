"""A whole training step of one of the paper's networks, compiled as the examples compile it."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import wcgc.models
from examples.engine import compiling

from helpers.measuring import in_a_loop

BATCHES = {"a": (50, 32), "b": (50, 32), "c": (50, 32), "d": (10, 227)}
"""Images a step and their side."""


class Step:
    """Compiled training steps with the network and optimizer that they work on."""

    def __init__(self, letter, tx, steps=1):
        classes = 21 if letter == "d" else 10
        batch, side = BATCHES[letter]
        rng = np.random.default_rng(0)
        images = jnp.asarray(rng.normal(size=(batch, side, side, 3)), jnp.float32)
        label_shape = (batch, side, side) if letter == "d" else (batch,)
        labels = jnp.asarray(rng.integers(classes, size=label_shape))
        self.batch = images, labels
        model = wcgc.models.build(letter, classes, rngs=nnx.Rngs(0))
        model.train()
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def step(carry, batch):
            params, rest, state = carry
            images, labels = batch

            def loss_fn(params):
                model = nnx.merge(graph, params, rest, copy=True)
                logits = model(images)
                loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
                return loss, nnx.split(model, nnx.Param, ...)[2]

            grads, rest = jax.grad(loss_fn, has_aux=True)(params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), rest, state

        self.carry = params, rest, tx.init(params)
        jitted = compiling.choose().jit(in_a_loop(step, steps), donate_argnums=0)
        start = time.perf_counter()
        self.compiled = jitted.lower(self.carry, self.batch).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self):
        self.carry = jax.block_until_ready(self.compiled(self.carry, self.batch))
