"""What the report says of each block: tables, a picture, the comparisons behind its verdict."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import scipy.stats
from matplotlib.figure import Figure

from examples.engine import results
from examples.paper.experiments import file_of as table_file
from examples.paper.summary import summarize
from examples.study import comparisons, pictures, trajectories
from examples.study.blocks import BLOCKS, setting_of
from examples.study.comparisons import Comparison, Runs
from examples.study.factors import Arm, file_of
from examples.study.settings import Setting
from examples.study.tables import HEADINGS, cells, over_time, shown, table


@dataclasses.dataclass(frozen=True)
class Section:
    """A block's part of the report.

    Attributes:
      question: in words.
      setting: what was trained, for the table of verdicts.
      lines: Markdown.
      draw: makes its picture.
      found: comparisons whose verdicts are the answer.
      records: of its runs.
      unit: of the comparisons.
      sweep: records of the runs that chose its learning rates, where it has a sweep of its own.
    """

    question: str
    setting: str
    lines: Sequence[str]
    draw: Callable[[], Figure]
    found: Sequence[Comparison]
    records: Sequence[results.Record]
    unit: str = "points"
    sweep: Sequence[results.Record] = ()

    @property
    def hours(self) -> float:
        """Of one core, in training and tests, over all runs."""
        everything = [*self.sweep, *self.records]
        return sum(sum(one.get("curves", {}).get("seconds", [])) for one in everything) / 3600


class AtWorkError(ValueError):
    """A block has records, but not of all arms that it compares."""


def runs_of(out: Path, block: str) -> Runs:
    """The records of a block.

    Raises:
      FileNotFoundError: there are none.
      AtWorkError: an arm that is compared has none yet.
    """
    runs = comparisons.runs_of(out, block)
    if not runs:
        raise FileNotFoundError(block)
    if lacking := comparisons.arms_without_runs(block, runs):
        raise AtWorkError(f"At work: {', '.join(lacking)} has no run yet.")
    return runs


def records_of(runs: Runs) -> list[results.Record]:
    """All of them."""
    return [record for of_setting in runs.values() for record in of_setting.values()]


def sweep_of(out: Path, block: str) -> list[results.Record]:
    """The records of the runs that chose a block's learning rates."""
    return results.read(out / file_of(f"{block}-rates"))


def rates(out: Path) -> Section:
    """A: accuracy over the learning rate."""
    runs = runs_of(out, "A")
    found = sorted({setting.learning_rate for setting in runs})
    reached: dict[Arm, dict[float, list[float]]] = {}
    rows = []
    for arm in pictures.COLORS:
        by_rate = reached[arm] = {
            rate: [
                record["accuracy"] or 0.0
                for setting in runs
                if (setting.arm, setting.learning_rate) == (arm, rate)
                for record in runs[setting].values()
            ]
            for rate in found
        }
        means = {rate: sum(of) / len(of) for rate, of in by_rate.items() if of}
        best = max(means, key=lambda rate: means[rate], default=math.nan)
        rows.append([arm, *(shown(means.get(rate), 2) for rate in found), f"{best:.2g}"])

    def draw() -> Figure:
        figure, (axes,) = pictures.panels(6)
        pictures.over_rates(axes, reached)
        return figure

    headings = ["accuracy [%] at", *(f"{rate:.2g}" for rate in found), "best rate"]
    return Section(BLOCKS["A"].question, "", table(headings, rows), draw, [], records_of(runs))


def gains(out: Path) -> Section:
    """B: the four arms."""
    runs = runs_of(out, "B")
    arms = comparisons.by_arm(runs)
    values: dict[str, comparisons.Value] = {
        "test accuracy [%]": comparisons.accuracy,
        "test loss [nats]": comparisons.loss,
        "epochs to 70 %": comparisons.epochs_to(70),
    }
    rows = [
        [arm, f"{arms[arm].learning_rate:.2g}"]
        + [shown(comparisons.mean_of(runs, arms[arm], value), 3) for value in values.values()]
        for arm in pictures.COLORS
    ]
    lines = [*table(["arm", "rate", *values], rows), ""]
    wanted = comparisons.sums_and_parts(arms)
    found = comparisons.compare(runs, wanted)
    lines += [*table(HEADINGS, map(cells, found)), ""]
    losses = comparisons.compare(runs, wanted, comparisons.loss)
    headings = ("nats of test loss", *HEADINGS[1:-1])
    lines += table(headings, (cells(one, 4)[:-1] for one in losses))

    def draw() -> Figure:
        figure, (left, right) = pictures.panels(4.6, 5.4, height=3.8)
        pictures.over_epochs(left, courses_of_accuracy(runs, arms))
        pictures.forest(right, found)
        return figure

    setting = "network (a), CIFAR-10, 8 epochs, each at its best rate"
    return Section(BLOCKS["B"].question, setting, lines, draw, found, records_of(runs))


def courses_of_accuracy(runs: Runs, arms: dict[Arm, Any]) -> dict[Arm, list[list[float]]]:
    """For each arm and finished run the test accuracies, in percent."""
    return {
        arm: [
            [100 * value for value in record["curves"]["test_accuracy"]]
            for record in runs[arms[arm]].values()
            if record["outcome"] == "finished"
        ]
        for arm in pictures.COLORS
    }


def companions(out: Path) -> Section:
    """C: optimizers and norms, and whether the share of the mean tells where it gains."""
    runs = runs_of(out, "C")
    wanted = comparisons.gains_by_companion(runs)
    found = comparisons.compare(runs, wanted)
    lines = [*table(HEADINGS, map(cells, found)), ""]
    points, rows = {}, []
    for comparison, (_, (_, plain)) in zip(found, wanted.values(), strict=True):
        share = comparisons.mean_share(runs[plain].values(), "gradient")
        points[comparison.label] = (share, comparison.interval.mean)
        rows.append([comparison.label, f"{share:.3f}", f"{comparison.interval.mean:+.2f}"])
    lines += table(["plain training", "share of the mean in gradients", "gain"], rows)
    rank = scipy.stats.spearmanr(*zip(*points.values(), strict=True))
    lines += [
        "",
        f"Spearman's rank correlation of share and gain over these {len(points)}: "
        f"{rank.statistic:+.2f} (p = {rank.pvalue:.3f}).",
    ]
    sweep = sweep_of(out, "C")
    if sweep:
        ends, sweeps = ends_of_sweeps(sweep)
        lines += [
            "",
            f"In {ends} of {sweeps} sweeps the best learning rate is the lowest or highest tried.",
        ]

    def draw() -> Figure:
        figure, (left, right) = pictures.panels(5, 4.4, height=pictures.forest_height(found))
        pictures.forest(left, found)
        labels = "share of the mean in the gradient, plain", "gain of WC+GC [percentage points]"
        pictures.scatter(right, points, labels)
        return figure

    setting = "network (a), CIFAR-10, 1 epoch, each at its best rate"
    records = records_of(runs)
    return Section(BLOCKS["C"].question, setting, lines, draw, found, records, sweep=sweep)


def ends_of_sweeps(records: Sequence[results.Record]) -> tuple[int, int]:
    """In how many sweeps the best learning rate is the lowest or highest tried, and of how many."""
    reached: dict[tuple, dict[float, float]] = {}
    for record in records:
        setting = setting_of(record)
        assert isinstance(setting, Setting)
        by_rate = reached.setdefault((setting.optimizer, setting.norm, setting.arm), {})
        by_rate[setting.learning_rate] = record["accuracy"] or 0.0
    ends = 0
    for by_rate in reached.values():
        best = max(by_rate.items(), key=lambda item: item[1])[0]
        ends += best in (min(by_rate), max(by_rate))
    return ends, len(reached)


def areas(out: Path) -> Section:
    """D: Table 2 of the paper, on network (c)."""
    sections = summarize(2, results.read(out / table_file(2)))
    if not sections:
        raise FileNotFoundError("table_2")
    lines_of_table = sections[0].lines
    compared = [line for line in lines_of_table if line.row != line.baseline]
    found = [Comparison(line.row.method, line.gains, len(compared)) for line in compared]
    baseline = next(line for line in lines_of_table if line.row == line.baseline)
    paper = {line.row.method: line.paper_gain for line in compared}
    rows = ([*cells(one), f"{paper[one.label]:+.2f}"] for one in found)
    lines = [*table([*HEADINGS, "paper's gain"], rows), ""]
    lines += [f"The baseline reaches {baseline.mean:.2f} % (paper: {baseline.row.paper:.2f} %)."]
    how = sections[0].how
    setting = f"network (c), CIFAR-10, {how.epochs} epochs, the paper's rate"
    records = [record for line in lines_of_table for record in line.records]
    comparisons.check_pairs(
        ((), line.row.method, record) for line in lines_of_table for record in line.records
    )
    draw = functools.partial(forest_alone, found)
    return Section("Over which area?", setting, lines, draw, found, records)


def equality(out: Path) -> Section:
    """E: the arms under SGD, step by step and epoch by epoch."""
    runs = runs_of(out, "E")
    arms = comparisons.by_arm(runs)
    found = comparisons.compare(runs, comparisons.sums_and_parts(arms))
    lines = table(HEADINGS, map(cells, found))
    steps = results.read(out / trajectories.FILE)
    distances: dict[Arm, list[list[float]]] = {}
    if steps:
        distances = {arm: [one["distances"][arm] for one in steps] for arm in steps[0]["distances"]}
        chosen = [step for step in (1, 10, 50, 100, 200) if step <= steps[0]["run"]["steps"]]
        rows = [
            [arm, *(f"{max(one[step - 1] for one in of_arm):.1e}" for step in chosen)]
            for arm, of_arm in distances.items()
        ]
        headings = ["largest distance from GC, relative", *(f"step {step}" for step in chosen)]
        lines += ["", *table(headings, rows)]

    def draw() -> Figure:
        figure, axes = pictures.panels(*([4.6, 4.6] if distances else [4.6]))
        pictures.over_epochs(axes[0], courses_of_accuracy(runs, arms))
        if distances:
            pictures.over_steps(axes[1], distances)
        return figure

    rate = arms["GC"].learning_rate
    setting = f"network (c), CIFAR-100, SGD at {rate:.2g}, 3 epochs"
    records, sweep = records_of(runs) + steps, sweep_of(out, "E")
    return Section(BLOCKS["E"].question, setting, lines, draw, found, records, sweep=sweep)


def controls(out: Path) -> Section:
    """F: what is removed, and where; and what was measured on the way."""
    runs = runs_of(out, "F")
    found = comparisons.compare(runs, comparisons.gains_of_controls(runs))
    lines = [*table(HEADINGS, map(cells, found)), ""]
    plain = comparisons.plain_of(runs)
    rows = []
    for what in ("gradient", "momentum", "update", "weights", "alignment", "dominance"):
        for layer, course in comparisons.mean_course(runs[plain].values(), what).items():
            numbers = ("" if math.isnan(value) else f"{value:.3f}" for value in course)
            rows.append([f"{what}, {layer}", *numbers])
    lines += over_time("plain, mean over seeds", rows)
    draw = functools.partial(forest_alone, found)
    setting = f"network (a), CIFAR-10, 1 epoch, Adam at {plain.learning_rate:.2g}"
    return Section(BLOCKS["F"].question, setting, lines, draw, found, records_of(runs))


def shares(out: Path) -> Section:
    """B again: what was measured of the plain runs."""
    runs = runs_of(out, "B")
    records = [*runs[comparisons.by_arm(runs)["plain"]].values()]
    titles = {
        "gradient": "mean's share of gradient",
        "update": "mean's share of update",
        "alignment": "|cos(ones, top direction)|",
        "dominance": "top direction's share of inputs",
    }
    found = {what: comparisons.mean_course(records, what) for what in titles}
    rows = [
        [f"{what}, {layer}", *(f"{value:.2f}" for value in course)]
        for what, of_layers in found.items()
        for layer, course in of_layers.items()
    ]

    def draw() -> Figure:
        figure, axes = pictures.panels(*[2.7] * 4, height=3)
        for each, (what, title) in zip(axes, titles.items(), strict=True):
            pictures.courses(each, found[what], title)
        if drawn := [each for each in axes if each.lines]:
            drawn[-1].legend(frameon=False)
        return figure

    question = "How large is the mean, and do the inputs lie along it?"
    return Section(question, "", over_time("plain, mean over seeds", rows), draw, [], records)


def transformer(out: Path) -> Section:
    """G: where it should not help."""
    runs = runs_of(out, "G")
    wanted = comparisons.gains_of_transformer(runs)
    found = comparisons.compare(runs, wanted, lambda record: _negative(comparisons.loss(record)))
    rows = [
        [
            setting.name,
            f"{setting.learning_rate:.2g}",
            shown(comparisons.mean_of(runs, setting, comparisons.loss), 4),
            shown(comparisons.mean_of(runs, setting, comparisons.accuracy), 2),
        ]
        for setting in runs
    ]
    lines = [*table(["arm", "rate", "test loss [nats]", "next characters right [%]"], rows), ""]
    headings = ("nats of test loss less", *HEADINGS[1:])
    lines += [*table(headings, (cells(one, 4) for one in found)), ""]
    plain = next(setting for setting in runs if setting.arm == "plain")
    rows = []
    for kernel, course in comparisons.mean_course(runs[plain].values(), "gradient").items():
        rows.append([kernel, *(f"{value:.3f}" for value in course)])
    lines += over_time("mean's share of the gradient, plain", rows)
    draw = functools.partial(forest_alone, found, "test loss less by [nats per character]")
    setting = f"transformer on characters, AdamW, {plain.epochs} epochs, each at its best rate"
    records, sweep = records_of(runs), sweep_of(out, "G")
    return Section(BLOCKS["G"].question, setting, lines, draw, found, records, "nats", sweep)


def forest_alone(found: Sequence[Comparison], label: str = pictures.POINTS) -> Figure:
    """A picture of comparisons and nothing else."""
    figure, (axes,) = pictures.panels(7.5, height=pictures.forest_height(found) + 0.2)
    pictures.forest(axes, found, label)
    return figure


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


SECTIONS: dict[str, Callable[[Path], Section]] = {
    "A": rates,
    "B": gains,
    "B-shares": shares,
    "C": companions,
    "D": areas,
    "E": equality,
    "F": controls,
    "G": transformer,
}
