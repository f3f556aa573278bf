"""One device, eight devices and two processes give the same numbers; only means are exchanged."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from helpers import many_devices

ROOT = pathlib.Path(__file__).parents[2]
EPS = np.finfo(np.float32).eps
TIMEOUT = 300  # seconds


@contextlib.contextmanager
def started(*arguments):
    """A process that runs `many_devices.py`."""
    process = subprocess.Popen(
        [sys.executable, many_devices.__file__, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def results_of(process):
    output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def eight_devices():
    with started("--devices", 8, "train", "inspect") as process:
        return results_of(process)


@pytest.fixture(scope="module")
def two_processes():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    half = "--devices", 4, "--address", address, "train", "--process"
    with started(*half, 0) as first, started(*half, 1) as second:
        return results_of(first), results_of(second)


def test_training_on_one_device_on_eight_and_in_two_processes(eight_devices, two_processes, capsys):
    losses, params = many_devices.train(many_devices.mesh_of(jax.devices("cpu")[:1], (1, 1)))
    assert (eight_devices["devices"], eight_devices["processes"]) == (8, 1)
    assert all((half["devices"], half["processes"]) == (8, 2) for half in two_processes)
    first, second = two_processes
    assert first["params"] == second["params"]

    runs = {
        "1 device": params,
        "8 devices": {name: np.asarray(value) for name, value in eight_devices["params"].items()},
        "2 processes": {name: np.asarray(value) for name, value in first["params"].items()},
    }
    names = list(runs)
    pairs = [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
    differences = {
        pair: max(np.max(abs(runs[pair[0]][name] - runs[pair[1]][name])) for name in params)
        for pair in pairs
    }
    with capsys.disabled():
        print(f"\nLargest difference of parameters after {len(losses)} steps of WC + GC with Adam:")
        for (one, other), difference in differences.items():
            print(f"  {one} against {other}: {difference:.1e}")

    assert all(value.dtype == np.float64 for run in runs.values() for value in run.values())
    # Far above float64's rounding, since Adam divides by small numbers; far below any other cause.
    assert all(difference <= 1e-11 for difference in differences.values())
    assert losses[-1] < losses[0] / 5
    for run in eight_devices, first, second:
        np.testing.assert_allclose(run["losses"], losses, rtol=1e-9)
    for name, (shape, axes, _) in many_devices.LAYERS.items():
        if axes is not None:
            in_axes, _, _, spatial_axes = axes.resolve(len(shape))
            for run in runs.values():
                means = run[name].mean(axis=in_axes + spatial_axes)
                assert np.max(abs(means)) < 1e-14


@pytest.mark.parametrize("mesh", ["Auto", "Explicit"])
@pytest.mark.parametrize(
    ("function", "kernel"),
    [(function, name) for function, (_, names) in many_devices.FUNCTIONS.items() for name in names],
)
def test_sharded_kernels(function, kernel, mesh, eight_devices):
    report = eight_devices["reports"][f"{function}, {kernel}, {mesh}"]
    assert report["difference"] <= 4 * EPS
    assert report["kept"]
    # No kernel is gathered, nor anything else: means are summed up where they are needed.
    assert {name for name, _ in report["collectives"]} <= {"all-reduce"}
    moved = sum(size for _, size in report["collectives"])
    assert moved < 0.01 * report["bytes"]
    is_summed_on_one_device = kernel in ("out", "batch", "replicated")
    assert (moved == 0) == is_summed_on_one_device


def test_a_program_that_gathers_a_kernel_is_seen_to_do_so(eight_devices):
    report = eight_devices["reports"]["sort, in, Auto"]
    assert max(size for _, size in report["collectives"]) >= report["bytes"]


def test_the_bytes_of_collectives_are_read_off_programs():
    hlo = """
      %all-gather.1 = f32[512,4]{1,0} all-gather(%p), channel_id=1, dimensions={0}
      %all-reduce = (f32[8]{0}, bf16[2,3]{1,0}, f32[]) all-reduce(%a, %b, %c), to_apply=%add
      ROOT %all-to-all.2 = f32[4]{0} all-to-all-start(%all-gather.1)
      %fusion = f32[512,4]{1,0} fusion(%all-gather.1), calls=%all_reduce_computation
    """
    assert many_devices.collectives(hlo) == [
        ("all-gather", 8192),
        ("all-reduce", 32 + 12 + 4),
        ("all-to-all", 16),
    ]
