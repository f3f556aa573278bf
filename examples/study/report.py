"""The study's report, made from the records alone: a picture and a verdict for each question."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from examples.engine.intervals import CONFIDENCE, student
from examples.study import comparisons
from examples.study.blocks import BLOCKS
from examples.study.comparisons import Comparison, Runs
from examples.study.factors import Arm

COLORS: dict[Arm, str] = {"plain": "0.35", "GC": "tab:blue", "WC": "tab:green", "WC+GC": "tab:red"}

HEAD = f"""# The study's results

Differences are between runs that share seed, initial weights, batches and crops. Intervals are
Student's t of these differences at {CONFIDENCE:.0%}; the corrected ones are wider, so that all of a
question's intervals hold together (Bonferroni). A verdict is what the corrected interval allows.
"""


def write(out: Path) -> list[Path]:
    """Writes report.md and a picture for each block that has records.

    Args:
      out: the folder with the records.

    Returns:
      The files written.

    Raises:
      FileNotFoundError: there are no records.
      ValueError: a file holds something else, or pairs are no pairs.
    """
    texts, files = [HEAD], []
    for block, make in SECTIONS.items():
        runs = comparisons.runs_of(out, block)
        if not runs:
            continue
        question = BLOCKS[block].question
        if lacking := comparisons.arms_without_runs(block, runs):
            texts.append(
                f"## {block}. {question}\n\nAt work: {', '.join(lacking)} has no run yet.\n"
            )
            continue
        lines, figure = make(runs)
        picture = out / f"{block}.png"
        figure.savefig(picture, dpi=120)
        files.append(picture)
        texts.append(
            "\n".join(
                [f"## {block}. {question}", "", f"![{question}]({picture.name})", "", *lines, ""]
                + [f"- {line}" for line in made_by(runs)]
                + [""]
            )
        )
    if len(texts) == 1:
        raise FileNotFoundError(f"{out} has no results: no block's records, such as B.jsonl.")
    page = out / "report.md"
    page.write_text("\n".join(texts))
    return [page, *files]


def made_by(runs: Runs) -> list[str]:
    """How many runs, how long, on what, and by which command."""
    records = [record for of_setting in runs.values() for record in of_setting.values()]
    hours = sum(sum(record["curves"]["seconds"]) for record in records) / 3600
    lost = sum(record["outcome"] != "finished" for record in records)
    ended = f", {lost} of them ended in NaN" if lost else ""
    seeds = sorted({record["run"]["seed"] for record in records})
    machines = {
        f"{record['machine']['processor']}, {record['machine']['cpus']} core a run, "
        f"{record['compilation']}, Python {record['machine']['python']}, "
        + ", ".join(
            f"{name} {record['machine'][name]}" for name in ("jax", "flax", "optax", "wcgc")
        )
        for record in records
    }
    return [
        f"{len(records)} runs{ended}, seeds {seeds[0]} to {seeds[-1]}, {hours:.1f} core hours",
        *sorted(machines),
        *sorted({f"`{record['command']}`" for record in records}),
    ]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; all columns but the first to the right."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows)]


def cells(comparison: Comparison, digits: int = 2) -> list[str]:
    """Label, mean, both intervals, number of pairs and verdict."""
    interval, wide = comparison.interval, comparison.corrected

    def ends(interval) -> str:
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


HEADINGS = ("points of test accuracy", "mean", "95 %", "corrected", "pairs", "verdict")


def rates(runs: Runs) -> tuple[list[str], Figure]:
    """A: accuracy over the learning rate."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    found = sorted({setting.learning_rate for setting in runs})
    rows = []
    for arm, color in COLORS.items():
        means = []
        for rate in found:
            chosen = [s for s in runs if (s.arm, s.learning_rate) == (arm, rate)]
            values = [record["accuracy"] or 0.0 for s in chosen for record in runs[s].values()]
            axes.plot([rate] * len(values), values, ".", color=color, alpha=0.4)
            means.append(student(values).mean)
        axes.plot(found, means, color=color, label=arm)
        best = max(range(len(found)), key=lambda i: (means[i] == means[i], means[i]))
        rows.append([arm, *(f"{mean:.2f}" for mean in means), f"{found[best]:.2g}"])
    axes.set(xscale="log", xlabel="learning rate", ylabel="accuracy on held-out images [%]")
    axes.legend(frameon=False)
    _clean(axes)
    headings = ["accuracy [%] at", *(f"{rate:.2g}" for rate in found), "best rate"]
    return table(headings, rows), figure


def gains(runs: Runs) -> tuple[list[str], Figure]:
    """B: the four arms."""
    arms = comparisons.by_arm(runs)
    values: dict[str, comparisons.Value] = {
        "test accuracy [%]": comparisons.accuracy,
        "test loss [nats]": comparisons.loss,
        "epochs to 70 %": comparisons.epochs_to(70),
    }
    rows = [
        [arm, f"{arms[arm].learning_rate:.2g}"]
        + [
            "" if (mean := comparisons.mean_of(runs, arms[arm], value)) is None else f"{mean:.3f}"
            for value in values.values()
        ]
        for arm in COLORS
    ]
    lines = [*table(["arm", "rate", *values], rows), ""]
    found = comparisons.compare(runs, comparisons.sums_and_parts(arms))
    lines += [*table(HEADINGS, map(cells, found)), ""]
    losses = comparisons.compare(runs, comparisons.sums_and_parts(arms), comparisons.loss)
    headings = ("nats of test loss", *HEADINGS[1:-1])
    lines += table(headings, (cells(one, 4)[:-1] for one in losses))
    return lines, _forest(found)


def companions(runs: Runs) -> tuple[list[str], Figure]:
    """C: optimizers and norms."""
    wanted = comparisons.gains_by_companion(runs)
    found = comparisons.compare(runs, wanted)
    return table(HEADINGS, map(cells, found)), _forest(found)


def equality(runs: Runs) -> tuple[list[str], Figure]:
    """E: the arms under SGD, epoch by epoch."""
    arms = comparisons.by_arm(runs)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for arm, color in COLORS.items():
        for record in runs[arms[arm]].values():
            percent = [100 * value for value in record["curves"]["test_accuracy"]]
            axes.plot(range(1, len(percent) + 1), percent, color=color, marker=".")
        axes.plot([], [], color=color, label=arm)
    axes.set(xlabel="epoch", ylabel="test accuracy [%]")
    axes.legend(frameon=False)
    _clean(axes)
    found = comparisons.compare(runs, comparisons.sums_and_parts(arms))
    return table(HEADINGS, map(cells, found)), figure


def controls(runs: Runs) -> tuple[list[str], Figure]:
    """F: what is removed, and where."""
    found = comparisons.compare(runs, comparisons.gains_of_controls(runs))
    lines = [*table(HEADINGS, map(cells, found)), ""]
    rows = []
    for setting in runs:
        record = runs[setting][min(runs[setting])]
        if setting.arm == "plain" and setting.removed == "mean" and not setting.centred:
            for what in ("gradient", "momentum", "update", "weights", "alignment", "dominance"):
                for layer, course in comparisons.shares(record, what).items():
                    rows.append([f"{what}, {layer}", *(f"{value:.3f}" for value in course)])
    if rows:
        headings = ["plain, first seed", "at the start"]
        headings += [f"epoch {number}" for number in range(1, len(rows[0]) - 1)]
        lines += table(headings, rows)
    return lines, _forest(found)


SECTIONS: dict[str, Callable[[Runs], tuple[list[str], Figure]]] = {
    "A": rates,
    "B": gains,
    "C": companions,
    "E": equality,
    "F": controls,
}


def _forest(found: Sequence[Comparison]) -> Figure:
    """A line for each comparison: its mean, the interval alone and the corrected one."""
    figure = Figure(figsize=(7, 1.2 + 0.34 * len(found)), layout="constrained")
    axes = figure.subplots()
    for y, comparison in enumerate(found):
        interval, wide = comparison.interval, comparison.corrected
        axes.errorbar(interval.mean, y, xerr=wide.margin, color="0.7", capsize=3)
        axes.errorbar(interval.mean, y, xerr=interval.margin, color="tab:red", fmt="o", linewidth=2)
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set(
        xlabel="difference in test accuracy [percentage points]; grey: corrected interval",
        yticks=range(len(found)),
        yticklabels=[comparison.label for comparison in found],
        ylim=(len(found) - 0.5, -0.5),
    )
    _clean(axes)
    return figure


def _clean(axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
