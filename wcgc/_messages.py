"""Values and paths as error messages show them: short, and without the numbers of arrays."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from wcgc._paths import Key, is_array, path_of, shown

LONGEST = 200
"""How many characters a value may take before its type stands for it."""

MOST = 10
"""How many paths are named before the others are counted."""

TO_MATCH = 40
"""The same for paths that patterns are to be mended by."""


def written(value: Any) -> str:
    """The value if it is short, else its type; of an array with axes, the shape."""
    if _has_axes(value):
        return f"{kind(value)} of shape {tuple(value.shape)}"
    if holds_arrays(value):
        return kind(value)
    text = repr(value)
    if len(text) <= LONGEST and "\n" not in text:
        return text
    return f"{text[:LONGEST]}..." if isinstance(value, str) else kind(value)


def kind(value: Any) -> str:
    """The type, which arrays print by another name than its own."""
    if isinstance(value, np.ndarray):
        return "array"
    return "Array" if isinstance(value, jax.Array) else type(value).__name__


def _has_axes(value: Any) -> bool:
    return is_array(value) and value.shape != ()


def holds_arrays(value: Any) -> bool:
    """Whether it is an array with axes, or a tree that holds one."""
    return any(map(_has_axes, jax.tree.leaves(value)))


def where_trees_go(value: Any) -> str:
    """What to do with parameters or gradients that were given for something else, or nothing."""
    if not holds_arrays(value):
        return ""
    return (
        " A tree of arrays is the first argument of functions such as wcgc.centralize; it goes to "
        "init and update of transforms such as wcgc.centralize_params()."
    )


def quoted(key: Key) -> str:
    """The path, in quotes."""
    return repr(shown(path_of(key)))


def listed(paths: Iterable[str], none: str = "nothing", most: int = MOST) -> str:
    """The first paths, and how many there are besides."""
    paths = list(paths)
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more or none
