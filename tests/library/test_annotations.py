"""The types to annotate with, as a program sees them; mypy reads them in `test_packaging`."""

import inspect
import typing

import pytest

import wcgc

from helpers.reference import AREAS, ERROR_ONE_PER

FUNCTIONS = {
    name: value for name in wcgc.__all__ if inspect.isfunction(value := getattr(wcgc, name))
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_annotations_can_be_evaluated(function):
    hints = typing.get_type_hints(function)
    assert set(hints) == {*inspect.signature(function).parameters, "return"}
    assert hints.get("axes", wcgc.Axes) == wcgc.Axes
    assert hints.get("mask", wcgc.Mask) == wcgc.Mask


def test_so_can_those_of_others():
    """In their modules, names such as the one by which a tree holds trees mean nothing."""
    source = "import wcgc\ndef train(axes: wcgc.Axes, mask: wcgc.Mask, area: wcgc.Area): ..."
    names = {}
    exec(source, names)
    hints = typing.get_type_hints(names["train"])
    assert hints == {"axes": wcgc.Axes, "mask": wcgc.Mask, "area": wcgc.Area}


def test_they_say_what_may_be_given():
    for kind in (wcgc.KernelAxes, wcgc.LeftAlone):
        assert kind in typing.get_args(wcgc.Axes)
    assert typing.Any not in (*typing.get_args(wcgc.Axes), *typing.get_args(wcgc.Mask))
    assert bool in typing.get_args(wcgc.Mask)
    assert set(typing.get_args(wcgc.Area)) == set(AREAS)
    assert set(typing.get_args(wcgc.ErrorArea)) == set(ERROR_ONE_PER)
