"""Jobs at the same time, each in a process of its own on its own share of the processor's cores."""

import collections
import contextlib
import itertools
import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, Protocol

ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""What processes start with, unless it is set otherwise. XLA allocates the temporary memory of each
step anew. In huge pages, which Linux has for the asking, a step takes up to a quarter less time."""

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


class Worker(NamedTuple):
    """A process that does one job after the other.

    Attributes:
      process: which.
      share: the cores that it has.
    """

    process: SpawnProcess
    share: list[int]


def run(
    function: Callable[[Any, Tell], Any],
    jobs: Sequence[Named],
    processes: int,
    tell: Tell,
    warn: Callable[[str], object],
    tries: int,
) -> Iterator[tuple[Any, Any]]:
    """Calls `function(job, tell)` for all jobs, so many at the same time.

    A job that fails or whose process dies is taken up again at the end; the other jobs go on.

    Args:
      function: what can be pickled. JAX has not started in its process when it is first called.
      jobs: in the order in which they are begun.
      processes: how many.
      tell: called here with what a job tells there.
      warn: called with a line for people if a job fails.
      tries: how often a job is begun.

    Yields:
      Each job with its result, or with its `Failure`, in the order in which they end.
    """
    waiting = collections.deque((job, 1) for job in jobs)
    free = shares(cores(), processes)
    workers: dict[Any, Worker] = {}
    busy: dict[Any, tuple[Any, int]] = {}
    with contextlib.ExitStack() as stack:
        while waiting or busy:
            while free and len(waiting) + len(busy) > len(workers):
                started, worker = _start(function, free.pop(0), stack)
                workers[started] = worker
            for idle in [each for each in workers if each not in busy]:
                if waiting:
                    busy[idle] = waiting.popleft()
                    with contextlib.suppress(BrokenPipeError):  # it died: seen below
                        idle.send(busy[idle][0])
            for connection in wait([*workers]):
                assert isinstance(connection, Connection)
                try:
                    kind, what = connection.recv()
                except (EOFError, ConnectionResetError):
                    process, share = workers.pop(connection)
                    process.join()
                    free.append(share)
                    kind, what = "failure", f"its process died (exit code {process.exitcode})"
                if kind == "told":
                    tell(*what)
                    continue
                if connection not in busy:
                    continue  # it died between two jobs
                job, number = busy.pop(connection)
                if kind == "result":
                    yield job, what
                elif number < tries:
                    warn(f"{job.name}: {what}; it is taken up again")
                    waiting.append((job, number + 1))
                else:
                    yield job, Failure(f"{what}, {number} times")


def _start(
    function: Callable[[Any, Tell], Any], share: list[int], stack: contextlib.ExitStack
) -> tuple[Connection, Worker]:
    """Starts a worker, which ends with the stack."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, share, theirs), daemon=True)
    added = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        process.start()
    finally:
        for name in added:
            del os.environ[name]
    theirs.close()  # so that its end is seen when the process ends
    stack.callback(process.join)
    stack.callback(process.terminate)
    return ours, Worker(process, share)


def _work(function: Callable[[Any, Tell], Any], share: list[int], connection: Connection) -> None:
    """What a worker does until it is ended: on its cores, one job after the other."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # what there is to warn of, the parent has said
    while True:
        job = connection.recv()
        try:
            result = function(job, lambda *what: connection.send(("told", what)))
        except Exception as error:  # it costs this job alone, and is told
            connection.send(("failure", f"{type(error).__name__}: {error}"))
        else:
            connection.send(("result", result))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
