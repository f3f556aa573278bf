"""The cost of an update with centralization against that of the plain optimizer.

    python -m pytest tests/benchmarks/test_update_cost.py --benchmark-json=update_cost.json

Each round runs the plain update, then the centralized one, both in place; on a GPU, whose host
would take longer to start an update than the GPU to run it, a loop of 100 of each. The ratio of
their medians is printed last, with the memory, the compile time, the kernels and the bytes, and
with the ratios to a floor: gradients, state and parameters read once and the latter two written
once, as fast as the device copies memory.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wcgc

from helpers.compared import FORMS, MEMORY_SCHEDULER, OPTIMIZERS, PARAMETERS, uncentralized
from helpers.measuring import kernels_and_bytes, lowered_update, medians_in_turns

pytestmark = pytest.mark.usefixtures("standard_promotion")

ROUNDS = 25

UPDATES = 1 if jax.default_backend() == "cpu" else 100
"""In one call."""


class Update:
    """A compiled update with the parameters and state that it works on."""

    def __init__(self, tx, after, params, grads, options=None):
        start = time.perf_counter()
        self.compiled = self.called = lowered_update(tx, after, params).compile(options)
        self.compile_seconds = time.perf_counter() - start
        if UPDATES > 1:
            self.called = lowered_update(tx, after, params, UPDATES).compile(options)
        self.grads = grads
        params = jax.tree.map(lambda leaf: leaf.copy(), params)
        self.carry = params, tx.init(params)

    def __call__(self):
        self.carry = jax.block_until_ready(self.called(self.carry, self.grads))

    @property
    def temporary(self):
        return self.compiled.memory_analysis().temp_size_in_bytes

    @property
    def least_bytes(self):
        read_and_written = sum(leaf.nbytes for leaf in jax.tree.leaves(self.carry))
        return 2 * read_and_written + sum(leaf.nbytes for leaf in jax.tree.leaves(self.grads))


@pytest.fixture(scope="module")
def copy_bandwidth():
    """Bytes read and written a second when a GiB is negated in place, which allocates nothing."""
    array = jnp.ones(2**28, jnp.float32)
    size = 2 * array.nbytes
    negate = jax.jit(jnp.negative, donate_argnums=0)
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        array = negate(array).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return size / float(np.median(seconds[1:]))


@pytest.fixture
def compare(benchmark, copy_bandwidth):
    """Times both, one after the other in each round, and records what they cost."""

    def compare(plain, centralized, size):
        plain_median, median = (
            seconds / UPDATES for seconds in medians_in_turns(benchmark, plain, centralized, ROUNDS)
        )
        floor = plain.least_bytes / copy_bandwidth
        kernels, moved = kernels_and_bytes(centralized.compiled)
        plain_kernels, plain_moved = kernels_and_bytes(plain.compiled)
        benchmark.extra_info.update(
            ratio=median / plain_median,
            ratio_to_floor=median / floor,
            plain_ratio_to_floor=plain_median / floor,
            plain_median_seconds=plain_median,
            copy_gigabytes_per_second=copy_bandwidth / 1e9,
            temporary_share=centralized.temporary / size,
            compile_ratio=centralized.compile_seconds / plain.compile_seconds,
            kernels=kernels,
            plain_kernels=plain_kernels,
            bytes_per_parameter_byte=moved / size,
            plain_bytes_per_parameter_byte=plain_moved / size,
            updates_per_call=UPDATES,
            device=jax.devices()[0].device_kind,
            jax=jax.__version__,
        )

    return compare


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_update(compare, parameters, optimizer, form):
    chosen = PARAMETERS[parameters]()
    params, grads = chosen.arrays(seed=0), chosen.arrays(seed=1)
    tx, after = FORMS[form](OPTIMIZERS[optimizer](), chosen.axes)
    plain = Update(*uncentralized(OPTIMIZERS[optimizer]()), params, grads)
    compare(plain, Update(tx, after, params, grads), chosen.bytes)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an option for the CPU")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("parameters", ["b", "transformer"])
def test_update_with_the_memory_scheduler(compare, parameters, optimizer):
    chosen = PARAMETERS[parameters]()
    params, grads = chosen.arrays(seed=0), chosen.arrays(seed=1)
    tx, after = FORMS["GC+WC"](OPTIMIZERS[optimizer](), chosen.axes)
    plain = Update(*uncentralized(OPTIMIZERS[optimizer]()), params, grads)
    compare(plain, Update(tx, after, params, grads, MEMORY_SCHEDULER), chosen.bytes)


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize(
    ("algorithm", "plain"),
    [
        (wcgc.algorithm_2, lambda rate: optax.chain(optax.ema(0.9, debias=False), optax.sgd(rate))),
        (wcgc.algorithm_3, optax.adam),
    ],
    ids=["algorithm_2", "algorithm_3"],
)
def test_algorithm(compare, parameters, algorithm, plain):
    chosen = PARAMETERS[parameters]()
    params, grads = chosen.arrays(seed=0), chosen.arrays(seed=1)
    tx = algorithm(1e-3, axes=chosen.axes)
    updates = [Update(*uncentralized(tx), params, grads) for tx in (plain(1e-3), tx)]
    compare(*updates, chosen.bytes)


def test_against_optax_where_the_axes_agree(compare):
    # (out, in, y, x): here averaging over all axes but the first is right.
    params = {
        f"conv{i}": np.float32(np.random.default_rng(i).normal(size=(256, 256, 3, 3)))
        for i in range(16)
    }
    params = jax.device_put(params)
    ours = optax.chain(wcgc.centralize_gradients(axes=wcgc.EQUINOX), OPTIMIZERS["sgd"]())
    theirs = optax.chain(optax.centralize(), OPTIMIZERS["sgd"]())
    updates = [Update(*uncentralized(tx), params, params) for tx in (theirs, ours)]
    compare(*updates, sum(leaf.nbytes for leaf in params.values()))
