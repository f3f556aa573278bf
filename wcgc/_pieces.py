"""Operations that cut, pick, set or put together places along a dimension."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from wcgc._axes import Shape
from wcgc._provenance import Digits, Value, View, agreed, common_hot, lump, merged, opaque, sliced
from wcgc._rearrangements import broadcast, rearranged, shape_of, without
from wcgc._recorder import Recorder
from wcgc._uses import SELF

JOINED = "concatenated with inputs"
SCATTERED = "some of its places are set before it meets the inputs"


def _cut(value: Value, d: int, start: int | None, size: int, picked: str = "batch") -> Value:
    """The value with `size` places in a row left of dimension d."""
    if size == value.shape[d]:
        return value
    if value.pieces is not None and value.pieces[0] == d and start is not None:
        _, pieces, begins = value.pieces
        which = bisect.bisect_right(begins, start) - 1
        within = start - begins[which]
        if within + size <= pieces[which].shape[d]:
            return _cut(pieces[which], d, within, size)
    shape = (*value.shape[:d], size, *value.shape[d + 1 :])
    return rearranged(
        value,
        shape,
        [varying and n > 1 for varying, n in zip(value.varies, shape, strict=True)],
        lambda view: view.rearrange(
            sliced(digits, start, size, picked) if i == d else digits
            for i, digits in enumerate(view.dims)
        ),
    )


def slice_(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """`lax.slice`."""
    starts, shape = eqn.params["start_indices"], shape_of(eqn)
    strides = eqn.params["strides"] or (1,) * len(shape)
    for d, (start, size, stride) in enumerate(zip(starts, shape, strides, strict=True)):
        value = _cut(value, d, start if stride == 1 or size == 1 else None, size)
    return [value]


def dynamic_slice(record: Recorder, eqn: Any, value: Value, *starts: Value) -> list[Value]:
    """`lax.dynamic_slice`."""
    inputs = value.inputs
    for d, (start, size) in enumerate(zip(starts, shape_of(eqn), strict=True)):
        record.meet(start, "used as an index")
        inputs |= start.inputs and size < value.shape[d]
        value = _cut(value, d, None, size, "lookup" if start.inputs else "batch")
    return [dataclasses.replace(value, inputs=inputs)]


def split(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """`lax.split`."""
    parts, start = [], 0
    for size in eqn.params["sizes"]:
        parts.append(_cut(value, eqn.params["axis"], start, size))
        start += size
    return parts


def concatenate(record: Recorder, eqn: Any, *values: Value) -> list[Value]:
    """`lax.concatenate`."""
    return [_joined(record, values, eqn.params["dimension"], shape_of(eqn))]


def stack(record: Recorder, eqn: Any, *values: Value) -> list[Value]:
    """`lax.stack`: a concatenation along a new dimension."""
    shape = shape_of(eqn)
    d = eqn.params["axis"]
    piece = (*shape[:d], 1, *shape[d + 1 :])
    into = [i for i in range(len(shape)) if i != d]
    return [_joined(record, [broadcast(value, piece, into) for value in values], d, shape)]


def unstack(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """`lax.unstack`: the values along a dimension, one by one."""
    d = eqn.params["axis"]
    return [without(_cut(value, d, i, 1), [d], "one") for i in range(value.shape[d])]


def _joined(record: Recorder, values: Sequence[Value], d: int, shape: Shape) -> Value:
    if any(value.inputs for value in values):
        for value in values:
            record.meet(value, JOINED)
        is_one_piece = sum(not value.zero for value in values) == 1
        hot = common_hot(values) - (set() if is_one_piece else {d})
        return dataclasses.replace(opaque(shape, True), hot=hot)
    views: dict[int, View] = {}
    for value in values:
        longer = {
            number: view.rearrange(
                merged(digits, shape[d]) if i == d and value.shape[d] != shape[d] else digits
                for i, digits in enumerate(view.dims)
            )
            for number, view in value.views.items()
        }
        views = agreed(views, longer, SELF)
    varies = (
        n > 1 and (i == d or any(value.varies[i] for value in values)) for i, n in enumerate(shape)
    )
    zero = all(value.zero for value in values)
    ends = itertools.accumulate((value.shape[d] for value in values), initial=0)
    pieces = d, tuple(values), tuple(ends)[:-1]
    return Value(shape, tuple(varies), views=views, zero=zero, pieces=pieces)


def pad(record: Recorder, eqn: Any, value: Value, filler: Value) -> list[Value]:
    """`lax.pad`."""
    shape = shape_of(eqn)
    hot = value.hot if filler.zero else frozenset()
    if value.inputs or filler.inputs:
        for each in (value, filler):
            record.meet(each, "padded")
        return [dataclasses.replace(opaque(shape, True), hot=hot)]
    # Less than none at one end cuts places off, even where as many are added at the other.
    cut = [low < 0 or high < 0 for low, high, _ in eqn.params["padding_config"]]
    longer = rearranged(
        value,
        shape,
        [n > 1 for n in shape],
        lambda view: view.rearrange(
            digits if old == n and not short else merged(digits, n, part=short)
            for digits, old, n, short in zip(view.dims, value.shape, shape, cut, strict=True)
        ),
    )
    views = longer.views
    if not filler.zero:
        how = "it is padded with more than zeros"
        inside, around = (
            {n: view.alter(how) for n, view in each.views.items()}
            for each in (longer, broadcast(filler, shape))
        )
        views = agreed(inside, around, how)
    zero = value.zero and filler.zero
    return [dataclasses.replace(longer, views=views, zero=zero, hot=hot)]


def gather(record: Recorder, eqn: Any, value: Value, indices: Value) -> list[Value]:
    """`lax.gather`, as indexing makes it: a look-up, or a pick of places by constants."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = shape_of(eqn)
    record.meet(indices, "used as an index")
    inputs = value.inputs or indices.inputs
    picked = "lookup" if indices.inputs else "batch"
    places = [d for d in range(len(shape)) if d not in numbers.offset_dims]
    index_shape = indices.shape[:-1]
    collapsed = set(numbers.collapsed_slice_dims)
    paired = dict(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    count = math.prod(n for i, n in enumerate(index_shape) if i not in paired.values())
    # Along the dimensions of several constant indices, what they pick lies in another order.
    ordered = [
        d
        for d, n in enumerate(sizes)
        if d not in paired and n < value.shape[d] and not indices.inputs and count > 1
    ]

    def change(view: View) -> View:
        dims: list[Digits] = [()] * len(shape)
        indexed = tuple(factor for d in ordered for factor in view.dims[d])
        for place, n in zip(places, index_shape, strict=True):
            dims[place] = merged(indexed, n, part=True) if n > 1 else ()
        offsets = iter(numbers.offset_dims)
        for d, digits in enumerate(view.dims):
            alone = d in ordered and sizes[d] == 1
            left = () if alone else sliced(digits, None, sizes[d], picked)
            if d in paired:
                dims[places[paired[d]]] = digits
            elif d in collapsed:
                view = view.lose(left, "one")
            else:
                dims[next(offsets)] = left
        return view.rearrange(dims)

    kept = [d for d in range(len(value.shape)) if d not in collapsed and d not in paired]
    source = dict(zip(numbers.offset_dims, kept, strict=True))
    looked_up = dataclasses.replace(value, inputs=inputs, zero=False)
    return [rearranged(looked_up, shape, [n > 1 for n in shape], change, source)]


def scatter(record: Recorder, eqn: Any, value: Value, indices: Value, new: Value) -> list[Value]:
    """`lax.scatter` and `lax.scatter_add`, by which zeros become one-hot."""
    shape = shape_of(eqn)
    inputs = value.inputs or indices.inputs or new.inputs
    if inputs:
        for each in (value, indices, new):
            record.meet(each, "put in place of some inputs")
        result = opaque(shape, True)
        if value.zero and indices.inputs and not (new.inputs or new.views):
            placed = eqn.params["dimension_numbers"].scatter_dims_to_operand_dims
            result = dataclasses.replace(result, hot=frozenset(placed))
        return [result]
    views = {n: view.alter(SCATTERED) for n, view in value.views.items()}
    for each in (indices, new):
        lumped = {n: lump(view, shape, SCATTERED) for n, view in each.views.items()}
        views = agreed(views, lumped, SCATTERED)
    return [opaque(shape, False).with_views(views)]
