"""A section of the report as a picture."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples.engine.intervals import CONFIDENCE
from examples.paper.summary import Line, Section

OURS, PAPER, SHADE = "tab:red", "0.35", "0.95"
APART = 0.14  # of a line's height: the paper's marks lie above its middle, ours below
LINEAR = 5  # percentage points around zero; beyond, the gains are drawn in logarithms
GAINS = (-50, -20, -10, -5, -2, 0, 2, 5, 10)


def draw(section: Section, title: str) -> Figure:
    """Draws accuracies on the left and gains over the baseline on the right, a line for each row.

    Args:
      section: of the report.
      title: of the picture.

    Returns:
      The figure, not saved.
    """
    lines = section.lines
    figure = Figure(figsize=(10, 1.6 + 0.3 * len(lines)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for y, line in enumerate(lines):
        _draw_accuracy(left, y, line)
        _draw_gain(right, y, line)
    for axes in (left, right):
        _shade_groups(axes, lines)
        axes.grid(axis="x", alpha=0.4)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    right.axvline(0, color="0.6", linewidth=1)
    left.set(
        xlabel="test accuracy [%]",
        yticks=range(len(lines)),
        yticklabels=[f"{line.row.method}  ({line.row.model})" for line in lines],
        ylim=(len(lines) - 0.5, -0.5),
    )
    right.set_xscale("symlog", linthresh=LINEAR, linscale=1)
    right.set(xlabel="gain over the baseline [percentage points]")
    low, high = right.get_xlim()
    ticks = [gain for gain in GAINS if low <= gain <= high]
    right.set_xticks(ticks, labels=[f"{gain:+d}" if gain else "0" for gain in ticks], minor=False)
    right.set_xticks([], minor=True)
    figure.suptitle(title, fontsize=11)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_accuracy(axes: Axes, y: float, line: Line) -> None:
    axes.plot(line.row.paper, y - APART, **_style(PAPER))
    values = [*line.accuracies.values()]
    axes.plot(values, [y + APART] * len(values), "|", color=OURS, alpha=0.5, markersize=9)
    axes.plot(line.mean, y + APART, "o", color=OURS, markersize=5)
    found = {"paper": line.row.paper, "ours": line.mean}
    if names := [name for name, value in found.items() if math.isnan(value)]:
        across = axes.get_yaxis_transform()
        text = f"{' and '.join(names)}: nan"
        axes.text(0.02, y, text, transform=across, verticalalignment="center", fontsize=9)


def _draw_gain(axes: Axes, y: float, line: Line) -> None:
    axes.plot(line.paper_gain, y - APART, **_style(PAPER))
    margin = None if math.isnan(line.margin) else line.margin
    axes.errorbar(line.gain, y + APART, xerr=margin, fmt="o", color=OURS, markersize=5, capsize=3)


def _style(color: str) -> dict:
    return {"marker": "D", "color": color, "markerfacecolor": "none", "linestyle": "none"}


def _shade_groups(axes: Axes, lines: Sequence[Line]) -> None:
    """Shades every second group of rows that share a baseline."""
    shaded = False
    for y, line in enumerate(lines):
        if y and line.baseline != lines[y - 1].baseline:
            shaded = not shaded
        if shaded:
            axes.axhspan(y - 0.5, y + 0.5, color=SHADE, zorder=0)


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], **_style(PAPER), label="paper, single run"),
        Line2D([], [], color=OURS, marker="o", linestyle="none", label="ours, mean"),
        Line2D([], [], color=OURS, marker="|", linestyle="none", label="one seed"),
        Line2D([], [], color=OURS, label=f"{CONFIDENCE:.0%} interval, paired"),
    ]
