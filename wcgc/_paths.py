"""One path for each parameter, whatever container holds it, and axes chosen by it."""

import re
import sys
from collections.abc import Callable, Collection
from typing import Any

import jax
import optax

from wcgc._axes import KernelAxes

Key = tuple[str, ...]
"""A path with one string per level, equal for all containers that hold the same parameter."""


def by_path(*rules: tuple[str, KernelAxes | None]) -> Callable[[Any], Any]:
    r"""Makes an `axes` argument that chooses each leaf's axes by its path.

    A path is written `encoder/conv1/kernel`: dictionary keys, attributes and list indices joined by
    slashes. It is the same for Flax NNX states and modules, Linen and Haiku dictionaries and
    Equinox modules, at `init` and at `update`. Each pattern is searched for anywhere in the path,
    as by `re.search`; the first that matches decides. A leaf that no rule matches is left alone.

    Args:
      *rules: pairs of a regular expression and the axes of the leaves it matches, or None to leave
        those alone.

    Returns:
      A callable from a tree of parameters to a tree of `KernelAxes | None` of the same structure.
      It raises a ValueError that lists the paths there are if the rules select none of them.

    Raises:
      TypeError: a rule is not such a pair.
      ValueError: there are no rules, or a pattern is not a regular expression.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> params = {"conv1": {"kernel": jnp.ones((3, 3, 8, 4)), "bias": jnp.ones(4)},
      ...           "head": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}}
      >>> axes = wcgc.by_path((r"head/", None), (r"kernel$", wcgc.FLAX))
      >>> axes(params)["conv1"]["kernel"]
      KernelAxes(in_axis=-2, out_axis=-1, batch_axis=())
      >>> axes(params)["head"]
      {'bias': None, 'kernel': None}
    """
    if not rules:
        raise ValueError("by_path needs at least one (pattern, KernelAxes or None) rule.")
    compiled = []
    for rule in rules:
        if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)):
            raise TypeError(f"A rule is a pair (pattern, KernelAxes or None), got {rule!r}.")
        pattern, axes = rule
        if not (axes is None or isinstance(axes, KernelAxes)):
            raise TypeError(
                f"The rule for {pattern!r} must give a KernelAxes or None, got {axes!r}."
            )
        try:
            compiled.append((re.compile(pattern), axes))
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from error

    def choose(path: str) -> KernelAxes | None:
        return next((axes for pattern, axes in compiled if pattern.search(path)), None)

    def axes_by_path(tree):
        leaves, treedef = flatten(tree)
        paths = {path_of(key): None for key, leaf in leaves if not is_empty(leaf)}
        chosen = [None if is_empty(leaf) else choose(path_of(key)) for key, leaf in leaves]
        if paths and not any(chosen):
            patterns = ", ".join(repr(pattern) for pattern, _ in rules)
            raise ValueError(
                f"by_path({patterns}) selects none of the paths: {', '.join(paths)}. "
                "Mend the patterns, or use a mask to leave the whole tree alone."
            )
        return treedef.unflatten(chosen)

    return axes_by_path


def path_of(key: Key) -> str:
    """The path as it is written for people and for `by_path`."""
    return "/".join(key)


def flatten(tree: Any) -> tuple[list[tuple[Key, Any]], Any]:
    """Flattens to (key, leaf) pairs, keeping `None` and `MaskedNode` as leaves."""
    variables = {
        path
        for path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_nnx_variable)[0]
        if _is_nnx_variable(node)
    }
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_empty)
    return [(_key(path, variables), leaf) for path, leaf in leaves], treedef


def _key(path: tuple[Any, ...], variables: Collection[tuple[Any, ...]]) -> Key:
    # An NNX variable is a node of its own above what it holds, but only until it is made pure.
    return tuple(
        jax.tree_util.keystr((entry,), simple=True)
        for depth, entry in enumerate(path)
        if path[:depth] not in variables
    )


def _is_nnx_variable(node: Any) -> bool:
    # Only a program that has imported flax can hold a Variable, so flax need not be imported here.
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(node, nnx.Variable)


def is_empty(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)
