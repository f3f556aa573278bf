"""Operations that treat each element alike: sums, products, and all others."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from wcgc._axes import Shape
from wcgc._provenance import Value, View, agreed, common_hot, opaque
from wcgc._rearrangements import broadcast, shape_of
from wcgc._recorder import Recorder
from wcgc._uses import MULTIPLIED, SELF, through


def _spread(eqn: Any, values: tuple[Value, ...]) -> tuple[Shape, list[Value]]:
    shape = shape_of(eqn)
    return shape, [broadcast(value, shape) for value in values]


def _varies(values: list[Value]) -> tuple[bool, ...]:
    return tuple(map(any, zip(*(value.varies for value in values), strict=True)))


def linear(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """A linear function of one operand, such as a negation."""
    return [value]


def convert(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """`lax.convert_element_type`: linear unless it rounds to integers."""
    dtype = eqn.params["new_dtype"]
    if value.views and not jnp.issubdtype(dtype, jnp.inexact):
        return other(record, eqn, value)
    return [value]


def add(record: Recorder, eqn: Any, *values: Value) -> list[Value]:
    """Sums and differences."""
    shape, spread = _spread(eqn, values)
    rest = [value for value in spread if not value.zero]
    if len(rest) == 1:
        return rest
    if any(value.inputs for value in rest):
        for value in rest:
            record.meet(value, "added")
        return [Value(shape, _varies(spread), inputs=True)]
    views: dict[int, View] = {}
    for value in rest:
        views = agreed(views, value.views, SELF)
    return [Value(shape, _varies(spread), views=views, zero=not rest)]


def mul(record: Recorder, eqn: Any, *values: Value) -> list[Value]:
    """Products."""
    shape, (a, b) = _spread(eqn, values)
    if a.zero or b.zero:
        return [Value(shape, (False,) * len(shape), zero=True)]
    for value, factor in ((a, b), (b, a)):
        if not (factor.inputs or factor.views or any(factor.varies)):
            return [value]
    inputs = a.inputs or b.inputs
    if inputs and a.views and b.views:
        record.meet(a, MULTIPLIED)
        record.meet(b, MULTIPLIED)
        return [Value(shape, _varies([a, b]), inputs=True)]
    views: dict[int, View] = {}
    for value, factor in ((a, b), (b, a)):
        for number, view in value.views.items():
            scaled = view.scale(factor.varies, by_inputs=factor.inputs)
            if number in views:
                scaled = _of_both(views[number], scaled, eqn.primitive.name)
            views[number] = scaled
    return [
        Value(shape, _varies([a, b]), inputs=inputs, views=views, hot=_hot_factors(inputs, a, b))
    ]


def _hot_factors(inputs: bool, *factors: Value) -> frozenset[int]:
    """Along which dimensions a product is one-hot; a constant table of such counts for itself."""
    return frozenset().union(*(f.hot for f in factors if f.inputs == inputs))


def _of_both(a: View, b: View, name: str) -> View:
    """The view of a parameter that both factors depend on, as in a division by its own norm."""
    if a.altered and not b.altered:
        return b
    if b.altered and not a.altered:
        return a
    return a.alter(through(name))


def div(record: Recorder, eqn: Any, *values: Value) -> list[Value]:
    """Quotients: products with an inverse."""
    a, b = values
    return mul(record, eqn, a, *other(record, eqn, b))


def select(record: Recorder, eqn: Any, which: Value, *cases: Value) -> list[Value]:
    """`lax.select_n`."""
    shape, spread = _spread(eqn, cases)
    along = broadcast(which, shape)
    inputs = which.inputs or any(case.inputs for case in cases)
    hot = _selected(inputs, along, spread)
    if inputs:
        for value in (which, *spread):
            record.meet(value, "put in place of some inputs")
        return [dataclasses.replace(opaque(shape, True), hot=hot)]
    views: dict[int, View] = {}
    for case in spread:
        scaled = {n: view.scale(along.varies, by_inputs=False) for n, view in case.views.items()}
        views = agreed(views, scaled, SELF)
    return [
        Value(
            shape,
            _varies([along, *spread]),
            views=agreed(views, along.views, SELF),
            zero=all(case.zero for case in cases),
            hot=hot,
        )
    ]


def _selected(inputs: bool, which: Value, cases: list[Value]) -> frozenset[int]:
    """Along which dimensions a choice is one-hot: as all cases are, or as `which` is itself."""
    shared = common_hot(cases)
    return shared | which.hot if cases[0].zero and which.inputs == inputs else shared


def both(record: Recorder, eqn: Any, *values: Value) -> list[Value]:
    """`lax.bitwise_and`, which is one-hot where an operand is."""
    (result,) = other(record, eqn, *values)
    _, spread = _spread(eqn, values)
    return [dataclasses.replace(result, hot=_hot_factors(result.inputs, *spread))]


def other(record: Recorder, eqn: Any, *values: Value) -> list[Value]:
    """Any other function of each element."""
    shape, spread = _spread(eqn, values)
    name = eqn.primitive.name
    inputs = any(value.inputs for value in spread)
    if inputs:
        for value in spread:
            record.meet(value, f"an operand of {name}")
        return [Value(shape, _varies(spread), inputs=True)]
    views: dict[int, View] = {}
    for value in spread:
        altered = {n: view.alter(through(name)) for n, view in value.views.items()}
        views = agreed(views, altered, SELF)
    return [Value(shape, _varies(spread), views=views)]


def eq(record: Recorder, eqn: Any, *values: Value) -> list[Value]:
    """Comparisons for equality, one-hot along a dimension along which only a range varies."""
    (result,) = other(record, eqn, *values)
    shape, (a, b) = _spread(eqn, values)
    hot = frozenset(
        d
        for d in range(len(shape))
        for one, rest in ((a, b), (b, a))
        if one.varies[d] and not one.inputs and not rest.varies[d]
    )
    return [dataclasses.replace(result, hot=hot)]
