"""The rows of the paper's Tables 2 to 5, as data, and how to choose among them."""

import dataclasses
import fnmatch
import re
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

from examples.engine.data import Dataset
from examples.paper.recipes import RECIPES, Recipe
from wcgc import Area, ErrorArea

Table = Literal[2, 3, 4, 5]
Model = Literal["a", "b", "c", "d"]
Projection = Literal["WN", "WC", "WS"]

# Each line is a row of the paper: method, network, accuracy in percent.
TABLE_2 = """
    Baseline         | c | 84.14
    weight global    | c | 84.91
    weight tensor    | c | 85.95
    weight channel   | c | 85.63
    weight instance  | c | 84.37
    gradient global  | c | 84.01
    gradient tensor  | c | 84.89
    gradient channel | c | 84.38
    gradient instance | c | 83.36
    error global     | c | 79.03
    error sample     | c | 72.15
    error channel    | c | 75.40
    error instance   | c | 69.73
"""

TABLE_3 = """
    Baseline          | a | 81.87
    WN                | a | 71.74
    WC                | a | 85.01
    WS                | a | 73.00
    GC                | a | 81.42
    WS, GC            | a | 74.51
    WC, GC            | a | 85.75
    WC, GC, fully     | a | 87.07
    Baseline, BN      | a | 84.67
    WN, BN            | a | 82.95
    WC, BN            | a | 85.38
    WS, BN            | a | 79.65
    GC, BN            | a | 84.01
    WS, GC, BN        | a | 81.01
    WC, GC, BN        | a | 85.48
    WC, GC, BN, fully | a | 85.95
    Baseline          | b | 88.35
    WN                | b | 58.77
    WC                | b | 80.15
    WS                | b | nan
    GC                | b | 69.85
    WC, GC            | b | 89.61
    Baseline, BN      | b | 91.00
    WN, BN            | b | 61.02
    WC, BN            | b | 92.50
    WS, BN            | b | 79.83
    GC, BN            | b | 92.01
    WS, GC, BN        | b | 79.71
    WC, GC, BN        | b | 92.68
    Baseline          | c | 84.14
    WN                | c | 83.73
    WC                | c | 85.95
    WC, fully         | c | 86.64
    WS                | c | 10.05
    GC                | c | 84.89
    GC, fully         | c | 85.37
    WS, GC            | c | 10.72
    WC, GC            | c | 87.46
    WC, GC, fully     | c | 87.62
"""

TABLE_4 = """
    Baseline          | a | 46.31
    WN                | a | 45.93
    WC                | a | 50.19
    WS                | a | 41.19
    GC                | a | 45.55
    WC, GC            | a | 50.99
    WC, GC, fully     | a | 52.03
    Baseline, BN      | a | 54.04
    WN, BN            | a | 44.26
    WC, BN            | a | 55.01
    WS, BN            | a | 48.99
    GC, BN            | a | 53.59
    WC, GC, BN        | a | 56.45
    WC, GC, BN, fully | a | 56.78
    Baseline, BN      | b | 68.99
    WN, BN            | b | 52.97
    WC, BN            | b | 69.89
    WS, BN            | b | 63.52
    GC, BN            | b | 69.34
    WC, GC, BN        | b | 70.24
    Baseline          | c | 46.31
    WN                | c | 10.31
    WC                | c | 52.05
    WS                | c | 34.65
    GC                | c | 47.95
    WC, GC            | c | 53.16
    WC, GC, fully     | c | 53.90
"""

TABLE_5 = """
    Baseline, BN | d | 85.15
    WS, BN       | d | 81.23
    WN           | d | 75.76
    GC, BN       | d | 85.91
    WC, BN       | d | 86.92
    WC, GC, BN   | d | 88.98
"""

TABLES: dict[Table, tuple[Dataset, str]] = {
    2: ("CIFAR10", TABLE_2),
    3: ("CIFAR10", TABLE_3),
    4: ("CIFAR100", TABLE_4),
    5: ("VOC2012", TABLE_5),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of one table: what was trained how, and what the paper reached.

    Attributes:
      table: its number in the paper.
      number: of the row within the table, from 1.
      dataset: what it was trained on.
      model: the letter of the network in Figure 1.
      method: what the paper's first column says, in short.
      projection: what the weights are brought to, `"WN"`, `"WC"`, `"WS"` or None.
      weight_area: the area of the projection.
      gradient_area: the area of GC; None for no GC.
      error_area: the area of the mean that the back-propagated error loses; None for none.
      batch_norm: whether there is batch normalization.
      fully: whether the penultimate dense layer is normalized too.
      paper: the accuracy in percent, of pixels in Table 5; nan where the paper has it.
    """

    table: Table
    number: int
    dataset: Dataset
    model: Model
    method: str
    projection: Projection | None
    weight_area: Area
    gradient_area: Area | None
    error_area: ErrorArea | None
    batch_norm: bool
    fully: bool
    paper: float

    @property
    def name(self) -> str:
        """Table and row, as in "3.7 (a) WC, GC"."""
        return f"{self.table}.{self.number} ({self.model}) {self.method}"

    @property
    def recipe(self) -> Recipe:
        """How the row is trained."""
        return RECIPES[self.dataset]


def read_table(table: Table) -> list[Row]:
    """The rows of one table, in the paper's order."""
    dataset, text = TABLES[table]
    lines = text.strip().splitlines()
    return [_read_row(table, number, dataset, line) for number, line in enumerate(lines, 1)]


def _read_row(table: Table, number: int, dataset: Dataset, line: str) -> Row:
    method, model, paper = (part.strip() for part in line.split("|"))
    words = set(re.split(r",? ", method))
    fields: dict[str, Any] = {
        "projection": next((name for name in get_args(Projection) if name in words), None),
        "weight_area": "tensor",
        "gradient_area": "tensor" if "GC" in words else None,
        "error_area": None,
    }
    target, _, area = method.partition(" ")
    if target in ("weight", "gradient", "error"):
        fields[f"{target}_area"] = area
        fields["projection"] = "WC" if target == "weight" else None
    return Row(
        table=table,
        number=number,
        dataset=dataset,
        model=cast(Model, model),
        method=method,
        batch_norm="BN" in words,
        fully="fully" in words,
        paper=float(paper),
        **fields,
    )


def baseline_of(row: Row, rows: Sequence[Row]) -> Row:
    """The row that `row` is compared to: the same network without any method.

    Table 5 has no baseline without batch normalization for its row WN; that of the table serves.
    """
    baselines = [each for each in rows if each.method.startswith("Baseline")]
    same = [each for each in baselines if each.model == row.model]
    return next((each for each in same if each.batch_norm == row.batch_norm), same[0])


def choose(table: Table, model: Model | None = None, pattern: str | None = None) -> list[Row]:
    """Picks rows of a table.

    Args:
      table: its number in the paper.
      model: only rows of this network.
      pattern: only these rows: numbers and ranges such as `"1,3-5"`, or the method with `*` and
        `?` as wildcards, such as `"WC*"`.

    Returns:
      At least one row.

    Raises:
      ValueError: no row fits.
    """
    rows = read_table(table)
    if model is not None:
        letters = sorted({row.model for row in rows})
        if model not in letters:
            raise ValueError(f"Table {table} has the networks {', '.join(letters)}, not {model!r}.")
        rows = [row for row in rows if row.model == model]
    if pattern is None:
        return rows
    chosen = [row for row in rows if _fits(row, pattern)]
    if not chosen:
        choices = "\n".join(f"  {row.number:2} ({row.model}) {row.method}" for row in rows)
        raise ValueError(f"--rows {pattern!r} fits none of the rows of Table {table}:\n{choices}")
    return chosen


def _fits(row: Row, pattern: str) -> bool:
    if not re.fullmatch(r"[\d,\- ]+", pattern):
        return fnmatch.fnmatchcase(row.method.lower(), pattern.strip().lower())
    for part in pattern.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"--rows takes numbers and ranges such as 1,3-5, got {pattern!r}.")
        if int(first) <= row.number <= int(last if dash else first):
            return True
    return False
