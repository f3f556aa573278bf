"""What the records of a table say: means, spreads, and differences to the baseline."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from examples.engine import results
from examples.engine.intervals import student
from examples.paper.experiments import Options
from examples.paper.rows import Row, Table, baseline_of, read_table


class How(NamedTuple):
    """How runs were made, what differs from row to row left out."""

    epochs: int
    drops: str
    limit: int | None
    split: str
    norm: str
    stem: str


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of a table: the paper's figure and ours.

    Attributes:
      row: of the paper.
      baseline: the row that it is compared to.
      records: of its runs, one for each seed.
      accuracies: of the finished runs, in percent, by seed.
      gains: accuracy less that of the baseline, in points, for each seed that both finished with.
    """

    row: Row
    baseline: Row
    records: Sequence[results.Record]
    accuracies: Mapping[int, float]
    gains: Sequence[float]

    @property
    def mean(self) -> float:
        """Of the accuracies; nan without any."""
        return float(np.mean([*self.accuracies.values()])) if self.accuracies else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation of the accuracies, as of a sample; nan for fewer than two."""
        values = [*self.accuracies.values()]
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    @property
    def gain(self) -> float:
        """The mean of the gains; nan without any."""
        return student(self.gains).mean

    @property
    def margin(self) -> float:
        """Half the width of the gain's confidence interval; nan for fewer than two seeds.

        Runs of the same seed share batches and augmentation, so the interval is that of paired
        differences, by Student's t.
        """
        return student(self.gains).margin

    @property
    def paper_gain(self) -> float:
        """The same difference of the paper's figures; nan for the baseline."""
        return math.nan if self.row == self.baseline else self.row.paper - self.baseline.paper


@dataclasses.dataclass(frozen=True)
class Section:
    """All runs of a table that were made in the same way, row by row."""

    table: Table
    how: How
    lines: Sequence[Line]


def summarize(table: Table, records: Sequence[results.Record]) -> list[Section]:
    """Sorts the records of a table by how they were made and by row.

    Args:
      table: its number in the paper.
      records: of its file.

    Returns:
      A section for each way; the longest training first.
    """
    groups: dict[How, list[results.Record]] = {}
    for record in records:
        groups.setdefault(how_of(record["run"]), []).append(record)
    ordered = sorted(groups, key=lambda how: (-how.epochs, str(how)))
    return [Section(table, how, _lines(read_table(table), groups[how])) for how in ordered]


def how_of(run: Mapping[str, Any]) -> How:
    """How a run was made."""
    options = dataclasses.asdict(Options()) | run["options"] | {"epochs": run["epochs"]}
    return How(**{name: options[name] for name in How._fields})


def _lines(rows: Sequence[Row], records: Sequence[results.Record]) -> list[Line]:
    by_row = {
        row: [record for record in records if record["run"]["row"]["number"] == row.number]
        for row in rows
    }
    accuracies = {
        row: {
            record["run"]["seed"]: record["accuracy"]
            for record in own
            if record["accuracy"] is not None
        }
        for row, own in by_row.items()
    }
    lines = []
    for row, own in by_row.items():
        if not own:
            continue
        baseline = baseline_of(row, rows)
        ours, theirs = accuracies[row], accuracies[baseline]
        common = [] if row == baseline else sorted(ours.keys() & theirs.keys())
        gains = [ours[seed] - theirs[seed] for seed in common]
        lines.append(Line(row, baseline, own, ours, gains))
    return lines
