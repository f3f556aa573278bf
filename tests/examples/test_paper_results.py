"""Records on disk: what tells runs apart, appending, crashes, locks."""

import dataclasses
import json
import math

import pytest

from examples.engine import results, runner
from examples.paper import experiments, rows
from examples.paper.experiments import Options

BASELINE, *_, LAST_OF_A = rows.choose(3, "a")
OF_B = rows.choose(3, "b", "Baseline, BN")[0]
OF_D = rows.choose(5, "d", "WC, BN")[0]


def name(row, seed=0, **options):
    return runner.Job(experiments.Setting(row, Options(**options)), (seed,)).names()[0]


@pytest.mark.parametrize(
    ("row", "other", "same"),
    [
        (BASELINE, {"epochs": 300}, True),  # the paper's
        (BASELINE, {"epochs": 4}, False),
        (BASELINE, {"drops": "late"}, False),
        (BASELINE, {"limit": 200}, False),
        (BASELINE, {"seed": 1}, False),
        (BASELINE, {"split": "custom"}, True),
        (BASELINE, {"norm": "layer"}, True),
        (BASELINE, {"stem": "cifar"}, True),
        (LAST_OF_A, {"norm": "layer"}, False),
        (OF_B, {"stem": "cifar"}, False),
        (OF_D, {"split": "custom"}, False),
        (OF_D, {"stem": "cifar"}, True),
    ],
)
def test_runs_are_told_apart_by_what_decides_them(row, other, same):
    assert (name(row) == name(row, **other)) == same


def test_names_differ_between_rows():
    everything = [row for table in (2, 3, 4, 5) for row in rows.read_table(table)]
    assert len({name(row) for row in everything}) == 85


def record(seed=0, **more):
    run = experiments.identity(BASELINE, seed, Options(epochs=2))
    return {"run": run, "outcome": "finished", "accuracy": 50.0} | more


def test_records_are_read_back(tmp_path):
    path = tmp_path / "table_3.jsonl"
    results.append(path, [record(0), record(1, curves={"train_loss": [1.0, math.nan]})])
    results.append(path, [record(2)])
    read = results.read(path)
    assert [each["run"]["seed"] for each in read] == [0, 1, 2]
    assert read[1]["curves"] == {"train_loss": [1.0, None]}
    places = runner.Places(tmp_path, tmp_path)
    two, three = (experiments.Setting(BASELINE, Options(epochs=epochs)) for epochs in (2, 3))
    assert runner.missing(places, two, range(5)) == [3, 4]
    assert runner.missing(places, three, range(2)) == [0, 1]


def test_what_a_crash_left_is_no_record_and_is_overwritten(tmp_path):
    path = tmp_path / "table_3.jsonl"
    results.append(path, [record(0)])
    with path.open("a") as file:
        file.write(json.dumps(record(1))[:-20])
    assert [each["run"]["seed"] for each in results.read(path)] == [0]
    results.append(path, [record(2)])
    assert [each["run"]["seed"] for each in results.read(path)] == [0, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "Line 2 of .* is not JSON"),
        ('{"run": 1}', "Line 2 of .* is not the record of a"),
    ],
)
def test_other_lines_are_refused(tmp_path, line, message):
    path = tmp_path / "table_3.jsonl"
    results.append(path, [record(0)])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        results.read(path)


def test_a_lock_is_held_by_one_alone_and_leaves_nothing(tmp_path):
    path = tmp_path / "unfinished" / "run.lock"
    for _ in range(2):
        with results.hold(path) as mine:
            assert mine
            with results.hold(path) as others:
                assert not others
        assert not path.exists()


def test_a_lock_that_its_owner_left_behind_is_taken(tmp_path):
    path = tmp_path / "run.lock"
    path.touch()
    with results.hold(path) as mine:
        assert mine


def test_identity_holds_the_papers_recipe():
    run = experiments.identity(OF_D, 3, Options())
    assert (run["epochs"], run["seed"]) == (800, 3)
    assert run["recipe"]["learning_rate"] == 0.1
    assert run["recipe"]["batch_size"] == 10


OTHER = {
    "table": 4,
    "number": 1,
    "dataset": "CIFAR100",
    "model": "c",
    "method": "WS",
    "projection": "WS",
    "weight_area": "global",
    "gradient_area": "tensor",
    "error_area": "sample",
    "batch_norm": False,
    "fully": True,
    "paper": 0.0,
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(OF_D)])
def test_identity_holds_all_of_a_row_but_the_papers_accuracy(field):
    other = dataclasses.replace(OF_D, **{field: OTHER[field]})
    same = experiments.identity(other, 3, Options()) == experiments.identity(OF_D, 3, Options())
    assert same == (field == "paper")
