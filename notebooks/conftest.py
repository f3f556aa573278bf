"""Runs the notebooks as strictly as the tests: a warning is an error."""

import pathlib
import tempfile

import pytest

# Strict only while a cell runs: the kernel itself warns when it is started and shut down.
STARTUP = """
import warnings

from IPython import get_ipython

events = get_ipython().events
events.register("pre_run_cell", lambda info: warnings.simplefilter("error"))
events.register("post_run_cell", lambda result: warnings.simplefilter("default"))
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Gives the kernel of a notebook a profile with that startup file, and no user's settings."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        startup = pathlib.Path(folder, "profile_default", "startup")
        startup.mkdir(parents=True)
        (startup / "strict.py").write_text(STARTUP, encoding="utf-8")
        patch.setenv("IPYTHONDIR", folder)
        return (yield)
