"""How the notebooks draw: one style, colours that all readers tell apart, and small files.

Importing it sets the style of all figures.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image as Pixels

# The colours of Okabe and Ito, which readers with any kind of colour vision tell apart.
BLACK, GREY = "#000000", "#767676"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
PLAIN, GC, WC, BOTH = GREY, BLUE, ORANGE, RED
ARMS = {"plain": PLAIN, "GC": GC, "WC": WC, "GC + WC": BOTH}
LINES = {"plain": "-", "GC": "-", "WC": "-.", "GC + WC": "--"}
AREAS = {"tensor": PURPLE, "channel": ORANGE, "instance": GREEN, "global": SKY}

DPI = 80

plt.rcParams.update(
    {
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.hspace": 0.05,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.92",
        "legend.frameon": False,
        "image.interpolation": "nearest",  # tiles with edges
    }
)


def show(figure: Figure, colors: int = 32) -> None:
    """Shows a figure as a PNG of few colours, a third of the size that it has with all."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    plt.close(figure)
    # Maximum coverage keeps rare colours: the ends of a colour bar, a few dots.
    pixels = Pixels.open(drawn).convert("RGB")
    few = pixels.quantize(colors, Pixels.Quantize.MAXCOVERAGE, kmeans=2)
    few.save(small, format="PNG", optimize=True)
    display(Image(small.getvalue()))


def smooth(values: Any, width: int) -> np.ndarray:
    """The running mean over `width` steps, which begins at step `width`."""
    return np.convolve(np.asarray(values), np.ones(width) / width, "valid")


def curves(ax: Axes, runs: Any, color: str, label: str, width: int = 15, **style: Any) -> None:
    """Draws the running mean of each run (runs, steps) as a line of its own."""
    for number, run in enumerate(runs):
        y = smooth(run, width)
        label_once = None if number else label
        ax.plot(np.arange(len(y)) + width, y, color=color, lw=1.4, label=label_once, **style)


def seeds(ax: Axes, x: Any, runs: Any, color: str, label: str | None = None, **style: Any) -> None:
    """Draws runs (x, seeds): their mean as a line, each seed as a dot."""
    runs = np.asarray(runs)
    ax.plot(x, runs.mean(-1), color=color, label=label, **style)
    for run in runs.T:
        ax.plot(x, run, "o", color=color, alpha=0.6, ms=4, mec="none")


def dot_rows(ax: Axes, rows: Mapping[str, Mapping[str, Any]], colors: Mapping[str, str]) -> None:
    """Draws a row for each name, with the seeds of each kind as dots and their mean as a bar."""
    for place, kinds in enumerate(rows.values()):
        for number, (kind, values) in enumerate(kinds.items()):
            y = place + 0.3 * (number - (len(kinds) - 1) / 2)
            marker = "os^D"[number]
            label = None if place else kind
            style: dict[str, Any] = {"color": colors[kind], "ms": 5, "alpha": 0.75, "mec": "none"}
            ax.plot(values, np.full(len(values), y), marker, label=label, **style)
            ax.plot(np.mean(values), y, "|", ms=13, mew=2, color=colors[kind])
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def bars(
    ax: Axes, names: Sequence[str], groups: Mapping[str, Any], colors: Mapping[str, str]
) -> None:
    """Draws bars side by side: groups of (names,), or (names, seeds) with the seeds as dots."""
    width = 0.8 / len(groups)
    for number, (group, values) in enumerate(groups.items()):
        table = np.asarray(values, float).reshape(len(names), -1)
        x = np.arange(len(names)) + width * (number - (len(groups) - 1) / 2)
        ax.bar(x, table.mean(1), 0.9 * width, color=colors[group], label=group)
        if table.shape[1] > 1:
            ax.plot(x, table, "o", color=BLACK, ms=3, mec="white", mew=0.4)
    ax.set_xticks(range(len(names)), names)
    ax.grid(axis="x", visible=False)


def numbers(ax: Axes, table: Any, rows: Sequence[str], columns: Sequence[str]) -> Any:
    """Draws a table of numbers from 0 to 1 as tiles, with the numbers in them."""
    handle = ax.imshow(table, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(np.asarray(table)):
        ink = "white" if value > 0.6 else "black"
        ax.text(x, y, f"{value:.2f}", ha="center", va="center", color=ink)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    bare(ax)
    return handle


def chain(ax: Axes, links: Sequence[tuple[str, str, str]]) -> None:
    """Draws the links of a chain as boxes; each is (name, what it does, colour)."""
    for x, (name, job, color) in enumerate(links):
        ink = "white" if color in (GC, BOTH) else "black"
        box = {"boxstyle": "round,pad=0.5", "fc": color, "ec": "none"}
        ax.text(x, 0.7, name, ha="center", va="center", color=ink, bbox=box, size=10)
        ax.text(x, 0.35, job, ha="center", va="top", color="0.25", size=9)
        if x:
            arrow = {"arrowstyle": "-|>", "color": "0.4"}
            ax.annotate("", (x - 0.4, 0.7), (x - 0.6, 0.7), arrowprops=arrow)
    ax.set(xlim=(-0.5, len(links) - 0.5), ylim=(0, 1))
    ax.axis("off")


def bare(ax: Axes) -> None:
    """Takes frame, ticks and grid off a picture."""
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)


def kernel(ax: Axes, weights: Any, limit: float) -> Any:
    """Draws a kernel (y, x, 3, out): inputs downwards, filters to the right, white for zero."""
    height, width, inputs, outputs = weights.shape
    tiles = np.pad(weights, ((0, 1), (0, 1), (0, 0), (0, 0)), constant_values=np.nan)
    mosaic = tiles.transpose(2, 0, 3, 1).reshape(inputs * (height + 1), outputs * (width + 1))
    handle = ax.imshow(mosaic[:-1, :-1], cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_yticks(height // 2 + (height + 1) * np.arange(inputs), ["red", "green", "blue"])
    ax.set_xticks(width // 2 + (width + 1) * np.arange(outputs), map(str, range(outputs)))
    bare(ax)
    return handle


def colors_of(ax: Axes, weights: Any, limit: float) -> None:
    """Draws the filters of a kernel (y, x, 3, out) as colour pictures, middle grey for zero."""
    height, width, _, outputs = weights.shape
    tiles = np.clip(0.5 + 0.5 * np.asarray(weights) / limit, 0, 1)
    tiles = np.pad(tiles, ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=1)
    ax.imshow(tiles.transpose(0, 3, 1, 2).reshape(height, -1, 3)[:, :-1])
    ax.set_xticks(width // 2 + (width + 1) * np.arange(outputs), map(str, range(outputs)))
    ax.set_yticks([])
    bare(ax)
