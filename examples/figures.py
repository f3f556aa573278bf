"""One number, one place: docs/figures.json has what commands measured, and pages show it.

    python -m examples.cifar --out DIR && python -m examples.figures take digits DIR/metrics.json
    python -m pytest tests/benchmarks/test_step_cost.py --benchmark-json=step_cost.json
    python -m examples.figures take step_cost step_cost.json
    python -m examples.figures show

`take` puts what a command wrote under a name; `show` writes the figures into the pages, as `take`
does too. On a page, figures stand behind a comment that names their entry and says how they look:

    It takes <!-- figures digits: {seconds:.0f} s -->31 s<!-- end --> on two cores.

What is in braces is that of `str.format` and takes one of the entry's values. Where a new line
follows the comment, it is a whole paragraph or table that looks so. A docstring has no comments:
`HEAD` says how the figures in the head of `examples/cifar.py` look. The figures of the paper's
tables and of the study come from the records of their runs.
"""

import dataclasses
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from examples.engine import exits, results
from examples.paper import summary
from examples.paper.experiments import file_of
from examples.study import report
from examples.study.comparisons import Comparison

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "figures.json"
RECORDS = ROOT / "examples" / "paper" / "results" / file_of(3)
STUDY = ROOT / "examples" / "study" / "results"
PAGES = (
    "README.md",
    "docs/performance.md",
    "examples/paper/README.md",
    "examples/study/README.md",
    "examples/cifar.py",
)

PARAGRAPH = textwrap.TextWrapper(100, break_on_hyphens=False, break_long_words=False)
PLACE = re.compile(r"<!-- figures (\w+):(.*?)-->(.*?)<!-- end -->", re.DOTALL)

ACCURACIES = "{plain:.2f} %  {centralized:.2f} %  {seconds:4.0f} s"
HEAD = {  # whole lines, found by how they begin
    "digits": f"    360 test digits     {ACCURACIES}  two cores",
    "cifar10": f"    10,000 of CIFAR-10  {ACCURACIES}  one core",
}

Entry = dict[str, Any]
"""What one command measured: `command`, `machine`, `versions`, `seeds` (None where nothing is
drawn), `date`, `values`, and a `note` where there is more to know."""


def read() -> dict[str, Entry]:
    """The entries by name, those of the records included."""
    written = json.loads(FILE.read_text())
    return {**written, "table_3": of_records(RECORDS), **of_study(STUDY)}


def shown(text: str, entries: dict[str, Entry]) -> str:
    """A page with the figures of the entries.

    Raises:
      ValueError: the page wants an entry or a value that there is not, or has a comment at the
        beginning of a line with text, which is no paragraph to Markdown.
    """

    def fill(place: re.Match) -> str:
        name, template, before = place.groups()
        figures = formatted(name, template.strip(), entries)
        if before.startswith("\n"):
            is_table = figures.startswith("|")
            figures = f"\n{figures}\n" if is_table else f"\n{PARAGRAPH.fill(figures)}"
        elif text[: place.start()].endswith("\n"):
            raise ValueError(f"Text must stand before {place[0].partition('-->')[0]}-->")
        return f"<!-- figures {name}:{template}-->{figures}<!-- end -->"

    text = PLACE.sub(fill, text)
    for name, template in HEAD.items():
        line = rf"^{re.escape(template.partition('{')[0])}.*$"
        if re.search(line, text, re.MULTILINE):
            text = re.sub(line, formatted(name, template, entries), text, flags=re.MULTILINE)
    return text


def formatted(name: str, template: str, entries: dict[str, Entry]) -> str:
    """The template with the values of one entry.

    Example:
      >>> formatted("a", "{loss:.2f} nats", {"a": {"values": {"loss": 0.123}}})
      '0.12 nats'
    """
    try:
        return template.format_map(entries[name]["values"])
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{FILE.name} does not hold what a page wants of {name}: {error!r} in {template!r}"
        ) from error


def write_pages() -> None:
    """Writes the figures into all pages."""
    entries = read()
    for page in PAGES:
        path = ROOT / page
        path.write_text(shown(path.read_text(), entries))


def of_example(metrics: dict[str, Any]) -> Entry:
    """What `python -m examples.cifar` wrote: accuracies in percent, seconds of both runs."""
    runs = metrics["runs"]
    percent = {name: round(100 * run["test_accuracy"], 4) for name, run in runs.items()}
    seconds = round(sum(run["seconds"] for run in runs.values()), 1)
    return {
        "command": metrics["command"],
        **_made_on(metrics["machine"]),
        "seeds": [metrics["config"]["seed"]],
        "date": metrics["date"],
        "values": percent | {"seconds": seconds},
    }


def of_benchmark(report: dict[str, Any]) -> Entry:
    """What pytest-benchmark wrote: the median and what is recorded beside it, by test and case."""
    files = sorted({each["fullname"].partition("::")[0] for each in report["benchmarks"]})
    values = {}
    for each in report["benchmarks"]:
        test, _, case = each["name"].removeprefix("test_").partition("[")
        numbers = {
            name: float(f"{value:.4g}")
            for name, value in each["extra_info"].items()
            if isinstance(value, int | float)
        }
        median = float(f"{each['stats']['median']:.4g}")
        found: dict[str, Any] = {"median": median, **numbers}
        if "temporary_share" in numbers:
            found["temporary"] = percent(numbers["temporary_share"])
        values[f"{test} {case.removesuffix(']')}"] = found
    return {
        "command": f"python -m pytest {' '.join(files)}",
        **_made_on(report["machine_info"]["described"]),
        "seeds": None,
        "date": report["datetime"][:10],
        "values": values,
    }


def percent(share: float) -> str:
    """A share of memory as pages show it.

    Example:
      >>> [percent(share) for share in (0.0002, 0.028, 1.0)]
      ['< 0.1 %', '2.8 %', '100 %']
    """
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def of_records(path: Path) -> Entry:
    """What the paper's runs reached, in percent, by method; of the longest training.

    The corrected intervals of the gains hold together (Bonferroni).
    """
    records = results.read(path)
    section, *_ = summary.summarize(3, records)
    told = sum(len(line.gains) > 1 for line in section.lines)  # those with an interval
    corrected = {
        line.row: Comparison(line.row.method, line.gains, max(1, told)).corrected
        for line in section.lines
    }
    values = {
        line.row.method: {
            "ours": line.mean,
            "of_seed": line.accuracies,
            "n": len(line.accuracies),
            "gain": line.gain,
            "low": line.gain - line.margin,
            "high": line.gain + line.margin,
            "corrected_low": line.gain - corrected[line.row].margin,
            "corrected_high": line.gain + corrected[line.row].margin,
            "paper": line.row.paper,
            "paper_gain": line.paper_gain,
        }
        for line in section.lines
    }
    commands = sorted({record["command"] for record in records})
    return {"command": commands, "values": values | {"epochs": section.how.epochs}}


def of_study(out: Path) -> dict[str, Entry]:
    """What the study's runs say: an entry for each block.

    It has the block's tables as `table`, and its comparisons by their labels. The entry `study` has
    the table of all verdicts, and that of the runs.
    """
    sections, _ = report.read(out)
    costs = "\n".join(report.costs(sections))
    entries: dict[str, Entry] = {"study": {"values": {"costs": costs}}}
    for name, section in sections.items():
        values: dict[str, Any] = {"table": "\n".join(section.lines)}
        for comparison in section.found:
            interval, wide = comparison.interval, comparison.corrected
            values[comparison.label] = {
                "gain": interval.mean,
                "low": interval.mean - interval.margin,
                "high": interval.mean + interval.margin,
                "corrected_low": wide.mean - wide.margin,
                "corrected_high": wide.mean + wide.margin,
                "n": interval.count,
                "verdict": comparison.verdict,
            }
        entries[f"study_{name}"] = {"values": values}
    if answers := report.verdicts(sections):
        entries["study"]["values"]["verdicts"] = "\n".join(answers)
    return entries


def _made_on(described: dict[str, Any]) -> Entry:
    """What `runner.describe_machine` says, as an entry has it."""
    words = [described["processor"], f"{described['cpus']} cores"]
    words += [] if described["platform"] == "cpu" else [described["device"]]
    about = {"device", "platform", "processor", "machine", "cpus", "devices"}
    versions = {name: value for name, value in described.items() if name not in about}
    return {"machine": ", ".join(words), "versions": versions}


TAKERS: dict[str, Callable[[dict[str, Any]], Entry]] = {
    "runs": of_example,
    "benchmarks": of_benchmark,
}
"""By what tells the file of one command from that of another."""


@dataclasses.dataclass(frozen=True)
class Take:
    """Put what a command wrote into docs/figures.json, and show it on the pages."""

    name: tyro.conf.Positional[str]
    """Of the entry, as the pages call it."""
    path: tyro.conf.Positional[Path]
    """metrics.json of the example, or the JSON file of pytest-benchmark."""
    note: str = ""
    """What there is to know besides."""

    def __call__(self) -> None:
        """Does it."""
        written = json.loads(self.path.read_text())
        take = next((take for key, take in TAKERS.items() if key in written), None)
        if take is None:
            raise ValueError(f"{self.path} has neither {' nor '.join(TAKERS)} in it.")
        entry = take(written) | ({"note": self.note} if self.note else {})
        entries = json.loads(FILE.read_text()) | {self.name: entry}
        text = json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False)
        FILE.write_text(text + "\n")
        write_pages()


@dataclasses.dataclass(frozen=True)
class Show:
    """Write the figures of docs/figures.json into the pages."""

    def __call__(self) -> None:
        """Does it."""
        write_pages()


def main() -> None:
    """Reads the command line and does what it says."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"take": Take, "show": Show}, prog="python -m examples.figures"
    )
    with exits.on("examples.figures", OSError, ValueError):
        command()


if __name__ == "__main__":
    main()
