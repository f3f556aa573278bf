"""What centralization will do to each leaf of a tree, as a table and as data."""

import dataclasses
import math
import warnings
from typing import Any, Literal

from wcgc._annotations import Axes, Mask
from wcgc._axes import FLAX, Area, Shape
from wcgc._by_path import ByPath
from wcgc._paths import is_empty, path_of, shown
from wcgc._repeats import Repeat, collected, once_each
from wcgc._report import Report, by_paths
from wcgc._selection import Leaf, select
from wcgc._table import Row, Table

Detail = Literal["all", "axes and roles", "roles"]

ROWS = 60
"""How many rows a table may have before repeated layers share one."""

DETAILS: tuple[Detail, ...] = ("all", "axes and roles", "roles")
"""What the rows tell, most of it first: less where that would not fit."""


@dataclasses.dataclass(frozen=True)
class LeafExplanation:
    """What centralization does to one leaf, as `explain` says it.

    Attributes:
      path: the leaf's path, as `by_path` sees it; empty if the tree is a single array.
      shape: the leaf's shape; None if it has none.
      size: how many elements it has; 0 if it has no shape.
      slice_axes: the axes that each mean is taken over; None if the leaf is left alone.
      roles: what each axis is, "in", "out", "batch" or "spatial"; empty if the leaf is left alone.
      slices: how many means are taken; 0 if the leaf is left alone.
      slice_size: how many elements each mean is taken over; 0 if the leaf is left alone.
      reason: why the leaf is left alone; empty if it is not.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> leaf = wcgc.explain({"conv": jnp.ones((3, 3, 8, 16))}).leaves["conv"]
      >>> leaf.slice_axes, leaf.slices, leaf.slice_size
      ((0, 1, 2), 16, 72)
    """

    path: str
    shape: Shape | None
    size: int
    slice_axes: tuple[int, ...] | None
    roles: tuple[str, ...]
    slices: int
    slice_size: int
    reason: str

    @property
    def averaged(self) -> tuple[int, ...] | None:
        """Deprecated: `slice_axes`."""
        warnings.warn("averaged is deprecated: use slice_axes.", DeprecationWarning, stacklevel=2)
        return self.slice_axes


@dataclasses.dataclass(frozen=True, repr=False)
class Explanation(Report):
    """What centralization does to a tree, leaf by leaf: what `explain` returns.

    It prints as a table.

    Attributes:
      area: what one mean is taken over.
      rows: one `LeafExplanation` per leaf, in the order of the tree.
      unmatched: the patterns of `by_path` that match no leaf.
      overruled: those that match only leaves which earlier rules took.
      full: whether the table has a row for each leaf, however many there are.
      only_centralized: whether the table leaves out what is left alone.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> explanation = wcgc.explain({"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)})
      >>> explanation.centralized, explanation.total
      (8, 10)
      >>> explanation.leaves["bias"].reason
      'fewer than two axes'
    """

    rows: tuple[LeafExplanation, ...]
    unmatched: tuple[str, ...] = ()
    overruled: tuple[str, ...] = ()
    full: bool = False
    only_centralized: bool = False

    @property
    def leaves(self) -> dict[str, LeafExplanation]:
        """The rows by their paths.

        Raises:
          ValueError: two leaves have the same path.
        """
        return by_paths((row.path, row) for row in self.rows)

    @property
    def centralized(self) -> int:
        """How many elements lie in the leaves that are centralized."""
        return sum(row.size for row in self._chosen())

    @property
    def total(self) -> int:
        """How many elements all leaves have."""
        return sum(row.size for row in self.rows)

    def _chosen(self) -> list[LeafExplanation]:
        return [row for row in self.rows if row.slice_axes is not None]

    def _table(self, width: int | None) -> Table:
        shown = self._chosen() if self.only_centralized else self.rows
        paths = [row.path for row in shown]
        if self.full or len(shown) <= ROWS:
            repeats = once_each(paths)
        else:
            repeats = collected(paths, [dataclasses.replace(row, path="") for row in shown])
        tables = [
            self._table_of([_line(repeat, shown[repeat.first], detail) for repeat in repeats])
            for detail in DETAILS
        ]
        if width is None:
            return tables[0]
        fitting = (table for table in tables if table.width <= width)
        return next(fitting, tables[-1].elided(width))

    def _table_of(self, rows: list[Row]) -> Table:
        chosen = self._chosen()
        share = 100 * self.centralized / self.total if self.total else 0.0
        summary = (
            f"{self.centralized:,} of {self.total:,} parameters ({share:.1f} %) in "
            f"{len(chosen)} of {len(self.rows)} leaves are centralized, with "
            f"{sum(row.slices for row in chosen):,} means."
        )
        for which, patterns in (
            ("nothing", self.unmatched),
            ("only what earlier ones took", self.overruled),
        ):
            if patterns:
                summary += f"\nRules that match {which}: {', '.join(map(repr, patterns))}."
        return Table(
            title=self._title,
            headings=("leaf", "shape", "averaged over", "slices", "of size"),
            right=frozenset({3, 4}),
            rows=tuple(rows),
            summary=summary,
        )


def explain(
    params: Any,
    area: Area = "tensor",
    *,
    axes: Axes = FLAX,
    mask: Mask = None,
    full: bool = False,
    only_centralized: bool = False,
) -> Explanation:
    """Shows what centralization would do to each leaf, or why it would leave it alone.

    In a table of more than 60 rows, leaves that differ in nothing but the numbers in their paths
    share one: `layers/*/kernel x12`. Printed as text it has at most 80 columns unless shapes are
    very long; a notebook and `rich.print` show more. It also names the rules of `by_path` that
    match nothing.

    Args:
      params: arrays, or anything with a shape and a dtype such as `jax.ShapeDtypeStruct`, in any
        containers.
      area: what one mean is taken over; see `centralize`.
      axes: which axis is what; see `centralize`.
      mask: which leaves to touch; see `centralize`.
      full: give each leaf a row of the table, however many there are.
      only_centralized: leave out of the table what is left alone.

    Returns:
      A table that prints in a terminal and renders in a notebook. Its `rows` are the same as data,
      one for each leaf, and its `leaves` the same by path.

    Raises:
      TypeError: as `centralize`.
      ValueError: as `centralize`.

    Example:
      >>> import jax, jax.numpy as jnp, wcgc
      >>> params = {"conv": {"kernel": jnp.ones((3, 3, 8, 16)), "bias": jnp.ones(16)},
      ...           "gate": {"kernel": jnp.ones((1, 4))}}
      >>> wcgc.explain(params)
      area "tensor": one mean per output filter
      <BLANKLINE>
      leaf         shape          averaged over                     slices  of size
      -----------  -------------  --------------------------------  ------  -------
      conv/bias    (16,)          left alone: fewer than two axes
      conv/kernel  (3, 3, 8, 16)  (0, 1, 2) = spatial, spatial, in      16       72
      gate/kernel  (1, 4)         left alone: slices of one element
      -----------  -------------  --------------------------------  ------  -------
      1,152 of 1,172 parameters (98.3 %) in 1 of 3 leaves are centralized, with 16 means.
      >>> wcgc.explain(params).rows[1].slice_size
      72
    """
    leaves, _ = select(params, area, axes, mask)
    paths = [path_of(leaf.key) for leaf in leaves if not is_empty(leaf.value)]
    unmatched, overruled = axes.idle_rules(paths) if isinstance(axes, ByPath) else ((), ())
    rows = tuple(map(_explained, leaves))
    return Explanation(area, rows, unmatched, overruled, full, only_centralized)


def _explained(leaf: Leaf) -> LeafExplanation:
    path = path_of(leaf.key)
    shape = getattr(leaf.value, "shape", None)
    size = 0 if shape is None else math.prod(shape)
    if shape is None or leaf.slice_axes is None or leaf.kernel_axes is None:
        return LeafExplanation(path, shape, size, None, (), 0, 0, leaf.reason)
    names = ("in", "out", "batch", "spatial")
    role_of = {
        axis: name
        for name, axes in zip(names, leaf.kernel_axes.resolve(len(shape)), strict=True)
        for axis in axes
    }
    roles = tuple(role_of[axis] for axis in range(len(shape)))
    slice_size = math.prod(shape[axis] for axis in leaf.slice_axes)
    return LeafExplanation(
        path, shape, size, leaf.slice_axes, roles, size // slice_size, slice_size, ""
    )


def _line(repeat: Repeat, row: LeafExplanation, detail: Detail) -> Row:
    path = shown(repeat.path)
    if repeat.count > 1:
        path += f" x{repeat.count}"
    shape = "" if row.shape is None else str(row.shape)
    if row.slice_axes is None:
        verdict = "left alone" if detail == "all" else "none"
        return Row((path, shape, f"{verdict}: {row.reason}", "", ""), muted=True)
    roles = [row.roles[axis] for axis in row.slice_axes]
    names = ", ".join(roles if detail == "all" else dict.fromkeys(roles))
    axes = ", ".join(map(str, row.slice_axes))
    over = names if detail == "roles" else f"({axes}) = {names}"
    return Row((path, shape, over, f"{row.slices:,}", f"{row.slice_size:,}"))
