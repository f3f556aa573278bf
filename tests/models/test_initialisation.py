"""The initial parameters: uniform by formula 16, and decided by the seed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wcgc.models

from helpers.networks import LETTERS, build, params


@pytest.mark.parametrize("letter", LETTERS)
def test_kernels_are_uniform_by_formula_16_and_biases_zero(letter):
    model = build(letter)
    for name, layer in nnx.iter_modules(model):
        if not isinstance(layer, (nnx.Conv, nnx.ConvTranspose, nnx.Linear)):
            continue
        window = np.prod(getattr(layer, "kernel_size", 1))
        bound = np.sqrt(6 / (window * layer.in_features + layer.out_features))
        kernel = np.asarray(layer.kernel[...], np.float64)
        deviation = bound / np.sqrt(3)
        # Five standard errors of the mean and of the deviation of a uniform sample.
        assert abs(kernel.mean()) < 5 * deviation / np.sqrt(kernel.size), name
        error = 5 * deviation * np.sqrt(0.2 / kernel.size)
        assert abs(kernel.std() - deviation) < error, name
        assert np.abs(kernel).max() <= np.float32(bound), name
        assert not layer.bias[...].any(), name


def test_largest_weights_of_network_a_are_at_bounds_worked_by_hand():
    largest = {
        path.removesuffix("/kernel"): np.abs(leaf).max()
        for path, leaf in params(build("a")).items()
        if path.endswith("kernel")
    }
    bounds = {
        "conv1": (6 / (75 + 32)) ** 0.5,
        "conv2": (6 / (800 + 32)) ** 0.5,
        "conv3": (6 / (800 + 64)) ** 0.5,
        "hidden": (6 / (1024 + 64)) ** 0.5,
        "head": (6 / (64 + 10)) ** 0.5,
    }
    assert largest == pytest.approx(bounds, rel=0.02)


def test_the_seed_decides_the_kernels():
    same, again, other = (params(build("a", seed=seed)) for seed in (1, 1, 2))
    chex.assert_trees_all_equal(same, again)
    assert (same["conv1/kernel"] != other["conv1/kernel"]).mean() > 0.9


def test_several_seeds_at_once_give_what_each_gives_alone():
    def make(key):
        return nnx.state(wcgc.models.build("a", 10, rngs=nnx.Rngs(key)))

    several = jax.jit(jax.vmap(make))(jnp.stack([jax.random.key(seed) for seed in (1, 2)]))
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[1], several), jax.jit(make)(jax.random.key(2)), rtol=1e-6
    )
