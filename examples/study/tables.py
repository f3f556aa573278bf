"""Tables of the study's report, in Markdown."""

from collections.abc import Iterable, Sequence

from examples.engine.intervals import Interval
from examples.study.comparisons import Comparison

HEADINGS = ("points of test accuracy", "mean", "95 %", "corrected", "pairs", "verdict")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """A Markdown table, so many columns flush left, the others right."""
    rule = ["---"] * left + ["---:"] * (len(headings) - left)
    return ["| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows)]


def cells(comparison: Comparison, digits: int = 2) -> list[str]:
    """Label, mean, both intervals, number of pairs and verdict."""
    interval, wide = comparison.interval, comparison.corrected

    def ends(interval: Interval) -> str:
        low, high = interval.mean - interval.margin, interval.mean + interval.margin
        return f"{low:+.{digits}f} to {high:+.{digits}f}"

    return [
        comparison.label,
        f"{interval.mean:+.{digits}f}",
        ends(interval),
        ends(wide),
        str(interval.count),
        comparison.verdict,
    ]


def over_time(heading: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of what was measured before the first epoch and behind each; nothing without rows."""
    if not rows:
        return []
    return table([heading, "start", *(f"epoch {i}" for i in range(1, len(rows[0]) - 1))], rows)


def shown(value: float | None, digits: int) -> str:
    """A number, or nothing where no run finished."""
    return "" if value is None else f"{value:.{digits}f}"
