"""The report from records made up: means, spreads, intervals, and what stands on its face."""

import math

import numpy as np
import pytest
from matplotlib import image

from examples.engine import results
from examples.paper import experiments, report, rows, summary
from examples.paper.experiments import Options

MACHINE = {"device": "cpu", "cpus": 2, "python": "3.11", "jax": "1", "flax": "2", "optax": "3"}


def record(row, seed, accuracy, **options):
    return {
        "run": experiments.identity(row, seed, Options(**options)),
        "outcome": "nan" if accuracy is None else "finished",
        "accuracy": accuracy,
        "curves": {"seconds": [1800.0, 1800.0]},
        "seeds_at_once": 1,
        "devices": 1,
        "machine": MACHINE | {"wcgc": "4"},
        "command": "python -m examples.paper table 3 --data-dir DIR --out DIR",
    }


def records_of(table, accuracies, **options):
    read = rows.read_table(table)
    return [
        record(read[number - 1], seed, accuracy, **options)
        for number, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]


def test_means_spreads_and_paired_intervals():
    records = records_of(3, {1: [70.0, 72.0, 74.0], 7: [73.0, 76.0, 76.0], 9: [80.0]}, epochs=4)
    (section,) = summary.summarize(3, records[::-1])
    baseline, centralized, other = section.lines
    assert (baseline.mean, baseline.deviation) == (72.0, 2.0)
    assert math.isnan(baseline.gain)
    assert math.isnan(baseline.paper_gain)
    # Gains of 3, 4 and 2: mean 3, deviation 1; t(0.975, 2) = 4.3027.
    assert sorted(centralized.gains) == [2.0, 3.0, 4.0]
    assert centralized.gain == 3.0
    assert centralized.margin == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert centralized.paper_gain == pytest.approx(85.75 - 81.87)
    assert math.isnan(other.deviation)


def test_only_common_seeds_are_paired_and_nan_is_no_accuracy():
    (section,) = summary.summarize(3, records_of(3, {1: [70.0, None, 74.0], 3: [71.0, 72.0]}))
    baseline, centralized = section.lines
    assert baseline.accuracies == {0: 70.0, 2: 74.0}
    assert centralized.gains == [1.0]
    assert math.isnan(centralized.margin)


def test_runs_made_in_different_ways_are_kept_apart():
    records = [
        *records_of(3, {1: [70.0]}, epochs=4),
        *records_of(3, {1: [71.0]}, epochs=4, drops="late"),
        *records_of(3, {1: [72.0]}),
        *records_of(3, {9: [73.0]}, norm="layer"),
    ]
    found = [(section.how.epochs, section.how.drops) for section in summary.summarize(3, records)]
    assert sorted(found) == [(4, "late"), (4, "paper"), (300, "paper"), (300, "paper")]


@pytest.fixture
def written(tmp_path):
    accuracies = {1: [70.0, 72.0], 7: [73.0, 74.0], 17: [60.0], 20: [None, None], 22: [61.0, None]}
    results.append(
        tmp_path / "table_3.jsonl", records_of(3, accuracies, epochs=4, drops="late", limit=100)
    )
    custom = records_of(5, {1: [80.0], 6: [81.0]}, split="custom")
    results.append(tmp_path / "table_5.jsonl", custom)
    return report.write(tmp_path, note="Made up.")


def test_the_page_tells_what_a_reader_must_know(written):
    page = written[0].read_text()
    for text in (
        "Made up.",
        "network (a) is assumed",
        "stem, here `stride1`, is assumed",
        "90 % sure",
        "**shortened**: 4 epochs where the paper has 300",
        "falls tenfold after 60% and 85% of the run",
        "**a trial**: the first 100",
        "**custom split**: no figures on VOC2012 val",
        "9 runs, seeds 0, 1, 9.0 hours in all",
        "1 cpu (2 processor cores), Python 3.11, jax 1, flax 2, optax 3, wcgc 4",
        "`python -m examples.paper table 3 --data-dir DIR --out DIR`",
        "| 1 | a | Baseline | 81.87 | 71.00 ± 1.41 | 2 | -10.87 |  |  |",
        "| 7 | a | WC, GC | 85.75 | 73.50 ± 0.71 | 2 | -12.25 | +2.50 [-3.85, +8.85] | +3.88 |",
        "| 20 | b | WS | nan | nan | 0 |  |  |  |",
        "| 22 | b | WC, GC | 89.61 | 61.00 (1 nan) | 1 | -28.61 | +1.00 | +1.26 |",
    ):
        assert text in page


def test_the_pictures_are_there_and_named_in_the_page(written):
    page = written[0].read_text()
    names = [path.name for path in written[1:]]
    assert names == ["table_3-4_epochs-late-limit_100.png", "table_5-800_epochs-paper-custom.png"]
    for path in written[1:]:
        assert f"({path.name})" in page
        picture = image.imread(path)
        assert picture.shape[0] > 300
        assert np.ptp(picture[..., :3]) > 0.9


def test_no_results_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no results"):
        report.write(tmp_path)
