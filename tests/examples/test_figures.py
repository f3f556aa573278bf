"""Figures: what commands write is taken as it is, and all pages show what the file holds."""

import json
import math
import shutil

import pytest

from examples import figures
from examples.paper import report as paper_report
from examples.study import report as study_report


@pytest.fixture(scope="module")
def entries():
    return figures.read()


@pytest.fixture(scope="module")
def pages():
    return {page: (figures.ROOT / page).read_text() for page in figures.PAGES}


@pytest.mark.parametrize("page", figures.PAGES)
def test_a_page_shows_what_the_file_holds(page, pages, entries):
    message = "run python -m examples.figures show"
    assert figures.shown(pages[page], entries) == pages[page], message


def test_each_entry_says_how_it_was_made():
    for name, entry in json.loads(figures.FILE.read_text()).items():
        wanted = {"command", "machine", "versions", "seeds", "date", "values"}
        assert wanted <= entry.keys() <= wanted | {"note"}, name
        unknown = [key for key in ("command", "versions", "date") if entry[key] is None]
        assert not unknown or "note" in entry, f"{name} does not say why it lacks {unknown}"
        assert entry["values"], name


@pytest.mark.parametrize("name", json.loads(figures.FILE.read_text()))
def test_a_page_that_shows_other_numbers_is_noticed(name, pages, entries):
    changed = entries | {name: {"values": doubled(entries[name]["values"])}}
    assert any(figures.shown(text, changed) != text for text in pages.values())


def doubled(tree):
    if isinstance(tree, dict):
        return {key: doubled(value) for key, value in tree.items()}
    return [*map(doubled, tree)] if isinstance(tree, list) else 2 * tree


def test_figures_are_filled_in():
    entries = {"a": {"values": {"loss": 0.126, "step b": {"ratio": 2.0}, "pair": [1, 2000]}}}
    text = (
        "It is <!-- figures a: {loss:.2f} -->9<!-- end --> and\n"
        "<!-- figures a:\n| {step b[ratio]:.1f} |\n| {pair[1]:,} | -->\nold\n<!-- end -->\n"
        "<!-- figures a: It\nis {loss:.2f}. -->\n?<!-- end -->\n"
    )
    expected = (
        "It is <!-- figures a: {loss:.2f} -->0.13<!-- end --> and\n"
        "<!-- figures a:\n| {step b[ratio]:.1f} |\n| {pair[1]:,} | -->\n| 2.0 |\n| 2,000 |\n"
        "<!-- end -->\n"
        "<!-- figures a: It\nis {loss:.2f}. -->\nIt is 0.13.<!-- end -->\n"
    )
    assert figures.shown(text, entries) == expected
    assert figures.shown(expected, entries) == expected


def test_the_head_of_the_example_is_filled_in(entries):
    line = "    360 test digits     1.00 %  2.00 %  3 s\n"
    changed = {**entries, "digits": {"values": {"plain": 5, "centralized": 6.789, "seconds": 71.6}}}
    expected = "    360 test digits     5.00 %  6.79 %    72 s  two cores\n"
    assert figures.shown(f"a\n{line}b\n", changed) == f"a\n{expected}b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("is <!-- figures b: {loss} -->9<!-- end -->", "what a page wants of b: KeyError"),
        ("is <!-- figures a: {rate} -->9<!-- end -->", r"what a page wants of a: KeyError.*\{rate"),
        ("is <!-- figures a: {loss:.2q} -->9<!-- end -->", "wants of a: ValueError"),
        ("\n<!-- figures a: {loss} -->9<!-- end -->", "Text must stand before <!-- figures a"),
    ],
)
def test_what_is_not_there_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        figures.shown(text, {"a": {"values": {"loss": 0.5}}})


DESCRIBED = {
    "device": "cpu",
    "platform": "cpu",
    "processor": "a processor",
    "machine": "Linux",
    "cpus": 2,
    "python": "3.11.7",
    "jax": "0.10.2",
}
MADE_ON = {
    "machine": "a processor, 2 cores",
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
    "date": "2026-11-26",
}

METRICS = {
    "runs": {
        "plain": {"test_accuracy": 356 / 360, "seconds": 14.96},
        "centralized": {"test_accuracy": 0.5, "seconds": 16.0},
    },
    "config": {"seed": 3},
    "machine": DESCRIBED | {"devices": 1},
    "command": "python -m examples.cifar --seed 3 --out DIR",
    "date": "2026-11-26",
}

REPORT = {
    "machine_info": {"described": DESCRIBED},
    "datetime": "2026-11-26T01:02:03.004+00:00",
    "benchmarks": [
        {
            "name": "test_step[a-adam, schedule]",
            "fullname": "tests/benchmarks/test_step_cost.py::test_step[a-adam, schedule]",
            "extra_info": {"ratio": 1.00449, "device": "cpu", "temporary_share": 0.1123},
            "stats": {"median": 0.0123456},
        }
    ],
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A file of figures and a page of its own."""
    (tmp_path / "figures.json").write_text('{"old": {"values": {"loss": 1}}}')
    (tmp_path / "page.md").write_text(
        "<!-- figures new: {plain:.2f} -->\n?<!-- end -->\nis <!-- figures old: {loss} -->?"
        "<!-- end -->\n"
    )
    monkeypatch.setattr(figures, "FILE", tmp_path / "figures.json")
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "PAGES", ("page.md",))
    return tmp_path


def test_what_the_example_wrote_is_taken_and_shown(place):
    (place / "metrics.json").write_text(json.dumps(METRICS))
    figures.Take("new", place / "metrics.json", note="for a test")()
    assert json.loads((place / "figures.json").read_text())["new"] == {
        "command": "python -m examples.cifar --seed 3 --out DIR",
        **MADE_ON,
        "seeds": [3],
        "values": {"plain": 98.8889, "centralized": 50.0, "seconds": 31.0},
        "note": "for a test",
    }
    assert (place / "page.md").read_text() == (
        "<!-- figures new: {plain:.2f} -->\n98.89<!-- end -->\nis <!-- figures old: {loss} -->1"
        "<!-- end -->\n"
    )


def test_what_a_benchmark_wrote_is_taken():
    assert figures.of_benchmark(REPORT) == {
        "command": "python -m pytest tests/benchmarks/test_step_cost.py",
        **MADE_ON,
        "seeds": None,
        "values": {
            "step a-adam, schedule": {
                "median": 0.01235,
                "ratio": 1.004,
                "temporary_share": 0.1123,
                "temporary": "11 %",
            }
        },
    }


def test_another_file_is_refused(place):
    (place / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json has neither runs nor benchmarks in it"):
        figures.Take("new", place / "other.json")()


def test_the_papers_figures_are_those_of_its_report(entries):
    report = (figures.RECORDS.parent / "report.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith("| ") and "| a |" in line]
    values = entries["table_3"]["values"]
    assert len(rows) == len(values) - 1 == 8
    for row in rows:
        _, _, _, method, paper, ours, count, _, gain, _ = (
            cell.strip() for cell in row.split("|")[:10]
        )
        of_row = values[method]
        assert f"{of_row['paper']:.2f}" == paper
        assert ours.startswith(f"{of_row['ours']:.2f}")
        assert str(of_row["n"]) == count
        if not math.isnan(of_row["low"]):
            assert gain == f"{of_row['gain']:+.2f} [{of_row['low']:+.2f}, {of_row['high']:+.2f}]"
            # Five rows have an interval: Student's t at 99 % over that at 95 %, from its table.
            wider = {2: 63.657 / 12.706, 3: 9.925 / 4.303}[of_row["n"]]
            for end in ("low", "high"):
                margin = wider * (of_row[end] - of_row["gain"])
                assert of_row[f"corrected_{end}"] == pytest.approx(
                    of_row["gain"] + margin, rel=1e-3
                )


def test_committed_reports_are_those_of_the_records(tmp_path):
    note = (
        "93 of CIFAR-10's 60,000 images are JPEG-decoded. In the commands, DIR stands for folders."
    )
    for name, folder, write in (
        ("study", figures.STUDY, study_report.write),
        ("paper", figures.RECORDS.parent, lambda out: paper_report.write(out, note)),
    ):
        out = tmp_path / name
        out.mkdir()
        for file in folder.glob("*.jsonl"):
            shutil.copy(file, out)
        page, *pictures = write(out)
        assert page.read_text() == (folder / page.name).read_text()
        assert {picture.name for picture in pictures} == {
            file.name for file in folder.glob("*.png")
        }
