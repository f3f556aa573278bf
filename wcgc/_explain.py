"""What centralization will do to each leaf of a tree, as a table and as data."""

import dataclasses
import math
from typing import Any, Literal

from wcgc._axes import AREAS, FLAX, Area
from wcgc._by_path import ByPath
from wcgc._lookup import Axes, Mask
from wcgc._paths import is_empty, path_of
from wcgc._repeats import Repeat, collected, once_each
from wcgc._selection import Leaf, select
from wcgc._table import Row, Table

Detail = Literal["all", "axes and roles", "roles"]

WIDTH = 80
"""The columns of a table as text."""

ROWS = 60
"""How many rows a table may have before repeated layers share one."""

DETAILS: tuple[Detail, ...] = ("all", "axes and roles", "roles")
"""What the rows tell, most of it first: less where that would not fit."""


def title(area: Area) -> str:
    """What stands above a table about an area."""
    return f'area "{area}": one mean per {AREAS[area].one_per}'


@dataclasses.dataclass(frozen=True)
class LeafPlan:
    """What centralization does to one leaf.

    Attributes:
      path: the leaf's path, as `by_path` sees it; empty if the tree is a single array.
      shape: the leaf's shape; None if it has none.
      size: how many elements it has; 0 if it has no shape.
      averaged: the axes that each mean is taken over; None if the leaf is left alone.
      roles: what each axis is, "in", "out", "batch" or "spatial"; empty if the leaf is left alone.
      slices: how many means are taken; 0 if the leaf is left alone.
      slice_size: how many elements each mean is taken over; 0 if the leaf is left alone.
      reason: why the leaf is left alone; empty if it is not.
    """

    path: str
    shape: tuple[int, ...] | None
    size: int
    averaged: tuple[int, ...] | None
    roles: tuple[str, ...]
    slices: int
    slice_size: int
    reason: str


@dataclasses.dataclass(frozen=True, repr=False)
class Explanation:
    """What centralization does to a tree, leaf by leaf. It prints as a table.

    Attributes:
      area: what one mean is taken over.
      rows: one `LeafPlan` per leaf, in the order of the tree.
      unmatched: the patterns of `by_path` that match no leaf.
      overruled: those that match only leaves which earlier rules took.
      full: whether the table has a row for each leaf, however many there are.
      only_centralized: whether the table leaves out what is left alone.
    """

    area: Area
    rows: tuple[LeafPlan, ...]
    unmatched: tuple[str, ...] = ()
    overruled: tuple[str, ...] = ()
    full: bool = False
    only_centralized: bool = False

    @property
    def centralized(self) -> int:
        """How many elements lie in the leaves that are centralized."""
        return sum(row.size for row in self.rows if row.averaged is not None)

    @property
    def total(self) -> int:
        """How many elements all leaves have."""
        return sum(row.size for row in self.rows)

    def __repr__(self) -> str:
        return self._table(WIDTH).plain()

    def __rich_console__(self, console: Any, options: Any) -> Any:
        # A narrower terminal folds what fits the usual width.
        yield self._table(max(options.max_width, WIDTH)).rich()

    def _repr_html_(self) -> str:
        return self._table(None).html()

    def _table(self, width: int | None) -> Table:
        shown = [row for row in self.rows if row.averaged is not None or not self.only_centralized]
        repeats = once_each(shown) if self.full or len(shown) <= ROWS else collected(shown)
        tables = [
            self._table_of([_line(repeat, detail) for repeat in repeats]) for detail in DETAILS
        ]
        if width is None:
            return tables[0]
        fitting = (table for table in tables if table.width <= width)
        return next(fitting, tables[-1].elided(width))

    def _table_of(self, rows: list[Row]) -> Table:
        chosen = [row for row in self.rows if row.averaged is not None]
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
            title=title(self.area),
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
      one for each leaf.

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
    plans = tuple(map(_plan, leaves))
    return Explanation(area, plans, unmatched, overruled, full, only_centralized)


def _plan(leaf: Leaf) -> LeafPlan:
    path = path_of(leaf.key)
    shape = getattr(leaf.value, "shape", None)
    size = 0 if shape is None else math.prod(shape)
    if shape is None or leaf.axes is None or leaf.kernel_axes is None:
        return LeafPlan(path, shape, size, None, (), 0, 0, leaf.reason)
    names = ("in", "out", "batch", "spatial")
    role_of = {
        axis: name
        for name, axes in zip(names, leaf.kernel_axes.resolve(len(shape)), strict=True)
        for axis in axes
    }
    roles = tuple(role_of[axis] for axis in range(len(shape)))
    slice_size = math.prod(shape[axis] for axis in leaf.axes)
    return LeafPlan(path, shape, size, leaf.axes, roles, size // slice_size, slice_size, "")


def _line(repeat: Repeat, detail: Detail) -> Row:
    row = repeat.plan
    path = repeat.path or "(the array)"
    if repeat.count > 1:
        path += f" x{repeat.count}"
    shape = "" if row.shape is None else str(row.shape)
    if row.averaged is None:
        verdict = "left alone" if detail == "all" else "none"
        return Row((path, shape, f"{verdict}: {row.reason}", "", ""), muted=True)
    roles = [row.roles[axis] for axis in row.averaged]
    names = ", ".join(roles if detail == "all" else dict.fromkeys(roles))
    axes = ", ".join(map(str, row.averaged))
    over = names if detail == "roles" else f"({axes}) = {names}"
    return Row((path, shape, over, f"{row.slices:,}", f"{row.slice_size:,}"))
