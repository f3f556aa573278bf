"""The study's command line."""

import sys

import pytest

from examples.engine import runner
from examples.study import __main__ as command
from examples.study import trajectories


@pytest.fixture
def call(monkeypatch, tmp_path):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["study", *words, "--out", str(tmp_path)])
        command.main()

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], r"^examples\.study: Name one block or more of A, B, "),
        (["run", "A", "Z"], r"^examples\.study: The blocks are A, B, .*, got Z\.$"),
        (["run", "G-rates"], r"^examples\.study: G-rates trains on a text: .* --text FILE\.$"),
        (["run", "B"], r"^examples\.study: Block A chooses the learning rate for plain"),
        (["trajectories"], r"^examples\.study: Block E-rates chooses the learning rate"),
        (["report"], r"^examples\.study: .* has no results"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_ends_with_one_line(call, words, message):
    with pytest.raises(SystemExit, match=message):
        call(*words)


def test_a_text_takes_the_place_of_the_data_sets(call, monkeypatch, tmp_path):
    places = []

    def run(settings, seeds, place, program, **choices):
        places.append((len(settings), [*seeds], place.data_dir.name, program, choices))
        return runner.Unfinished([], [])

    monkeypatch.setattr(runner, "run", run)
    call("run", "A", "G-rates", "--text", "plays.txt", "--data-dir", "images", "--jobs", "2")
    choices = {"checkpoint_every": 1, "processes": 2}
    assert places == [
        (20, [0, 1, 2], "images", "examples.study", choices),
        (9, [0], "plays.txt", "examples.study", choices),
    ]


def test_what_is_left_unfinished_is_told_at_the_end(call, monkeypatch):
    unfinished = runner.Unfinished(["A GC, seed 1"], [])
    monkeypatch.setattr(runner, "run", lambda *arguments, **choices: unfinished)
    with pytest.raises(SystemExit, match="another process is at it: A GC, seed 1"):
        call("run", "A")


def test_trajectories_keep_the_places_of_the_machine_to_themselves(call, monkeypatch):
    commands = []
    monkeypatch.setattr(trajectories, "run", lambda data, out, text: commands.append(text))
    call("trajectories", "--data-dir", "/home/me")
    assert commands == ["python -m examples.study trajectories --data-dir DIR --out DIR"]
