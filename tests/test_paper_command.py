"""The command line and the runner: skipping, refusing, and a run that is killed."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from examples.paper import __main__ as command
from examples.paper import results, rows, runner
from examples.paper.data import Data
from examples.paper.engine import Options
from examples.paper.estimate import noise

ROOT = Path(__file__).parent.parent


@pytest.fixture
def work(tmp_path, monkeypatch):
    """One row and two seeds on noise."""
    monkeypatch.setattr(
        runner, "load", lambda *_: Data(noise("CIFAR10", 100), noise("CIFAR10", 20))
    )
    row = rows.choose(3, "a", "WC")
    return runner.Work(row, range(2), Options(epochs=1), tmp_path / "data", tmp_path / "out")


def test_runs_are_recorded_once_and_refused_where_another_is_at_them(
    work, standard_promotion, monkeypatch, capsys
):
    held = results.name_of(results.identity(work.rows[0], 1, work.options))
    with results.hold(work.out / "unfinished" / f"{held}.lock"):
        assert runner.run(work) == ["3.3 (a) WC, seed 1"]
    (record,) = results.read(results.path_of(work.out, 3))
    assert record["run"]["seed"] == 0
    assert record["outcome"] == "finished"
    assert record["paper"] == 85.01
    assert record["images"] == {"train": 100, "test": 20}
    assert record["machine"]["jax"] == jax.__version__
    assert [*(work.out / "unfinished").iterdir()] == []
    assert work.missing(work.rows[0]) == [1]
    monkeypatch.setattr(runner, "load", None)
    assert runner.run(dataclasses.replace(work, seeds=range(1))) == []
    assert "1 runs, 1 of them done already" in capsys.readouterr().out


def test_places_of_the_machine_stay_out_of_the_records():
    arguments = ["table", "3", "--data-dir", "/home/me/data", "--epochs", "4", "--out", "/home/me"]
    expected = "python -m examples.paper table 3 --data-dir DIR --epochs 4 --out DIR"
    assert runner.command(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table", "6"], "invalid choice '6'"),
        (["table", "3", "--model", "e"], "invalid choice 'e'"),
        (["table", "3", "--drops", "early"], "invalid choice 'early'"),
        (["table", "3", "--rows", "WX"], "fits none of the rows of Table 3"),
        (["table", "4", "--model", "d"], "Table 4 has the networks a, b, c, not 'd'"),
        (["table", "3", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["table", "5", "--data-dir", "nowhere"], "nowhere holds neither VOCtrainval_11-May-2012"),
        (["report", "--out", "nowhere"], "nowhere has no results"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(sys, "argv", ["examples.paper", *arguments])
    with pytest.raises(SystemExit) as refusal:
        command.main()
    told = " ".join((str(refusal.value) + capsys.readouterr().err).replace("│", " ").split())
    assert message in told


@pytest.mark.parametrize(
    ("option", "flags", "expected"),
    [
        ([], "--xla_a=1", "--xla_a=1 --xla_gpu_deterministic_ops=true"),
        (["--no-deterministic"], "", "--xla_gpu_deterministic_ops=false"),
        ([], "--xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops=false"),
    ],
)
def test_xla_is_asked_for_the_same_bits(option, flags, expected, monkeypatch, tmp_path):
    arguments = ["x", "list", "5", "--no-measure", "--out", str(tmp_path), *option]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("XLA_FLAGS", flags)
    command.main()
    assert os.environ["XLA_FLAGS"] == expected


def test_list_needs_neither_data_nor_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(
        sys, "argv", ["x", "list", "5", "--no-measure", "--out", str(tmp_path), "--seeds", "3"]
    )
    command.main()
    told = capsys.readouterr().out
    assert told.count("│ 3 ") >= 6
    assert "88.98" in told


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """CIFAR-10 in the official layout, of which the first 100 images of two files are not black."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        records = rng.integers(0, 256, (100, 1 + 3072), np.uint8)
        records[:, 0] %= 10
        with (folder / f"{name}.bin").open("wb") as file:
            file.write(records.tobytes())
            file.truncate(10_000 * (1 + 3072))
    return folder.parent


def start(data_dir, out):
    arguments = "table 3 --rows 7 --epochs 12 --checkpoint-every 1 --limit 100"
    places = ["--data-dir", str(data_dir), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "examples.paper", *shlex.split(arguments), *places],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_ends_with_the_same_bits(cifar10, tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    with start(cifar10, alone) as undisturbed, start(cifar10, killed) as victim:
        # It prints an epoch when it is over, and is killed in the course of a later one.
        assert any("epoch 3:" in line for line in victim.stdout)
        time.sleep(0.05)
        victim.kill()
        assert victim.wait() == -signal.SIGKILL
        assert not results.path_of(killed, 3).exists()
        with start(cifar10, killed) as heir:
            output, _ = heir.communicate()
        undisturbed.communicate()
    assert "epoch 1:" not in output
    assert "epoch 12:" in output
    first, second = (json.loads(results.path_of(out, 3).read_text()) for out in (alone, killed))
    assert first["parameters"] == second["parameters"]
    for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert len(first["curves"][name]) == 12
        assert first["curves"][name] == second["curves"][name]
    assert first["accuracy"] == second["accuracy"]
