"""Operations that move, copy, sum or share out: each axis stays what it was."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wcgc._axes import Shape
from wcgc._provenance import Digits, Value, View, opaque, repeats, reshaped, reshaped_dims, resized
from wcgc._recorder import Recorder
from wcgc._uses import through


def shape_of(eqn: Any) -> Shape:
    """The shape of an operation's one result."""
    return tuple(eqn.outvars[0].aval.shape)


def rearranged(
    value: Value,
    shape: Shape,
    varies: Sequence[bool],
    change: Callable[[View], View],
    source: Mapping[int, int] | None = None,
) -> Value:
    """The value after its dimensions have been changed.

    Args:
      value: before.
      shape: afterwards.
      varies: for each dimension, whether it may vary along it.
      change: what becomes of a view.
      source: where dimensions come from, new to old; None if they are the same.
    """
    views = {number: change(view) for number, view in value.views.items()}
    hot = value.hot
    if source is not None:
        hot = frozenset(new for new, old in source.items() if old in value.hot)
    return dataclasses.replace(
        value, shape=shape, varies=tuple(varies), views=views, hot=hot, pieces=None
    )


def broadcast(value: Value, shape: Shape, into: Sequence[int] | None = None) -> Value:
    """The value repeated along dimensions of length one and new ones."""
    if value.shape == shape:
        return value
    if into is None:
        into = range(len(shape)) if value.shape else ()
    source = {there: here for here, there in enumerate(into)}
    varies = [d in source and value.varies[source[d]] for d in range(len(shape))]
    whole = {d: old for d, old in source.items() if value.shape[old] == shape[d]}

    def digits(view: View, d: int) -> Digits:
        here = view.dims[source[d]] if d in source else ()
        return here if d in whole else here + repeats(shape[d])

    return rearranged(
        value,
        shape,
        varies,
        lambda view: view.rearrange(digits(view, d) for d in range(len(shape))),
        whole,
    )


def same(record: Recorder, eqn: Any, *values: Value) -> list[Value]:
    """An operation that returns its operands."""
    return list(values)


def broadcast_in_dim(record: Recorder, eqn: Any, value: Value, *_: Value) -> list[Value]:
    """`lax.broadcast_in_dim`."""
    return [broadcast(value, shape_of(eqn), eqn.params["broadcast_dimensions"])]


def tile(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """`lax.tile`: copies of the whole value beside each other."""
    reps = eqn.params["reps"]
    places = tuple(itertools.chain(*zip(reps, value.shape, strict=True)))
    return [_reshaped(broadcast(value, places, range(1, len(places), 2)), shape_of(eqn))]


def reshape(record: Recorder, eqn: Any, value: Value, *_: Value) -> list[Value]:
    """`lax.reshape`."""
    shape = shape_of(eqn)
    if math.prod(shape) == 0:
        return [opaque(shape, value.inputs)]
    if eqn.params["dimensions"] is not None:
        value = transposed(value, eqn.params["dimensions"])
    return [_reshaped(value, shape)]


def _reshaped(value: Value, shape: Shape) -> Value:
    varies, source = reshaped_dims(value.varies, value.shape, shape)
    return rearranged(value, shape, varies, lambda view: reshaped(view, shape), source)


def transposed(value: Value, order: Sequence[int]) -> Value:
    """The value with its dimensions in another order."""
    return rearranged(
        value,
        tuple(value.shape[d] for d in order),
        [value.varies[d] for d in order],
        lambda view: view.rearrange(view.dims[d] for d in order),
        dict(enumerate(order)),
    )


def transpose(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """`lax.transpose`."""
    return [transposed(value, eqn.params["permutation"])]


def without(value: Value, dims: Sequence[int], role: str) -> Value:
    """The value without dimensions, whose digits have the role if no index gave them another."""
    kept = [d for d in range(len(value.shape)) if d not in dims]
    return rearranged(
        value,
        tuple(value.shape[d] for d in kept),
        [value.varies[d] for d in kept],
        lambda view: view.drop(dims, role),
        dict(enumerate(kept)),
    )


def squeeze(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """`lax.squeeze`."""
    return [without(value, eqn.params["dimensions"], "one")]


def unstacked(value: Value) -> Value:
    """One of the values along the leading dimension, through which a loop runs."""
    return without(value, [0], "batch")


def stacked(value: Value, length: int) -> Value:
    """The values that a loop makes, along a new leading dimension."""
    longer = broadcast(value, (length, *value.shape), range(1, len(value.shape) + 1))
    return dataclasses.replace(longer, varies=(length > 1, *value.varies))


def reduce_sum(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """`lax.reduce_sum`."""
    axes = tuple(eqn.params["axes"])
    summed = rearranged(value, value.shape, value.varies, lambda view: view.sum_over(axes))
    return [dataclasses.replace(without(summed, axes, ""), hot=frozenset())]


def rev(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """`lax.rev`."""
    return [dataclasses.replace(value, pieces=None)]


def reduce_otherwise(record: Recorder, eqn: Any, value: Value) -> list[Value]:
    """A reduction that is no sum, such as a maximum."""
    name, axes = eqn.primitive.name, tuple(eqn.params["axes"])
    if value.inputs:
        record.meet(value, f"an operand of {name}")
        return [opaque(shape_of(eqn), True)]
    altered = {n: view.alter(through(name)).sum_over(axes) for n, view in value.views.items()}
    seen = dataclasses.replace(value.with_views(altered), zero=False, hot=frozenset())
    return [without(seen, axes, "")]


def fitted(value: Value, shape: Shape) -> Value:
    """The value cut into equal blocks along some dimensions, or put together from such."""
    if value.shape == shape:
        return value
    return rearranged(
        value,
        shape,
        # One place of many on other devices.
        value.varies,
        lambda view: view.rearrange(map(resized, view.dims, shape)),
        # Put together, the blocks of several devices have a place that is not zero each.
        {d: d for d, n in enumerate(value.shape) if shape[d] <= n},
    )


def all_gather(record: Recorder, eqn: Any, value: Value, *_: Value) -> list[Value]:
    """`lax.all_gather` of the blocks of a sharded value."""
    shape, d = shape_of(eqn), eqn.params["all_gather_dimension"]
    if eqn.params["tiled"]:
        whole = fitted(value, shape)
    else:
        whole = broadcast(value, shape, [i for i in range(len(shape)) if i != d])
    return [dataclasses.replace(whole, varies=tuple(n > 1 for n in shape))]


def iota(record: Recorder, eqn: Any, *_: Value) -> list[Value]:
    """`lax.iota`."""
    shape = shape_of(eqn)
    varies = (d == eqn.params["dimension"] and n > 1 for d, n in enumerate(shape))
    return [Value(shape, tuple(varies))]
