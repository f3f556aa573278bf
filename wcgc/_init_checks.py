"""What an optimizer says when it first sees the parameters, before anything is lost."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from wcgc._axes import LeftAlone
from wcgc._axes_of import NOT_SELECTED
from wcgc._messages import quoted
from wcgc._paths import is_array, is_empty, parts_of
from wcgc._selection import Leaf
from wcgc._vouch import OF_EQUINOX

LIBRARIES = ("wcgc", "optax", "flax", "jax", "equinox")
KERNELS = ("kernel", "w")
READ = "read the axes off the computation with wcgc.trace_axes, or choose them with wcgc.by_path"


def warn_of_doubtful_choices(leaves: Sequence[Leaf], erases: bool) -> None:
    """Warns of parameters that are likely not meant to be chosen, or to be left alone.

    Each warning names a parameter and the remedy. What is traced or abstract has no values to look
    at, and gets the warnings that shapes suffice for.

    Args:
      leaves: of the parameters.
      erases: whether slices that are constant would be erased.
    """
    chosen = [leaf for leaf in leaves if leaf.slice_axes is not None]
    # Not what is left alone in any case, such as what is no array.
    doubted = [
        leaf for leaf in leaves if leaf.entry.doubted and leaf.reason == leaf.entry.value.reason
    ]
    of_equinox = [leaf for leaf in doubted if leaf.reason == OF_EQUINOX]
    if of_equinox:
        _warn(
            f"The layout (..., in, out) leaves {_named(of_equinox)} alone, since Equinox's is "
            "(out, in, ...). Give axes=wcgc.EQUINOX, or read the axes off the computation with "
            "wcgc.trace_axes."
        )
    elif not chosen:
        _warn_if_nothing_is_chosen(leaves)
    elif doubted:
        reason = doubted[0].reason
        _warn(
            f"One layout for all parameters leaves {_named(doubted)} alone: {reason}. To "
            f"centralize what is left alone, {READ}."
        )
    _warn_of_guesses(chosen)
    _warn_of_unselected_variables(leaves)
    _warn_of_numbered_leaves(chosen)
    if erases:
        _warn_of_constant_slices(chosen)


def _warn_if_nothing_is_chosen(leaves: Sequence[Leaf]) -> None:
    # Where a part of the tree has been cut away, what is chosen may lie there.
    if any(is_empty(leaf.value) for leaf in leaves):
        return
    asked = [
        leaf
        for leaf in leaves
        if leaf.masked_in and leaf.entry.value is not None and _is_parameter(leaf.value)
    ]
    if asked:
        # The leaf with the most axes is the likeliest kernel.
        likeliest = max(asked, key=lambda leaf: len(leaf.value.shape))
        _warn(
            f"Nothing is centralized, since all parameters are left alone, {_text(likeliest)} for "
            f"one: {likeliest.reason}. wcgc.explain shows them all. If this is not meant, {READ}."
        )


def _is_parameter(leaf: Any) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact) and 0 not in leaf.shape


def _warn_of_guesses(chosen: Sequence[Leaf]) -> None:
    guessed = [leaf for leaf in chosen if leaf.entry.guessed]
    if guessed:
        _warn(
            f"One layout for all parameters takes {_named(guessed)} for a convolution's kernel, to "
            f"be averaged over the axes {guessed[0].slice_axes}. Those of attention, of stacked "
            "layers and of experts look the same, and no bias of their own tells them apart. If it "
            f"is one of these, {READ}; if it is not, a rule of wcgc.by_path says so."
        )


def _warn_of_unselected_variables(leaves: Sequence[Leaf]) -> None:
    unselected = [
        leaf
        for leaf in leaves
        if isinstance(leaf.entry.value, LeftAlone)
        and leaf.entry.value.reason.startswith(NOT_SELECTED)
        and _is_parameter(leaf.value)
        and len(leaf.value.shape) > 1
    ]
    if unselected:
        _warn(
            "wcgc.axes_of has read the axes of other variables than the optimizer holds, which "
            f"leaves {_named(unselected)} alone: {unselected[0].reason}. Give it the wrt of the "
            "optimizer."
        )


def _warn_of_numbered_leaves(chosen: Sequence[Leaf]) -> None:
    """Keras lists its variables, without the names that tell an embedding from a kernel."""
    numbered = [
        leaf
        for leaf in chosen
        if leaf.entry.is_layout and len(leaf.key) == 1 and leaf.key[0].isdecimal()
    ]
    if numbered and "keras" in sys.modules:
        _warn(
            f"A list of parameters has no names, by which embeddings and biases are left alone; "
            f"{_named(numbered)} will be centralized. Give a dictionary, such as {{v.path: v.value "
            "for v in model.trainable_variables}, or read the axes with wcgc.trace_axes."
        )


def _warn_of_constant_slices(chosen: Sequence[Leaf]) -> None:
    constant = [leaf for leaf in chosen if _has_constant_slices(leaf)]
    if constant:
        _warn(
            f"Centralizing would erase {_named(constant)}, constant along slices over the axes "
            f"{constant[0].slice_axes}, as the scale of a norm is at first. If it is no kernel, "
            "leave it alone: with None or wcgc.LeftAlone in its place in axes, with wcgc.by_path, "
            "or with wcgc.trace_axes, which reads it off the computation."
        )


def _has_constant_slices(leaf: Leaf) -> bool:
    """Whether a slice of a leaf whose values are known has one value throughout, other than 0."""
    array, slice_axes = leaf.value, leaf.slice_axes or ()
    # What a rule or a tree chooses by a kernel's name is meant, whatever it holds.
    if not leaf.entry.is_layout and parts_of(leaf.key)[-1] in KERNELS:
        return False
    if isinstance(array, Tracer) or not isinstance(array, jax.Array | np.ndarray):
        return False
    if isinstance(array, jax.Array) and (array.is_deleted() or not array.is_fully_addressable):
        return False  # nothing, or only a part, can be seen from here
    longest = max(slice_axes, key=lambda axis: array.shape[axis])
    start = {axis: slice(0, 1) for axis in slice_axes}
    # Two entries of each slice tell apart all but constant ones, at a fraction of the cost.
    first, second = _entries(array, start), _entries(array, start | {longest: slice(1, 2)})
    suspects = (first == second) & (first != 0)
    if not suspects.any():
        return False
    same = np.all(_entries(array, {}) == first, axis=slice_axes, keepdims=True)
    return bool(np.any(same & suspects))


def _entries(array: Any, index: dict[int, slice]) -> np.ndarray:
    where = tuple(index.get(axis, slice(None)) for axis in range(array.ndim))
    if isinstance(array, jax.Array) and any(device.platform != "cpu" for device in array.devices()):
        # Of what lies on one device, only what is looked at leaves it. Its values are known, even
        # while tracing.
        with jax.ensure_compile_time_eval():
            return np.asarray(array.addressable_data(0)[where])
    return np.asarray(array)[where]


def _named(leaves: Sequence[Leaf]) -> str:
    first = _text(leaves[0])
    return first if len(leaves) == 1 else f"{first} and {len(leaves) - 1} more"


def _text(leaf: Leaf) -> str:
    return f"{quoted(leaf.key)} of shape {tuple(leaf.value.shape)}"


def _warn(message: str) -> None:
    """Warns at the line that called a library, rather than at one in it."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
