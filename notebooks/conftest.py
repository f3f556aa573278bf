"""Runs the notebooks as strictly as the tests: a warning is an error."""

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Sets what the notebooks' kernels start with."""
    with pytest.MonkeyPatch.context() as patch:
        # At its end the kernel itself warns of how it was written.
        patch.setenv("PYTHONWARNINGS", "error,ignore::PendingDeprecationWarning")
        return (yield)
