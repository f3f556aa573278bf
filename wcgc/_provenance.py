"""Where each axis of an intermediate value comes from: the arithmetic of `trace_axes`."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from wcgc._axes import Shape


@dataclasses.dataclass(frozen=True, slots=True)
class Factor:
    """A digit of the index along one dimension of a value.

    Attributes:
      axes: the axes of the parameter that it runs along: one, none where the value repeats, several
        where a reshape has mixed them.
      size: how many values the digit takes.
      part: whether a slice has left only a part of the axes.
      picked: "batch" or "lookup" where an index, or one computed from the inputs, has picked a
        single place; "block" for the only place of a device's block; empty elsewhere.
    """

    axes: tuple[int, ...]
    size: int
    part: bool = False
    picked: str = ""

    @property
    def is_picked(self) -> bool:
        """Whether the other places are gone, and not on other devices."""
        return self.picked in ("batch", "lookup")

    def role(self, otherwise: str) -> str:
        """What an index has made of it, or another role if none has.

        Which of its places a device has is a batch where the dimension is dropped; where a reshape
        has merged it with another one, it cannot be told.
        """
        if self.is_picked:
            return self.picked
        if self.picked == "block" and otherwise == "one":
            return "batch"
        return "one" if otherwise == "merged" else otherwise


Digits = tuple[Factor, ...]


@dataclasses.dataclass(frozen=True)
class View:
    """How a value that is linear in a parameter is laid out.

    Attributes:
      dims: for each dimension of the value its digits, the slowest first.
      gone: (axis, role) of the axes that are no dimensions any more.
      bonds: (axis, number) of the axes that were contracted with a constant or another parameter.
        Two parameters that were contracted with each other share the number.
      is_factor: whether it was multiplied by inputs.
      scaled: the axes along which a constant or another parameter varies that it was multiplied by.
      by_inputs: the axes along which inputs vary that it was multiplied by.
      partial: the axes that were summed over in part.
      altered: what made the value no linear function of the parameter; empty if nothing did.
    """

    dims: tuple[Digits, ...]
    gone: frozenset[tuple[int, str]] = frozenset()
    bonds: frozenset[tuple[int, int]] = frozenset()
    scaled: frozenset[int] = frozenset()
    by_inputs: frozenset[int] = frozenset()
    partial: frozenset[int] = frozenset()
    altered: str = ""
    is_factor: bool = False

    def axes(self, dims: Iterable[int] | None = None) -> frozenset[int]:
        """The axes of the parameter in these dimensions, or in all."""
        chosen = range(len(self.dims)) if dims is None else dims
        return frozenset(axis for d in chosen for factor in self.dims[d] for axis in factor.axes)

    def alter(self, how: str) -> "View":
        """The view after an operation that is not linear."""
        return self if self.altered else dataclasses.replace(self, altered=how)

    def scale(self, varies: Sequence[bool], by_inputs: bool) -> "View":
        """The view after a product with something that varies along some of its dimensions."""
        along = self.axes(d for d, varying in enumerate(varies) if varying)
        if by_inputs:
            return dataclasses.replace(self, by_inputs=self.by_inputs | along, is_factor=True)
        return dataclasses.replace(self, scaled=self.scaled | along)

    def sum_over(self, dims: Iterable[int], bond: int | None = None) -> "View":
        """The view after a sum over dimensions, which are left without digits.

        Args:
          dims: the dimensions.
          bond: the number of the contraction, where it is one with a constant or a parameter.
        """
        dims = tuple(dims)
        gone, bonds = set(self.gone), set(self.bonds)
        for factor in (factor for d in dims for factor in self.dims[d]):
            for axis in factor.axes:
                if bond is not None:
                    bonds.add((axis, bond))
                else:
                    gone.add((axis, "in" if axis in self.by_inputs else "spatial"))
        kept = tuple(() if d in dims else digits for d, digits in enumerate(self.dims))
        return dataclasses.replace(
            self.cut_short(dims), dims=kept, gone=frozenset(gone), bonds=frozenset(bonds)
        )

    def cut_short(self, dims: Iterable[int]) -> "View":
        """The view when these dimensions are summed over, which may hold a part of an axis."""
        digits = (factor for d in dims for factor in self.dims[d])
        short = {axis for f in digits if f.part or f.is_picked for axis in f.axes}
        return dataclasses.replace(self, partial=self.partial | short)

    def lose(self, digits: Iterable[Factor], role: str) -> "View":
        """The view without digits that had a role, which are batch or look-ups if picked."""
        lost = {(axis, factor.role(role)) for factor in digits for axis in factor.axes}
        return dataclasses.replace(self, gone=self.gone | lost)

    def rearrange(self, dims: Iterable[Digits]) -> "View":
        """The view with other dimensions."""
        return dataclasses.replace(self, dims=tuple(dims))

    def drop(self, dims: Iterable[int], role: str) -> "View":
        """The view without dimensions whose digits have been consumed in a role."""
        dims = set(dims)
        lost = [factor for d in dims for factor in self.dims[d]]
        kept = (digits for d, digits in enumerate(self.dims) if d not in dims)
        return self.lose(lost, role).rearrange(kept)


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of an intermediate value.

    Attributes:
      shape: its shape.
      varies: for each dimension, whether the value may vary along it.
      inputs: whether it depends on the inputs.
      views: the parameters that it depends on, by number, and how.
      zero: whether it is known to be zero.
      hot: the dimensions along each of which at most one place is not zero.
      pieces: the dimension along which it was put together, from what, and where each begins.
    """

    shape: Shape
    varies: tuple[bool, ...]
    inputs: bool = False
    views: Mapping[int, View] = dataclasses.field(default_factory=dict)
    zero: bool = False
    hot: frozenset[int] = frozenset()
    pieces: "tuple[int, tuple[Value, ...], tuple[int, ...]] | None" = None

    def with_views(self, views: Mapping[int, View]) -> "Value":
        """The same value, seen so."""
        return dataclasses.replace(self, views=views, pieces=None)


def common_hot(values: Iterable[Value]) -> frozenset[int]:
    """Along which dimensions all values are one-hot, zeros apart: what may be any of them is so."""
    rest = [value.hot for value in values if not value.zero]
    return frozenset.intersection(*rest) if rest else frozenset()


def opaque(shape: Shape, inputs: bool) -> Value:
    """A value of which no more is known."""
    return Value(shape, tuple(n > 1 for n in shape), inputs)


def parameter(number: int, shape: Shape) -> Value:
    """The value of a parameter itself."""
    dims = tuple((Factor((axis,), n),) for axis, n in enumerate(shape))
    return Value(shape, tuple(n > 1 for n in shape), views={number: View(dims)})


def repeats(size: int) -> Digits:
    """The digits of a dimension along which a value does not depend on the parameter."""
    return () if size == 1 else (Factor((), size),)


def lump(view: View, shape: Shape, how: str) -> View:
    """A view of which no more is known than that it depends on a parameter: on any of its axes."""
    axes = tuple(sorted(view.axes()))
    longest = max(range(len(shape)), key=lambda d: shape[d], default=0)
    dims = [
        (Factor(axes, n, part=True),) if d == longest and n > 1 and axes else repeats(n)
        for d, n in enumerate(shape)
    ]
    return view.alter(how).rearrange(dims)


def merged(digits: Digits, size: int, part: bool = False) -> Digits:
    """One digit in place of several, for a dimension whose length has changed."""
    axes = tuple(sorted({axis for factor in digits for axis in factor.axes}))
    if not axes:
        return repeats(size)
    return (Factor(axes, size, part or any(f.part or f.is_picked for f in digits)),)


def sliced(digits: Digits, start: int | None, size: int, picked: str = "batch") -> Digits:
    """The digits of a dimension of which only `size` places in a row are left.

    Args:
      digits: those of the whole dimension.
      start: the first place; None if it is not known.
      size: how many places are left.
      picked: what an index is called that picks a single place.
    """
    whole = math.prod(factor.size for factor in digits)
    if size == whole:
        return digits
    if size == 1:
        return tuple(Factor(f.axes, 1, f.part, f.picked or picked) for f in digits if f.axes)
    rest = digits[1:]
    stride = math.prod(factor.size for factor in rest)
    if rest and start is not None and start % stride == size % stride == 0:
        return sliced(digits[:1], None, size // stride, picked) + rest
    return merged(digits, size, part=True)


def resized(digits: Digits, size: int) -> Digits:
    """The digits of a dimension that has been cut into equal blocks, or put together from them."""
    whole = math.prod(factor.size for factor in digits)
    if size == whole:
        return digits
    return _block(digits, size) if size < whole else _put_together(digits, size)


def _block(digits: Digits, size: int) -> Digits:
    """What one device has, beside a mark of each digit of which others have the rest."""
    first, rest = digits[0], digits[1:]
    stride = math.prod(factor.size for factor in rest)
    places = size // stride
    kept: Digits
    if places and size % stride == first.size % places == 0:
        kept = (dataclasses.replace(first, size=places), *rest) if places > 1 else rest
    elif stride % size == 0:
        kept = resized(rest, size)
    else:
        return merged(digits, size, part=True)
    if not first.axes:
        return kept
    return (first if first.size == 1 else dataclasses.replace(first, size=1, picked="block"), *kept)


def _put_together(digits: Digits, size: int) -> Digits:
    """What several devices have, as far as it is known how much that is of each digit."""
    if not digits:
        return repeats(size)
    first, rest = digits[0], digits[1:]
    if first.picked == "block" and rest and first.axes == rest[0].axes:
        return resized(rest, size)
    stride = math.prod(factor.size for factor in rest)
    if size % stride or first.is_picked or any(factor.picked == "block" for factor in rest):
        return merged(digits, size)
    return (dataclasses.replace(first, size=size // stride, picked=""), *rest)


def reshaped(view: View, shape: Shape) -> View:
    """The view after a reshape, which splits digits, puts them together, or mixes them."""
    factors = [factor for digits in view.dims for factor in digits]
    # The only place that a device has of a whole dimension.
    own = {
        at
        for at, (factor, rest) in enumerate((f, digits) for digits in view.dims for f in digits)
        if factor.picked == "block" and all(f.size == 1 for f in rest)
    }
    lost: list[Factor] = []
    dims: list[Digits] = []
    at = 0
    while len(dims) < len(shape):
        size = shape[len(dims)]
        if size == 1:
            end = at + 1 if at < len(factors) and factors[at].size == 1 else at
            while end < len(factors) and factors[end].picked == "block":
                end += 1
            dims.append(tuple(factors[at:end]))
            at = end
            continue
        ones: list[Factor] = []
        while factors[at].size == 1:
            (lost if factors[at].is_picked or at in own else ones).append(factors[at])
            at += 1
        start, first, here, there = at, len(dims), 1, size
        end = first + 1
        while here != there:
            if here < there:
                here *= factors[at].size
                at += 1
            else:
                there *= shape[end]
                end += 1
        group = _regrouped(factors[start:at], shape[first:end])
        dims += [tuple(ones) + group[0], *group[1:]]
    for factor in factors[at:]:
        if factor.picked or not dims:
            lost.append(factor)
        else:
            dims[-1] += (factor,)
    return view.lose(lost, "merged").rearrange(dims)


def _regrouped(factors: Sequence[Factor], sizes: Shape) -> list[Digits]:
    """The digits of dimensions of these sizes, which together have as many places as `factors`."""
    queue = list(factors)
    dims: list[Digits] = []
    for size in sizes:
        taken: list[Factor] = []
        while size > 1:
            factor = queue.pop(0)
            if size % factor.size == 0:
                taken.append(factor)
                size //= factor.size
            elif factor.size % size == 0:
                taken.append(dataclasses.replace(factor, size=size))
                queue.insert(0, dataclasses.replace(factor, size=factor.size // size))
                size = 1
            else:
                return [merged(tuple(factors), n) for n in sizes]
        dims.append(tuple(taken))
    return dims


def reshaped_dims(
    varies: Sequence[bool], old: Shape, new: Shape
) -> tuple[tuple[bool, ...], dict[int, int]]:
    """What becomes of the dimensions of a value in a reshape.

    Returns:
      Along which of the new ones it may vary; and which are old ones, whole and by themselves.
    """
    if math.prod(old) == 0:
        return tuple(n > 1 for n in new), {}
    # A parameter with the dimension's number for an axis tells it.
    view = reshaped(View(tuple((Factor((d,), n),) for d, n in enumerate(old))), new)
    along = [n > 1 and any(varies[axis] for axis in view.axes([d])) for d, n in enumerate(new)]
    # Dimensions of length one may have joined it.
    source = {
        d: axis
        for d, digits in enumerate(view.dims)
        for factor in digits
        for axis in factor.axes
        if factor.size == new[d] == old[axis] > 1 and len(factor.axes) == 1
    }
    return tuple(along), source


def agreed(a: Mapping[int, View], b: Mapping[int, View], how: str) -> dict[int, View]:
    """The views of a sum or a choice of two values; where they differ, they are `how`."""
    views = dict(a)
    for number, view in b.items():
        mine = views.setdefault(number, view)
        if mine != view:
            views[number] = mine.alter(view.altered or how)
    return views
