"""How long runs will take, from a measured step."""

import dataclasses
import time

import jax
import numpy as np

from examples import cifar_data
from examples.engine import tasks, voc
from examples.engine.data import Data
from examples.engine.engine import Engine
from examples.paper.experiments import TEST_EVERY, Options, experiment
from examples.paper.rows import Row

IMAGES = {"CIFAR10": (50_000, 10_000), "CIFAR100": (50_000, 10_000), "VOC2012": (1464, 1449)}
"""Training and test images of the official sets."""

STEPS = {"CIFAR10": 10, "CIFAR100": 10, "VOC2012": 1}
"""Steps to measure."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds that things take.

    Attributes:
      compilation: of training and test, once a row.
      step: one batch of training.
      test: one image of the test.
    """

    compilation: float
    step: float
    test: float

    def of_run(self, row: Row, options: Options) -> float:
        """Seconds for one run of a row, without compilation."""
        train, test = (min(count, options.limit or count) for count in IMAGES[row.dataset])
        epochs = options.epochs_of(row)
        steps = epochs * (train // row.recipe.batch_size)
        return self.step * steps + self.test * test * -(-epochs // TEST_EVERY[row.dataset])


def measure(row: Row, options: Options, seeds: int = 1) -> Speed:
    """Trains and tests a row for a moment, on noise; the first time to compile, then to measure."""
    size, test_batch = row.recipe.batch_size, tasks.TASKS[row.dataset].test_batch
    data = Data(noise(row.dataset, STEPS[row.dataset] * size), noise(row.dataset, test_batch))
    options = dataclasses.replace(options, limit=None, epochs=2)
    engine = Engine(experiment(row, options), data, seeds)
    state = engine.init(range(seeds))
    train, test = [], []
    for epoch in (1, 2):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(engine.train(state, range(seeds), epoch))
        train.append(time.perf_counter() - start)
        start = time.perf_counter()
        jax.block_until_ready(engine.test(state))
        test.append(time.perf_counter() - start)
    return Speed(
        compilation=max(0, train[0] - train[1] + test[0] - test[1]),
        step=train[1] / STEPS[row.dataset],
        test=test[1] / test_batch,
    )


def noise(dataset: str, count: int) -> cifar_data.Split | voc.Masks:
    """Images of the right shape."""
    rng = np.random.default_rng(0)
    if dataset == "VOC2012":
        side = voc.SIDE
        images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        labels = rng.integers(0, voc.CLASSES, (count, side, side), np.uint8)
        return voc.Masks(images, labels, np.full((count, 2), side, np.int32))
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return cifar_data.Split(images, rng.integers(0, 10, count, np.int32))
