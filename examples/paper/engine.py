"""Trains a row of a table: whole epochs inside one compiled scan over data on the device."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from examples.paper import methods, recipes, tasks
from examples.paper.data import Data
from examples.paper.rows import Row
from examples.paper.voc import IGNORED, SplitName


@dataclasses.dataclass(frozen=True)
class Options:
    """What is chosen beside the row; it decides the result, together with row and seed.

    Attributes:
      epochs: how many; None for the paper's.
      limit: use so many training and so many test images only; None for all.
      split: of VOC2012.
      drops: when the learning rate falls; see `recipes.learning_rate`.
      norm: what stands for batch normalization in the rows that have it.
      stem: the beginning of network (b).
    """

    epochs: int | None = None
    limit: int | None = None
    split: SplitName = "official"
    drops: recipes.Drops = "paper"
    norm: methods.Norm = "batch"
    stem: methods.Stem = "stride1"

    def epochs_of(self, row: Row) -> int:
        """How many epochs a row is trained."""
        return row.recipe.epochs if self.epochs is None else self.epochs


class State(NamedTuple):
    """All that training changes, each array with a first axis for the seeds."""

    params: Any
    statistics: Any
    optimizer: Any


class Learned(NamedTuple):
    """What one pass over images gave, an array with an entry for each seed."""

    loss: jax.Array
    accuracy: jax.Array


class Engine:
    """Trains one row, several seeds at once if asked to, on all local devices.

    The batches are split over the devices; the rest is the same on each. Batches and augmentation
    follow from keys folded with seed, epoch and step, so that a run that is continued from a saved
    state goes on as if it had never stopped.

    Args:
      row: what to train.
      options: how.
      data: training and test images.
      seeds: how many seeds to train at once.
      devices: to train on; None for all local ones.

    Raises:
      ValueError: there are fewer training images than a batch needs.
    """

    def __init__(
        self,
        row: Row,
        options: Options,
        data: Data,
        seeds: int = 1,
        devices: Sequence[Any] | None = None,
    ):
        self.row, self.options = row, options
        self.recipe = row.recipe
        self.task = tasks.TASKS[row.dataset]
        self.epochs = options.epochs_of(row)
        self.images = {name: len(part.labels) for name, part in data._asdict().items()}
        self.steps = self.images["train"] // self.recipe.batch_size
        if not self.steps:
            raise ValueError(
                f"A batch of {row.dataset} has {self.recipe.batch_size} images, more than the "
                f"{self.images['train']} training images there are: raise --limit or leave it out."
            )
        schedule = recipes.learning_rate(self.recipe, self.epochs * self.steps, options.drops)
        self.transform = methods.around(row, recipes.optimizer(self.recipe, schedule))
        self.graph = nnx.graphdef(nnx.eval_shape(lambda: self._build(jax.random.key(0))))

        devices = jax.local_devices() if devices is None else devices
        self.devices = len(devices)
        mesh = jax.make_mesh((self.devices,), ("batch",), (AxisType.Auto,), devices=devices)
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec("batch"))
        self.train_data, self.test_data = jax.device_put((data.train, data.test), everywhere)

        self._init = jax.jit(_over(seeds, self._init_one, (0,)), out_shardings=everywhere)
        self._train = jax.jit(
            _over(seeds, self._train_one, (0, 0, None, None)),
            donate_argnums=0,
            out_shardings=everywhere,
        )
        self._test = jax.jit(_over(seeds, self._test_one, (0, None)), out_shardings=everywhere)

    def init(self, seeds: Sequence[int]) -> State:
        """The state before the first epoch."""
        return self._init(np.asarray(seeds, np.uint32))

    def train(self, state: State, seeds: Sequence[int], epoch: int) -> tuple[State, Learned]:
        """Trains for one epoch, counted from 1; `state` is used up.

        Images that do not fill a batch sit out this epoch, others in the next.

        Returns:
          The new state; loss and accuracy on the augmented images while they were learned.
        """
        return self._train(state, np.asarray(seeds, np.uint32), np.int32(epoch), self.train_data)

    def test(self, state: State) -> Learned:
        """Loss and accuracy on the whole test images, means over all labels but ignored ones."""
        return self._test(state, self.test_data)

    def _build(self, key: jax.Array) -> nnx.Module:
        return methods.build(
            self.row,
            self.recipe.classes,
            nnx.Rngs(key),
            norm=self.options.norm,
            stem=self.options.stem,
        )

    def _init_one(self, seed: jax.Array) -> State:
        model = self._build(jax.random.fold_in(jax.random.key(seed), 0))
        params, statistics = _parts(model)
        return State(params, statistics, self.transform.init(params))

    def _train_one(
        self, state: State, seed: jax.Array, epoch: jax.Array, data: Any
    ) -> tuple[State, Learned]:
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        order_key, augment_key = jax.random.split(key)
        size = self.recipe.batch_size
        order = jax.random.permutation(order_key, len(data.labels))
        batches = order[: self.steps * size].reshape(self.steps, size)

        def learn(params, statistics, images, labels):
            model = nnx.merge(self.graph, params, statistics)
            logits = model(images)
            _, statistics = _parts(model)
            counts = tasks.count_correct(logits, labels)
            return tasks.loss(logits, labels), (statistics, counts)

        grad = jax.value_and_grad(learn, has_aux=True)

        def step(state, batch):
            number, indices = batch
            images, labels = self.task.augment(
                jax.random.fold_in(augment_key, number), self._take(data, indices)
            )
            (loss, (statistics, counts)), grads = grad(
                state.params, state.statistics, images, labels
            )
            updates, optimizer = self.transform.update(grads, state.optimizer, state.params)
            params = optax.apply_updates(state.params, updates)
            return State(params, statistics, optimizer), (loss, counts)

        state, (losses, (correct, labelled)) = jax.lax.scan(
            step, state, (jnp.arange(self.steps), batches)
        )
        return state, Learned(losses.mean(), correct.sum() / labelled.sum())

    def _test_one(self, state: State, data: Any) -> Learned:
        count = len(data.labels)
        size = min(self.task.test_batch, count)
        batches = jnp.arange(-(-count // size) * size).reshape(-1, size)

        def step(_, indices):
            images, labels = self.task.whole(self._take(data, jnp.minimum(indices, count - 1)))
            exists = jnp.expand_dims(indices < count, (*range(1, labels.ndim),))
            labels = jnp.where(exists, labels, IGNORED)
            model = nnx.merge(self.graph, state.params, state.statistics)
            model.eval()
            logits = model(images)
            counts = tasks.count_correct(logits, labels)
            return None, (tasks.total_cross_entropy(logits, labels), *counts)

        _, (losses, correct, labelled) = jax.lax.scan(step, None, batches)
        total = labelled.sum()
        return Learned(losses.sum() / total, correct.sum() / total)

    def _take(self, data: Any, indices: jax.Array) -> Any:
        """Gathers a batch, each device its part."""
        batch = jax.tree.map(lambda array: array[indices], data)
        return jax.lax.with_sharding_constraint(batch, self._split)


def _parts(model: nnx.Module) -> tuple[Any, Any]:
    """The parameters of a model, and what else changes in training, as trees of arrays."""
    params, statistics = nnx.Param, nnx.Not(nnx.Param)
    return nnx.as_pure(nnx.state(model, params)), nnx.as_pure(nnx.state(model, statistics))


def _over(seeds: int, function: Callable, in_axes: tuple[int | None, ...]) -> Callable:
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
