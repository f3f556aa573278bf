"""The questions as data: for each block its settings and seeds."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from examples.engine import results
from examples.study import characters
from examples.study.factors import Arm, file_of
from examples.study.settings import Norm, Optimizer, Setting

AnySetting = Setting | characters.Setting

ARMS: tuple[Arm, ...] = get_args(Arm)
BOTH: tuple[Arm, ...] = ("plain", "WC+GC")

RATES = (1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2)
"""Adam's, half a decade apart, the paper's in the middle."""

SGD_RATES = (1e-1, 10**-1.5, 1e-2)
"""The paper's for CIFAR-100, and lower ones."""

TRAINS = 5.0
"""Percent of CIFAR-100's held-out images after one epoch, of which chance gives one, from which on
a network counts as trained."""

OPTIMIZER_RATES: dict[Optimizer, tuple[float, ...]] = {
    "sgd": (10**-2.5, 1e-2, 10**-1.5),
    "adam": (10**-3.5, 1e-3, 10**-2.5),
    "lion": (10**-4.5, 1e-4, 10**-3.5),
    "muon": (10**-2.5, 1e-2, 10**-1.5),
}


TEXT_RATES = (10**-3.5, 1e-3, 10**-2.5)
"""AdamW's, for the transformer."""


@dataclasses.dataclass(frozen=True)
class Block:
    """One question, or a sweep that chooses learning rates for one.

    Attributes:
      name: for the command line and files.
      question: in words.
      seeds: how many, from 0.
      settings: made from the folder with the results, since some depend on those of other blocks.
      kind: of the settings.
    """

    name: str
    question: str
    seeds: int
    settings: Callable[[Path], Sequence[AnySetting]]
    kind: type[AnySetting] = Setting


def a_rates(out: Path) -> list[Setting]:
    """The arms over learning rates."""
    del out
    return [
        Setting("A", arm, learning_rate=rate, epochs=2, held_out=True)
        for rate in RATES
        for arm in ARMS
    ]


def b_gains(out: Path) -> list[Setting]:
    """The arms, each at its best learning rate of A."""
    return [Setting("B", arm, learning_rate=best_rate(out, "A", arm=arm), epochs=8) for arm in ARMS]


def c_sweep(out: Path) -> list[Setting]:
    """Three learning rates for each optimizer, norm and arm."""
    del out
    return [
        Setting("C-rates", arm, norm=norm, optimizer=optimizer, learning_rate=rate, held_out=True)
        for optimizer, rates in OPTIMIZER_RATES.items()
        for norm in get_args(Norm)
        for arm in BOTH
        for rate in rates
    ]


def c_companions(out: Path) -> list[Setting]:
    """Optimizers and norms, with and without, each at its best learning rate of the sweep."""
    return [
        Setting(
            "C",
            arm,
            norm=norm,
            optimizer=optimizer,
            learning_rate=best_rate(out, "C-rates", arm=arm, norm=norm, optimizer=optimizer),
        )
        for optimizer in OPTIMIZER_RATES
        for norm in get_args(Norm)
        for arm in BOTH
    ]


def e_sweep(out: Path) -> list[Setting]:
    """The plain network at the paper's SGD, and at lower learning rates."""
    del out
    return [
        Setting("E-rates", "plain", learning_rate=rate, held_out=True, **E_FACTORS)
        for rate in SGD_RATES
    ]


def e_equality(out: Path) -> list[Setting]:
    """The arms from centred weights, under SGD."""
    rate = largest_rate_that_trains(out)
    return [Setting("E", arm, learning_rate=rate, epochs=3, **E_FACTORS) for arm in ARMS]


E_FACTORS: dict = {"network": "c", "dataset": "CIFAR100", "optimizer": "sgd", "centred": True}


def f_controls(out: Path) -> list[Setting]:
    """What is removed, and where, at the learning rate that is best for WC+GC."""
    rate = best_rate(out, "A", arm="WC+GC")
    varied: list[dict] = [
        {"arm": "plain"},
        {"arm": "plain", "centred": True},
        {"arm": "WC+GC"},
        {"arm": "WC+GC", "removed": "random"},
        {"arm": "WC+GC", "removed": "top"},
        {"arm": "WC+GC", "removed": "half"},
        {"arm": "WC+GC", "layers": "first"},
        {"arm": "WC+GC", "layers": "others"},
        {"arm": "plain", "removed": "input"},
    ]
    return [Setting("F", learning_rate=rate, **factors) for factors in varied]


G_ARMS: tuple[dict, ...] = (
    {"arm": "plain", "kernels": "all"},
    {"arm": "WC+GC", "kernels": "all"},
    {"arm": "WC+GC", "kernels": "second"},
)


def g_sweep(out: Path) -> list[characters.Setting]:
    """Three learning rates for each arm of the transformer."""
    del out
    return [
        characters.Setting("G-rates", learning_rate=rate, held_out=True, **factors)
        for factors in G_ARMS
        for rate in TEXT_RATES
    ]


def g_transformer(out: Path) -> list[characters.Setting]:
    """The arms of the transformer, each at its best learning rate of the sweep."""
    return [
        characters.Setting(
            "G", learning_rate=best_rate(out, "G-rates", **factors), epochs=4, **factors
        )
        for factors in G_ARMS
    ]


def setting_of(record: results.Record) -> AnySetting:
    """The setting of a run that has been made."""
    factors = record["run"]["setting"]
    return BLOCKS[factors["block"]].kind(**factors)


def accuracies(out: Path, block: str) -> dict[AnySetting, dict[int, float]]:
    """What a block's runs reached, in percent, by setting and seed.

    A run that ended in NaN got nothing right.
    """
    found: dict[AnySetting, dict[int, float]] = {}
    for record in results.read(out / file_of(block)):
        of_setting = found.setdefault(setting_of(record), {})
        of_setting[record["run"]["seed"]] = record["accuracy"] or 0.0
    return found


def sweep(out: Path, block: str, **factors: str) -> dict[float, float]:
    """The mean accuracy over the seeds for each learning rate of the settings with these factors.

    Raises:
      ValueError: a run is missing.
    """
    reached = accuracies(out, block)
    means = {}
    for setting in BLOCKS[block].settings(out):
        if all(getattr(setting, name) == value for name, value in factors.items()):
            of_setting = reached.get(setting, {})
            if len(of_setting) < BLOCKS[block].seeds:
                raise ValueError(
                    f"Block {block} chooses the learning rate for {', '.join(factors.values())}, "
                    f"and {setting.name} is not complete in {out}: run it first."
                )
            means[setting.learning_rate] = statistics.fmean(of_setting.values())
    return means


def best_rate(out: Path, block: str, **factors: str) -> float:
    """The learning rate of a sweep with the highest mean accuracy on the images set aside."""
    means = sweep(out, block, **factors)
    return max(means, key=lambda rate: means[rate])


def largest_rate_that_trains(out: Path) -> float:
    """The paper's learning rate for SGD, or the next lower one that trains.

    Raises:
      ValueError: a run is missing, or no learning rate trains.
    """
    means = sweep(out, "E-rates", arm="plain")
    trained = [rate for rate, accuracy in means.items() if accuracy >= TRAINS]
    if not trained:
        raise ValueError(f"None of E's learning rates reached {TRAINS} %: {means}.")
    return max(trained)


BLOCKS = {
    block.name: block
    for block in (
        Block("A", "Is it the learning rate?", 3, a_rates),
        Block("B", "How much does each gain, and both together?", 16, b_gains),
        Block("E-rates", "Which learning rate trains under SGD?", 1, e_sweep),
        Block("E", "Are GC and WC one method under SGD?", 3, e_equality),
        Block("F", "Why?", 8, f_controls),
        Block("C-rates", "Which learning rate for which optimizer and norm?", 1, c_sweep),
        Block("C", "With what does it gain?", 6, c_companions),
        Block("G-rates", "Which learning rate for it?", 1, g_sweep, characters.Setting),
        Block("G", "Does a transformer gain?", 5, g_transformer, characters.Setting),
    )
}
"""In the order in which they are run."""
