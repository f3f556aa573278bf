"""Results on disk: JSON lines with one record per run, locks, and folders replaced whole."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def name_of(label: str, run: Record) -> str:
    """A short name for a run, unique to what decides its result: for files."""
    digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
    return f"{label}-{digest}"


def folder_of(names: Sequence[str]) -> str:
    """A name for what runs that are trained side by side have in common: for a folder."""
    first, *others = names
    if not others:
        return first
    return f"{first}-and-{hashlib.sha256(' '.join(others).encode()).hexdigest()[:16]}"


def read(path: Path) -> list[Record]:
    """The records of one file; none if there is no file.

    A last line without its end is what a crash left of a record, and no record.

    Raises:
      ValueError: another line is not a record.
    """
    if not path.exists():
        return []
    records = []
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"Line {number} of {path} is not JSON: {error}") from error
        if not isinstance(record, dict) or not {"run", "outcome", "accuracy"} <= record.keys():
            raise ValueError(f"Line {number} of {path} is not the record of a run: {record!r}")
        records.append(record)
    return records


def append(path: Path, records: list[Record]) -> None:
    """Adds records at the end of a file, behind what other processes add to it."""
    text = "".join(json.dumps(_finite(record), allow_nan=False) + "\n" for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _finite(tree: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(tree, dict):
        return {name: _finite(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


@contextlib.contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Locks a file for this process while the context lasts, and says whether that succeeded.

    The system lets go of the lock when the process ends, however it ends: no lock is ever stale.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
            yield False  # its last holder has just removed it: another may hold a new one
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def replace(folder: Path, last: str) -> Iterator[Path]:
    """Gives an empty folder for results, which replace older ones when all of them are written.

    What is written there moves to `folder` when the context ends. If it ends with an error, or the
    process with it, the older results stay.

    Args:
      folder: for the results; what has other names there is left alone.
      last: the name of the result that is moved first and comes last: where it is, the others are
        whole and belong to it.

    Yields:
      A folder in `folder`, which is gone afterwards.
    """
    scratch = folder.absolute() / ".part"
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir(parents=True)
        old.mkdir()
        yield new
        parts = sorted(new.iterdir(), key=lambda part: part.name == last)
        for part in reversed(parts):
            if (folder / part.name).exists():
                (folder / part.name).rename(old / part.name)
        for part in parts:
            part.rename(folder / part.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
