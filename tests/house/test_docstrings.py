"""What every public name tells its reader: arguments, result and an example that runs."""

import ast
import doctest
import inspect
import itertools
import pathlib
import re

import pytest

import wcgc
import wcgc.models


def public_callables():
    """Functions, classes, and the methods that the classes define themselves, by their names."""
    found = {}
    for module in (wcgc, wcgc.models):
        for name in module.__all__:
            value = getattr(module, name)
            if not (inspect.isroutine(value) or inspect.isclass(value)):
                continue
            found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                methods = {key: method for key, method in vars(value).items() if key[0] != "_"}
                found |= {
                    f"{module.__name__}.{name}.{key}": method
                    for key, method in methods.items()
                    if inspect.isfunction(method)
                }
    return found


PUBLIC = public_callables()


@pytest.fixture(params=PUBLIC, ids=str)
def name(request):
    return request.param


def sections(value):
    """The sections of a Google-style docstring by their headings; the summary has none."""
    parts = re.split(r"^([A-Z]\w+):\n", f"{inspect.getdoc(value)}\n", flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def parameters(value):
    # The metaclass of NNX modules hides what a class is called with.
    signature = inspect.signature(value.__init__ if inspect.isclass(value) else value)
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [
        stars.get(parameter.kind, "") + name
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]


def test_the_walk_finds_what_there_is():
    assert {"wcgc.centralize", "wcgc.KernelAxes.resolve", "wcgc.models.ResNet34"} <= set(PUBLIC)
    assert not [name for name in PUBLIC if name.endswith("FLAX")]


def test_the_first_line_is_a_sentence(name):
    first = inspect.getdoc(PUBLIC[name]).splitlines()[0]
    assert re.fullmatch(r"[A-Z`].*[.]", first), first


def test_each_parameter_is_documented(name):
    """Those of a class that the library alone makes, such as a result, are its attributes."""
    found = sections(PUBLIC[name])
    documented = re.findall(
        r"^  (\*{0,2}\w+): \S", found.get("Args", found.get("Attributes", "")), re.M
    )
    assert documented == parameters(PUBLIC[name])


def test_what_is_returned_is_documented(name):
    value = PUBLIC[name]
    if not inspect.isclass(value):
        assert sections(value).keys() & {"Returns", "Yields"}


def test_there_is_an_example(name):
    """It is run with all other doctests."""
    examples = doctest.DocTestParser().get_examples(sections(PUBLIC[name]).get("Example", ""))
    assert examples
    assert not any(doctest.SKIP in example.options for example in examples)


def documented_below():
    """What is assigned in a module of the library with a text below that documents it."""
    for path in pathlib.Path(wcgc.__file__).parent.glob("*.py"):
        body = ast.parse(path.read_text()).body
        for node, below in itertools.pairwise(body):
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_constants_and_types_to_annotate_with_are_documented():
    others = {name for name in wcgc.__all__ if f"wcgc.{name}" not in PUBLIC}
    assert others >= {"FLAX", "Area", "ErrorArea", "Axes", "Mask"}
    assert others <= set(documented_below())


def test_examples_are_collected(pytestconfig):
    assert pytestconfig.getoption("doctestmodules")
    assert {"wcgc", "examples"} <= {*pytestconfig.getini("testpaths")}
