"""How far a tree is from centralized, leaf by leaf, also under jit."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from wcgc._annotations import Axes, Mask
from wcgc._arrays import slice_mean, widened
from wcgc._axes import FLAX, Area
from wcgc._paths import path_of, shown
from wcgc._report import Report, by_paths
from wcgc._selection import as_array, select
from wcgc._table import Row, Table


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["largest_mean", "fraction_removed"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class LeafMeasurement:
    """How far one leaf is from centralized, as `measure` says it.

    Attributes:
      largest_mean: the largest absolute slice mean, a scalar in the units of the leaf.
      fraction_removed: the share of the squared norm that centralizing takes away, a scalar
        between 0 and 1 up to rounding; 0 if the norm is zero.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> wcgc.measure({"kernel": jnp.ones((4, 2))}).leaves["kernel"].fraction_removed
      Array(1., dtype=float32)
    """

    largest_mean: jax.Array
    fraction_removed: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["largest_mean", "fraction_removed", "leaves"],
    meta_fields=["area"],
)
@dataclasses.dataclass(frozen=True, repr=False)
class Measurement(Report):
    """How far a tree is from centralized: what `measure` returns.

    A pytree of scalars that prints as a table.

    Attributes:
      area: what one mean is taken over.
      largest_mean: the largest absolute slice mean of all leaves.
      fraction_removed: the share of the squared norm of all leaves together that centralizing
        takes away.
      leaves: the same for each leaf that centralizing would touch, by its path.

    Example:
      >>> import jax, jax.numpy as jnp, wcgc
      >>> measurement = jax.jit(wcgc.measure)({"kernel": jnp.array([[1., 2.], [3., 6.]])})
      >>> measurement.largest_mean
      Array(4., dtype=float32)
    """

    largest_mean: jax.Array
    fraction_removed: jax.Array
    leaves: dict[str, LeafMeasurement]

    def _table(self, width: int | None) -> Table:
        del width  # Nothing is left out.
        return Table(
            title=self._title,
            headings=("leaf", "largest |mean|", "norm² removed"),
            right=frozenset({1, 2}),
            rows=tuple(
                Row((shown(path), _text(leaf.largest_mean), _text(leaf.fraction_removed)))
                for path, leaf in self.leaves.items()
            ),
            summary=(
                f"All together: largest |mean| {_text(self.largest_mean)}, "
                f"{_text(self.fraction_removed)} of norm² removed."
            ),
        )


def measure(
    tree: Any, area: Area = "tensor", *, axes: Axes = FLAX, mask: Mask = None
) -> Measurement:
    r"""Measures how far each kernel is from centralized, and all of them together.

    With :math:`W_j` the slices of n elements of a leaf :math:`W`, it takes the largest
    :math:`|\overline{W_j}|` and the fraction :math:`\sum_j n |\overline{W_j}|^2 / \|W\|^2` of the
    squared norm that centralizing removes. Weights that are kept centralized show about `eps` times
    their magnitude and 0; gradients show what GC takes from them.

    No temporary of a leaf's size is made. Squares are summed in float32 for 16-bit leaves and in
    the leaf's precision otherwise; elements below about 1e-19 in float32 count as zero in the
    fraction, and above 1e19 it is NaN.

    Args:
      tree: arrays in any containers; see `centralize` for what is left alone.
      area: what one mean is taken over; see `centralize`.
      axes: which axis is what; see `centralize`.
      mask: which leaves to measure; see `centralize`.

    Returns:
      A pytree of scalars with the entries `largest_mean`, `fraction_removed` and `leaves`, a
      dictionary of the same two for each path. Under jit it can be returned like any array.

    Raises:
      TypeError: as `centralize`.
      ValueError: as `centralize`, or two leaves have the same path.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> params = {"kernel": jnp.array([[3., 4.], [1., -4.]]), "bias": jnp.ones(2)}
      >>> wcgc.measure(params).leaves["kernel"].largest_mean
      Array(2., dtype=float32)
      >>> float(wcgc.measure(wcgc.centralize(params)).fraction_removed)
      0.0
    """
    sums = by_paths(
        (path_of(leaf.key), _sums(as_array(leaf.key, leaf.value), leaf.slice_axes))
        for leaf in select(tree, area, axes, mask)[0]
        if leaf.slice_axes is not None
    )
    means, removed, norms = zip(*sums.values(), strict=True) if sums else ((), (), ())
    return Measurement(
        area,
        _combined(jnp.max, means),
        _fraction(_combined(jnp.sum, removed), _combined(jnp.sum, norms)),
        {
            path: LeafMeasurement(mean, _fraction(part, whole))
            for path, (mean, part, whole) in sums.items()
        },
    )


def _sums(x: jax.Array, slice_axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The largest absolute slice mean, and the squared norms of the means and of `x`."""
    x = widened(x)
    size = math.prod(x.shape[axis] for axis in slice_axes)
    mean = jnp.abs(slice_mean(x, slice_axes))
    # Over the same axes as the mean, for the two to be taken in one pass.
    squares = jnp.sum(_squared(x), axis=slice_axes, keepdims=True)
    return jnp.max(mean), size * jnp.sum(jnp.square(mean)), jnp.sum(squares)


def _squared(x: jax.Array) -> jax.Array:
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def _combined(reduce: Callable[[jax.Array], jax.Array], values: Sequence[jax.Array]) -> jax.Array:
    if not values:
        return jnp.zeros(())
    dtype = np.result_type(*(value.dtype for value in values))
    return reduce(jnp.stack([value.astype(dtype) for value in values]))


def _fraction(part: jax.Array, whole: jax.Array) -> jax.Array:
    return part / jnp.where(whole == 0, jnp.ones_like(whole), whole)


def _text(value: jax.Array) -> str:
    # Under jit there is no number yet, and under vmap there are several.
    is_number = not isinstance(value, Tracer) and jnp.ndim(value) == 0
    return f"{float(value):.3g}" if is_number else str(value)
