"""Measures the engine against the straightforward loop: python -m examples.paper.throughput.

The loop takes each batch from the host's memory to one jitted step, which crops, learns and
updates, as tutorials do. Network, optimizer, batch size and crops are the same. The two take turns,
and what is compared is the images a second of each turn.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import rich.progress
import tyro
from flax import nnx

from examples.paper import estimate, methods, recipes, runner, tasks
from examples.paper.data import Data
from examples.paper.engine import Engine, Options
from examples.paper.rows import Row, Table, choose


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure images a second, in training, of the engine and of the straightforward loop."""

    table: Table = 3
    """Table of the paper."""
    row: int = 7
    """Row of the table."""
    images: int = 2000
    """Images a turn; noise in the data set's shape."""
    turns: int = 7
    """Of each."""
    seeds_at_once: int = 1
    """For the engine: train so many seeds side by side, and count the images of all."""


def main(config: Config) -> None:
    """Measures and prints."""
    (row,) = choose(config.table, pattern=str(config.row))
    data = Data(estimate.noise(row.dataset, config.images), estimate.noise(row.dataset, 100))
    rivals = {
        "engine": engine_epochs(row, data, config.seeds_at_once),
        "loop": loop_epochs(row, data),
    }
    seeds = {"engine": config.seeds_at_once, "loop": 1}
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in rich.progress.track(range(config.turns + 1), "turns"):
        for name, train in rivals.items():
            start = time.perf_counter()
            train()
            if turn:  # the first one compiles
                rate = config.images * seeds[name] / (time.perf_counter() - start)
                rates[name].append(rate)
    print(
        f"{row.name}, batch {row.recipe.batch_size}, {config.turns} turns of {config.images} images"
    )
    for name, values in rates.items():
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"{name:6} {statistics.median(values):7.0f} images/s, median ({spread})")
    ratios = [mine / other for mine, other in zip(*rates.values(), strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"engine / loop, turn by turn: {statistics.median(ratios):.2f}, median ({spread})")
    machine = runner.describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))


def engine_epochs(row: Row, data: Data, seeds: int) -> Callable[[], None]:
    """What trains one epoch by the engine."""
    engine = Engine(row, Options(), data, seeds)
    state = engine.init(range(seeds))
    epoch = 0

    def train() -> None:
        nonlocal state, epoch
        epoch += 1
        state, learned = engine.train(state, range(seeds), epoch)
        jax.block_until_ready((state, learned))

    return train


def loop_epochs(row: Row, data: Data) -> Callable[[], None]:
    """What trains one epoch by a loop over batches."""
    model = methods.build(row, row.recipe.classes, nnx.Rngs(0))
    size, steps = row.recipe.batch_size, len(data.train.labels) // row.recipe.batch_size
    schedule = recipes.learning_rate(row.recipe, row.recipe.epochs * steps)
    transform = methods.around(row, recipes.optimizer(row.recipe, schedule))
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    rng = np.random.default_rng(0)

    @nnx.jit
    def step(model, optimizer, batch, key):
        images, labels = tasks.TASKS[row.dataset].augment(key, batch)

        def learn(model):
            return tasks.loss(model(images), labels)

        loss, grads = nnx.value_and_grad(learn)(model)
        optimizer.update(model, grads)
        return loss

    key = jax.random.key(0)
    number = 0

    def train() -> None:
        nonlocal number
        losses = []
        for batch in rng.permutation(len(data.train.labels))[: steps * size].reshape(steps, size):
            taken = type(data.train)(*(array[batch] for array in data.train))
            losses.append(step(model, optimizer, taken, jax.random.fold_in(key, number)))
            number += 1
        np.mean(jax.device_get(losses))

    return train


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.paper.throughput"))
