"""Measures the engine against the straightforward loop: python -m examples.paper.throughput.

The loop takes each batch from the host's memory to one jitted step, which crops, learns and
updates, as tutorials do. Network, optimizer, batch size and crops are the same, and the two take
turns. On a processor that others use too, compare the images a processor second.

What the engine computes a second is set against a large matrix product, the fastest that the device
can compute: the rest is lost to kernels too small to fill it, and to moving data.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import rich.progress
import tyro
from flax import nnx

from examples.engine import compiling, runner, tasks
from examples.engine.data import Data
from examples.engine.engine import Engine
from examples.paper import estimate, methods, recipes
from examples.paper.experiments import Options, experiment
from examples.paper.rows import Row, Table, choose

PRODUCT_SIDE = 4096
"""Rows and columns of the matrices whose product is timed."""


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
    """Measures and prints medians, with the least and the most, of all turns but the first."""
    (row,) = choose(config.table, pattern=str(config.row))
    data = Data(estimate.noise(row.dataset, config.images), estimate.noise(row.dataset, 100))
    rivals = {
        "engine": engine_epochs(row, data, config.seeds_at_once),
        "loop": loop_epochs(row, data),
    }
    images = {"engine": config.images * config.seeds_at_once, "loop": config.images}
    clocks = {"second": time.perf_counter, "processor second": time.process_time}
    rates: dict[str, dict[str, list[float]]] = {
        clock: {"engine": [], "loop": []} for clock in clocks
    }
    for turn in rich.progress.track(range(config.turns + 1), "turns"):
        for name, train in rivals.items():
            starts = {clock: now() for clock, now in clocks.items()}
            train()
            if turn:  # the first one compiles
                for clock, now in clocks.items():
                    rates[clock][name].append(images[name] / (now() - starts[clock]))
    print(
        f"{row.name}, batch {row.recipe.batch_size}, {config.turns} turns of {config.images} images"
    )
    for clock, of in rates.items():
        ratios = [mine / other for mine, other in zip(of["engine"], of["loop"], strict=True)]
        print(
            f"images a {clock}: engine {_spread(of['engine'], 0)}, loop {_spread(of['loop'], 0)}; "
            f"engine / loop {_spread(ratios, 2)}"
        )
    wanted, most = operations(row), product_rate()
    reached = wanted * statistics.median(rates["second"]["engine"])
    print(
        f"{wanted / 1e9:.3g} GFLOP an image; engine {reached / 1e9:.4g} GFLOP a second, "
        f"{reached / most:.1%} of the {most / 1e9:.4g} of a product of two matrices of side "
        f"{PRODUCT_SIDE}"
    )
    machine = runner.describe_machine() | {"compilation": compiling.choose().name}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))


def _spread(values: list[float], digits: int) -> str:
    median, least, most = (
        f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return f"{median} ({least} to {most})"


def operations(row: Row) -> float:
    """Floating-point operations to train on one image: three times those of the forward pass.

    The backward pass computes two products for each one of the forward pass, to the inputs and to
    the kernel.
    """
    model = nnx.eval_shape(lambda: methods.build(row, row.recipe.classes, nnx.Rngs(0)))
    graph, state = nnx.split(model)
    side = tasks.CROP if row.dataset == "VOC2012" else 32
    images = jax.ShapeDtypeStruct((row.recipe.batch_size, side, side, 3), jnp.float32)
    forward = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    costs = forward.lower(state, images).cost_analysis()
    if costs is None:
        raise RuntimeError(f"XLA counts no operations on {jax.default_backend()}.")
    return 3 * costs["flops"] / row.recipe.batch_size


def product_rate() -> float:
    """Floating-point operations a second in a large product, in the precision of convolutions."""
    matrix = jax.random.normal(jax.random.key(0), (PRODUCT_SIDE, PRODUCT_SIDE))
    product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * PRODUCT_SIDE**3 / statistics.median(seconds[1:])


def engine_epochs(row: Row, data: Data, seeds: int) -> Callable[[], None]:
    """What trains one epoch by the engine."""
    engine = Engine(experiment(row, Options()), data, seeds)
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
    graph, state = nnx.split((model, nnx.Optimizer(model, transform, wrt=nnx.Param)))
    rng = np.random.default_rng(0)

    def step(state, batch, key):
        model, optimizer = nnx.merge(graph, state)
        images, labels = tasks.TASKS[row.dataset].augment(key, batch)

        def learn(model):
            return tasks.loss(model(images), labels)

        loss, grads = nnx.value_and_grad(learn)(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), loss

    compiled = compiling.choose().jit(step, donate_argnums=0)
    key = jax.random.key(0)
    number = 0

    def train() -> None:
        nonlocal number, state
        losses = []
        for batch in rng.permutation(len(data.train.labels))[: steps * size].reshape(steps, size):
            taken = type(data.train)(*(array[batch] for array in data.train))
            state, loss = compiled(state, taken, jax.random.fold_in(key, number))
            losses.append(loss)
            number += 1
        np.mean(jax.device_get(losses))

    return train


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.paper.throughput"))
