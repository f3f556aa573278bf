"""The pictures of the study's report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from examples.engine.intervals import student
from examples.study.comparisons import Comparison
from examples.study.factors import Arm

COLORS: dict[Arm, str] = {"plain": "0.35", "GC": "tab:blue", "WC": "tab:green", "WC+GC": "tab:red"}
MARKERS: dict[Arm, str] = {"plain": "o", "GC": "s", "WC": "^", "WC+GC": "D"}
POINTS = "difference in test accuracy [percentage points]"


def panels(*widths: float, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, of so many inches."""
    figure = Figure(figsize=(sum(widths), height), layout="constrained")
    axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for each in axes:
        each.grid(alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
    return figure, [*axes]


def forest(axes: Axes, found: Sequence[Comparison], label: str = POINTS) -> None:
    """A line for each comparison: its mean, the interval alone and the corrected one."""
    for y, comparison in enumerate(found):
        interval, wide = comparison.interval, comparison.corrected
        axes.errorbar(interval.mean, y, xerr=wide.margin, color="0.65", capsize=3)
        axes.errorbar(interval.mean, y, xerr=interval.margin, color="tab:red", fmt="o", linewidth=2)
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set(
        xlabel=f"{label}\nred: 95 %, grey: corrected",
        yticks=range(len(found)),
        yticklabels=[comparison.label for comparison in found],
        ylim=(len(found) - 0.5, -0.5),
    )


def forest_height(found: Sequence[Comparison]) -> float:
    """Inches."""
    return 1.3 + 0.32 * len(found)


def over_rates(axes: Axes, reached: Mapping[Arm, Mapping[float, Sequence[float]]]) -> None:
    """Accuracies of single runs and their means over the learning rate."""
    for arm, by_rate in reached.items():
        style: dict[str, Any] = {"color": COLORS[arm], "marker": MARKERS[arm]}
        for rate, values in by_rate.items():
            axes.plot([rate] * len(values), values, **style, markersize=3, alpha=0.4)
        means = [student(values).mean for values in by_rate.values()]
        axes.plot([*by_rate], means, **style, markersize=5, label=arm)
    axes.set(xscale="log", xlabel="learning rate", ylabel="accuracy on held-out images [%]")
    axes.legend(frameon=False)


def over_epochs(axes: Axes, curves: Mapping[Arm, Sequence[Sequence[float]]]) -> None:
    """Test accuracies in percent: the mean over seeds, and all of them as a band."""
    for arm, of_arm in curves.items():
        values = np.array(of_arm)
        epochs = range(1, values.shape[1] + 1)
        axes.fill_between(epochs, values.min(0), values.max(0), color=COLORS[arm], alpha=0.15)
        style: dict[str, Any] = {"color": COLORS[arm], "marker": MARKERS[arm], "markersize": 4}
        axes.plot(epochs, values.mean(0), label=arm, **style)
    axes.set(xlabel="epoch", ylabel="test accuracy [%]\nmean and range over seeds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)


def over_steps(axes: Axes, distances: Mapping[Arm, Sequence[Sequence[float]]]) -> None:
    """How far the arms are from GC, a line for each seed."""
    for arm, of_arm in distances.items():
        for number, values in enumerate(of_arm):
            label = f"{arm} from GC" if number == 0 else None
            axes.plot(range(1, len(values) + 1), values, color=COLORS[arm], label=label)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="step",
        ylabel="distance of the parameters from GC's,\nrelative to GC's way from the start",
    )
    axes.legend(frameon=False)


def scatter(axes: Axes, points: Mapping[str, tuple[float, float]], labels: tuple[str, str]) -> None:
    """Named points, the names of neighbours above and below."""
    for number, (name, (x, y)) in enumerate(sorted(points.items(), key=lambda item: item[1][1])):
        axes.plot(x, y, "o", color="tab:red", markersize=4)
        place = (4, 3 if number % 2 else -9)
        axes.annotate(name, (x, y), place, textcoords="offset points", fontsize=7)
    axes.axhline(0, color="0.6", linewidth=1)
    axes.set(xlabel=labels[0], ylabel=labels[1])


def courses(axes: Axes, of_layers: Mapping[str, Sequence[float]], title: str) -> None:
    """One number for each layer, measured from the start on behind each epoch."""
    for (layer, values), marker in zip(of_layers.items(), "os^", strict=False):
        first = 0 if np.isfinite(values[0]) else 1
        axes.plot(range(first, len(values)), values[first:], marker=marker, label=layer)
    axes.set(xlabel="epoch", ylim=(0, 1))
    axes.set_title(title, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
