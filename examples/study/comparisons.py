"""What the records of the study say: differences of paired runs, with corrected intervals."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from examples.engine import results
from examples.engine.intervals import CONFIDENCE, Interval, student
from examples.study.blocks import setting_of
from examples.study.factors import Arm, file_of
from examples.study.settings import Norm, Optimizer, Setting

Value = Callable[[results.Record], float | None]
"""From a record to a number; None where the run has none."""

Runs = Mapping[Any, Mapping[int, results.Record]]
"""Records by setting, all of one kind, and seed."""


def accuracy(record: results.Record) -> float | None:
    """After the last epoch, in percent; None if the run ended in NaN."""
    return record["accuracy"]


def loss(record: results.Record) -> float | None:
    """The test loss after the last epoch, in nats."""
    return record["curves"]["test_loss"][-1] if record["outcome"] == "finished" else None


def epochs_to(percent: float) -> Value:
    """The first epoch with so much test accuracy, between two epochs in proportion."""

    def first(record: results.Record) -> float | None:
        before = 0.0
        for epoch, fraction in enumerate(record["curves"]["test_accuracy"]):
            now = 100 * fraction
            if now >= percent:
                return epoch + (percent - before) / (now - before)
            before = now
        return None

    return first


def runs_of(out: Path, block: str) -> Runs:
    """The records of a block.

    Raises:
      ValueError: runs of one seed that are to be compared began with other weights or batches.
    """
    found: dict[Any, dict[int, results.Record]] = {}
    for record in results.read(out / file_of(block)):
        found.setdefault(setting_of(record), {})[record["run"]["seed"]] = record
    check_pairs(
        (setting.begins_as, setting.name, record)
        for setting, of_setting in found.items()
        for record in of_setting.values()
    )
    return found


def check_pairs(runs: Iterable[tuple[tuple, str, results.Record]]) -> None:
    """Pairs are pairs: runs of one seed that are to be compared began alike.

    Args:
      runs: for each what tells apart runs that may begin with other weights, a name, its record.

    Raises:
      ValueError: two runs of one seed, and of as many images, began with other weights, batches or
        labels.
    """
    began: dict[tuple, tuple[dict[str, str], str]] = {}
    for alike, name, record in runs:
        seed, shared = record["run"]["seed"], record["began"]
        key = (seed, record["images"]["train"], *alike)
        first, of = began.setdefault(key, (shared, name))
        if any(shared[what] != first[what] for what in shared.keys() & first.keys()):
            raise ValueError(
                f"Seed {seed} of {name} and of {of} began with other weights, batches or labels: "
                f"{shared} and {first}."
            )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A difference between settings, paired by seed.

    Attributes:
      label: what is compared.
      differences: one for each seed that all of them finished with.
      among: how many comparisons there are in the family, for the correction.
    """

    label: str
    differences: Sequence[float]
    among: int

    @property
    def interval(self) -> Interval:
        """By Student's t, for this comparison alone."""
        return student(self.differences)

    @property
    def corrected(self) -> Interval:
        """The same so wide that all intervals of the family hold together (Bonferroni)."""
        return student(self.differences, 1 - (1 - CONFIDENCE) / self.among)

    @property
    def verdict(self) -> str:
        """What the corrected interval allows to say."""
        interval = self.corrected
        if interval.mean - interval.margin > 0:
            return "yes"
        if interval.mean + interval.margin < 0:
            return "no, the opposite"
        return "not told apart"


Part = tuple[float, Any]
"""A weight and the setting whose values it weighs."""


def compare(
    runs: Runs, wanted: Mapping[str, Sequence[Part]], value: Value = accuracy
) -> list[Comparison]:
    """Weighted sums over settings, seed by seed.

    Args:
      runs: of a block.
      wanted: for each comparison weights with settings; a difference has weights 1 and -1.
      value: what is compared.

    Returns:
      A comparison for each, whose family they all are.
    """
    found = []
    for label, parts in wanted.items():
        values = [
            {
                seed: weight * number
                for seed, record in runs.get(setting, {}).items()
                if (number := value(record)) is not None
            }
            for weight, setting in parts
        ]
        common = sorted(set.intersection(*(set(each) for each in values)))
        differences = [sum(each[seed] for each in values) for seed in common]
        found.append(Comparison(label, differences, len(wanted)))
    return found


def by_arm(runs: Runs) -> dict[Arm, Setting]:
    """The one setting of each arm, in a block that has no other factor."""
    return {setting.arm: setting for setting in sorted(runs, key=lambda s: s.arm)}


def arms_without_runs(block: str, runs: Runs) -> list[Arm]:
    """The arms that a block compares and that none of its runs has; A's rates stand alone."""
    both: tuple[Arm, ...] = ("plain", "WC+GC")
    wanted: dict[str, tuple[Arm, ...]] = {"A": (), "C": both, "F": both, "G": both}
    present = {setting.arm for setting in runs}
    return [arm for arm in wanted.get(block, get_args(Arm)) if arm not in present]


def sums_and_parts(arms: Mapping[Arm, Setting]) -> dict[str, list[Part]]:
    """The six comparisons of the four arms."""
    plain, gc, wc, both = (arms[arm] for arm in get_args(Arm))
    return {
        "GC - plain": [(1, gc), (-1, plain)],
        "WC - plain": [(1, wc), (-1, plain)],
        "WC+GC - plain": [(1, both), (-1, plain)],
        "WC+GC - GC": [(1, both), (-1, gc)],
        "WC+GC - WC": [(1, both), (-1, wc)],
        "more than the sum": [(1, both), (1, plain), (-1, gc), (-1, wc)],
    }


def gains_by_companion(runs: Runs) -> dict[str, list[Part]]:
    """WC+GC against plain, for each optimizer and norm."""
    found: dict[str, list[Part]] = {}
    for optimizer in get_args(Optimizer):
        for norm in get_args(Norm):
            same = {
                setting.arm: setting
                for setting in runs
                if (setting.optimizer, setting.norm) == (optimizer, norm)
            }
            if same.keys() == {"plain", "WC+GC"}:
                label = f"{optimizer}, {norm} norm" if norm != "none" else optimizer
                found[label] = [(1, same["WC+GC"]), (-1, same["plain"])]
    return found


def plain_of(runs: Runs) -> Any:
    """The setting that controls are compared with."""
    return next(
        setting
        for setting in runs
        if setting.arm == "plain" and setting.removed == "mean" and not setting.centred
    )


def gains_of_controls(runs: Runs) -> dict[str, list[Part]]:
    """Each control against plain, and some against each other."""
    plain = plain_of(runs)
    named = {
        CONTROLS[setting.removed, setting.layers, setting.arm]: setting
        for setting in runs
        if setting != plain
    }
    found: dict[str, list[Part]] = {
        label: [(1, setting), (-1, plain)] for label, setting in named.items()
    }
    for label, (a, b) in BETWEEN_CONTROLS.items():
        if a in named and b in named:
            found[label] = [(1, named[a]), (-1, named[b])]
    return found


def gains_of_transformer(runs: Runs) -> dict[str, list[Part]]:
    """WC+GC on all kernels of the transformer, and on some, against plain."""
    plain = next(setting for setting in runs if setting.arm == "plain")
    names = {"all": "WC+GC, all kernels", "second": "WC+GC, second kernels of the MLPs"}
    return {
        names[setting.kernels]: [(1, setting), (-1, plain)] for setting in runs if setting != plain
    }


CONTROLS: dict[tuple[str, str, str], str] = {
    ("mean", "all", "plain"): "centred at the start, then plain",
    ("mean", "all", "WC+GC"): "mean (WC+GC)",
    ("random", "all", "WC+GC"): "a random direction of each filter",
    ("top", "all", "WC+GC"): "the first eigenvector of the inputs",
    ("half", "all", "WC+GC"): "half of the mean",
    ("mean", "first", "WC+GC"): "mean, of the first convolution alone",
    ("mean", "others", "WC+GC"): "mean, of the other two",
    ("input", "all", "plain"): "mean of the inputs' patches instead",
}

BETWEEN_CONTROLS = {
    "first eigenvector less mean": ("the first eigenvector of the inputs", "mean (WC+GC)"),
    "half less the whole mean": ("half of the mean", "mean (WC+GC)"),
    "inputs' patches less mean": ("mean of the inputs' patches instead", "mean (WC+GC)"),
    "the other two less the first": (
        "mean, of the other two",
        "mean, of the first convolution alone",
    ),
}


def mean_of(runs: Runs, setting: Setting, value: Value) -> float | None:
    """Over the seeds that have a value."""
    values = [number for record in runs[setting].values() if (number := value(record)) is not None]
    return sum(values) / len(values) if values else None


def mean_course(records: Iterable[results.Record], what: str) -> dict[str, list[float]]:
    """What was measured, as a mean over finished runs: for each layer its course.

    Its first value is that before training, the next ones are those behind the epochs. NaN stands
    where nothing was measured: an optimizer's momentum is zero at the start.
    """
    courses: dict[str, list[list[float]]] = {}
    for record in records:
        if record["outcome"] != "finished" or not record["measured"]:
            continue
        for layer in record["measured"][0]:
            values = [_nan_for_none(measured[layer].get(what)) for measured in record["measured"]]
            courses.setdefault(layer, []).append(values)
    found = {layer: np.mean(of_runs, axis=0) for layer, of_runs in courses.items()}
    if what == "momentum":
        for course in found.values():
            course[0] = math.nan
    return {layer: course.tolist() for layer, course in found.items() if not np.isnan(course).all()}


def mean_share(records: Iterable[results.Record], what: str) -> float:
    """Over runs, layers and epochs; NaN where nothing was measured."""
    courses = [*mean_course(records, what).values()]
    return float(np.mean(courses)) if courses else math.nan


def _nan_for_none(value: float | None) -> float:
    return math.nan if value is None else value
