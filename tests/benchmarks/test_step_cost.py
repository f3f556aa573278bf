"""The cost of a whole training step with WC and GC against that of the plain optimizer.

    python -m pytest tests/benchmarks/test_step_cost.py --benchmark-json=step_cost.json

Forward, backward and update of the paper's networks at the paper's batch sizes. Each round runs the
plain step, then the centralized one; on a GPU, whose host would take longer to start a step than
the GPU to run it, a loop of 20 of each.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wcgc
import wcgc.models
from examples.engine import compiling

from cases import OPTIMIZERS, in_a_loop, medians_in_turns

pytestmark = pytest.mark.usefixtures("standard_promotion")

ROUNDS = 15

BATCHES = {"a": (50, 32), "b": (50, 32), "c": (50, 32), "d": (10, 227)}
"""Images a step and their side."""

STEPS = 1 if jax.default_backend() == "cpu" else 20
"""In one call."""


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


@pytest.mark.parametrize("letter", BATCHES)
def test_step(benchmark, letter):
    optimizer = OPTIMIZERS["sgd" if letter == "d" else "adam"]
    plain = Step(letter, optimizer(), STEPS)
    tx = wcgc.centralized(optimizer(), axes=wcgc.models.rules())
    centralized = Step(letter, tx, STEPS)
    plain_median, median = (
        seconds / STEPS for seconds in medians_in_turns(benchmark, plain, centralized, ROUNDS)
    )
    benchmark.extra_info.update(
        ratio=median / plain_median,
        plain_median_seconds=plain_median,
        images_per_second=BATCHES[letter][0] / median,
        compile_ratio=centralized.compile_seconds / plain.compile_seconds,
        steps_per_call=STEPS,
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
        compilation=compiling.choose().name,
    )
