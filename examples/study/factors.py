"""What all settings of the study have in common: names, files, and what decides a run."""

import dataclasses
from typing import Literal

from examples.engine import results

Arm = Literal["plain", "GC", "WC", "WC+GC"]


@dataclasses.dataclass(frozen=True)
class Factors:
    """What decides a run, its seed apart. Further factors have defaults.

    Attributes:
      block: the question that it belongs to.
      arm: where something is removed: nowhere, from gradients, from weights, or from both.
    """

    block: str
    arm: Arm

    @property
    def label(self) -> str:
        """For names of files."""
        return self.block

    @property
    def file(self) -> str:
        """A file for each block."""
        return file_of(self.block)

    @property
    def test_every(self) -> int:
        """Epochs from one test to the next."""
        return 1

    @property
    def constants(self) -> results.Record:
        """What is the same in all settings and decides a result all the same."""
        raise NotImplementedError

    @property
    def begins_as(self) -> tuple:
        """What settings have in common whose runs of one seed begin with the same weights."""
        return ()

    def identity(self, seed: int) -> results.Record:
        """What decides a run's result: the factors, the seed, and the constants.

        A factor at its default is left out, so that a factor that is added later does not tell
        older runs apart.
        """
        return {
            "setting": {
                factor.name: value
                for factor in dataclasses.fields(self)
                if (value := getattr(self, factor.name)) != factor.default
            },
            "seed": seed,
            **self.constants,
        }

    def remarks(self) -> results.Record:
        """Nothing besides."""
        return {}


def file_of(block: str) -> str:
    """The name of the file with a block's results."""
    return f"{block}.jsonl"
