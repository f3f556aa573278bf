"""What the benchmarks compare: sets of parameters, optimizers, and forms of centralization.

And what they measure it by: two in turns, loops of many updates in one call, kernels, bytes.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

import wcgc
import wcgc.models


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Shapes of a network's parameters and the axes of its kernels."""

    shapes: Any
    axes: Any

    def arrays(self, seed: int) -> Any:
        """Normal numbers of the size of usual weights."""
        rng = np.random.default_rng(seed)
        return jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(0, 0.05, leaf.shape), leaf.dtype), self.shapes
        )

    @property
    def bytes(self) -> int:
        """The size of one copy."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.shapes))


def network(letter: str) -> Parameters:
    """One of the paper's four."""
    classes = 21 if letter == "d" else 10
    model = nnx.eval_shape(lambda: wcgc.models.build(letter, classes, rngs=nnx.Rngs(0)))
    shapes = nnx.as_pure(nnx.state(model, nnx.Param))
    return Parameters(nnx.to_pure_dict(shapes), wcgc.models.rules())


def transformer(layers: int = 12, width: int = 768, heads: int = 12) -> Parameters:
    """A stack of attention and dense layers, 85 M parameters at its default size."""

    def kernel(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    layer = {
        "query": kernel(width, heads, width // heads),
        "key": kernel(width, heads, width // heads),
        "value": kernel(width, heads, width // heads),
        "out": kernel(heads, width // heads, width),
        "up": kernel(width, 4 * width),
        "down": kernel(4 * width, width),
        "scale": kernel(width),
    }
    axes = wcgc.by_path(
        ("query|key|value", wcgc.KernelAxes(in_axis=-3, out_axis=(-2, -1))),
        ("out", wcgc.KernelAxes(in_axis=(-3, -2), out_axis=-1)),
        ("up|down", wcgc.FLAX),
    )
    return Parameters({f"layer{i}": layer for i in range(layers)}, axes)


PARAMETERS: dict[str, Callable[[], Parameters]] = {
    "a": lambda: network("a"),
    "b": lambda: network("b"),
    "c": lambda: network("c"),
    "d": lambda: network("d"),
    "transformer": transformer,
}

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9)),
    "adam": lambda: optax.chain(optax.add_decayed_weights(5e-5), optax.adam(1e-3)),
    # A rate that XLA does not know when it compiles.
    "adam, schedule": lambda: optax.chain(
        optax.add_decayed_weights(5e-5), optax.adam(optax.cosine_decay_schedule(1e-3, 1000))
    ),
}

MEMORY_SCHEDULER = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
"""Compiler options for the CPU: one temporary array at a time."""

Form = Callable[[optax.GradientTransformation, Any], tuple[optax.GradientTransformation, Callable]]
"""From an optimizer and axes to the optimizer to use and what to do to the updated parameters."""


def _as_it_is(params):
    return params


def uncentralized(
    tx: optax.GradientTransformation, axes: Any = None
) -> tuple[optax.GradientTransformation, Callable]:
    """The form without any centralization."""
    del axes
    return tx, _as_it_is


FORMS: dict[str, Form] = {
    "GC": lambda tx, axes: (
        optax.chain(wcgc.centralize_gradients(axes=axes), tx),
        _as_it_is,
    ),
    "WC": lambda tx, axes: (optax.chain(tx, wcgc.centralize_params(axes=axes)), _as_it_is),
    "GC+WC": lambda tx, axes: (wcgc.centralized(tx, axes=axes), _as_it_is),
    "GC, centralize after apply": lambda tx, axes: (
        optax.chain(wcgc.centralize_gradients(axes=axes), tx),
        lambda params: wcgc.centralize(params, axes=axes),
    ),
}


def medians_in_turns(
    benchmark: Any, rival: Callable, measured: Callable, rounds: int, pause: float = 0
) -> tuple[float, float]:
    """Runs both, one after the other in each round, after one call of each to warm up.

    Args:
      benchmark: pytest-benchmark's fixture, which times `measured`.
      rival: timed here.
      measured: what the benchmark is about.
      rounds: how many.
      pause: seconds before and after each call of `rival`.

    Returns:
      Median seconds of the rival and of what is measured.
    """
    seconds = []

    def time_rival():
        time.sleep(pause)
        start = time.perf_counter()
        rival()
        seconds.append(time.perf_counter() - start)
        time.sleep(pause)

    for call in (rival, measured):
        call()
    benchmark.pedantic(measured, setup=time_rival, rounds=rounds)
    return float(np.median(seconds)), benchmark.stats.stats.median


def in_a_loop(function: Callable, times: int) -> Callable:
    """From `function(carry, constant)` to `times` calls of it, each on the result of the last."""
    if times == 1:
        return function

    def looped(carry, constant):
        def once(_, carry):
            # Bound to the carry, or XLA would compute once what depends on the constant alone.
            return function(*lax.optimization_barrier((carry, constant)))

        return lax.fori_loop(0, times, once, carry)

    return looped


def lowered_update(
    tx: optax.GradientTransformation,
    after: Callable,
    params: Any,
    times: int = 1,
    sharding: jax.sharding.Sharding | None = None,
) -> jax.stages.Lowered:
    """`times` updates in place of arrays like `params`, for the default device or `sharding`'s."""

    def update(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return after(optax.apply_updates(params, updates)), state

    arguments = (params, jax.eval_shape(tx.init, params)), params
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), arguments
    )
    looped = in_a_loop(update, times)
    return jax.jit(looped, donate_argnums=0, out_shardings=sharding).lower(*arguments)


INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%(?P<name>\S+) = (?P<shape>\(.*?\)|\S+) "
    r"(?P<opcode>[\w-]+)\((?P<operands>.*?)\)",
    re.MULTILINE,
)
ARRAY = re.compile(r"\b(?P<dtype>[a-z]+\d*)\[(?P<sides>[\d,]*)\]")
NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}


def kernels_and_bytes(compiled: jax.stages.Compiled) -> tuple[int, int]:
    """How many kernels a compiled program without loops starts, and what they read and write.

    What several kernels read is counted for each of them, wherever it is read from.
    """
    entry = compiled.as_text().partition("\nENTRY")[2]
    kernels, total, sizes = 0, 0, {}
    for match in INSTRUCTION.finditer(entry):
        sizes[match["name"]] = sum(map(_bytes, ARRAY.finditer(match["shape"])))
        if match["opcode"] not in NO_KERNEL:
            operands = re.findall(r"%([\w.-]+)", match["operands"])
            kernels += 1
            total += sum(sizes[name] for name in [match["name"], *operands])
    return kernels, total


def _bytes(array: re.Match) -> int:
    sides = [int(side) for side in array["sides"].split(",") if side]
    bits = 8 if array["dtype"] == "pred" else int(re.sub(r"\D", "", array["dtype"]))
    return math.prod(sides) * bits // 8
