"""The library's modules: on the map in CONTRIBUTING.md, and in no circle."""

import ast
import graphlib
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
MODULES = {path.name: ast.parse(path.read_text()) for path in sorted((ROOT / "wcgc").glob("*.py"))}


def test_each_is_on_the_map_in_its_own_words():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (table,) = re.findall(r"^\| the library \|.*?\n\n", text, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| `(\S+)` \| (.+) \|$", table, re.MULTILINE)
    mapped = {name: words for name, words in rows if name.endswith(".py")}
    own = {
        name: ast.get_docstring(module).splitlines()[0].removesuffix(".")
        for name, module in MODULES.items()
    }
    assert list(mapped) == list(own)
    packages = [f"{path.parent.name}/" for path in (ROOT / "wcgc").glob("*/__init__.py")]
    assert [name for name, _ in rows if name not in mapped] == packages
    # In the table they begin with a small letter, unless it is a name.
    assert [words[1:] for words in mapped.values()] == [words[1:] for words in own.values()]


def imported(module):
    """The library's modules that one imports, if only for a type checker."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module == "wcgc":
            yield from (f"{alias.name}.py" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("wcgc."):
            yield f"{node.module.removeprefix('wcgc.')}.py"


def test_none_imports_itself_through_others():
    graph = {name: set(imported(module)) for name, module in MODULES.items()}
    assert graph["__init__.py"] > {"_explain.py", "_measure.py"}
    assert set().union(*graph.values()) <= set(MODULES)
    graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError that names them
