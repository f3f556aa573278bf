"""Fixtures that several tests of the library use."""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture
def params(rng):
    return {
        "kernel": jnp.asarray(rng.normal(1.0, 1.0, (4, 3)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=3), jnp.float32),
    }


@pytest.fixture
def grads(rng, params):
    return {
        name: jnp.asarray(rng.normal(1.0, 1.0, leaf.shape), leaf.dtype)
        for name, leaf in params.items()
    }


@pytest.fixture
def x64():
    """Switches float64 on for one test."""
    with jax.enable_x64(True):
        yield
