"""The questions as data: for each block its settings and seeds."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from examples.engine import results
from examples.study.settings import Arm, Setting, file_of, setting_of

ARMS: tuple[Arm, ...] = get_args(Arm)

RATES = (1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2)
"""Adam's, half a decade apart, the paper's in the middle."""


@dataclasses.dataclass(frozen=True)
class Block:
    """One question.

    Attributes:
      letter: its name.
      question: in words.
      seeds: how many, from 0.
      settings: made from the folder with the results, since some depend on those of other blocks.
    """

    letter: str
    question: str
    seeds: int
    settings: Callable[[Path], Sequence[Setting]]


def rates(out: Path) -> list[Setting]:
    """A: the arms over learning rates."""
    del out
    return [
        Setting("A", arm, learning_rate=rate, epochs=2, held_out=True)
        for rate in RATES
        for arm in ARMS
    ]


def gains(out: Path) -> list[Setting]:
    """B: the arms, each at its best learning rate of A."""
    return [Setting("B", arm, learning_rate=best_rate(out, arm), epochs=8) for arm in ARMS]


def best_rate(out: Path, arm: Arm) -> float:
    """The learning rate of A with the highest mean accuracy on the images set aside.

    Raises:
      ValueError: A is not complete.
    """
    records = results.read(out / file_of("A"))
    found: dict[float, list[float]] = {}
    for record in records:
        setting = setting_of(record)
        if setting.arm == arm:
            # A run that ended in NaN got nothing right.
            found.setdefault(setting.learning_rate, []).append(record["accuracy"] or 0.0)
    wanted = dict.fromkeys(RATES, BLOCKS["A"].seeds)
    if {rate: len(values) for rate, values in found.items()} != wanted:
        raise ValueError(
            f"The learning rate of {arm} is chosen by block A, which is not complete in {out}: "
            "run it first."
        )
    return max(found, key=lambda rate: statistics.fmean(found[rate]))


BLOCKS = {
    block.letter: block
    for block in (
        Block("A", "Is it the learning rate?", 3, rates),
        Block("B", "How much does each gain, and both together?", 16, gains),
    )
}
