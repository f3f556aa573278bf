"""From a row of a table, with what is chosen beside it, to an experiment of the engine."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from examples.engine import results, tasks
from examples.engine.data import Data, load
from examples.engine.engine import Experiment
from examples.engine.voc import SplitName
from examples.paper import methods, recipes
from examples.paper.rows import Row, Table

TEST_EVERY = {"CIFAR10": 1, "CIFAR100": 1, "VOC2012": 10}
"""Epochs from one test to the next: a test on VOC2012 costs more than an epoch of training."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is chosen beside the row; it decides the result, together with row and seed.

    Attributes:
      epochs: how many; None for the paper's.
      limit: use so many training and so many test images only; None for all.
      split: of VOC2012.
      drops: when the learning rate falls; see `recipes.learning_rate`.
      norm: what stands for batch normalization in the rows that have it.
      stem: the beginning of network (b).
    """

    epochs: int | None = None
    limit: int | None = None
    split: SplitName = "official"
    drops: recipes.Drops = "paper"
    norm: methods.Norm = "batch"
    stem: methods.Stem = "stride1"

    def epochs_of(self, row: Row) -> int:
        """How many epochs a row is trained."""
        return row.recipe.epochs if self.epochs is None else self.epochs


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row and what is chosen beside it, as `runner.Setting`."""

    row: Row
    options: Options

    @property
    def name(self) -> str:
        """Table, row and method."""
        return self.row.name

    @property
    def label(self) -> str:
        """Table and row, for names of files."""
        return f"{self.row.table}-{self.row.number}"

    @property
    def file(self) -> str:
        """A file for each table."""
        return file_of(self.row.table)

    @property
    def test_every(self) -> int:
        """Epochs from one test to the next."""
        return TEST_EVERY[self.row.dataset]

    @property
    def epochs(self) -> int:
        """Passes over the training images."""
        return self.options.epochs_of(self.row)

    def identity(self, seed: int) -> results.Record:
        """What decides a run's result."""
        return identity(self.row, seed, self.options)

    def experiment(self, data: Data) -> Experiment:
        """What the engine trains."""
        del data
        return experiment(self.row, self.options)

    def load(self, data_dir: Path) -> Data:
        """Reads the row's data set."""
        return load(self.row.dataset, data_dir, self.options.split, self.options.limit)

    def remarks(self) -> results.Record:
        """The paper's accuracy, in percent."""
        return {"paper": self.row.paper}


def settings(rows: Sequence[Row], options: Options) -> list[Setting]:
    """One for each row."""
    return [Setting(row, options) for row in rows]


def file_of(table: Table) -> str:
    """The name of the file with a table's results."""
    return f"table_{table}.jsonl"


def experiment(row: Row, options: Options) -> Experiment:
    """What the engine trains for a row."""

    def build(rngs: nnx.Rngs) -> nnx.Module:
        return methods.build(row, row.recipe.classes, rngs, norm=options.norm, stem=options.stem)

    def optimizer(steps: int) -> Any:
        schedule = recipes.learning_rate(row.recipe, steps, options.drops)
        return methods.around(row, recipes.optimizer(row.recipe, schedule))

    return Experiment(
        build=build,
        project=functools.partial(methods.project, row),
        optimizer=optimizer,
        task=tasks.TASKS[row.dataset],
        batch_size=row.recipe.batch_size,
        epochs=options.epochs_of(row),
    )


def identity(row: Row, seed: int, options: Options) -> results.Record:
    """What decides a run's result, and so tells whether it has been made already."""
    recipe = dataclasses.asdict(row.recipe)
    chosen = dataclasses.asdict(options)
    del recipe["epochs"], chosen["epochs"]
    # What has no part in a row shall not tell its runs apart.
    if row.dataset != "VOC2012":
        del chosen["split"]
    if not row.batch_norm:
        del chosen["norm"]
    if row.model != "b":
        del chosen["stem"]
    described = dataclasses.asdict(row)
    del described["paper"]
    return {
        "row": described,
        "seed": seed,
        "epochs": options.epochs_of(row),
        "options": chosen,
        "recipe": recipe,
    }
