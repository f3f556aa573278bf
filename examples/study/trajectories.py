"""How far apart the arms of block E come, step by step, from their common start."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.progress

from examples.engine import results, runner
from examples.engine.engine import Engine
from examples.study.blocks import BLOCKS
from examples.study.factors import Arm

FILE = "E-steps.jsonl"
STEPS = 200
SEEDS = 3
REFERENCE: Arm = "GC"


def run(data_dir: Path, out: Path, command: str, steps: int = STEPS, seeds: int = SEEDS) -> None:
    """Trains the arms of E side by side and appends a record for each seed that has none.

    Args:
      data_dir: the data sets.
      out: where E-rates has its records, and where the new ones go.
      command: for the records.
      steps: so many of the first epoch.
      seeds: so many, from 0.

    Raises:
      ValueError: E-rates is not complete.
      OSError: the data are missing or cannot be read.
    """
    settings = BLOCKS["E"].settings(out)
    done = {record["run"]["seed"] for record in results.read(out / FILE)}
    if not (todo := [seed for seed in range(seeds) if seed not in done]):
        return
    data = settings[0].load(data_dir)
    engines: dict[Arm, Engine] = {
        setting.arm: Engine(setting.experiment(data), data) for setting in settings
    }
    for seed in todo:
        record = {
            "run": {"setting": {"block": "E-steps", "learning_rate": settings[0].learning_rate}}
            | {"seed": seed, "steps": steps},
            "outcome": "finished",
            "accuracy": None,
            "distances": distances(engines, seed, steps),
            **runner.made_by(engines[REFERENCE], command),
        }
        results.append(out / FILE, [record])


def distances(engines: Mapping[Arm, Engine], seed: int, steps: int) -> dict[Arm, list[float]]:
    """Trains one seed in every arm, and compares the parameters behind each step.

    Args:
      engines: by arm, all with the same data.
      seed: of the runs.
      steps: how many, at most an epoch's.

    Returns:
      For each arm but GC, and each step, the Euclidean distance of its parameters from those of
      GC, divided by how far GC has come from the start.
    """
    states = {arm: engine.init([seed]) for arm, engine in engines.items()}
    start = flat(states[REFERENCE].params)
    found: dict[Arm, list[float]] = {arm: [] for arm in engines if arm != REFERENCE}
    for step in rich.progress.track(range(steps), f"E, seed {seed}, steps"):
        places = {}
        for arm, engine in engines.items():
            states[arm], _ = engine.train(states[arm], [seed], 1, slice(step, step + 1))
            places[arm] = flat(states[arm].params)
        way = np.linalg.norm(places[REFERENCE] - start)
        for arm, values in found.items():
            values.append(float(np.linalg.norm(places[arm] - places[REFERENCE]) / way))
    return found


def flat(params: Any) -> np.ndarray:
    """All parameters in one vector of float64."""
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(params)])
