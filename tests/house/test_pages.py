"""The pages: links that lead somewhere, a README that is short."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]

PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "examples/**/*.md",
        "tests/**/*.md",
        "notebooks/*.ipynb",
    )
    for path in ROOT.glob(pattern)
)

LINK = re.compile(
    r"""\]\(\s*<?(?P<inline>[^\s)>]+)    # [text](target) and ![text](target "title")
    | ^\[[^\]]+\]:\s+(?P<reference>\S+)  # [name]: target
    | \b(?:href|src)="(?P<html>[^"]+)"   # <img src="target">
    """,
    re.VERBOSE | re.MULTILINE,
)


def text_of(path):
    """A page as Markdown, or a notebook's, without blocks of code."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def relative_links(text):
    """Where a page's links lead, but for those to other sites."""
    text = re.sub(r"(`+)(?:(?!\n\n).)+?\1", "code", text, flags=re.DOTALL)
    targets = [match[match.lastgroup] for match in LINK.finditer(text)]
    return [target for target in targets if not re.match(r"[a-z][a-z+.-]*:|//", target)]


def anchors(text):
    """The names under which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *#*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page):
    """The relative links of a page that lead to no file, or to no heading of a page."""
    dead = []
    for target in relative_links(text_of(page)):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in anchors(text_of(path))):
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_relative_links_lead_to_files_and_headings(page):
    assert dead_links(ROOT / page) == []


def test_dead_links_are_found_however_they_are_written(tmp_path):
    (tmp_path / "there.md").write_text("# What it is: `x`, and why\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#what-it-is-x-and-why) [c](https://example.org/gone.md)\n"
        '[`d`](gone.md) ![e](gone.png "title") [f](there.md#gone) <img src="gone.svg">\n'
        "`not [a](link.md)`\n\n[g]: gone/too.md\n"
    )
    gone = ["gone.md", "gone.png", "there.md#gone", "gone.svg", "gone/too.md"]
    assert dead_links(page) == gone


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 100] == []
