"""What the benchmarks measure by, tried on programs whose cost is known."""

import time
import types

import jax
import jax.numpy as jnp
import numpy as np

from helpers.measuring import in_a_loop, kernels_and_bytes, medians_in_turns


class Benchmark:
    """As pytest-benchmark's fixture, with a clock that always says 3 seconds."""

    stats = types.SimpleNamespace(stats=types.SimpleNamespace(median=3.0))

    def pedantic(self, function, setup, rounds):
        for _ in range(rounds):
            setup()
            function()


def test_two_take_turns_and_each_has_its_own_median():
    calls = []

    def rival():
        calls.append("rival")
        time.sleep(0.01)

    medians = medians_in_turns(Benchmark(), rival, lambda: calls.append("measured"), rounds=3)
    assert calls == ["rival", "measured"] * 4  # the first to warm up
    assert 0.01 <= medians[0] < 3.0
    assert medians[1] == 3.0


def test_a_loop_calls_the_function_on_its_own_result():
    looped = jax.jit(in_a_loop(lambda carry, constant: 2 * carry + constant, 3))
    assert looped(jnp.float32(1), jnp.float32(10)) == ((1 * 2 + 10) * 2 + 10) * 2 + 10


def test_kernels_and_bytes_of_a_sum():
    array = jax.ShapeDtypeStruct((1000,), np.float32)
    compiled = jax.jit(lambda x, y: x + y).lower(array, array).compile()
    assert kernels_and_bytes(compiled) == (1, 3 * 4000)
