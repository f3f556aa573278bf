"""Axes chosen by the paths of the parameters."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from wcgc._annotations import Axes, LeafAxes
from wcgc._axes import KernelAxes, LeftAlone
from wcgc._lookup import AXES, NO_ENTRY, STATIC_ARGS, Chooser, Entry, check_entries, lookup
from wcgc._messages import TO_MATCH, listed, written
from wcgc._paths import Key, flatten, is_empty, path_of, shown
from wcgc._vouch import vouched

Rule: TypeAlias = tuple[str, LeafAxes]

OTHERWISE = dataclasses.replace(AXES, name="otherwise")

UNMATCHED = Entry(LeftAlone("no rule matches"))


@dataclasses.dataclass(frozen=True, repr=False)
class ByPath(Chooser):
    """An `axes` argument that chooses by path. It is what `by_path` makes.

    Attributes:
      rules: pairs of a regular expression and the axes of the leaves it matches.
      otherwise: the axes of the leaves that no rule matches.
    """

    rules: tuple[Rule, ...]
    # A tree of axes has no hash. That two values share one does no harm.
    otherwise: Axes | None = dataclasses.field(default=None, hash=False)

    def __repr__(self) -> str:
        otherwise = "" if self.otherwise is None else f", otherwise={self.otherwise!r}"
        return f"by_path({', '.join(map(repr, self.rules))}{otherwise})"

    def __call__(self, tree: Any) -> Any:
        """The axes of each leaf, in a tree of the structure of `tree`."""
        leaves, treedef = flatten(tree)
        choices = self._choices(tree, leaves)
        return treedef.unflatten(choices[key].value for key, _ in leaves)

    def entries(self, tree: Any, leaves: list[tuple[Key, Any]]) -> dict[Key, Entry]:
        """The entry of each leaf, with a reason for those that no rule matches."""
        return {
            key: UNMATCHED if entry.value is None and self._first(path_of(key)) is None else entry
            for key, entry in self._choices(tree, leaves).items()
        }

    def idle_rules(
        self, paths: Sequence[str], taken: Sequence[str] = ()
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The patterns that match no path, and those that match only what earlier ones took.

        Of the rules in `otherwise`, too, if it is such a value.
        """
        first = {path: self._first(path) for path in paths}
        unmatched: list[str] = []
        overruled: list[str] = []
        for n, (pattern, _) in enumerate(self.rules):
            if n not in first.values():
                is_late = any(re.search(pattern, path) for path in (*paths, *taken))
                (overruled if is_late else unmatched).append(pattern)
        if isinstance(self.otherwise, ByPath):
            free = [path for path in paths if first[path] is None]
            gone = [path for path in paths if first[path] is not None]
            more, later = self.otherwise.idle_rules(free, [*taken, *gone])
            unmatched += more
            overruled += later
        return tuple(unmatched), tuple(overruled)

    def _first(self, path: str) -> int | None:
        return next((n for n, (rule, _) in enumerate(self.rules) if re.search(rule, path)), None)

    def _choices(self, tree: Any, leaves: list[tuple[Key, Any]]) -> dict[Key, Entry]:
        if len(leaves) == 1 and leaves[0][0] == () and _may_count_steps(leaves[0][1]):
            raise TypeError(
                f"{self} was given a whole number in place of parameters. {STATIC_ARGS}"
            )
        firsts = {key: self._first(path_of(key)) for key, leaf in leaves if not is_empty(leaf)}
        others = {key: leaf for key, leaf in leaves if firsts.get(key) is None}
        choices = {key: NO_ENTRY for key, _ in leaves}
        if self.otherwise is not None:
            # They may be a tree for the whole of `tree`.
            found = vouched(tree, leaves, lookup(OTHERWISE, self.otherwise, tree, leaves))
            choices |= {key: found[key] for key, leaf in others.items() if not is_empty(leaf)}
        choices |= {key: Entry(self.rules[n][1]) for key, n in firsts.items() if n is not None}
        if firsts and not any(_selects(entry.value) for entry in choices.values()):
            patterns = ", ".join(repr(pattern) for pattern, _ in self.rules)
            paths = (shown(path_of(key)) for key in firsts)
            raise ValueError(
                f"by_path({patterns}) selects none of the paths: "
                f"{listed(dict.fromkeys(paths), most=TO_MATCH)}. "
                "Mend the patterns, or use a mask to leave the whole tree alone."
            )
        return choices


def by_path(*rules: Rule, otherwise: Axes | None = None) -> ByPath:
    r"""Makes an `axes` argument that chooses each leaf's axes by its path.

    A path is written `encoder/conv1/kernel`: dictionary keys, attributes and list indices joined by
    slashes. It is the same for Flax NNX states and modules, Linen and Haiku dictionaries and
    Equinox modules, boxed and NNX variables or what they hold, at `init` and at `update`. Each
    pattern is searched for anywhere in the path, as by `re.search`; the first that matches decides.
    `explain` names the rules that match nothing.

    Args:
      *rules: pairs of a regular expression and the axes of the leaves it matches: a `KernelAxes`,
        or a `LeftAlone` or None to leave those alone.
      otherwise: the axes of the leaves that no rule matches: whatever `axes` may be, such as a
        layout, a tree of axes read off the model, or other rules. None leaves those leaves alone.

    Returns:
      A callable from a tree of parameters to a tree of axes of the same structure. It is a value:
      frozen, hashable, equal to another of the same rules, and printed as it is made. It raises a
      ValueError that lists paths there are if none of them is selected.

    Raises:
      TypeError: a rule is not such a pair, or `otherwise` holds something else than axes.
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
      >>> wcgc.by_path(("head/", wcgc.LeftAlone("the paper leaves it")), otherwise=wcgc.FLAX)
      by_path(('head/', LeftAlone(reason='the paper leaves it')),
              otherwise=KernelAxes(in_axis=-2, out_axis=-1, batch_axis=()))
    """
    if not rules:
        raise ValueError("by_path needs at least one (pattern, KernelAxes or None) rule.")
    for rule in rules:
        if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)):
            raise TypeError(f"A rule is a pair (pattern, KernelAxes or None), got {written(rule)}.")
        pattern, axes = rule
        if not isinstance(axes, AXES.types):
            raise TypeError(
                f"The rule for {pattern!r} must give a KernelAxes or None, got {written(axes)}."
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from error
    check_entries(OTHERWISE, otherwise)
    return ByPath(rules, otherwise)


def _selects(axes: LeafAxes) -> bool:
    return isinstance(axes, KernelAxes | MuonDimensionNumbers)


def _may_count_steps(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array):
        return leaf.ndim == 0 and jnp.issubdtype(leaf.dtype, jnp.integer)
    return isinstance(leaf, int)
