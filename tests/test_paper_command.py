"""The command line and the runner: skipping and refusing."""

import dataclasses
import os
import sys

import jax
import pytest

from examples.paper import __main__ as command
from examples.paper import results, rows, runner
from examples.paper.data import Data
from examples.paper.engine import Options
from examples.paper.estimate import noise


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
