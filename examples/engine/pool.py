"""Jobs at the same time, each in a process of its own on its own share of the processor's cores."""

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import queue
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pebble

from examples.engine import results

Tell = Callable[[str, int, str], None]
"""What is told while a job is at work: its name, how many epochs are done, and a text."""


class Named(Protocol):
    """A job. It can be pickled."""

    @property
    def name(self) -> str:
        """For people, and different from that of other jobs."""


class Failure(str):
    """How a job came to no end."""


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return [*range(os.cpu_count() or 1)]


def shares(available: Sequence[int], processes: int) -> list[list[int]]:
    """Divides cores among processes; where there are too few, several processes have the same.

    Example:
      >>> shares([0, 1, 2, 3, 4], 2)
      [[0, 1], [2, 3, 4]]
      >>> shares([0, 1], 3)
      [[0], [1], [0]]
    """
    count = len(available)
    if processes >= count:
        return [[available[number % count]] for number in range(processes)]
    ends = [count * number // processes for number in range(processes + 1)]
    return [[*available[first:last]] for first, last in itertools.pairwise(ends)]


def run(
    function: Callable[[Any, Tell], Any],
    jobs: Sequence[Named],
    processes: int,
    tell: Tell,
    warn: Callable[[str], object],
    tries: int,
) -> Iterator[tuple[Any, Any]]:
    """Calls `function(job, tell)` for all jobs, so many at the same time.

    A job whose process fails or dies is taken up again by another one; the other jobs go on.

    Args:
      function: what can be pickled. It is called before JAX has started in its process.
      jobs: in the order in which they are begun.
      processes: how many.
      tell: called here with what a job tells there.
      warn: called with a line for people if a job fails.
      tries: how often a job is begun.

    Yields:
      Each job with its result, or with its `Failure`, in the order in which they end.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        told = stack.enter_context(context.Manager()).Queue()
        workers = pebble.ProcessPool(
            processes,
            initializer=_start,
            initargs=(folder, shares(cores(), processes), told),
            context=context,
        )
        stack.callback(workers.join)
        stack.callback(workers.stop)
        pending = {workers.schedule(_work, (function, job)): (job, 1) for job in jobs}
        while pending:
            with contextlib.suppress(queue.Empty):
                tell(*told.get(timeout=0.2))
                continue
            for future in [future for future in pending if future.done()]:
                job, number = pending.pop(future)
                error = future.exception()
                if error is None:
                    yield job, future.result()
                elif number < tries:
                    warn(f"{job.name}: {_describe(error)}; it is taken up again")
                    pending[workers.schedule(_work, (function, job))] = job, number + 1
                else:
                    yield job, Failure(f"{_describe(error)}, {number} times")


def _describe(error: BaseException) -> str:
    if isinstance(error, pebble.ProcessExpired):
        return f"its process died (exit code {error.exitcode})"
    return f"{type(error).__name__}: {error}"


_told: Any = None
"""In a worker: where to put what is told."""


def _start(folder: Path, divided: Sequence[Sequence[int]], told: Any) -> None:
    """Begins a worker: takes a share of the cores that is free, and ends with its parent."""
    global _told
    _told = told
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by another process"

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # what there is to warn of, the parent has said
    for number, share in enumerate(divided):
        if _share.enter_context(results.hold(folder / f"share-{number}")):
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, share)
            return
    raise RuntimeError(f"All of the {len(divided)} shares of the cores are taken.")


_share = contextlib.ExitStack()
"""In a worker: holds its share of the cores as long as it lives."""


def _work(function: Callable[[Any, Tell], Any], job: Named) -> Any:
    return function(job, lambda *what: _told.put(what))
