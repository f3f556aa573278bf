"""The study's report, from the records alone: verdicts, a picture and tables for each block."""

from collections.abc import Mapping
from pathlib import Path

from examples.engine.intervals import CONFIDENCE
from examples.study.sections import SECTIONS, AtWorkError, Section
from examples.study.tables import cells, table

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
    sections, at_work = read(out)
    if not sections and not at_work:
        raise FileNotFoundError(f"{out} has no results: no block's records, such as B.jsonl.")
    answers = verdicts(sections)
    texts, files = [HEAD, *(["## Verdicts", "", *answers, ""] if answers else [])], []
    texts += ["## Runs", "", *costs(sections), ""] if sections else []
    for name in SECTIONS:
        if name in at_work:
            texts += [f"## {name}", "", at_work[name], ""]
        if name in sections:
            picture = out / f"{name}.png"
            sections[name].draw().savefig(picture, dpi=120)
            files.append(picture)
            texts += markdown(name, sections[name], picture.name)
    page = out / "report.md"
    page.write_text("\n".join(texts))
    return [page, *files]


def read(out: Path) -> tuple[dict[str, Section], dict[str, str]]:
    """The sections that records are there for, by name; and of others why they are not ready.

    Args:
      out: the folder with the records.
    """
    sections: dict[str, Section] = {}
    at_work: dict[str, str] = {}
    for name, make in SECTIONS.items():
        try:
            sections[name] = make(out)
        except FileNotFoundError:
            continue
        except AtWorkError as error:
            at_work[name] = str(error)
    return sections, at_work


def verdicts(sections: Mapping[str, Section]) -> list[str]:
    """The answers of all blocks in one table; nothing where there are none."""
    rows = [
        [f"{name} {section.setting}", label, f"{mean} {section.unit}", *rest]
        for name, section in sections.items()
        for comparison in section.found
        for label, mean, *rest in [cells(comparison, 2 if section.unit == "points" else 4)]
    ]
    if not rows:
        return []
    headings = ("setting", "compared", "gain", "95 %", "corrected", "pairs", "verdict")
    return table(headings, rows, left=len(headings))


def costs(sections: Mapping[str, Section]) -> list[str]:
    """How many runs each block took, those that chose learning rates first, and how long."""
    rows = []
    for name, section in sections.items():
        if name != "B-shares":  # which shows more of B's runs
            runs = [f"{len(section.sweep)}"] if section.sweep else []
            runs += [f"{len(section.records)}"]
            rows.append([f"{name}. {section.question}", " + ".join(runs), f"{section.hours:.1f}"])
    return table(["block", "runs", "core hours"], rows)


def markdown(name: str, section: Section, picture: str) -> list[str]:
    """One section."""
    return [
        f"## {name}. {section.question}",
        "",
        f"![{section.question}]({picture})",
        "",
        *section.lines,
        "",
        *(f"- {line}" for line in made_by(section)),
        "",
    ]


def made_by(section: Section) -> list[str]:
    """How many runs, how long, on what, and by which command."""
    records = [*section.sweep, *section.records]
    lost = sum(record["outcome"] != "finished" for record in records)
    ended = f", {lost} of them ended in NaN" if lost else ""
    seeds = sorted({record["run"]["seed"] for record in records})
    machines = {
        f"{record['machine']['processor']}, cores for a run: {record['machine']['cpus']}, "
        f"{record['compilation']}, Python {record['machine']['python']}, "
        + ", ".join(
            f"{name} {record['machine'][name]}" for name in ("jax", "flax", "optax", "wcgc")
        )
        for record in records
    }
    runs = f"{len(records)} runs{ended}, seeds {seeds[0]} to {seeds[-1]}"
    return [
        f"{runs}, {section.hours:.1f} core hours",
        *sorted(machines),
        *sorted({f"`{record['command']}`" for record in records}),
    ]
