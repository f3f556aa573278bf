"""Which leaves of a tree are touched, over which axes, and why the others are left alone."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from wcgc._annotations import Axes, Mask
from wcgc._axes import FLAX, Area, KernelAxes, LeftAlone, batch_count, check_area, slice_axes_of
from wcgc._lookup import AXES, MASK, NO_ENTRY, Entry, check_entries, lookup
from wcgc._messages import listed, quoted
from wcgc._paths import Key, flatten, is_array, is_empty
from wcgc._vouch import vouched


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of a tree and what is to be done with it.

    Attributes:
      key: the leaf's path.
      value: the leaf itself.
      slice_axes: the axes that a slice spans; None if the leaf is left alone.
      kernel_axes: which axis of the leaf is what; None if the leaf is left alone.
      reason: why the leaf is left alone; empty if it is not.
      entry: what `axes` says of the leaf.
      masked_in: what `mask` says of it.
    """

    key: Key
    value: Any
    slice_axes: tuple[int, ...] | None
    kernel_axes: KernelAxes | None = None
    reason: str = ""
    entry: Entry = NO_ENTRY
    masked_in: bool = True


def check_selection(area: object, axes: object, mask: object) -> None:
    """Rejects what can be seen to be wrong before there is a tree.

    Raises:
      TypeError: `axes` or `mask` holds something else than documented.
      ValueError: `area` is no area.
    """
    _check_given(area, axes)
    check_entries(AXES, axes)
    check_entries(MASK, mask)


def _check_given(area: object, axes: object) -> None:
    check_area(area)
    if axes is None:
        raise TypeError(
            "axes must be a KernelAxes, a tree of KernelAxes and None, or a callable that makes "
            "one, got None. Leave the argument out, or, if you gave a callable, name it in the "
            "static_args of optax.inject_hyperparams. The default is the layout (..., in, out)."
        )


def select(tree: Any, area: Area, axes: Axes = FLAX, mask: Mask = None) -> tuple[list[Leaf], Any]:
    """Decides for each leaf of `tree` over which axes to average, or why to leave it alone.

    Returns:
      The leaves, `None` and `optax.MaskedNode` among them, and the structure to put them back in.

    Raises:
      TypeError: `axes` or `mask` holds something else than documented.
      ValueError: `area` is no area, or `axes` or `mask` does not match the tree or names
        an axis that a leaf lacks.
    """
    _check_given(area, axes)
    leaves, treedef = flatten(tree)
    entries = vouched(tree, leaves, lookup(AXES, axes, tree, leaves))
    masks = lookup(MASK, True if mask is None else mask, tree, leaves)
    return [
        _decide(key, leaf, area, entries[key], bool(masks[key].value)) for key, leaf in leaves
    ], treedef


def match(leaves: list[Leaf], other: Any, names: tuple[str, str]) -> list[Any]:
    """The leaves of `other` in the order of `leaves`.

    Args:
      leaves: the selection made from the first tree.
      other: a tree with the same leaves, in whatever containers.
      names: what the two trees are called in messages.

    Raises:
      ValueError: a leaf is missing or None on either side, or differs in shape.
    """
    found = dict(flatten(other)[0])
    known = dict.fromkeys(leaf.key for leaf in leaves)
    for name, missing in (
        (names[1], [key for key in known if key not in found]),
        (names[0], [key for key in found if key not in known]),
    ):
        if missing:
            raise ValueError(
                f"{names[0]} and {names[1]} must be trees of the same structure, but {name} lack "
                f"{listed(map(quoted, missing))}."
            )
    for leaf in leaves:
        if leaf.slice_axes is not None and is_empty(found[leaf.key]):
            raise ValueError(
                f"{quoted(leaf.key)} is an array in {names[0]} but {found[leaf.key]} in "
                f"{names[1]}. Give both, or make both None."
            )
    check_shapes(leaves, found, names)
    return [found[leaf.key] for leaf in leaves]


def check_shapes(leaves: list[Leaf], found: dict[Key, Any], names: tuple[str, str]) -> None:
    """Compares the shapes of leaves with those of the same keys in another tree.

    Raises:
      ValueError: two of them differ.
    """
    for leaf in leaves:
        ours = getattr(leaf.value, "shape", None)
        theirs = getattr(found.get(leaf.key), "shape", None)
        if ours is None or theirs is None or tuple(ours) == tuple(theirs):
            continue
        hint = ""
        if tuple(ours[1:]) == tuple(theirs):
            hint = (
                " If the first axis numbers examples, place this transform behind what sums over "
                "them, such as optax.contrib.differentially_private_aggregate."
            )
        raise ValueError(
            f"{quoted(leaf.key)} has shape {tuple(ours)} in {names[0]} but {tuple(theirs)} in "
            f"{names[1]}.{hint}"
        )


def as_array(key: Key, value: Any) -> jax.Array:
    """The value of the leaf `key` as an array of JAX.

    Raises:
      TypeError: it has a shape but no values.
    """
    if isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(
            f"{quoted(key)} is a ShapeDtypeStruct, which has a shape but no values. Give arrays, "
            "or let jax.eval_shape make the call, for shapes alone. wcgc.explain takes shapes."
        )
    return jnp.asarray(value)


def _decide(key: Key, leaf: Any, area: Area, entry: Entry, masked_in: bool) -> Leaf:
    def alone(reason: str) -> Leaf:
        return Leaf(key, leaf, None, reason=reason, entry=entry, masked_in=masked_in)

    axes = entry.value
    if is_empty(leaf):
        return alone("empty node")
    if not is_array(leaf):
        return alone("not an array")
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return alone(f"dtype {leaf.dtype} is not floating or complex")
    if not masked_in:
        return alone("mask is False")
    if len(leaf.shape) < 2:
        return alone("fewer than two axes")
    if axes is None:
        return alone("axes are None")
    if isinstance(axes, LeftAlone):
        return alone(axes.reason)
    try:
        if isinstance(axes, MuonDimensionNumbers):
            axes = KernelAxes.from_muon(axes, len(leaf.shape))
        if len(leaf.shape) - batch_count(axes) < 2:
            return alone("fewer than two axes beside batch axes")
        slice_axes = slice_axes_of(area, axes, len(leaf.shape))
    except ValueError as error:
        raise ValueError(
            f"{error}: leaf {quoted(key)} has shape {leaf.shape}. Give this leaf its own axes "
            "with by_path or a tree, or None to leave it alone."
        ) from None
    if math.prod(leaf.shape) == 0:
        return alone("no elements")
    if math.prod(leaf.shape[axis] for axis in slice_axes) == 1:
        return alone("slices of one element")
    return Leaf(key, leaf, slice_axes, axes, entry=entry)
