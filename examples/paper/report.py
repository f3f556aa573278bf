"""What came out, beside the paper: Markdown and pictures, from the records alone."""

import math
from pathlib import Path
from typing import get_args

from examples.engine import results
from examples.engine.intervals import CONFIDENCE
from examples.paper import plot, recipes
from examples.paper.experiments import file_of
from examples.paper.rows import Table
from examples.paper.summary import Line, Section, summarize

ASSUMED = {
    "a": "network (a) is assumed: the paper's text gives no widths",
    "b": "network (b) is a ResNet-34 whose stem, here `{stem}`, is assumed",
    "c": "network (c) is assumed: the paper's text gives no widths",
    "d": "network (d) is dlib's residual U-Net, about 90 % sure to be the paper's",
}

CAVEATS = {
    "a": "network (a) assumed",
    "b": "stem of (b) assumed",
    "c": "network (c) assumed",
    "d": "network (d) about 90 % sure",
}

HEAD = f"""# The paper's tables, trained again

Accuracies in percent, of pixels for VOC2012, after the last epoch on the test images. *Ours* is
mean ± standard deviation over seeds, *n* the number of seeds that finished; a run whose loss
becomes NaN does not. *Gain* is the difference to the baseline of the same network: ours paired by
seed, with its {CONFIDENCE:.0%} confidence interval (Student's t), the paper's from single runs.
"""

COLUMNS = ("row", "network", "method", "paper", "ours", "n", "ours - paper", "gain", "paper's gain")


def write(out: Path, note: str = "") -> list[Path]:
    """Writes report.md and a picture for each section beside the records.

    Args:
      out: the folder with the records.
      note: what to tell about the data, at the top.

    Returns:
      The files written.

    Raises:
      FileNotFoundError: there are no records.
      ValueError: a file holds something else.
    """
    sections = [
        section
        for table in get_args(Table)
        for section in summarize(table, results.read(out / file_of(table)))
    ]
    if not sections:
        raise FileNotFoundError(f"{out} has no results: no table_N.jsonl with a record in it")
    texts, files = [HEAD + f"\n{note}\n" if note else HEAD], []
    for section in sections:
        picture = out / f"{slug(section)}.png"
        plot.draw(section, f"{title(section)}\n{caveats(section)}").savefig(picture, dpi=150)
        texts.append(markdown(section, picture.name))
        files.append(picture)
    page = out / "report.md"
    page.write_text("\n".join(texts))
    return [page, *files]


def slug(section: Section) -> str:
    """A name for the section's picture."""
    how = section.how
    parts = [f"table_{section.table}", f"{how.epochs}_epochs", how.drops]
    parts += [f"limit_{how.limit}"] if how.limit else []
    chosen = {"split": how.split, "norm": how.norm, "stem": how.stem}
    usual = {"split": "official", "norm": "batch", "stem": "stride1"}
    return "-".join(parts + [value for name, value in chosen.items() if value != usual[name]])


def title(section: Section) -> str:
    """Table, data set and training."""
    row, how = section.lines[0].row, section.how
    return f"Table {section.table}, {row.dataset}, {how.epochs} of {row.recipe.epochs} epochs"


def caveats(section: Section) -> str:
    """What is assumed and what differs from the paper, in a line."""
    how, rows = section.how, [line.row for line in section.lines]
    found = [CAVEATS[model] for model in sorted({row.model for row in rows})]
    if how.epochs != rows[0].recipe.epochs or how.drops != "paper":
        found.append("schedule shortened")
    if how.limit is not None:
        found.append(f"first {how.limit} images only")
    if how.split != "official":
        found.append(f"{how.split} split")
    return ", ".join(found)


def markdown(section: Section, picture: str) -> str:
    """The section as Markdown."""
    rule = "|".join(["---:" if name != "method" else "---" for name in COLUMNS])
    lines = [
        f"## {title(section)}",
        "",
        *(f"- {remark}" for remark in remarks(section)),
        "",
        f"![Accuracy and gain of each row, the paper's and ours]({picture})",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{rule}|",
        *(f"| {' | '.join(cells(line))} |" for line in section.lines),
        "",
    ]
    return "\n".join(lines)


def cells(line: Line) -> list[str]:
    """One row of the Markdown table."""
    lost = len(line.records) - len(line.accuracies)
    ours = f"{line.mean:.2f}" if line.accuracies else "nan"
    if not math.isnan(line.deviation):
        ours += f" ± {line.deviation:.2f}"
    if lost and line.accuracies:
        ours += f" ({lost} nan)"
    gain = "" if math.isnan(line.gain) else f"{line.gain:+.2f}"
    if not math.isnan(line.margin):
        gain += f" [{line.gain - line.margin:+.2f}, {line.gain + line.margin:+.2f}]"
    paper = "nan" if math.isnan(line.row.paper) else f"{line.row.paper:.2f}"
    difference = line.mean - line.row.paper
    return [
        str(line.row.number),
        line.row.model,
        line.row.method,
        paper,
        ours,
        str(len(line.accuracies)),
        "" if math.isnan(difference) else f"{difference:+.2f}",
        gain,
        "" if math.isnan(line.paper_gain) else f"{line.paper_gain:+.2f}",
    ]


def remarks(section: Section) -> list[str]:
    """What a reader must know of these runs: the assumed, the shortened, and on what they ran."""
    how, rows = section.how, [line.row for line in section.lines]
    recipe = rows[0].recipe
    found = [ASSUMED[model].format(stem=how.stem) for model in sorted({row.model for row in rows})]
    if how.epochs != recipe.epochs:
        found.append(f"**shortened**: {how.epochs} epochs where the paper has {recipe.epochs}")
    if how.drops == "late":
        shares = " and ".join(f"{share:.0%}" for share in recipes.LATE_DROPS)
        found.append(
            f"the learning rate falls tenfold after {shares} of the run, unlike the paper's"
        )
    elif how.epochs != recipe.epochs:
        found.append("the learning rate falls at the same shares of the run as the paper's")
    if how.limit is not None:
        found.append(f"**a trial**: the first {how.limit} training and test images only")
    if how.split != "official":
        found.append(f"**{how.split} split**: no figures on VOC2012 val, which the paper's are")
    if how.norm != "batch":
        found.append(f"{how.norm} normalization in place of batch normalization")
    records = [record for line in section.lines for record in line.records]
    seeds = sorted({record["run"]["seed"] for record in records})
    hours = sum(sum(r["curves"]["seconds"]) / r["seeds_at_once"] for r in records) / 3600
    found.append(
        f"{len(records)} runs, seeds {', '.join(map(str, seeds))}, {hours:.1f} hours in all"
    )
    found += sorted({_made_on(record) for record in records})
    found += sorted({f"`{record['command']}`" for record in records})
    return found


def _made_on(record: results.Record) -> str:
    machine = record["machine"]
    packages = ", ".join(f"{name} {machine[name]}" for name in ("jax", "flax", "optax", "wcgc"))
    return (
        f"{record['devices']} {machine['device']} ({machine['cpus']} processor cores), "
        f"Python {machine['python']}, {packages}"
    )
