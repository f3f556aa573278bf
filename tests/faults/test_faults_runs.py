"""Runs that are killed, find a full or read-only disk, or want the folder of another run."""

import contextlib
import json
import os
import pathlib
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from examples import cifar, cifar_data
from examples.engine import results, runner
from examples.engine.data import Data
from examples.engine.engine import Engine
from examples.paper import __main__ as command
from examples.paper import experiments, rows
from examples.paper.estimate import noise
from examples.paper.experiments import Options, experiment

from helpers import finished

ROOT = pathlib.Path(__file__).parents[2]


# Killed


PAPER_ON_NOISE = """
import hashlib, pathlib, sys
from examples import cifar_data
from examples.paper import __main__ as command
for path in pathlib.Path(sys.argv[-1]).glob("*/*.bin"):
    cifar_data.MD5[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
command.main()
"""


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """CIFAR-10 in the official layout, of which the first 100 images of two files are not black."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in cifar_data.FILES["cifar10"]:
        records = rng.integers(0, 256, (100, 1 + 3072), np.uint8)
        records[:, 0] %= 10
        with (folder / f"{name}.bin").open("wb") as file:
            file.write(records.tobytes())
            file.truncate(10_000 * (1 + 3072))
    return folder.parent


def start(data_dir, out, epochs):
    arguments = f"table 3 --rows 7 --epochs {epochs} --checkpoint-every 1 --limit 100"
    places = ["--out", str(out), "--data-dir", str(data_dir)]
    return subprocess.Popen(
        [sys.executable, "-c", PAPER_ON_NOISE, *shlex.split(arguments), *places],
        cwd=ROOT,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONUNBUFFERED": "1",
            # What one process compiled, the others need not.
            "JAX_COMPILATION_CACHE_DIR": str(data_dir / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        },
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(cifar10, tmp_path, kills):
    epochs = 8 * kills
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    began = time.monotonic()
    with start(cifar10, alone, epochs) as undisturbed:
        next(line for line in undisturbed.stdout if "epoch 1:" in line)
        startup = time.monotonic() - began
        began = time.monotonic()
        undisturbed.communicate()
        epoch_seconds = (time.monotonic() - began) / epochs
    assert undisturbed.returncode == 0

    rng = np.random.default_rng(0)
    for kill in range(kills):
        with start(cifar10, killed, epochs) as victim:
            if kill % 4 == 1:  # in its start
                time.sleep(rng.uniform(0, startup))
            else:  # in the course of an epoch, of its test or of its checkpoint
                assert any("epoch" in line and ":" in line for line in victim.stdout)
                time.sleep(rng.uniform(0, 6 * epoch_seconds))
            victim.kill()
            assert victim.wait() == -signal.SIGKILL, "it was over before it was killed"
        assert not (killed / "table_3.jsonl").exists()
    with start(cifar10, killed, epochs) as heir:
        output, _ = heir.communicate()
    assert heir.returncode == 0
    assert "epoch 1:" not in output
    assert f"epoch {epochs}:" in output
    first, second = (json.loads((out / "table_3.jsonl").read_text()) for out in (alone, killed))
    assert first["parameters"] == second["parameters"]
    for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert len(first["curves"][name]) == epochs
        assert first["curves"][name] == second["curves"][name]
    assert first["accuracy"] == second["accuracy"]
    assert [*(killed / "unfinished").iterdir()] == []


# Disks


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def full(disk):
    """Nothing more fits."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield "No space left on device"
    filler.unlink()


@contextlib.contextmanager
def read_only(disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield "Read-only file system"
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


@contextlib.contextmanager
def limited(disk):
    """Files end after 1000 bytes, as they do at a quota."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(
    params=[
        limited,
        pytest.param(full, marks=pytest.mark.mount),
        pytest.param(read_only, marks=pytest.mark.mount),
    ],
    ids=lambda fault: fault.__name__,
)
def fault(request, tmp_path):
    """What breaks a disk while a context lasts, and a disk that it breaks."""
    if request.param is limited:
        return limited, tmp_path
    return request.param, request.getfixturevalue("disk")


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def engine():
    """One that is compiled once."""
    data = Data(noise("CIFAR10", 100), noise("CIFAR10", 20))
    return Engine(experiment(rows.choose(3, "a", "WC")[0], Options(epochs=4)), data)


@pytest.fixture
def paper(engine, monkeypatch, standard_promotion):
    """Runs the command on noise, as the only one of its runs."""
    monkeypatch.setattr(experiments.Setting, "load", lambda *_: None)
    monkeypatch.setattr(runner, "_engine", lambda *_: engine)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")

    def run(out):
        arguments = "x table 3 --model a --rows WC --epochs 4 --checkpoint-every 1 --out"
        monkeypatch.setattr(sys, "argv", [*arguments.split(), str(out)])
        command.main()
        (record,) = results.read(out / "table_3.jsonl")
        del record["curves"]["seconds"]
        return record["curves"], record["accuracy"], record["parameters"]

    return run


class StoppedError(Exception):
    pass


# Orbax's threads may still report to an event loop that the error has closed.
orbax_gives_up = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@orbax_gives_up
def test_a_broken_disk_keeps_the_checkpoint_and_the_run_goes_on(
    paper, engine, fault, tmp_path, monkeypatch
):
    breaks, out = fault
    alone = paper(tmp_path / "alone")
    train, epochs = engine.train, []

    def count(state, seeds, epoch):
        epochs.append(epoch)
        if epoch == stop_at:
            raise StoppedError
        return train(state, seeds, epoch)

    monkeypatch.setattr(engine, "train", count)
    stop_at = 3
    with pytest.raises(StoppedError):
        paper(out)
    stop_at = None
    (checkpoint,) = (out / "unfinished").glob("*/2")
    kept = files(checkpoint)
    assert kept
    with breaks(out) as reason, pytest.raises(SystemExit, match=f"^examples.paper: .*{reason}"):
        paper(out)
    assert files(checkpoint) == kept
    assert results.read(out / "table_3.jsonl") == []
    epochs.clear()
    assert paper(out) == alone
    assert epochs == [3, 4]
    assert [*(out / "unfinished").iterdir()] == []


def test_a_broken_disk_keeps_the_records(fault):
    breaks, out = fault
    path = out / "table_3.jsonl"
    record = {"run": {"seed": 0}, "outcome": "finished", "accuracy": 1.0, "more": "x" * 700}
    results.append(path, [record])
    with breaks(out) as reason, pytest.raises(OSError, match=reason):
        results.append(path, [record | {"more": "y" * 9000}])
    assert results.read(path) == [record]
    results.append(path, [record])
    assert results.read(path) == [record, record]


@orbax_gives_up
def test_a_broken_disk_keeps_what_cifar_saved(fault, monkeypatch):
    breaks, disk = fault
    out = disk / "out"
    curves = {"train_loss": [1.0], "train_accuracy": [0.5], "test_accuracy": [0.5]}
    monkeypatch.setattr(cifar, "fit", lambda *_: curves)
    (out / ".part" / "new").mkdir(parents=True)  # what a killed run may leave
    cifar.main(cifar.Config(out=out, epochs=1, seed=0))
    before = files(out)
    assert {path.name for path in before} >= {"curves.png", "metrics.json", "_METADATA"}
    with breaks(disk) as reason, pytest.raises(SystemExit, match=f"^cifar.py: .*{reason}"):
        cifar.main(cifar.Config(out=out, epochs=1, seed=1))
    shutil.rmtree(out / ".part", ignore_errors=True)  # threads of Orbax may write a little longer
    assert files(out) == before
    cifar.main(cifar.Config(out=out, epochs=1, seed=1))
    assert finished.metrics(out)["config"]["seed"] == 1
    assert sorted(os.listdir(out)) == finished.FILES
    saved, drawn = finished.restored(out, "centralized"), cifar.make_model(cifar.Config(seed=1))
    np.testing.assert_array_equal(saved.conv1.kernel[...], drawn.conv1.kernel[...])


# Two at once


def test_a_second_run_of_cifar_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    lock = tmp_path / ".lock"
    places = ["--out", str(tmp_path), "--epochs", "1000"]
    script = [sys.executable, "-m", "examples.cifar", *places]
    with subprocess.Popen(script, cwd=ROOT, stdout=subprocess.DEVNULL) as first:
        try:
            end = time.monotonic() + 240
            while not lock.exists():
                assert time.monotonic() < end, "it takes no lock"
                time.sleep(0.1)
            with pytest.raises(
                SystemExit, match=f"another run is at work for {tmp_path}: .* --out"
            ):
                cifar.main(cifar.Config(out=tmp_path))
        finally:
            first.kill()
    assert lock.exists()
    with results.hold(lock) as is_mine:
        assert is_mine
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_second_process_is_refused_the_run_of_the_first(cifar10, tmp_path):
    with start(cifar10, tmp_path, 1000) as first:
        try:
            assert any("epoch 1:" in line for line in first.stdout)
            with start(cifar10, tmp_path, 1000) as second:
                told, _ = second.communicate()
        finally:
            first.kill()
    assert second.returncode
    assert "3.7 (a) WC, GC, seed 0: refused, another process is at it" in told
