"""The command line: python -m examples.paper --help."""

import dataclasses
import os
from pathlib import Path

import rich
import rich.table
import tyro

from examples.engine import exits, runner
from examples.engine.voc import SplitName
from examples.paper import estimate, report
from examples.paper.experiments import Options, Setting, settings
from examples.paper.methods import Norm, Stem
from examples.paper.recipes import Drops
from examples.paper.rows import Model, Row, Table, choose

DETERMINISTIC = "xla_gpu_deterministic_ops"


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which rows, and how they are trained."""

    table: tyro.conf.Positional[Table]
    """Table of the paper."""
    model: Model | None = None
    """Only the rows of this network."""
    rows: str | None = None
    """Only these rows: numbers such as 1,3-5, or the method with wildcards such as 'WC*'."""
    seeds: int = 1
    """How many seeds, counted from 0."""
    epochs: int | None = None
    """Passes over the training images; by itself the paper's, 300 for CIFAR and 800 for VOC2012."""
    drops: Drops = "paper"
    """When the learning rate falls tenfold: at the paper's epochs, in a shorter run at the same
    shares of it; or late, at 60 % and 85 %."""
    limit: int | None = None
    """Use the first so many training and test images, for a trial."""
    split: SplitName = "official"
    """Of VOC2012: by the lists train and val, or by custom_train and custom_val."""
    norm: Norm = "batch"
    """What stands for batch normalization in the rows that have it."""
    stem: Stem = "stride1"
    """The beginning of network (b), which the paper leaves open."""
    seeds_at_once: int = 1
    """Train so many seeds of a row side by side; faster where one leaves the device idle."""

    deterministic: bool = True
    """On a GPU: give the same bits each time, a killed run too, at the cost of speed."""

    def chosen(self) -> list[Row]:
        """The rows, at least one."""
        for name, value in dataclasses.asdict(self).items():
            if type(value) is int and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        return choose(self.table, self.model, self.rows)

    def options(self) -> Options:
        """What all of them are trained with."""
        names = [field.name for field in dataclasses.fields(Options)]
        return Options(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class Train(Selection):
    """Train rows of a table. Runs that are done are skipped, killed ones go on where they were."""

    data_dir: Path = Path.home() / ".cache" / "wcgc"
    """Folder with the official archive of the data set, or with what it unpacks to."""
    out: Path = Path("runs") / "paper"
    """Folder for the results, a JSON-lines file for each table, and for checkpoints."""
    checkpoint_every: int = 5
    """Epochs between checkpoints."""
    jobs: int | None = None
    """Train so many runs at once, each in a process of its own on its share of the cores; by itself
    one for each core of a CPU, and one on an accelerator."""

    def __call__(self) -> None:
        """Does it."""
        unfinished = runner.run(
            settings(self.chosen(), self.options()),
            range(self.seeds),
            runner.Places(self.data_dir, self.out),
            "examples.paper",
            seeds_at_once=self.seeds_at_once,
            checkpoint_every=self.checkpoint_every,
            processes=self.jobs,
        )
        if text := str(unfinished):
            raise SystemExit(text)


@dataclasses.dataclass(frozen=True)
class List(Selection):
    """List rows with the time that they will take here, from a step measured on noise."""

    out: Path = Path("runs") / "paper"
    """Folder with results: runs that are done take no time."""
    measure: bool = True
    """Whether to measure. A step of networks (b) and (d) takes minutes on a CPU, compiled first."""

    def __call__(self) -> None:
        """Does it."""
        rows, options, seeds = self.chosen(), self.options(), range(self.seeds)
        places = runner.Places(Path(), self.out)
        table = rich.table.Table("row", "network", "method", "paper", "runs to do", "a run", "all")
        speeds, whole = {}, 0.0
        for row in rows:
            missing = len(runner.missing(places, Setting(row, options), seeds))
            seconds = 0.0
            if self.measure and missing:
                kind = (row.model, row.batch_norm)
                if kind not in speeds:
                    speeds[kind] = estimate.measure(row, options)
                seconds = speeds[kind].of_run(row, options)
                whole += missing * seconds + speeds[kind].compilation
            cells = str(row.number), row.model, row.method, str(row.paper), str(missing)
            times = [seconds, missing * seconds] if self.measure else []
            table.add_row(*cells, *(f"{second / 3600:.2f} h" for second in times))
        rich.print(table)
        if self.measure:
            rich.print(f"{whole / 3600:.2f} hours, compilation included, one seed at a time")


@dataclasses.dataclass(frozen=True)
class Report:
    """Write report.md and pictures from results, without running anything."""

    out: Path = Path("runs") / "paper"
    """Folder with the results; the report goes there too."""
    note: str = ""
    """What to tell about the data, at the top."""

    def __call__(self) -> None:
        """Does it."""
        for path in report.write(self.out, self.note):
            print(path)


def main() -> None:
    """Reads the command line and does what it says."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"table": Train, "list": List, "report": Report}, prog="python -m examples.paper"
    )
    flags = os.environ.get("XLA_FLAGS", "")
    if isinstance(command, Selection) and DETERMINISTIC not in flags:
        # JAX reads this when it is first used, which is later.
        value = str(command.deterministic).lower()
        os.environ["XLA_FLAGS"] = f"{flags} --{DETERMINISTIC}={value}".strip()
    with exits.on("examples.paper", OSError, ValueError):
        command()


if __name__ == "__main__":
    main()
