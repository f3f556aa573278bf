"""What the benchmarks measure by: two in turns, loops of updates in one call, kernels, bytes."""

import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax import lax


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
