"""Repeated layers in one row: what differs in nothing but the numbers in its path."""

import dataclasses
import re
from collections.abc import Hashable, Sequence

NUMBER = re.compile(r"(\d+)")


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Leaves of which the same is to be told.

    Attributes:
      path: their path, with a star for each number that differs.
      first: which leaf is the first of them.
      count: how many they are.
    """

    path: str
    first: int
    count: int = 1


def once_each(paths: Sequence[str]) -> list[Repeat]:
    """Each leaf on its own."""
    return [Repeat(path, n) for n, path in enumerate(paths)]


def collected(paths: Sequence[str], told: Sequence[Hashable]) -> list[Repeat]:
    """Repeated layers together, in the order of the first of each.

    Args:
      paths: of the leaves.
      told: what is to be told of each beside its path.
    """
    alike: dict[object, list[int]] = {}
    for n, (path, what) in enumerate(zip(paths, told, strict=True)):
        alike.setdefault((NUMBER.sub("*", path), what), []).append(n)
    return [
        Repeat(_starred([paths[n] for n in same]), same[0], len(same)) for same in alike.values()
    ]


def _starred(paths: Sequence[str]) -> str:
    pieces = zip(*map(NUMBER.split, paths), strict=True)
    return "".join(same[0] if len(set(same)) == 1 else "*" for same in pieces)
