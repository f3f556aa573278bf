"""Which axis of a kernel is what, and which axes an area averages over."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Area = Literal["tensor", "channel", "instance", "global"]


class Slice(NamedTuple):
    """What one mean is taken over.

    Attributes:
      one_per: what there is one mean for.
      spans: which axes it is taken over, of those that `KernelAxes` names and the spatial ones.
    """

    one_per: str
    spans: tuple[Literal["in", "out", "spatial"], ...]


AREAS: dict[Area, Slice] = {
    "tensor": Slice("output filter", ("spatial", "in")),
    "channel": Slice("input channel", ("spatial", "out")),
    "instance": Slice("(in, out) pair", ("spatial",)),
    "global": Slice("kernel", ("spatial", "in", "out")),
}
"""The areas of Table 2."""


def check_area(area: object, argument: str = "area") -> None:
    """Raises a ValueError that names the four areas unless `area` is one of them."""
    if area not in AREAS:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, AREAS))}, got {area!r}.")


def _as_tuple(value: Any, name: str) -> tuple[int, ...]:
    try:
        return tuple(map(operator.index, value if isinstance(value, Sequence) else (value,)))
    except TypeError:
        raise TypeError(
            f"{name} must be an integer or a sequence of integers, got {value!r}."
        ) from None


@dataclasses.dataclass(frozen=True)
class KernelAxes:
    """Names the axes of a kernel, in the words of `jax.nn.initializers`.

    Axes that are named neither input, output nor batch are spatial. Each argument is one axis or
    several, counted from the front or, negative, from the back.

    The kernel of a depthwise convolution may have no input axis, since each of its filters reads
    one channel: Keras keeps it as (height, width, channel, multiplier), of which the last two are
    output axes. Its areas are those of the same kernel with an input axis of length one: there is
    one mean per filter, over the window, for `"tensor"` and `"instance"`, and one mean per kernel
    for `"channel"` and `"global"`.

    Args:
      in_axis: the input axis or axes: what an output unit sums over beside the spatial axes. It may
        be empty.
      out_axis: the output axis or axes, one filter per index.
      batch_axis: axes that number independent kernels, such as scanned layers of shape
        (layers, in, out) or experts. They are never averaged over.

    Raises:
      TypeError: an axis is not an integer.
      ValueError: an axis is named twice, or there is no output axis.

    Example:
      A Flax attention layer's query kernel has shape (features, heads, head_dim), and each of its
      heads * head_dim filters sums over the features:

      >>> import wcgc
      >>> wcgc.KernelAxes(in_axis=-3, out_axis=(-2, -1))
      KernelAxes(in_axis=-3, out_axis=(-2, -1), batch_axis=())
    """

    in_axis: int | Sequence[int] = -2
    out_axis: int | Sequence[int] = -1
    batch_axis: int | Sequence[int] = ()

    def __post_init__(self):
        """Stores sequences as tuples, so that equal axes compare and hash alike."""
        named = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            axes = _as_tuple(value, field.name)
            if isinstance(value, Sequence):
                object.__setattr__(self, field.name, axes)
            if not axes and field.name == "out_axis":
                raise ValueError(
                    "out_axis is empty; name at least one axis, or give None in place of the "
                    "KernelAxes for a parameter that is not a kernel."
                )
            named += axes
        if len(set(named)) < len(named):
            raise ValueError(f"{self} names an axis twice; each axis has one role.")

    def resolve(self, ndim: int) -> tuple[tuple[int, ...], ...]:
        """The input, output, batch and spatial axes of a kernel with `ndim` axes, from the front.

        Args:
          ndim: how many axes the kernel has.

        Returns:
          Four tuples of axes in 0..ndim-1, which together name each axis once.

        Raises:
          ValueError: an axis is out of range, or two names mean the same axis.

        Example:
          >>> import wcgc
          >>> wcgc.FLAX.resolve(4)
          ((2,), (3,), (), (0, 1))
        """
        roles = []
        for field in dataclasses.fields(self):
            axes = _as_tuple(getattr(self, field.name), field.name)
            for axis in axes:
                if not -ndim <= axis < ndim:
                    raise ValueError(
                        f"{field.name}={axis} of {self} is out of range for {ndim} axes"
                    )
            roles.append(tuple(axis % ndim for axis in axes))
        named = sum(roles, ())
        if len(set(named)) < len(named):
            raise ValueError(f"{self} names one of {ndim} axes twice")
        return *roles, tuple(axis for axis in range(ndim) if axis not in named)


@dataclasses.dataclass(frozen=True)
class LeftAlone:
    """Stands in a tree of axes for a leaf that is left alone, and says why.

    Args:
      reason: why, for `explain`.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> axes = {"table": wcgc.LeftAlone("a table that is looked up"), "kernel": wcgc.FLAX}
      >>> params = {"table": jnp.ones((4, 3)), "kernel": jnp.ones((3, 2))}
      >>> wcgc.explain(params, axes=axes).rows[1].reason
      'a table that is looked up'
    """

    reason: str


FLAX = KernelAxes()
"""Kernels (..., in, out): Flax, Haiku, Keras, and plain `x @ w` matrices.

Transposed convolutions of Haiku and Keras are (..., out, in) and need axes of their own. Embeddings
and the (heads, head_dim) biases of attention have two axes and are taken for kernels: leave them
alone with `axes_of`, `by_path` or a mask.
"""

EQUINOX = KernelAxes(in_axis=1, out_axis=0)
"""Kernels (out, in, ...): Equinox, and PyTorch's layout.

Equinox keeps a convolution's bias as (out, 1, 1) and an embedding as (entries, features). To leave
both alone whatever the area, use `by_path(("embed", None), ("weight$", EQUINOX))`.
"""


def slice_axes(area: Area, axes: KernelAxes, ndim: int) -> tuple[int, ...]:
    """The axes that one slice of `area` spans, in ascending order."""
    in_axes, out_axes, _, spatial = axes.resolve(ndim)
    roles = {"in": in_axes, "out": out_axes, "spatial": spatial}
    return tuple(sorted(axis for role in AREAS[area].spans for axis in roles[role]))


def batch_count(axes: KernelAxes) -> int:
    """How many batch axes `axes` names."""
    return len(_as_tuple(axes.batch_axis, "batch_axis"))
