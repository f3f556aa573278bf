"""Contractions: which axes of a kernel they sum over, keep, carry along, and slide over."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from wcgc._axes import Shape
from wcgc._provenance import Digits, Value, View, lump, opaque, repeats
from wcgc._rearrangements import shape_of
from wcgc._recorder import Recorder
from wcgc._uses import MULTIPLIED, SELF

Pair = tuple[Sequence[int], Sequence[int]]


def dot_general(record: Recorder, eqn: Any, lhs: Value, rhs: Value) -> list[Value]:
    """`lax.dot_general`."""
    contracting, batch = eqn.params["dimension_numbers"]
    shape = shape_of(eqn)
    sides = lhs, rhs
    if lhs.zero or rhs.zero:
        return [Value(shape, (False,) * len(shape), zero=True)]
    if not (lhs.views or rhs.views):
        result = opaque(shape, lhs.inputs or rhs.inputs)
        if result.inputs and not contracting[0]:
            # What is only scaled is one-hot all the same.
            result = dataclasses.replace(result, hot=_hot(sides, batch))
        return [result]
    if not (lhs.inputs or rhs.inputs):
        return [_product(sides, contracting, batch, shape, id(eqn))]
    of_both = lhs.views.keys() & rhs.views.keys() if lhs.inputs and rhs.inputs else set()
    for i in (0, 1):
        value, other = sides[i], sides[1 - i]
        record.meet(value.with_views({n: value.views[n] for n in of_both}), MULTIPLIED)
        value = value.with_views({n: v for n, v in value.views.items() if n not in of_both})
        if not value.views:
            continue
        if not other.inputs:
            record.meet(value, MULTIPLIED)
            continue
        summed = [its for its in contracting[1 - i] if other.varies[its]]
        picked = [its for its in summed if its in other.hot]
        if picked and picked == summed:
            return [_looked_up(sides, i, contracting, batch, shape)]
        roles = ["out"] * len(value.shape)
        for role, constant, pairs in (("in", "spatial", contracting), ("batch", "out", batch)):
            for mine, its in zip(pairs[i], pairs[1 - i], strict=True):
                roles[mine] = role if other.varies[its] else constant
                if role == "in" and its in picked:
                    roles[mine] = "batch"
        record.contract(value, roles)
    return [opaque(shape, True)]


def _hot(sides: Any, batch: Pair) -> frozenset[int]:
    """The dimensions of a product without a sum along which one of its sides is one-hot."""
    places = [[(0, mine), (1, its)] for mine, its in zip(*batch, strict=True)] + [
        [(side, d)]
        for side in (0, 1)
        for d in range(len(sides[side].shape))
        if d not in batch[side]
    ]
    return frozenset(
        d for d, place in enumerate(places) if any(at in sides[side].hot for side, at in place)
    )


def _product(sides: Any, contracting: Pair, batch: Pair, shape: Shape, bond: int) -> Value:
    """The product of parameters with constants or other parameters."""
    seen: list[dict[int, View]] = []
    for i in (0, 1):
        value, other = sides[i], sides[1 - i]
        varies = [False] * len(value.shape)
        for mine, its in zip(batch[i], batch[1 - i], strict=True):
            varies[mine] = other.varies[its]
        views = {}
        for number, view in value.views.items():
            view = view.scale(varies, by_inputs=False).sum_over(contracting[i], bond)
            views[number] = view.rearrange(_placed(view, sides, i, contracting, batch))
        seen.append(views)
    both = {number: view.alter(SELF) for number, view in seen[0].items() if number in seen[1]}
    return opaque(shape, False).with_views(seen[0] | seen[1] | both)


def _looked_up(sides: Any, i: int, contracting: Pair, batch: Pair, shape: Shape) -> Value:
    """The rows of a table, by a product with one-hot inputs."""
    views = {}
    for number, view in sides[i].views.items():
        view = view.lose((f for d in contracting[i] for f in view.dims[d]), "lookup")
        views[number] = view.rearrange(_placed(view, sides, i, contracting, batch))
    return opaque(shape, True).with_views(views)


def _placed(view: View, sides: Any, i: int, contracting: Pair, batch: Pair) -> list[Digits]:
    """The digits of the dimensions of a product: batch, then what is left of either side."""
    dims = [view.dims[d] for d in batch[i]]
    for side in (0, 1):
        for d in range(len(sides[side].shape)):
            if d not in contracting[side] and d not in batch[side]:
                dims.append(view.dims[d] if side == i else repeats(sides[side].shape[d]))
    return dims


def ragged_dot_general(
    record: Recorder, eqn: Any, lhs: Value, rhs: Value, sizes: Value
) -> list[Value]:
    """`lax.ragged_dot_general`, whose right operand has a group of kernels."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    contracting, batch = numbers.dot_dimension_numbers
    inputs = lhs.inputs or rhs.inputs or sizes.inputs
    result = [opaque(shape_of(eqn), inputs)]
    if not (lhs.inputs and rhs.views and numbers.rhs_group_dimensions):
        for value in (lhs, rhs):
            record.refuse(value, "it is an operand of ragged_dot in an unusual place")
        return result
    roles = ["out"] * len(rhs.shape)
    for role, dims in (
        ("in", contracting[1]),
        ("batch", batch[1]),
        ("batch", numbers.rhs_group_dimensions),
    ):
        for d in dims:
            roles[d] = role
    record.contract(rhs, roles)
    record.meet(lhs, MULTIPLIED)
    return result


def conv_general_dilated(record: Recorder, eqn: Any, lhs: Value, rhs: Value) -> list[Value]:
    """`lax.conv_general_dilated`: a convolution, in any layout, grouped, dilated or transposed."""
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    result = opaque(shape_of(eqn), lhs.inputs or rhs.inputs)
    if lhs.zero or rhs.zero:
        return [Value(result.shape, (False,) * len(result.shape), zero=True)]
    if not (lhs.inputs or rhs.inputs):
        seen = {**lhs.views, **rhs.views}
        lumped = {n: lump(view, result.shape, _FILTERED) for n, view in seen.items()}
        return [result.with_views(lumped)]
    if not lhs.inputs:
        record.refuse(lhs, "it is convolved with a kernel that depends on the inputs")
        record.refuse(rhs, "a constant is convolved with it and the inputs")
        return [result]
    record.meet(lhs, MULTIPLIED)
    if eqn.params["batch_group_count"] > 1:
        record.refuse(rhs, "it is convolved in groups of samples")
    else:
        out, into = numbers.rhs_spec[:2]
        roles = ["spatial"] * len(rhs.shape)
        roles[out], roles[into] = "out", "in"
        views = {number: _ungrouped(view, groups, out, into) for number, view in rhs.views.items()}
        record.contract(rhs.with_views(views), roles)
    return [result]


_FILTERED = "it is convolved with constants or other parameters before it meets the inputs"


def _ungrouped(view: View, groups: int, out: int, into: int) -> View:
    """A kernel without the axes that number independent convolutions, which are batch.

    `vmap` makes several convolutions one in groups. The groups of a grouped convolution proper
    number output channels, as the rest of the output dimension does. The two are told apart by the
    axes: an axis of groups alone numbers convolutions if there is another one for the channels.
    """
    digits, leading, places = view.dims[out], 0, 1
    while leading < len(digits) and places * digits[leading].size <= groups:
        places *= digits[leading].size
        leading += 1
    channels = {axis for factor in digits[leading:] if factor.size > 1 for axis in factor.axes}
    numbering = [
        f for f in digits[:leading] if f.axes and f.size > 1 and not channels.intersection(f.axes)
    ]
    if numbering and not (channels and view.axes([into])):
        numbering.pop()
    kept = tuple(factor for factor in digits if factor not in numbering)
    dims = [kept if d == out else other for d, other in enumerate(view.dims)]
    return view.lose(numbering, "batch").rearrange(dims)
