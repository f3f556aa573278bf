"""What `explain` and `measure` return has in common: it is about an area and prints as a table."""

import abc
import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

from wcgc._axes import AREAS, Area
from wcgc._table import Table

T = TypeVar("T")

WIDTH = 80
"""The columns of a table as text."""


@dataclasses.dataclass(frozen=True, repr=False)
class Report(abc.ABC):
    """Prints as a table, as text, by rich and in a notebook.

    Attributes:
      area: what one mean is taken over.
    """

    area: Area

    @property
    def _title(self) -> str:
        """What stands above the table."""
        return f'area "{self.area}": one mean per {AREAS[self.area].one_per}'

    @abc.abstractmethod
    def _table(self, width: int | None) -> Table:
        """The table in so many columns of text, if it can be; None for whatever it takes."""

    def __repr__(self) -> str:
        return self._table(WIDTH).plain()

    def __rich_console__(self, console: Any, options: Any) -> Any:
        # A narrower terminal folds what fits the usual width.
        yield self._table(max(options.max_width, WIDTH)).rich()

    def _repr_html_(self) -> str:
        return self._table(None).html()


def by_paths(leaves: Iterable[tuple[str, T]]) -> dict[str, T]:
    """What is told of each leaf, by its path.

    Raises:
      ValueError: two leaves have the same path.
    """
    found: dict[str, T] = {}
    for path, told in leaves:
        if path in found:
            raise ValueError(f"Two leaves have the path {path!r}; rename one to tell them apart.")
        found[path] = told
    return found
