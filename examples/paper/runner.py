"""Goes through rows and seeds: what is done is skipped, what another process does is refused."""

import contextlib
import dataclasses
import datetime
import functools
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import jax
import rich.console
import rich.progress

import wcgc
from examples.paper import results, training
from examples.paper.data import load
from examples.paper.engine import Engine, Options
from examples.paper.rows import Row

TEST_EVERY = {"CIFAR10": 1, "CIFAR100": 1, "VOC2012": 10}
"""Epochs from one test to the next: a test on VOC2012 costs more than an epoch of training."""

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Work:
    """Rows and seeds to train, and where.

    Attributes:
      rows: of one table, and so of one data set.
      seeds: of each row.
      options: for all of them.
      data_dir: where the data set is.
      out: for results and checkpoints.
      seeds_at_once: how many seeds of a row are trained side by side.
      checkpoint_every: so many epochs.
    """

    rows: Sequence[Row]
    seeds: Sequence[int]
    options: Options
    data_dir: Path
    out: Path
    seeds_at_once: int = 1
    checkpoint_every: int = 5

    def missing(self, row: Row) -> list[int]:
        """The seeds of a row that have no record yet."""
        return results.missing(self.out, row, self.seeds, self.options)


def run(work: Work) -> list[str]:
    """Trains what is not done yet, group by group, and appends the records.

    Returns:
      The runs that were refused because another process is at them.
    """
    todo = [(row, seeds) for row in work.rows if (seeds := work.missing(row))]
    runs, left = len(work.rows) * len(work.seeds), sum(len(seeds) for _, seeds in todo)
    console = rich.console.Console(highlight=False, soft_wrap=True)
    console.print(f"{runs} runs, {runs - left} of them done already")
    if not todo:
        return []
    data = load(work.rows[0].dataset, work.data_dir, work.options.split, work.options.limit)
    refused: list[str] = []
    columns = (
        "{task.description}",
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        "epochs",
        rich.progress.TimeElapsedColumn(),
        "left:",
        rich.progress.TimeRemainingColumn(),
    )
    # The speed is estimated over all epochs so far: a shorter window might not hold a single one.
    with rich.progress.Progress(*columns, console=console, speed_estimate_period=1e9) as progress:
        epochs = work.options.epochs_of(work.rows[0])
        whole, done = progress.add_task("all runs", total=left * epochs), 0
        for row, seeds in todo:
            engine_for = functools.cache(functools.partial(Engine, row, work.options, data))
            for start in range(0, len(seeds), work.seeds_at_once):
                group = seeds[start : start + work.seeds_at_once]
                with _hold(work, row, group) as is_mine:
                    if not is_mine:
                        refused.append(_name(row, group))
                        console.print(f"{refused[-1]}: refused, another process is at it")
                    # What another process has finished since is not missing any more.
                    elif still := [seed for seed in work.missing(row) if seed in group]:
                        _run_group(work, engine_for(len(still)), still, progress, whole)
                done += len(group) * epochs
                progress.update(whole, completed=done)
    return refused


@contextlib.contextmanager
def _hold(work: Work, row: Row, seeds: Sequence[int]) -> Iterator[bool]:
    """Locks the runs of a group, and says whether that succeeded for all of them."""
    with contextlib.ExitStack() as stack:
        names = [results.name_of(results.identity(row, seed, work.options)) for seed in seeds]
        locks = [work.out / "unfinished" / f"{name}.lock" for name in names]
        yield all(stack.enter_context(results.hold(lock)) for lock in locks)


def _name(row: Row, seeds: Sequence[int]) -> str:
    return f"{row.name}, seed {', '.join(map(str, seeds))}"


def _run_group(
    work: Work,
    engine: Engine,
    seeds: Sequence[int],
    progress: rich.progress.Progress,
    whole: rich.progress.TaskID,
) -> None:
    row = engine.row
    runs = [results.identity(row, seed, work.options) for seed in seeds]
    folder = work.out / "unfinished" / results.folder_of(runs)
    bar = progress.add_task(_name(row, seeds), total=engine.epochs)
    done = 0

    def tell(epoch: int, text: str) -> None:
        nonlocal done
        progress.update(bar, completed=epoch, refresh=True)
        progress.update(whole, advance=(epoch - done) * len(seeds))
        done = epoch
        if not progress.console.is_terminal:
            progress.console.print(f"{_name(row, seeds)}, epoch {epoch}: {text}")

    outcomes = training.train(
        engine, seeds, folder, work.checkpoint_every, TEST_EVERY[row.dataset], on_epoch=tell
    )
    machine = describe_machine()
    records = [
        {
            "run": run,
            "paper": row.paper,
            **dataclasses.asdict(outcome),
            "images": engine.images,
            "seeds_at_once": len(seeds),
            "devices": engine.devices,
            "machine": machine,
            "command": command(sys.argv[1:]),
            "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        for run, outcome in zip(runs, outcomes, strict=True)
    ]
    results.append(results.path_of(work.out, row.table), records)
    shutil.rmtree(folder)
    progress.remove_task(bar)
    for seed, outcome in zip(seeds, outcomes, strict=True):
        reached = "nan" if outcome.accuracy is None else f"{outcome.accuracy:.2f} %"
        progress.console.print(
            f"{_name(row, [seed])}: {reached} (paper: {row.paper} %), "
            f"{sum(filter(None, outcome.curves['seconds'])):.0f} s"
        )


def command(arguments: Sequence[str]) -> str:
    """The command line without the places of this machine."""
    words = ["python -m examples.paper", *arguments]
    for option in ("--data-dir", "--out"):
        if option in words[:-1]:
            words[words.index(option) + 1] = "DIR"
    return " ".join(words)


def describe_machine() -> dict[str, object]:
    """What a result was made on and with."""
    device = jax.local_devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "wcgc": wcgc.__version__,
        **{package: metadata.version(package) for package in PACKAGES},
    }
