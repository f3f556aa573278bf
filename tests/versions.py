"""Tests the wheel with the lowest versions that it declares of its requirements, and the newest.

    python tests/versions.py                      # both, one after the other
    python tests/versions.py lowest --python 3.12
    python tests/versions.py highest -x tests/library  # pytest's arguments, not TESTS

Each gets a fresh virtual environment, made by uv, with the wheel and its extra `dev`, and runs the
tests but for notebooks and house rules in a folder that holds no sources of the library.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
RESOLUTIONS = {"lowest": "lowest-direct", "highest": "highest"}
TESTS = [
    *("-n", "auto", "--dist", "loadfile", "tests", "examples", "README.md"),
    "--ignore=tests/house",
]
UV = [sys.executable, "-m", "uv"]


def main() -> None:
    """Runs what the command line says; ends with an error if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="?", choices=RESOLUTIONS, help="both by default")
    parser.add_argument("--python", default=sys.executable, help="version or path of the Python")
    options, arguments = parser.parse_known_args()
    failed = []
    for versions in [options.versions] if options.versions else RESOLUTIONS:
        with tempfile.TemporaryDirectory() as scratch:
            if test(versions, options.python, arguments, pathlib.Path(scratch)):
                failed.append(versions)
    if failed:
        raise SystemExit(f"Tests failed with the {' and the '.join(failed)} versions")


def test(versions: str, python: str, arguments: list[str], scratch: pathlib.Path) -> int:
    """Makes the environment, copies what is no part of the library, and runs pytest there."""
    run = [*UV, "venv", "--quiet", "--python", python, str(scratch / "venv")]
    subprocess.run(run, check=True)
    run = [*UV, "build", "--quiet", "--out-dir", str(scratch / "dist"), str(ROOT)]
    subprocess.run(run, check=True)
    (wheel,) = (scratch / "dist").glob("*.whl")
    install = [*UV, "pip", "install", "--python", str(scratch / "venv" / "bin" / "python")]
    # The requirements are uv's direct ones only where they are read from pyproject.toml.
    resolution = ["--resolution", RESOLUTIONS[versions], "--extra", "dev"]
    subprocess.run([*install, *resolution, "-r", str(ROOT / "pyproject.toml")], check=True)
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)

    for name in "tests", "examples", "docs", "notebooks":
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / name, scratch / "work" / name, ignore=ignored)
    for name in "README.md", "pyproject.toml":
        shutil.copy(ROOT / name, scratch / "work")
    print(f"Testing with the {versions} versions", flush=True)
    run = [str(scratch / "venv" / "bin" / "python"), "-m", "pytest", *(arguments or TESTS)]
    path = f"{scratch / 'venv' / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(run, cwd=scratch / "work", env=os.environ | {"PATH": path}).returncode


if __name__ == "__main__":
    main()
