"""Goes through runs: what is done is skipped, what another process does is refused.

Runs at the same time are each in a process of their own, on their own share of the cores.
"""

import contextlib
import dataclasses
import datetime
import functools
import platform
import shutil
import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Protocol

import jax
import rich.console
import rich.progress

import wcgc
from examples.engine import compiling, pool, results, training
from examples.engine.data import Data
from examples.engine.engine import Engine, Experiment

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

TRIES = 3
"""How often a run is taken up whose process dies."""


class Setting(Hashable, Protocol):
    """What is trained apart from the seed. A frozen dataclass, which a new process can be sent."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def label(self) -> str:
        """For names of files."""

    @property
    def file(self) -> str:
        """Name of the file for the records."""

    @property
    def test_every(self) -> int:
        """Epochs from one test to the next."""

    @property
    def epochs(self) -> int:
        """Passes over the training images."""

    def identity(self, seed: int) -> results.Record:
        """What decides a run's result, and so tells whether it has been made already."""

    def experiment(self, data: Data) -> Experiment:
        """What the engine trains, on these data."""

    def load(self, data_dir: Path) -> Data:
        """Reads the data, and raises where it is not what it should be."""

    def remarks(self) -> results.Record:
        """What the record holds besides: it does not decide the result."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Where things are.

    Attributes:
      data_dir: the data sets.
      out: results and checkpoints.
    """

    data_dir: Path
    out: Path

    def records(self, setting: Setting) -> Path:
        """The file of a setting's records."""
        return self.out / setting.file

    @property
    def unfinished(self) -> Path:
        """Checkpoints, and locks of runs that are at work."""
        return self.out / "unfinished"


@dataclasses.dataclass(frozen=True)
class Job:
    """Runs of one setting that are trained side by side, one for each seed."""

    setting: Setting
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.setting.name}, seed {', '.join(map(str, self.seeds))}"

    @property
    def epochs(self) -> int:
        """Of all its runs together."""
        return len(self.seeds) * self.setting.epochs

    def names(self) -> list[str]:
        """For files, one for each run."""
        setting = self.setting
        return [
            results.name_of(f"{setting.label}-seed{seed}", setting.identity(seed))
            for seed in self.seeds
        ]


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """What came to no end.

    Attributes:
      refused: names of runs that another process is at.
      failed: names of runs whose process died, again and again, with how.
    """

    refused: list[str]
    failed: list[str]

    def __str__(self) -> str:
        found = []
        if self.refused:
            found.append(f"Refused, since another process is at it: {'; '.join(self.refused)}")
        if self.failed:
            found.append(f"Failed: {'; '.join(self.failed)}")
        return "\n".join(found)


def missing(places: Places, setting: Setting, seeds: Iterable[int]) -> list[int]:
    """The seeds of a setting that have no record yet."""
    done = _identities(places.records(setting))
    return [seed for seed in seeds if _key(setting.identity(seed)) not in done]


def _identities(path: Path) -> set[str]:
    return {_key(record["run"]) for record in results.read(path)}


def _key(run: results.Record) -> str:
    return results.name_of("", run)


def default_processes(jobs: int) -> int:
    """How many runs at once are fastest: on a CPU one for each core, on an accelerator one."""
    if jax.default_backend() != "cpu":
        return 1
    return max(1, min(jobs, len(pool.cores())))


def run(
    settings: Sequence[Setting],
    seeds: Sequence[int],
    places: Places,
    program: str,
    *,
    seeds_at_once: int = 1,
    checkpoint_every: int = 5,
    processes: int | None = None,
) -> Unfinished:
    """Trains what is not done yet, and appends the records.

    Args:
      settings: what to train.
      seeds: of each setting.
      places: where data are, and where results go.
      program: the module that was started, for the records.
      seeds_at_once: how many seeds of a setting are trained side by side in one process.
      checkpoint_every: so many epochs.
      processes: how many jobs are trained at once; None for what is fastest.

    Returns:
      What could not be trained to its end.

    Raises:
      ValueError: `processes` is not positive, or the data are not what they should be.
      OSError: a file of the data is missing or cannot be read.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"--jobs must be at least 1, got {processes}")
    console = rich.console.Console(highlight=False, soft_wrap=True)
    todo = [(setting, missing(places, setting, seeds)) for setting in settings]
    jobs = [
        Job(setting, tuple(left[start : start + seeds_at_once]))
        for setting, left in todo
        for start in range(0, len(left), seeds_at_once)
    ]
    runs, left = len(settings) * len(seeds), sum(len(job.seeds) for job in jobs)
    console.print(f"{runs} runs, {runs - left} of them done already")
    if not jobs:
        return Unfinished([], [])
    processes = default_processes(len(jobs)) if processes is None else processes
    processes = min(processes, len(jobs))
    compilation = compiling.choose()
    if compilation.note:
        console.print(compilation.note)
    if processes > 1:  # what is wrong with the data shall be told here, and once
        jobs[0].setting.load(places.data_dir)
    execute = functools.partial(
        _execute,
        places=places,
        checkpoint_every=checkpoint_every,
        command=command(program, sys.argv[1:]),
    )
    unfinished = Unfinished([], [])
    with _Display(console, jobs) as display:
        endings: Iterator[tuple[Job, list[str] | pool.Failure | None]]
        if processes == 1:
            endings = ((job, execute(job, display.tell)) for job in jobs)
        else:
            endings = pool.run(execute, jobs, processes, display.tell, console.print, TRIES)
        for job, ending in endings:
            if isinstance(ending, pool.Failure):
                unfinished.failed.append(f"{job.name}: {ending}")
            elif ending is None:
                unfinished.refused.append(job.name)
                console.print(f"{job.name}: refused, another process is at it")
            display.end(job, ending if isinstance(ending, list) else [])
    return unfinished


def _execute(
    job: Job, tell: pool.Tell, *, places: Places, checkpoint_every: int, command: str
) -> list[str] | None:
    """Trains a job to its end and appends its records.

    Returns:
      What to print of it; None if another process is at one of its runs.
    """
    with _hold(places, job) as is_mine:
        if not is_mine:
            return None
        # What another process has finished since is not missing any more.
        if not (still := missing(places, job.setting, job.seeds)):
            return []
        job = dataclasses.replace(job, seeds=tuple(still))
        return _train(job, tell, places, checkpoint_every, command)


@contextlib.contextmanager
def _hold(places: Places, job: Job) -> Iterator[bool]:
    """Locks the runs of a job, and says whether that succeeded for all of them."""
    with contextlib.ExitStack() as stack:
        locks = [places.unfinished / f"{name}.lock" for name in job.names()]
        yield all(stack.enter_context(results.hold(lock)) for lock in locks)


def _train(
    job: Job, tell: pool.Tell, places: Places, checkpoint_every: int, command: str
) -> list[str]:
    setting = job.setting
    engine = _engine(setting, len(job.seeds), places.data_dir)
    folder = places.unfinished / results.folder_of(job.names())
    outcomes = training.train(
        engine,
        job.seeds,
        folder,
        checkpoint_every,
        setting.test_every,
        on_epoch=functools.partial(tell, job.name),
    )
    records = [
        {
            "run": setting.identity(seed),
            **setting.remarks(),
            **dataclasses.asdict(outcome),
            "images": engine.images,
            "seeds_at_once": len(job.seeds),
            "devices": engine.devices,
            **made_by(engine, command),
        }
        for seed, outcome in zip(job.seeds, outcomes, strict=True)
    ]
    results.append(places.records(setting), records)
    shutil.rmtree(folder, ignore_errors=True)  # a run without any checkpoint has none
    return [
        f"{setting.name}, seed {seed}: {_reached(outcome)}"
        for seed, outcome in zip(job.seeds, outcomes, strict=True)
    ]


@functools.lru_cache(maxsize=1)
def _engine(setting: Setting, seeds: int, data_dir: Path) -> Engine:
    """What was compiled for one run serves for the next of the same setting."""
    data = setting.load(data_dir)
    return Engine(setting.experiment(data), data, seeds)


def _reached(outcome: training.Outcome) -> str:
    accuracy = "nan" if outcome.accuracy is None else f"{outcome.accuracy:.2f} %"
    return f"{accuracy}, {sum(filter(None, outcome.curves['seconds'])):.0f} s"


class _Display:
    """Progress of all jobs, a bar for each that is at work and one for all together.

    Where there is no terminal, a line for each epoch.
    """

    def __init__(self, console: rich.console.Console, jobs: Sequence[Job]):
        columns = (
            "{task.description}",
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            "epochs",
            rich.progress.TimeElapsedColumn(),
            "left:",
            rich.progress.TimeRemainingColumn(),
        )
        # The speed is estimated over all epochs so far: a shorter window might not hold one.
        self._progress = rich.progress.Progress(
            *columns, console=console, speed_estimate_period=1e9
        )
        self._jobs = {job.name: job for job in jobs}
        self._whole = self._progress.add_task("all runs", total=sum(job.epochs for job in jobs))
        self._bars: dict[str, rich.progress.TaskID] = {}
        self._done = dict.fromkeys(self._jobs, 0)

    def __enter__(self) -> "_Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, name: str, epoch: int, text: str) -> None:
        """Shows that so many epochs of a job are done."""
        job = self._jobs[name]
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=job.setting.epochs)
        self._progress.update(self._bars[name], completed=epoch, refresh=True)
        self._advance(job, epoch * len(job.seeds))
        if not self._progress.console.is_terminal:
            self._progress.console.print(f"{name}, epoch {epoch}: {text}")

    def end(self, job: Job, lines: Sequence[str]) -> None:
        """Takes the bar of a job away and prints what came out."""
        if job.name in self._bars:
            self._progress.remove_task(self._bars.pop(job.name))
        self._advance(job, job.epochs)
        for line in lines:
            self._progress.console.print(line)

    def _advance(self, job: Job, done: int) -> None:
        self._progress.update(self._whole, advance=done - self._done[job.name])
        self._done[job.name] = done


def command(program: str, arguments: Sequence[str]) -> str:
    """The command line without the places of this machine."""
    words = [f"python -m {program}", *arguments]
    for option, place in {"--data-dir": "DIR", "--out": "DIR", "--text": "FILE"}.items():
        if option in words[:-1]:
            words[words.index(option) + 1] = place
    return " ".join(words)


def made_by(engine: Engine, command: str) -> results.Record:
    """What a record says of how its result was made, and when."""
    return {
        "compilation": engine.compilation.name,
        "machine": describe_machine(),
        "command": command,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def describe_machine() -> dict[str, object]:
    """What a result was made on and with; `cpus` are those that this process may use."""
    device = jax.local_devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "processor": _processor(),
        "machine": platform.platform(),
        "cpus": len(pool.cores()),
        "python": platform.python_version(),
        "wcgc": wcgc.__version__,
        **{package: metadata.version(package) for package in PACKAGES},
    }


def _processor() -> str:
    """The model of the processor, where the system tells it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
