"""Runs to their end: epochs, NaN, and checkpoints from which a killed run goes on."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from examples.engine.engine import Engine, Learned, State, digest

Curves = dict[str, list[Any]]
"""One value for each epoch: loss and accuracy, a fraction, in training and test; seconds taken, by
all seeds of the group together. None where no test was run."""

CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run gave.

    Attributes:
      outcome: `"finished"`, or `"nan"` if a loss became NaN or infinite, which ended the run.
      accuracy: on the test images after the last epoch, in percent; None if the run ended early.
      curves: what happened epoch by epoch.
      measured: what the experiment measures, before the first epoch and behind each.
      parameters: the SHA-256 digest of the final parameters.
      began: digests of what it shares with runs that it is to be compared with; see
        `Engine.digests`.
    """

    outcome: str
    accuracy: float | None
    curves: Curves
    measured: list[Any]
    parameters: str
    began: dict[str, str]


def train(
    engine: Engine,
    seeds: Sequence[int],
    folder: Path,
    checkpoint_every: int = 5,
    test_every: int = 1,
    on_epoch: Callable[[int, str], None] = lambda epoch, text: None,
) -> list[Outcome]:
    """Trains a group of seeds to the end, from the newest checkpoint if there is one.

    Args:
      engine: made for so many seeds.
      seeds: of the runs.
      folder: for the checkpoints. Each appears whole or not at all; the newest is kept.
      checkpoint_every: so many epochs.
      test_every: so many epochs, and always after the last.
      on_epoch: called after each epoch with how many are done, and what to tell.

    Returns:
      One outcome for each seed.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        state = engine.init(seeds)
        curves: list[Curves] = [{name: [] for name in CURVES} for _ in seeds]
        measured = [[one] for one in _measure(engine, state, len(seeds))]
        done = manager.latest_step() or 0
        if done:
            wanted = {
                "state": ocp.args.StandardRestore(state),
                "curves": ocp.args.JsonRestore(),
                "measured": ocp.args.JsonRestore(),
            }
            saved = manager.restore(done, args=ocp.args.Composite(**wanted))
            state, curves, measured = saved.state, saved.curves, saved.measured
            on_epoch(done, _describe(curves))
        for epoch in range(done + 1, engine.epochs + 1):
            start = time.perf_counter()
            state, learned = engine.train(state, seeds, epoch)
            is_last = epoch == engine.epochs
            tested = engine.test(state) if is_last or epoch % test_every == 0 else None
            _extend(curves, learned, tested, time.perf_counter() - start)
            for so_far, one in zip(measured, _measure(engine, state, len(seeds)), strict=True):
                so_far.append(one)
            on_epoch(epoch, _describe(curves))
            if all(map(_epoch_of_nan, curves)):
                break
            if epoch % checkpoint_every == 0 and not is_last:
                parts = {
                    "state": ocp.args.StandardSave(state),
                    "curves": ocp.args.JsonSave(curves),
                    "measured": ocp.args.JsonSave(measured),
                }
                manager.save(epoch, args=ocp.args.Composite(**parts))
    params, began = jax.device_get(state.params), engine.digests(seeds)
    return [
        _conclude(curves[i], measured[i], jax.tree.map(lambda x, i=i: x[i], params), began[i])
        for i in range(len(seeds))
    ]


def _extend(curves: list[Curves], learned: Learned, tested: Learned | None, seconds: float):
    for i, curve in enumerate(curves):
        curve["train_loss"].append(float(learned.loss[i]))
        curve["train_accuracy"].append(float(learned.accuracy[i]))
        curve["test_loss"].append(None if tested is None else float(tested.loss[i]))
        curve["test_accuracy"].append(None if tested is None else float(tested.accuracy[i]))
        curve["seconds"].append(seconds)


def _describe(curves: list[Curves]) -> str:
    losses = [curve["train_loss"][-1] for curve in curves]
    accuracies = [curve["test_accuracy"][-1] for curve in curves]
    text = f"training loss {_mean(losses):.3f}"
    return text if None in accuracies else f"{text}, test accuracy {_mean(accuracies):.2%}"


def _mean(values: list[Any]) -> float:
    return sum(values) / len(values)


def _epoch_of_nan(curve: Curves) -> int | None:
    """The first epoch whose loss is NaN or infinite, from 1."""
    for epoch, losses in enumerate(zip(curve["train_loss"], curve["test_loss"], strict=True), 1):
        if not all(math.isfinite(loss) for loss in losses if loss is not None):
            return epoch
    return None


def _measure(engine: Engine, state: State, seeds: int) -> list[Any]:
    """What is measured of each seed; None where nothing is."""
    if engine.experiment.measure is None:
        return [None] * seeds
    return engine.measure(state)


def _conclude(curve: Curves, measured: list[Any], params: Any, began: dict[str, str]) -> Outcome:
    nan = _epoch_of_nan(curve)
    accuracy = curve["test_accuracy"][-1]
    return Outcome(
        outcome="finished" if nan is None else "nan",
        accuracy=round(100 * accuracy, 4) if nan is None and accuracy is not None else None,
        curves={name: values[:nan] for name, values in curve.items()},
        measured=[one for one in measured if one is not None],
        parameters=digest(params),
        began=began,
    )
