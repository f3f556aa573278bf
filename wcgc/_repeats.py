"""Repeated layers in one row: what differs in nothing but the numbers in its path."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wcgc._explain import LeafPlan

NUMBER = re.compile(r"(\d+)")


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Leaves for which the same is planned.

    Attributes:
      path: their path, with a star for each number that differs.
      plan: the plan of the first of them.
      count: how many they are.
    """

    path: str
    plan: "LeafPlan"
    count: int = 1


def once_each(plans: Sequence["LeafPlan"]) -> list[Repeat]:
    """Each leaf on its own."""
    return [Repeat(plan.path, plan) for plan in plans]


def collected(plans: Sequence["LeafPlan"]) -> list[Repeat]:
    """Repeated layers together, in the order of the first of each."""
    alike: dict[object, list[LeafPlan]] = {}
    for plan in plans:
        key = dataclasses.replace(plan, path=NUMBER.sub("*", plan.path))
        alike.setdefault(key, []).append(plan)
    return [
        Repeat(_starred([plan.path for plan in same]), same[0], len(same))
        for same in alike.values()
    ]


def _starred(paths: Sequence[str]) -> str:
    pieces = zip(*map(NUMBER.split, paths), strict=True)
    return "".join(same[0] if len(set(same)) == 1 else "*" for same in pieces)
