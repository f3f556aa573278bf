"""The cost of an update with centralization against that of the plain optimizer.

    python -m pytest tests/benchmarks/test_update_cost.py --benchmark-json=update_cost.json

Each round runs the plain update, then the centralized one, both in place. The ratio of their
medians is printed last, with the memory, the compile time, the kernels and the bytes.
"""

import re
import time

import jax
import numpy as np
import optax
import pytest

import wcgc

from cases import FORMS, MEMORY_SCHEDULER, OPTIMIZERS, PARAMETERS, compiled_update

pytestmark = pytest.mark.usefixtures("standard_promotion")

ROUNDS = 25


class Update:
    """A compiled update with the parameters and state that it works on."""

    def __init__(self, tx, after, params, grads, options=None):
        start = time.perf_counter()
        self.compiled = compiled_update(tx, after, params, options)
        self.compile_seconds = time.perf_counter() - start
        self.grads = grads
        self.params = jax.tree.map(lambda leaf: leaf.copy(), params)
        self.state = tx.init(self.params)

    def __call__(self):
        self.params, self.state = self.compiled(self.params, self.state, self.grads)
        jax.block_until_ready(self.params)

    @property
    def temporary(self):
        return self.compiled.memory_analysis().temp_size_in_bytes

    @property
    def kernels(self):
        entry = self.compiled.as_text().partition("ENTRY")[2]
        return len(re.findall(r" = \S+ (?:fusion|reduce|custom-call|dot)\(", entry))

    @property
    def bytes_accessed(self):
        return self.compiled.cost_analysis()["bytes accessed"]


def compare(benchmark, plain, centralized, size):
    """Times both, one after the other in each round, and records what they cost."""
    plain_seconds = []

    def time_plain():
        start = time.perf_counter()
        plain()
        plain_seconds.append(time.perf_counter() - start)

    for update in (plain, centralized):
        update()
    benchmark.pedantic(centralized, setup=time_plain, rounds=ROUNDS)
    benchmark.extra_info.update(
        ratio=benchmark.stats.stats.median / float(np.median(plain_seconds)),
        plain_median_seconds=float(np.median(plain_seconds)),
        temporary_share=centralized.temporary / size,
        compile_ratio=centralized.compile_seconds / plain.compile_seconds,
        kernels=centralized.kernels,
        plain_kernels=plain.kernels,
        bytes_per_parameter_byte=centralized.bytes_accessed / size,
        plain_bytes_per_parameter_byte=plain.bytes_accessed / size,
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_update(benchmark, parameters, optimizer, form):
    chosen = PARAMETERS[parameters]()
    params, grads = chosen.arrays(seed=0), chosen.arrays(seed=1)
    tx, after = FORMS[form](OPTIMIZERS[optimizer](), chosen.axes)
    plain = Update(OPTIMIZERS[optimizer](), lambda params: params, params, grads)
    compare(benchmark, plain, Update(tx, after, params, grads), chosen.bytes)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an option for the CPU")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("parameters", ["b", "transformer"])
def test_update_with_the_memory_scheduler(benchmark, parameters, optimizer):
    chosen = PARAMETERS[parameters]()
    params, grads = chosen.arrays(seed=0), chosen.arrays(seed=1)
    tx, after = FORMS["GC+WC"](OPTIMIZERS[optimizer](), chosen.axes)
    plain = Update(OPTIMIZERS[optimizer](), lambda params: params, params, grads)
    compare(benchmark, plain, Update(tx, after, params, grads, MEMORY_SCHEDULER), chosen.bytes)


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize(
    ("algorithm", "plain"),
    [
        (wcgc.algorithm_2, lambda rate: optax.chain(optax.ema(0.9, debias=False), optax.sgd(rate))),
        (wcgc.algorithm_3, optax.adam),
    ],
    ids=["algorithm_2", "algorithm_3"],
)
def test_algorithm(benchmark, parameters, algorithm, plain):
    chosen = PARAMETERS[parameters]()
    params, grads = chosen.arrays(seed=0), chosen.arrays(seed=1)
    tx = algorithm(1e-3, axes=chosen.axes)
    updates = [Update(tx, lambda params: params, params, grads) for tx in (plain(1e-3), tx)]
    compare(benchmark, *updates, chosen.bytes)


def test_against_optax_where_the_axes_agree(benchmark):
    # (out, in, y, x): here averaging over all axes but the first is right.
    params = {
        f"conv{i}": np.float32(np.random.default_rng(i).normal(size=(256, 256, 3, 3)))
        for i in range(16)
    }
    params = jax.device_put(params)
    ours = optax.chain(wcgc.centralize_gradients(axes=wcgc.EQUINOX), OPTIMIZERS["sgd"]())
    theirs = optax.chain(optax.centralize(), OPTIMIZERS["sgd"]())
    updates = [Update(tx, lambda params: params, params, params) for tx in (theirs, ours)]
    compare(benchmark, *updates, sum(leaf.nbytes for leaf in params.values()))
