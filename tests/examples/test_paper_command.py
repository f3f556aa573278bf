"""The command line and the runner: skipping and refusing."""

import os
import sys

import jax
import pytest

from examples.engine import compiling, results, runner
from examples.paper import __main__ as command
from examples.paper import rows
from examples.paper.experiments import Options

from helpers.on_noise import OnNoise


@pytest.fixture
def places(tmp_path):
    return runner.Places(tmp_path / "data", tmp_path / "out")


@pytest.fixture
def setting():
    """One row on noise."""
    return OnNoise(rows.choose(3, "a", "WC")[0], Options(epochs=1))


def run(setting, seeds, places, **options):
    return runner.run([setting], seeds, places, "examples.paper", processes=1, **options)


def test_runs_are_recorded_once_and_refused_where_another_is_at_them(
    setting, places, standard_promotion, monkeypatch, capsys
):
    (held,) = runner.Job(setting, (1,)).names()
    with results.hold(places.unfinished / f"{held}.lock"):
        unfinished = run(setting, range(2), places)
    assert unfinished == runner.Unfinished(refused=["3.3 (a) WC, seed 1"], failed=[])
    assert str(unfinished) == "Refused, since another process is at it: 3.3 (a) WC, seed 1"
    (record,) = results.read(places.out / "table_3.jsonl")
    assert record["run"]["seed"] == 0
    assert record["outcome"] == "finished"
    assert record["paper"] == 85.01
    assert record["images"] == {"train": 100, "test": 20}
    assert record["machine"]["jax"] == jax.__version__
    assert [*places.unfinished.iterdir()] == []
    assert record["compilation"] == compiling.choose().name
    assert runner.missing(places, setting, range(2)) == [1]
    monkeypatch.setattr(OnNoise, "load", None)
    assert run(setting, range(1), places) == runner.Unfinished([], [])
    assert "1 runs, 1 of them done already" in capsys.readouterr().out


def test_places_of_the_machine_stay_out_of_the_records():
    arguments = ["table", "3", "--data-dir", "/home/me/data", "--epochs", "4", "--out", "/home/me"]
    expected = "python -m examples.paper table 3 --data-dir DIR --epochs 4 --out DIR"
    assert runner.command("examples.paper", arguments) == expected


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
