"""The command line: python -m examples.study --help."""

import dataclasses
from pathlib import Path

import tyro

from examples.engine import runner
from examples.study import report
from examples.study.blocks import BLOCKS


@dataclasses.dataclass(frozen=True)
class Run:
    """Train blocks of runs. Runs that are done are skipped, killed ones go on where they were."""

    blocks: tyro.conf.Positional[tuple[str, ...]]
    """The questions, one after the other: A, B, E-rates, E, F, C-rates, C. See blocks.py."""
    data_dir: Path = Path.home() / ".cache" / "wcgc"
    """Folder with the official archives of the data sets, or with what they unpack to."""
    out: Path = Path("runs") / "study"
    """Folder for the results, a JSON-lines file for each block, and for checkpoints."""
    jobs: int | None = None
    """Train so many runs at once, each in a process of its own on its share of the cores; by itself
    one for each core of a CPU, and one on an accelerator."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""

    def __call__(self) -> None:
        """Does it."""
        if wrong := [name for name in self.blocks if name not in BLOCKS]:
            raise ValueError(f"The blocks are {', '.join(BLOCKS)}, got {', '.join(wrong)}.")
        for block in map(BLOCKS.__getitem__, self.blocks):
            unfinished = runner.run(
                block.settings(self.out),
                range(block.seeds),
                runner.Places(self.data_dir, self.out),
                "examples.study",
                checkpoint_every=self.checkpoint_every,
                processes=self.jobs,
            )
            if text := str(unfinished):
                raise SystemExit(text)


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
        {"run": Run, "report": Report}, prog="python -m examples.study"
    )
    try:
        command()
    except (OSError, ValueError) as error:
        raise SystemExit(f"examples.study: {error}") from error


if __name__ == "__main__":
    main()
