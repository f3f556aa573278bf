"""Which leaves of a tree are touched, over which axes, and why the others are left alone."""

import dataclasses
import math
from collections.abc import Callable, Collection
from types import NoneType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wcgc._axes import (
    FLAX,
    Area,
    KernelAxes,
    LeftAlone,
    batch_count,
    check_area,
    slice_axes,
)
from wcgc._paths import Key, flatten, is_empty, path_of

Axes = KernelAxes | Any
"""A `KernelAxes`, a tree (or prefix) of `KernelAxes | LeftAlone | None`, or a callable that makes
one."""

Mask = Any
"""None, a tree (or prefix) of bools, or a callable that makes one: as in `optax.masked`."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of a tree and what is to be done with it.

    Attributes:
      key: the leaf's path.
      value: the leaf itself.
      axes: the axes that a slice spans; None if the leaf is left alone.
      kernel_axes: which axis of the leaf is what; None if the leaf is left alone.
      reason: why the leaf is left alone; empty if it is not.
    """

    key: Key
    value: Any
    axes: tuple[int, ...] | None
    kernel_axes: KernelAxes | None = None
    reason: str = ""


def check_selection(area: object, axes: Axes, mask: Mask) -> None:
    """Rejects what can be seen to be wrong before there is a tree.

    Raises:
      TypeError: `axes` or `mask` holds something else than documented.
      ValueError: `area` is none of the four.
    """
    check_area(area)
    if axes is None:
        raise TypeError(
            "axes must be a KernelAxes, a tree of KernelAxes and None, or a callable that makes "
            "one, got None. Leave the argument out for the Flax layout (..., in, out)."
        )
    for argument, spec in (_AXES, axes), (_MASK, mask):
        if not _is_function(spec):
            _entries(argument, spec)


def select(tree: Any, area: Area, axes: Axes = FLAX, mask: Mask = None) -> tuple[list[Leaf], Any]:
    """Decides for each leaf of `tree` over which axes to average, or why to leave it alone.

    Returns:
      The leaves, `None` and `optax.MaskedNode` among them, and the structure to put them back in.

    Raises:
      TypeError: `axes` or `mask` holds something else than documented.
      ValueError: `area` is none of the four, or `axes` or `mask` does not match the tree or names
        an axis that a leaf lacks.
    """
    check_selection(area, axes, mask)
    leaves, treedef = flatten(tree)
    axes_at = _lookup(_AXES, axes, tree, leaves)
    mask_at = _lookup(_MASK, True if mask is None else mask, tree, leaves)
    return [_decide(key, leaf, area, axes_at(key), mask_at(key)) for key, leaf in leaves], treedef


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
    known = [leaf.key for leaf in leaves]
    for name, missing in (
        (names[1], [key for key in known if key not in found]),
        (names[0], [key for key in found if key not in set(known)]),
    ):
        if missing:
            raise ValueError(
                f"{names[0]} and {names[1]} must be trees of the same structure, but {name} lack "
                f"{', '.join(repr(path_of(key)) for key in missing)}."
            )
    for leaf in leaves:
        if leaf.axes is not None and is_empty(found[leaf.key]):
            raise ValueError(
                f"{path_of(leaf.key)!r} is an array in {names[0]} but {found[leaf.key]} in "
                f"{names[1]}. Give both, or make both None."
            )
        shapes = np.shape(leaf.value), np.shape(found[leaf.key])
        if leaf.axes is not None and shapes[0] != shapes[1]:
            raise ValueError(
                f"{path_of(leaf.key)!r} has shape {shapes[0]} in {names[0]} but {shapes[1]} in "
                f"{names[1]}."
            )
    return [found[key] for key in known]


def _decide(
    key: Key, leaf: Any, area: Area, axes: KernelAxes | LeftAlone | None, masked_in: bool
) -> Leaf:
    def alone(reason: str) -> Leaf:
        return Leaf(key, leaf, None, reason=reason)

    if is_empty(leaf):
        return alone("empty node")
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
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
    if len(leaf.shape) - batch_count(axes) < 2:
        return alone("fewer than two axes beside batch axes")
    try:
        spanned = slice_axes(area, axes, len(leaf.shape))
    except ValueError as error:
        raise ValueError(
            f"{error}: leaf {path_of(key)!r} has shape {leaf.shape}. Give this leaf its own axes "
            "with by_path or a tree, or None to leave it alone."
        ) from None
    if math.prod(leaf.shape) == 0:
        return alone("no elements")
    if math.prod(leaf.shape[axis] for axis in spanned) == 1:
        return alone("slices of one element")
    return Leaf(key, leaf, spanned, axes)


@dataclasses.dataclass(frozen=True)
class _Argument:
    """An argument that holds an entry for each leaf of a tree."""

    name: str
    types: tuple[type, ...]
    wanted: str


_AXES = _Argument("axes", (KernelAxes, LeftAlone, NoneType), "a KernelAxes or None")
_MASK = _Argument("mask", (bool, np.bool_), "a bool")


def _is_function(spec: Any) -> bool:
    # A model may be callable too, and is then a tree of entries all the same.
    return callable(spec) and jax.tree_util.all_leaves([spec])


def _entries(argument: _Argument, spec: Any) -> dict[Key, Any]:
    entries = {}
    for key, entry in flatten(spec)[0]:
        if isinstance(entry, argument.types):
            entries[key] = entry
        elif not is_empty(entry):
            where = f" at {path_of(key)!r}" if key else ""
            raise TypeError(
                f"{argument.name} must hold {argument.wanted} for each leaf, got {entry!r}{where}."
            )
    return entries


def _lookup(
    argument: _Argument, spec: Any, tree: Any, leaves: list[tuple[Key, Any]]
) -> Callable[[Key], Any]:
    """Reads `spec` (one entry, a tree or prefix of entries, or a callable) as a function of keys.

    Entries are found by key rather than by structure, so that axes read off an NNX model serve its
    state, pure or not, as well.
    """
    entries = _entries(argument, spec(tree) if _is_function(spec) else spec)
    cut = {key for key, leaf in leaves if is_empty(leaf)}
    present = {key[:n] for key, _ in leaves for n in range(len(key) + 1)}
    for key, _ in leaves:
        if key not in cut and _prefix(key, entries) is None:
            raise ValueError(
                f"entries of {argument.name} do not match the tree: there is no entry for "
                f"{path_of(key)!r} among {_paths(entries)}."
            )
    for key, entry in entries.items():
        # What a mask has cut away may still be named, a tree without leaves takes any entries, and
        # None asks for nothing, so that axes read off a whole model serve a part of its state.
        if entry is None or isinstance(entry, LeftAlone) or not leaves:
            continue
        if key not in present and _prefix(key, cut) is None:
            raise ValueError(
                f"entries of {argument.name} do not match the tree: there is no leaf "
                f"{path_of(key)!r} among {_paths(dict(leaves))}."
            )

    def entry_at(key: Key) -> Any:
        found = _prefix(key, entries)
        return None if found is None else entries[found]

    return entry_at


def _prefix(key: Key, keys: Collection[Key]) -> Key | None:
    return next((key[:n] for n in range(len(key), -1, -1) if key[:n] in keys), None)


def _paths(keys: Collection[Key]) -> str:
    return ", ".join(repr(path_of(key)) for key in keys) or "nothing"
