"""The command line: python -m examples.study --help."""

import dataclasses
import sys
from pathlib import Path

import tyro

from examples.engine import exits, runner
from examples.study import characters, report, trajectories
from examples.study.blocks import BLOCKS, Block


@dataclasses.dataclass(frozen=True)
class Run:
    """Train blocks of runs. Runs that are done are skipped, killed ones go on where they were."""

    blocks: tyro.conf.Positional[tuple[str, ...]]
    """The questions, one after the other: A, B, E-rates, E, F, C-rates, C, G-rates, G. See
    blocks.py."""
    data_dir: Path = Path.home() / ".cache" / "wcgc"
    """Folder with the official archives of the data sets, or with what they unpack to."""
    text: Path | None = None
    """File of the text that G and G-rates train on, in UTF-8."""
    out: Path = Path("runs") / "study"
    """Folder for the results, a JSON-lines file for each block, and for checkpoints."""
    jobs: int | None = None
    """Train so many runs at once, each in a process of its own on its share of the cores; by itself
    one for each core of a CPU, and one on an accelerator."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""

    def __call__(self) -> None:
        """Does it."""
        if not self.blocks:
            raise ValueError(f"Name one block or more of {', '.join(BLOCKS)}.")
        if wrong := [name for name in self.blocks if name not in BLOCKS]:
            raise ValueError(f"The blocks are {', '.join(BLOCKS)}, got {', '.join(wrong)}.")
        for block in map(BLOCKS.__getitem__, self.blocks):
            unfinished = runner.run(
                block.settings(self.out),
                range(block.seeds),
                runner.Places(self._data(block), self.out),
                "examples.study",
                checkpoint_every=self.checkpoint_every,
                processes=self.jobs,
            )
            if text := str(unfinished):
                raise SystemExit(text)

    def _data(self, block: Block) -> Path:
        """Where a block's data are."""
        if block.kind is not characters.Setting:
            return self.data_dir
        if self.text is None:
            raise ValueError(f"{block.name} trains on a text: give its file as --text FILE.")
        return self.text


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """Train E's arms side by side for some steps and record how far apart they come."""

    data_dir: Path = Path.home() / ".cache" / "wcgc"
    """Folder with the official archive of CIFAR-100, or with what it unpacks to."""
    out: Path = Path("runs") / "study"
    """Folder with the results of E-rates; the new ones go there too."""

    def __call__(self) -> None:
        """Does it."""
        command = runner.command("examples.study", sys.argv[1:])
        trajectories.run(self.data_dir, self.out, command)


@dataclasses.dataclass(frozen=True)
class Report:
    """Write report.md and pictures from results, without running anything."""

    out: Path = Path("runs") / "study"
    """Folder with the results; the report goes there too."""

    def __call__(self) -> None:
        """Does it."""
        for path in report.write(self.out):
            print(path)


def main() -> None:
    """Reads the command line and does what it says."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"run": Run, "trajectories": Trajectories, "report": Report},
        prog="python -m examples.study",
    )
    with exits.on("examples.study", OSError, ValueError):
        command()


if __name__ == "__main__":
    main()
