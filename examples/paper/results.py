"""Results on disk: one JSON-lines file per table, one record per row and seed."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from examples.paper.engine import Options
from examples.paper.rows import Row, Table

Record = dict[str, Any]


def identity(row: Row, seed: int, options: Options) -> Record:
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


def name_of(run: Record) -> str:
    """A short name for a run, unique to its identity: for files."""
    digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
    return f"{run['row']['table']}-{run['row']['number']}-seed{run['seed']}-{digest}"


def folder_of(runs: Sequence[Record]) -> str:
    """A name for what runs that are trained side by side have in common: for a folder."""
    first, *others = map(name_of, runs)
    if not others:
        return first
    return f"{first}-and-{hashlib.sha256(' '.join(others).encode()).hexdigest()[:16]}"


def path_of(out: Path, table: Table) -> Path:
    """The file of a table's results."""
    return out / f"table_{table}.jsonl"


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


def missing(out: Path, row: Row, seeds: Iterable[int], options: Options) -> list[int]:
    """The seeds of a row that have no record yet."""
    done = {name_of(record["run"]) for record in read(path_of(out, row.table))}
    return [seed for seed in seeds if name_of(identity(row, seed, options)) not in done]


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
        yield True
        path.unlink()
