"""One path for each parameter, whatever container holds it."""

import collections
import re
import sys
from collections.abc import Callable, Collection
from typing import Any

import jax
import optax

Key = tuple[str, ...]
"""A path with one string per level, equal for all containers that hold the same parameter."""

TreePath = tuple[Any, ...]
"""A path as JAX or Flax gives it, which names each level as the container does."""


def path_of(key: Key) -> str:
    """The path as it is written for people and for `by_path`."""
    return "/".join(key)


def shown(path: str) -> str:
    """The path as people read it, also that of a tree which is one array and has none."""
    return path or "(the array)"


def parts_of(key: Key) -> tuple[str, ...]:
    """The parts of the path, where a key such as Haiku's `mlp/~/linear_0` has several.

    So has one with dots, as PyTorch's state dictionaries have.
    """
    return tuple(re.split(r"[/.]", path_of(key)))


def is_empty(node: Any) -> bool:
    """Whether there is nothing at this place of a tree."""
    return node is None or isinstance(node, optax.MaskedNode)


def is_array(leaf: Any) -> bool:
    """Whether it is an array or a description of one, of any number of axes."""
    # The class np.float32 has both attributes, too.
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, type)


def flatten(
    tree: Any, is_leaf: Callable[[Any], bool] = is_empty
) -> tuple[list[tuple[Key, Any]], Any]:
    """Flattens to (key, leaf) pairs, keeping `None` and `MaskedNode` as leaves.

    Raises:
      ValueError: two leaves have one path, as under the keys 1 and "1".
    """
    wrappers = {path for path, _ in _wrappers(tree)}
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    keys = [key_of(path, wrappers) for path, _ in leaves]
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in collections.Counter(keys).items() if count > 1)
        raise ValueError(
            f"Two leaves of a tree have the path {path_of(twice)!r}, since keys are told apart by "
            "their text. Give one of them another key."
        )
    return [(key, leaf) for key, (_, leaf) in zip(keys, leaves, strict=True)], treedef


def key_of(path: TreePath, wrappers: Collection[TreePath]) -> Key:
    """The key of a path, less the level that each wrapper puts above what it holds."""
    return tuple(
        jax.tree_util.keystr((entry,), simple=True)
        for depth, entry in enumerate(path)
        if path[:depth] not in wrappers
    )


def shared(tree: Any) -> dict[Key, Key]:
    """The keys of NNX variables that modules share, each with the key of the first to hold it."""
    wrappers = _wrappers(tree)
    paths = {path for path, _ in wrappers}
    first: dict[int, Key] = {}
    return {
        key: first[id(node)]
        for path, node in wrappers
        if _is_nnx_variable(node) and first.setdefault(id(node), key := key_of(path, paths)) != key
    }


def nodes(tree: Any, types: tuple[type, ...]) -> list[tuple[Key, Any]]:
    """The outermost nodes of these types, with their keys."""
    wrappers = {path for path, _ in _wrappers(tree)}
    found, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: isinstance(x, types))
    return [(key_of(path, wrappers), node) for path, node in found if isinstance(node, types)]


def _wrappers(tree: Any, above: TreePath = ()) -> list[tuple[TreePath, Any]]:
    """NNX variables and boxed Linen variables: nodes of their own, but only until made pure."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_wrapper)
    found = []
    for path, node in flat:
        if _is_wrapper(node):
            found.append((above + path, node))
            held, _ = jax.tree_util.tree_flatten_with_path(
                node, is_leaf=lambda child, node=node: child is not node
            )
            for level, child in held:
                found += _wrappers(child, above + path + level)
    return found


def _is_wrapper(node: Any) -> bool:
    return _is_nnx_variable(node) or _is_linen_box(node)


# Only a program that has imported flax can hold its objects, so flax need not be imported here.


def _is_nnx_variable(node: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(node, nnx.Variable)


def _is_linen_box(node: Any) -> bool:
    meta = sys.modules.get("flax.core.meta")
    return meta is not None and isinstance(node, meta.AxisMetadata)
