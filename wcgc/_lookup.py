"""Arguments that hold an entry for each leaf of a tree: `axes` and `mask`."""

import abc
import dataclasses
from types import NoneType
from typing import Any, NamedTuple

import jax
import numpy as np
from optax.contrib import MuonDimensionNumbers

from wcgc._axes import KernelAxes, LeftAlone
from wcgc._messages import holds_arrays, kind, listed, quoted, written
from wcgc._mismatch import Given, prefix, prefixes, remedy
from wcgc._paths import Key, flatten, is_empty, shared


class Entry(NamedTuple):
    """What an argument says about one leaf.

    Attributes:
      value: the entry itself.
      is_layout: whether it stands for several leaves, and so cannot know each.
      doubted: whether it leaves alone what may be a kernel of another layout.
      guessed: whether it takes a kernel whose shape fits another layout as well.
    """

    value: Any
    is_layout: bool = False
    doubted: bool = False
    guessed: bool = False


NO_ENTRY = Entry(None)


class Chooser(abc.ABC):
    """An argument that knows more about its entries than a tree of them can say."""

    @abc.abstractmethod
    def entries(self, tree: Any, leaves: list[tuple[Key, Any]]) -> dict[Key, Entry]:
        """The entry of each leaf of `tree`, whose keys and leaves are given."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """An argument that holds an entry for each leaf of a tree.

    Attributes:
      name: its name.
      types: the types of an entry.
      wanted: what an entry is, in words.
      alone: the entry that leaves a leaf alone.
      instead_of_arrays: what to do where arrays were given.
    """

    name: str
    types: tuple[type, ...]
    wanted: str
    alone: str
    instead_of_arrays: str


AXES = Argument(
    "axes",
    (KernelAxes, LeftAlone, NoneType, MuonDimensionNumbers),
    "a KernelAxes or None",
    alone="None",
    instead_of_arrays="Read the axes off the model with wcgc.axes_of or wcgc.trace_axes.",
)
MASK = Argument(
    "mask",
    (bool, np.bool_),
    "a bool",
    alone="False",
    instead_of_arrays="Make the mask of the parameters with jax.tree.map: True for what to touch.",
)

STATIC_ARGS = (
    "optax.inject_hyperparams calls what is callable with the number of the step: name it in its "
    "static_args, as in optax.inject_hyperparams(wcgc.algorithm_3, static_args=('axes', 'mask'))."
)


def check_entries(argument: Argument, spec: Any) -> None:
    """Rejects entries of another type, where they can be seen before there is a tree.

    Raises:
      TypeError: an entry has none of the argument's types.
    """
    if not (isinstance(spec, Chooser) or _is_function(spec)):
        _entries(argument, spec)


def lookup(
    argument: Argument, spec: Any, tree: Any, leaves: list[tuple[Key, Any]]
) -> dict[Key, Entry]:
    """What `spec` (one entry, a tree or prefix of entries, or a callable) says about each leaf.

    Entries are found by key rather than by structure, so that axes read off an NNX model serve its
    state, pure or not, as well.

    Raises:
      TypeError: an entry has none of the argument's types.
      ValueError: a leaf has no entry, or an entry no leaf.
    """
    is_made = not isinstance(spec, Chooser) and _is_function(spec)
    if is_made:
        spec = spec(tree)
    if isinstance(spec, Chooser):
        return spec.entries(tree, leaves)
    entries = _entries(argument, spec)
    cut = {key for key, leaf in leaves if is_empty(leaf)}
    present = {prefix for key, _ in leaves for prefix in prefixes(key)}
    places = {key: prefix(key, entries) for key, _ in leaves}
    lacking = [key for key, place in places.items() if place is None and key not in cut]
    if lacking:
        # A pytree of modules that share a variable holds it once for each, their state once.
        same = shared(tree)
        for key in lacking:
            other = prefix(key, same)
            if other is not None:
                places[key] = prefix(same[other] + key[len(other) :], entries)
    for key in lacking:
        if places[key] is None:
            filled = [key for key, _ in leaves if key not in cut]
            asking = [key for key, entry in entries.items() if _asks(entry)]
            given = Given(spec, argument.name, entries, asking, argument.alone, is_made)
            raise ValueError(
                f"entries of {argument.name} do not match the tree: there is no entry for "
                f"{quoted(key)} among {listed(map(quoted, entries))}. {remedy(given, filled)}"
            )
    for key, entry in entries.items():
        # What a mask has cut away may still be named, a tree without leaves takes any entries, and
        # None asks for nothing, so that axes read off a whole model serve a part of its state.
        if not (_asks(entry) and leaves):
            continue
        if key not in present and prefix(key, cut) is None:
            raise ValueError(
                f"entries of {argument.name} do not match the tree: there is no leaf "
                f"{quoted(key)} among {listed(map(quoted, dict(leaves)))}. Correct its path, or "
                "take it out."
            )
    return {
        key: NO_ENTRY if place is None else Entry(entries[place], len(place) < len(key))
        for key, place in places.items()
    }


def _asks(entry: Any) -> bool:
    return not (entry is None or isinstance(entry, LeftAlone))


def _is_function(spec: Any) -> bool:
    if not callable(spec) or isinstance(spec, type):
        return False
    # A bound method, of an Equinox module too, and a `jax.tree_util.Partial` are pytrees.
    if isinstance(spec, jax.tree_util.Partial) or hasattr(spec, "__self__"):
        return True
    # A model may be callable too, and is a tree of entries all the same if it holds any.
    leaves = jax.tree.leaves(spec, is_leaf=_is_numbers)
    return not leaves or (len(leaves) == 1 and leaves[0] is spec)


def _is_numbers(node: Any) -> bool:
    return is_empty(node) or isinstance(node, MuonDimensionNumbers)


def _entries(argument: Argument, spec: Any) -> dict[Key, Any]:
    entries = {}
    for key, entry in flatten(spec, is_leaf=_is_numbers)[0]:
        if isinstance(entry, argument.types):
            entries[key] = entry
        elif not is_empty(entry):
            where = f" at {quoted(key)}" if key else ""
            raise TypeError(
                f"{argument.name} must hold {argument.wanted} for each leaf, got {written(entry)}"
                f"{where}.{_hint(argument, spec, key, entry)}"
            )
    return entries


def _hint(argument: Argument, spec: Any, key: Key, entry: Any) -> str:
    """What to do about an entry of another type."""
    if holds_arrays(entry):
        inside = f" This {kind(spec)} holds arrays in their place." if key else ""
        return f"{inside} {argument.instead_of_arrays}"
    # The number of the step.
    return f" {STATIC_ARGS}" if isinstance(entry, jax.Array) and not key else ""
