"""Settings for all tests, and fixtures that several folders use."""

import os

import hypothesis
import jax
import numpy as np
import pytest

# On a GPU each process would take three quarters of its memory when it starts; here several run.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

# Products in full precision on accelerators too, so that one tolerance serves every backend.
jax.config.update("jax_default_matmul_precision", "highest")

# Compiling takes longer than any deadline. By default the same examples are drawn each time.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=100, derandomize=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2000, print_blob=True)
# That a mutant fails is enough to know.
hypothesis.settings.register_profile(
    "mutation",
    deadline=None,
    max_examples=25,
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.load_profile("quick")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def strict_promotion():
    """Makes an error of a dtype that changes unasked, as some users do."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def standard_promotion(strict_promotion):
    """For tests that need Optax's Adam or schedules, which raise floats to integer powers."""
    with jax.numpy_dtype_promotion("standard"):
        yield
