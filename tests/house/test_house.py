"""The house rules: lint, format and types, for the library, its tests, examples and notebooks."""

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
def test_clean(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_library_imports_only_what_it_needs():
    code = "import sys, wcgc; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "wcgc" in imported
    assert imported.isdisjoint({"flax", "matplotlib", "orbax", "rich", "sklearn", "tyro"})


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
