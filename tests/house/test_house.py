"""The house rules: lint, format and types of all code, and what an import brings with it."""

import pathlib
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)],
    ids=" ".join,
)
def test_nothing_is_complained_of(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_library_imports_only_what_it_needs():
    code = """
import sys, jax, numpy, optax
before = {*sys.modules}
import wcgc
print(*({name.partition(".")[0] for name in {*sys.modules} - before} - sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"jax", "jaxlib", "numpy", "optax"} == {"wcgc"}


def test_mutants_are_made_of_modules_that_there_are():
    mutmut = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    assert [name for name in mutmut["only_mutate"] if not (ROOT / name).is_file()] == []


def test_collecting_the_tests_for_mutants_starts_no_backend():
    """Mutmut forks the process that has collected them, in which JAX's threads would be lost."""
    mutmut = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    # JAX refuses this when a backend has started.
    code = (
        "import sys, jax, pytest; "
        "pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', *sys.argv[1:]]); "
        "jax.config.update('jax_num_cpu_devices', 2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *mutmut["pytest_add_cli_args_test_selection"]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert " tests collected" in done.stdout
    assert done.returncode == 0, done.stderr
