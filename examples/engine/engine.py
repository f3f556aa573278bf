"""Trains one experiment: all data lies on the device, and steps follow each other without the host.

On accelerators a pass over the images is one compiled scan, on a CPU a loop of compiled steps:
`compiling` says why.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from examples.engine import compiling, tasks
from examples.engine.data import Data
from examples.engine.voc import IGNORED


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is trained, and how; with data and seed it decides the result.

    Attributes:
      build: from random keys to the network, with weights as drawn.
      project: from the drawn parameters to those of the first step.
      optimizer: from the number of steps in the whole run to the transform. Its `update` is given
        `params`.
      task: what images and labels go through.
      batch_size: images a step.
      epochs: passes over the training images.
      measure: what is recorded of a state, as numbers in dictionaries; see `Measure`. None for
        nothing.
    """

    build: Callable[[nnx.Rngs], nnx.Module]
    project: Callable[[Any], Any]
    optimizer: Callable[[int], optax.GradientTransformation]
    task: tasks.Task
    batch_size: int
    epochs: int
    measure: "Measure | None" = None


class State(NamedTuple):
    """All that training changes, each array with a first axis for the seeds."""

    params: Any
    statistics: Any
    optimizer: Any


Measure = Callable[[Any, State, optax.GradientTransformation, Any], Any]
"""From the network's graph, the state of one seed, the transform, and training images with labels
as the task's `whole` makes them, to a tree of numbers."""

MEASURED = 200
"""Training images that a measurement gets, the first ones."""


class Learned(NamedTuple):
    """What one pass over images gave, an array with an entry for each seed."""

    loss: np.ndarray
    accuracy: np.ndarray


class Batches(NamedTuple):
    """What an epoch learns, step by step: numbers of images, and keys for their augmentation."""

    images: jax.Array
    keys: jax.Array


class Engine:
    """Trains one experiment, several seeds at once if asked to, on all local devices.

    The batches are split over the devices; the rest is the same on each. Batches and augmentation
    follow from keys folded with seed, epoch and step, so that a run that is continued from a saved
    state goes on as if it had never stopped.

    Args:
      experiment: what to train.
      data: training and test images.
      seeds: how many seeds to train at once.
      devices: to train on; None for all local ones.

    Raises:
      ValueError: there are fewer training images than a batch needs.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: Data,
        seeds: int = 1,
        devices: Sequence[Any] | None = None,
    ):
        self.experiment, self.epochs = experiment, experiment.epochs
        self.images = {name: len(part.labels) for name, part in data._asdict().items()}
        self.steps = self.images["train"] // experiment.batch_size
        if not self.steps:
            raise ValueError(
                f"A batch has {experiment.batch_size} images, more than the "
                f"{self.images['train']} training images there are: raise --limit or leave it out."
            )
        self.transform = experiment.optimizer(self.epochs * self.steps)
        self.graph = nnx.graphdef(
            nnx.eval_shape(lambda: experiment.build(nnx.Rngs(jax.random.key(0))))
        )

        devices = jax.local_devices() if devices is None else devices
        self.devices = len(devices)
        self.compilation = compiling.choose(devices[0].platform)
        mesh = jax.make_mesh((self.devices,), ("batch",), (AxisType.Auto,), devices=devices)
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec("batch"))
        self.train_data, self.test_data = jax.device_put((data.train, data.test), self._everywhere)

        self._seeds = seeds
        self._draw_weights = self._compile(self._draw_weights_of_one, (0,))
        self._init = self._compile(self._init_one, (0,))
        self._draw_batches = self._compile(self._draw_batches_of_one, (0, None))
        self._train = self._over_batches(self._step, (0, 0, None), donate_argnums=0)
        self._test = self._over_batches(self._test_step, (None, None, 0, None))
        self._measure = self._compile(self._measure_one, (0, None))

    def init(self, seeds: Sequence[int]) -> State:
        """The state before the first epoch."""
        return self._init(self._draw_weights(np.asarray(seeds, np.uint32)))

    def train(
        self, state: State, seeds: Sequence[int], epoch: int, steps: slice = slice(None)
    ) -> tuple[State, Learned]:
        """Trains for one epoch, counted from 1, or some of its steps; `state` is used up.

        Images that do not fill a batch sit out this epoch, others in the next.

        Returns:
          The new state; loss and accuracy on the augmented images while they were learned.
        """
        batches = self._draw_batches(np.asarray(seeds, np.uint32), np.int32(epoch))
        if steps != slice(None):
            batches = jax.tree.map(lambda x: x[:, steps], batches)
        state, (losses, correct, labelled) = self._train(state, batches, self.train_data)
        return state, Learned(losses.mean(1), correct.sum(1) / labelled.sum(1))

    def test(self, state: State) -> Learned:
        """Loss and accuracy on the whole test images, means over all labels but ignored ones."""
        count = self.images["test"]
        size = min(self.experiment.task.test_batch, count)
        batches = np.arange(-(-count // size) * size, dtype=np.int32).reshape(-1, size)
        _, (losses, correct, labelled) = self._test(None, batches, state, self.test_data)
        total = labelled.sum(1)
        return Learned(losses.sum(1) / total, correct.sum(1) / total)

    def measure(self, state: State) -> list[Any]:
        """What the experiment measures, for each seed: numbers in dictionaries."""
        measured = jax.device_get(self._measure(state, self.train_data))
        return [jax.tree.map(lambda x, i=i: float(x[i]), measured) for i in range(self._seeds)]

    def digests(self, seeds: Sequence[int]) -> list[dict[str, str]]:
        """What runs share that are to be compared: for each seed, digests of it.

        Returns:
          SHA-256 digests of the weights as drawn, of the first epoch's batches with the keys of
          their augmentation, and of the labels of all data.
        """
        numbers = np.asarray(seeds, np.uint32)
        weights, _ = jax.device_get(self._draw_weights(numbers))
        batches = self._draw_batches(numbers, np.int32(1))
        drawn = jax.device_get((batches.images, jax.random.key_data(batches.keys)))
        labels = digest(jax.device_get((self.train_data.labels, self.test_data.labels)))
        return [
            {
                "weights": digest(jax.tree.map(lambda x, i=i: x[i], weights)),
                "batches": digest(jax.tree.map(lambda x, i=i: x[i], drawn)),
                "labels": labels,
            }
            for i in range(len(seeds))
        ]

    def _draw_weights_of_one(self, seed: jax.Array) -> tuple[Any, Any]:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return parts(self.experiment.build(nnx.Rngs(key)))

    def _init_one(self, drawn: tuple[Any, Any]) -> State:
        params, statistics = drawn
        params = self.experiment.project(params)
        return State(params, statistics, self.transform.init(params))

    def _draw_batches_of_one(self, seed: jax.Array, epoch: jax.Array) -> Batches:
        order_key, augment_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), epoch))
        order = jax.random.permutation(order_key, self.images["train"])
        images = order[: self.steps * self.experiment.batch_size].reshape(self.steps, -1)
        fold_in = jax.vmap(jax.random.fold_in, (None, 0))
        return Batches(images, fold_in(augment_key, jnp.arange(self.steps)))

    def _step(self, state: State, batch: Batches, data: Any) -> tuple[State, tuple]:
        images, labels = self.experiment.task.augment(batch.keys, self._take(data, batch.images))

        def learn(params):
            model = nnx.merge(self.graph, params, state.statistics)
            logits = model(images)
            _, statistics = parts(model)
            return tasks.loss(logits, labels), (statistics, tasks.count_correct(logits, labels))

        grad = jax.value_and_grad(learn, has_aux=True)
        (loss, (statistics, counts)), grads = grad(state.params)
        updates, optimizer = self.transform.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, statistics, optimizer), (loss, *counts)

    def _test_step(
        self, _: None, indices: jax.Array, state: State, data: Any
    ) -> tuple[None, tuple]:
        count = self.images["test"]
        images, labels = self.experiment.task.whole(
            self._take(data, jnp.minimum(indices, count - 1))
        )
        exists = jnp.expand_dims(indices < count, (*range(1, labels.ndim),))
        labels = jnp.where(exists, labels, IGNORED)
        model = nnx.merge(self.graph, state.params, state.statistics)
        model.eval()
        logits = model(images)
        losses = tasks.total_cross_entropy(logits, labels)
        return None, (losses, *tasks.count_correct(logits, labels))

    def _measure_one(self, state: State, data: Any) -> Any:
        if self.experiment.measure is None:
            raise ValueError("This experiment measures nothing: give it a `measure`.")
        first = jax.tree.map(lambda array: array[:MEASURED], data)
        batch = self.experiment.task.whole(first)
        return self.experiment.measure(self.graph, state, self.transform, batch)

    def _take(self, data: Any, indices: jax.Array) -> Any:
        """Gathers a batch, each device its part."""
        batch = jax.tree.map(lambda array: array[indices], data)
        return jax.lax.with_sharding_constraint(batch, self._split)

    def _compile(
        self, function: Callable, in_axes: tuple[int | None, ...], **choices: Any
    ) -> Callable:
        """Compiles what is written for one seed for all of them."""
        mapped = over_seeds(self._seeds, function, in_axes)
        return self.compilation.jit(mapped, out_shardings=self._everywhere, **choices)

    def _over_batches(
        self, step: Callable, in_axes: tuple[int | None, ...], **choices: Any
    ) -> Callable:
        """From `step(carry, batch, *constants)` to the same over many batches, one after the other.

        Args:
          step: returns the new carry and a result.
          in_axes: where carry, batch and constants have the axis of the seeds.
          **choices: for `jax.jit`.

        Returns:
          A function of carry, batches and constants to the last carry and the results, NumPy arrays
          (seeds, batches, ...).
        """
        if self.compilation.scan:

            def all_steps(carry, batches, *constants):
                return jax.lax.scan(
                    lambda carry, batch: step(carry, batch, *constants), carry, batches
                )

            scanned = self._compile(all_steps, in_axes, **choices)

            def run(carry, batches, *constants):
                carry, results = scanned(carry, batches, *constants)
                return carry, jax.device_get(results)

            return run

        def one_step(number, carry, batches, *constants):
            return step(carry, jax.tree.map(lambda x: x[number], batches), *constants)

        choices = {name: value + 1 for name, value in choices.items()}  # behind `number`
        compiled = self._compile(one_step, (None, *in_axes), **choices)
        steps_axis = 0 if in_axes[1] is None else 1

        def loop(carry, batches, *constants):
            results = []
            for number in range(jax.tree.leaves(batches)[0].shape[steps_axis]):
                carry, result = compiled(np.int32(number), carry, batches, *constants)
                results.append(result)
            results = jax.device_get(results)
            return carry, jax.tree.map(lambda *of_steps: np.stack(of_steps, 1), *results)

        return loop


def parts(model: nnx.Module) -> tuple[Any, Any]:
    """The parameters of a model, and what else changes in training, as trees of arrays."""
    params, statistics = nnx.Param, nnx.Not(nnx.Param)
    return nnx.as_pure(nnx.state(model, params)), nnx.as_pure(nnx.state(model, statistics))


def over_seeds(seeds: int, function: Callable, in_axes: tuple[int | None, ...]) -> Callable:
    """Maps `function` over the first axis, the seeds; for one seed without the cost of vmap."""
    if seeds > 1:
        return jax.vmap(function, in_axes)

    def alone(*args):
        args = [
            arg if axis is None else jax.tree.map(lambda x: x[0], arg)
            for arg, axis in zip(args, in_axes, strict=True)
        ]
        return jax.tree.map(lambda x: x[None], function(*args))

    return alone


def digest(tree: Any) -> str:
    """The SHA-256 digest of all arrays of a tree, names and bits."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        sha.update(jax.tree_util.keystr(path).encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()
