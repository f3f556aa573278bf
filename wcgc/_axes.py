"""Which axis of a kernel is what, and which axes an area averages over."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from optax.contrib import MuonDimensionNumbers

from wcgc._messages import where_trees_go, written

Shape = tuple[int, ...]

Area = Literal["tensor", "channel", "instance", "global"]
"""What there is one mean for, as in Table 2 of the paper; `centralize` lists them."""


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


def check_area(area: object, argument: str = "area", otherwise: str = "") -> None:
    """Raises a ValueError that names the four areas unless `area` is one of them.

    Args:
      area: what was given.
      argument: what for.
      otherwise: what else may be given, in words.
    """
    # What is no text may not be hashable, and an array has no single answer to a comparison.
    if not (isinstance(area, str) and area in AREAS):
        choices = ", ".join(map(repr, AREAS)) + (f", or {otherwise}" if otherwise else "")
        # A flag asks for what else may be given.
        is_layout = not isinstance(area, str) and not (otherwise and isinstance(area, bool))
        hint = " Axes and masks are keyword arguments: axes=, mask=." if is_layout else ""
        raise ValueError(
            f"{argument} must be one of {choices}, got {written(area)}.{hint}{where_trees_go(area)}"
        )


def as_axis(value: Any) -> int:
    """`value` as an integer.

    Raises:
      TypeError: it is none. Python counts True and False among the integers; no axis is meant.
    """
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{value!r} is no axis")
    return operator.index(value)


def _as_tuple(value: Any, name: str) -> tuple[int, ...]:
    try:
        return tuple(map(as_axis, value if isinstance(value, Sequence) else (value,)))
    except TypeError:
        raise TypeError(
            f"{name} must be an integer or a sequence of integers, got {written(value)}."
        ) from None


@dataclasses.dataclass(frozen=True)
class LeftAlone:
    """Leaves a parameter alone and says why. It may stand wherever None may in a tree of axes.

    A value: equal if the reasons are, hashable, and a leaf of a tree rather than a node.

    Args:
      reason: why the parameter is left alone, as `explain` prints it.

    Raises:
      TypeError: the reason is not a text.
      ValueError: the reason is empty.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> params = {"kernel": jnp.ones((4, 2)), "table": jnp.ones((9, 4))}
      >>> axes = {"kernel": wcgc.FLAX, "table": wcgc.LeftAlone("looked up by index")}
      >>> wcgc.explain(params, axes=axes).rows[1].reason
      'looked up by index'
    """

    reason: str

    def __post_init__(self):
        """Refuses what would be printed as nothing."""
        if not isinstance(self.reason, str):
            raise TypeError(f"reason must be a text, got {written(self.reason)}.")
        if not self.reason.strip():
            raise ValueError("reason is empty; say why the parameter is left alone, or give None.")


@dataclasses.dataclass(frozen=True)
class KernelAxes:
    """Names the axes of a kernel, in the words of `jax.nn.initializers`.

    Axes that are named neither input, output nor batch are spatial. Each argument is one axis or
    several, counted from the front or, negative, from the back.

    A kernel without input axes, such as Keras's depthwise kernel (height, width, channel,
    multiplier) of `KernelAxes((), (-2, -1))`, is what it would be with an input axis of length 1:
    each filter reads one channel, which is known by the filter. `"tensor"` and `"instance"` take
    one mean per filter, over its spatial axes; `"channel"` and `"global"` one for the whole kernel.

    Args:
      in_axis: the input axis or axes: what an output unit sums over beside the spatial axes. May be
        empty.
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
        """Stores integers and tuples of them, so that equal axes compare and hash alike."""
        named = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            axes = _as_tuple(value, field.name)
            object.__setattr__(self, field.name, axes if isinstance(value, Sequence) else axes[0])
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
          TypeError: `ndim` is not an integer.
          ValueError: an axis is out of range, or two names mean the same axis.

        Example:
          >>> import wcgc
          >>> wcgc.FLAX.resolve(4)
          ((2,), (3,), (), (0, 1))
        """
        try:
            ndim = as_axis(ndim)
        except TypeError:
            raise TypeError(f"ndim must be an integer, got {written(ndim)}.") from None
        roles = []
        for field in dataclasses.fields(self):
            axes = _several(getattr(self, field.name))
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

    def to_muon(self, ndim: int) -> MuonDimensionNumbers:
        """What `optax.contrib.muon` calls these axes.

        Muon makes a matrix of each kernel. What an output unit sums over, spatial axes included,
        becomes its rows. For a whole tree see `muon_dimension_numbers`.

        Args:
          ndim: how many axes the kernel has.

        Returns:
          Dimension numbers whose axes are counted from the front. Batch axes are those that they
          do not name.

        Raises:
          ValueError: an axis is out of range, two names mean the same axis, or there is neither an
            input nor a spatial axis.

        Example:
          >>> import wcgc
          >>> wcgc.FLAX.to_muon(4)
          MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=(3,))
        """
        in_axes, out_axes, _, spatial = self.resolve(ndim)
        if not in_axes + spatial:
            raise ValueError(f"{self} of {ndim} axes sums over none of them: Muon needs a matrix.")
        return MuonDimensionNumbers(tuple(sorted(in_axes + spatial)), tuple(out_axes))

    @classmethod
    def from_muon(cls, numbers: MuonDimensionNumbers, ndim: int) -> "KernelAxes":
        """The axes that `optax.contrib.muon` is told by `numbers`.

        Muon does not tell input from spatial axes: all that it reduces over is input here. That
        makes no difference to the areas `"tensor"` and `"global"`. Dimension numbers may also stand
        in a tree of axes as they are.

        Args:
          numbers: Muon's dimension numbers. The axes that they do not name are batch axes.
          ndim: how many axes the kernel has.

        Returns:
          Axes that are counted from the front.

        Raises:
          TypeError: `numbers` are not Muon's, or an axis is not an integer.
          ValueError: an axis is out of range, or named twice.

        Example:
          >>> import optax, wcgc
          >>> wcgc.KernelAxes.from_muon(optax.contrib.MuonDimensionNumbers(-2, -1), ndim=3)
          KernelAxes(in_axis=(1,), out_axis=(2,), batch_axis=(0,))
        """
        if not isinstance(numbers, MuonDimensionNumbers):
            raise TypeError(
                f"numbers must be optax.contrib.MuonDimensionNumbers, got {written(numbers)}. What "
                "Muon leaves to Adam has no axes: leave it None."
            )
        named = cls(numbers.reduction_axis, numbers.output_axis)
        in_axes, out_axes, _, others = named.resolve(ndim)
        return cls(in_axes, out_axes, others)


FLAX = KernelAxes()
"""Kernels (..., in, out): Flax, Haiku, Keras, and plain `x @ w` matrices.

Transposed convolutions of Haiku and Keras are (..., out, in), depthwise ones of Keras (...,
channel, multiplier); they need axes of their own, and so do attention and scanned layers. For what
a layout leaves alone, see `centralize`.
"""

EQUINOX = KernelAxes(in_axis=1, out_axis=0)
"""Kernels (out, in, ...): Equinox, and PyTorch's layout.

Stacked layers, as `equinox.filter_vmap` makes them, are (layers, out, in, ...) and need axes of
their own. Equinox's `GRUCell` and `LSTMCell` call their kernels `weight_ih` and `weight_hh`, which
a rule such as `weight$` misses.
"""


def slice_axes_of(area: Area, kernel_axes: KernelAxes, ndim: int) -> tuple[int, ...]:
    """The axes that one slice of `area` spans, in ascending order."""
    in_axes, out_axes, _, spatial = kernel_axes.resolve(ndim)
    roles = {"in": in_axes, "out": out_axes, "spatial": spatial}
    return tuple(sorted(axis for role in AREAS[area].spans for axis in roles[role]))


def batch_count(kernel_axes: KernelAxes) -> int:
    """How many batch axes `kernel_axes` names."""
    return len(_several(kernel_axes.batch_axis))


def _several(axes: int | Sequence[int]) -> tuple[int, ...]:
    """One axis or several, as a `KernelAxes` stores them."""
    return (axes,) if isinstance(axes, int) else tuple(axes)
