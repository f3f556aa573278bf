"""What is built, and what it is to those who install it. It needs the package index."""

import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata

import pytest

import wcgc

ROOT = pathlib.Path(__file__).parents[2]


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_library_requires_jax_numpy_and_optax_alone():
    required = metadata.requires("wcgc")
    alone = [re.match(r"[\w-]+", line)[0] for line in required if "extra ==" not in line]
    assert sorted(alone) == ["jax", "numpy", "optax"]
    assert {"cuda", "dev", "examples"} <= {*metadata.metadata("wcgc").get_all("Provides-Extra")}
    assert metadata.version("wcgc") == wcgc.__version__


def test_the_version_stands_once():
    """In `wcgc/__init__.py`; what is read without it must agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert "version" in project["dynamic"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    assert newest == cited == wcgc.__version__


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the tree without what was built or is hidden."""
    folder = tmp_path_factory.mktemp("sources") / "wcgc"
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs", "__pycache__")
    return shutil.copytree(ROOT, folder, ignore=ignored)


@pytest.fixture(scope="module")
def dist(sources):
    """A source distribution, and a wheel made from it."""
    run(sys.executable, "-m", "build", cwd=sources)
    (sdist,), (wheel,) = (sources / "dist").glob("*.tar.gz"), (sources / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def bare(dist, tmp_path_factory):
    """The Python of an environment with the wheel alone, and an empty folder."""
    folder = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", str(folder / "venv"), cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", str(dist[1]), cwd=folder)
    (folder / "empty").mkdir()
    return python, folder / "empty"


def contents(wheel):
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(dist):
    held = contents(dist[1])
    about = f"wcgc-{wcgc.__version__}.dist-info"
    assert {name.partition("/")[0] for name in held} == {"wcgc", about}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "wcgc").rglob("*.py")}
    assert {name for name in held if name.startswith("wcgc/")} == modules | {"wcgc/py.typed"}
    assert held[f"{about}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert b"weight and gradient centralization" in held[f"{about}/METADATA"].lower()


@pytest.mark.slow
def test_the_source_distribution_holds_all_that_its_tests_need(dist, sources):
    with tarfile.open(dist[0]) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    kept = {
        str(path.relative_to(sources))
        for folder in ("wcgc", "tests", "examples", "docs", "notebooks")
        for path in (sources / folder).rglob("*")
        if path.is_file()
    }
    pages = {path.name for path in sources.glob("*.md")}
    assert held >= kept | pages | {"LICENSE", "CITATION.cff", "pyproject.toml"}


@pytest.mark.slow
def test_an_index_would_take_wheel_and_source_distribution(dist, sources):
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, dist), cwd=sources)


@pytest.mark.slow
def test_the_wheel_of_the_sources_is_the_same(dist, sources, tmp_path):
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), cwd=sources)
    (wheel,) = tmp_path.iterdir()
    assert contents(wheel) == contents(dist[1])


@pytest.mark.slow
def test_the_wheel_works_alone(bare):
    python, empty = bare
    listed = run(python, "-m", "pip", "list", "--format=freeze", cwd=empty)
    assert {line.partition("==")[0] for line in listed.split()} >= {"jax", "optax", "numpy", "wcgc"}
    assert "works alone" in run(python, str(ROOT / "tests" / "smoke.py"), cwd=empty)


USER = """
import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]

import wcgc
from wcgc import KernelAxes

axes = KernelAxes(in_axis=-2, out_axis=(-1,), batch_axis=0)
params = wcgc.centralize({"kernel": jnp.ones((3, 4))}, "tensor")
wcgc.standardize(params, "channel", axes=wcgc.FLAX, eps=1e-6)
wcgc.normalize(params, axes=wcgc.by_path(("kernel", axes), ("bias", None)), norm=2.0)
first: optax.GradientTransformationExtraArgs = wcgc.centralized(optax.adam(1e-3), params=None)
second = optax.chain(wcgc.centralize_gradients(), optax.sgd(0.1), wcgc.centralize_params("global"))
third = wcgc.algorithm_2(0.1, momentum=0.9)
fourth = wcgc.algorithm_3(optax.constant_schedule(0.1), axes=wcgc.EQUINOX)
wcgc.standardize_params(), wcgc.normalize_params(norm=1.0), wcgc.normalize_params(norm="keep")
wcgc.centralize(params, strength=0.5), wcgc.centralize_gradients(strength=jnp.float32(1))
wcgc.layer_norm_to_rms_norm(params, "embed", {"norm": "head"}, others=("up", "gate"))
x: jax.Array = wcgc.centralize_error(jnp.ones((2, 3)), "sample")
x = wcgc.standardize_error(x, "channel", eps=1e-5)
area: wcgc.Area = "tensor"
error_area: wcgc.ErrorArea = "sample"
given: wcgc.Axes = {"layers": [axes, None], "head": (wcgc.LeftAlone("it is small"), {"w": axes})}
masked: wcgc.Mask = {"kernel": True, "rest": {"bias": False}}
kernels: dict[str, KernelAxes] = {"kernel": axes}
explanation: wcgc.Explanation = wcgc.explain(params, area, axes=given, mask=masked)
leaf: wcgc.LeafExplanation = explanation.leaves["kernel"]
measurement: wcgc.Measurement = wcgc.measure(params, axes=kernels, mask=lambda tree: True)
measured: wcgc.LeafMeasurement = measurement.leaves["kernel"]
wcgc.by_path(("head", None), otherwise=lambda tree: kernels)
print(explanation, measurement)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("", None),
        ('wcgc.centralize(params, "filter")', "arg-type"),
        ('wcgc.centralized(optax.sgd(0.1), gradients="filter")', "arg-type"),
        ('wcgc.normalize_params(norm="same")', "arg-type"),
        ("wcgc.centralise(params)", "attr-defined"),
        ('KernelAxes(in_axis="in")', "arg-type"),
        ('wcgc.centralize(params, axes="flax")', "arg-type"),
        ("wcgc.centralize(params, axes=-2)", "arg-type"),
        ("wcgc.centralize(params, axes=None)", "arg-type"),
        ('wcgc.centralize(params, axes={"layer": {"kernel": "flax"}})', "dict-item"),
        ('wcgc.centralize(params, mask="kernel")', "arg-type"),
        ('wcgc.centralize(params, mask={"kernel": 1})', "dict-item"),
    ],
)
def test_type_checkers_see_the_public_api(bare, line, error):
    python, empty = bare
    (empty / "user.py").write_text(USER + line + "\n")
    command = ["-m", "mypy", "--strict", "--python-executable", str(python), "user.py"]
    cache = ["--cache-dir", str(empty / "cache")]
    done = subprocess.run(
        [sys.executable, *command, *cache], cwd=empty, capture_output=True, text=True, check=False
    )
    if error is None:
        assert done.returncode == 0, done.stdout
    else:
        assert f"[{error}]" in done.stdout
        assert "Found 1 error in 1 file" in done.stdout


@pytest.mark.slow
def test_the_examples_run_where_the_wheel_has_its_extra(dist, tmp_path):
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"), cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", f"{dist[1]}[examples]", cwd=tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = ["-m", "examples.cifar", "--epochs", "1", "--model", "c"]
    printed = run(python, *command, cwd=tmp_path)
    assert "centralized" in printed
    assert (tmp_path / "runs" / "cifar" / "metrics.json").is_file()
