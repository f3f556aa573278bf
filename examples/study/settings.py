"""One way to train a network on images: the factors that the study varies, and what they mean."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import optax
import optax.contrib
from flax import nnx

import wcgc
import wcgc.models
from examples.engine import results, tasks
from examples.engine.data import Data, load
from examples.engine.engine import Experiment
from examples.paper import recipes
from examples.paper.recipes import RECIPES
from examples.study import controls, probe
from examples.study.factors import Factors

Network = Literal["a", "c"]
Dataset = Literal["CIFAR10", "CIFAR100"]
Norm = Literal["none", "batch", "layer"]
Optimizer = Literal["adam", "sgd", "lion", "muon"]

MEASURED = ("B", "C", "F")
"""Blocks whose runs record what `probe` measures."""

HELD_OUT = 5000
"""Training images that are set aside to choose learning rates by: the last ones."""


Removed = Literal["mean", "half", "random", "top", "input"]
Layers = Literal["all", "first", "others"]


@dataclasses.dataclass(frozen=True)
class Setting(Factors):
    """What decides a run on images, its seed apart.

    Attributes:
      block: the question that it belongs to.
      arm: where something is removed: nowhere, from gradients, from weights, or from both.
      removed: what is removed from each filter of a convolution: its mean, half of it, the
        component along a random direction of its own, that along the direction in which the
        layer's inputs vary most; or nothing from the filters, and the mean of each patch from the
        layers' inputs.
      layers: of which convolutions.
      network: of the paper.
      dataset: real images, all of them.
      norm: what normalizes network (a) behind its convolutions; (c) has none.
      optimizer: see `optimizer`.
      learning_rate: the initial one; it falls tenfold at 60 % and at 85 % of the run.
      epochs: passes over the training images.
      held_out: whether images set aside from the training set are tested, in place of the test
        images.
      centred: whether the initial filters are centred in all arms. Where the mean is removed from
        weights, they are so by the paper's Algorithm 1.
    """

    removed: Removed = "mean"
    layers: Layers = "all"
    network: Network = "a"
    dataset: Dataset = "CIFAR10"
    norm: Norm = "none"
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-3
    epochs: int = 1
    held_out: bool = False
    centred: bool = False

    @property
    def name(self) -> str:
        """The block and what differs within it."""
        words = [f"{self.block} {self.arm}", f"{self.optimizer} {self.learning_rate:g}"]
        words += [] if self.removed == "mean" else [self.removed]
        words += [] if self.layers == "all" else [f"{self.layers} layers"]
        words += [] if self.norm == "none" else [f"{self.norm} norm"]
        words += ["centred"] if self.centred else []
        return ", ".join(words)

    @property
    def constants(self) -> results.Record:
        """Of the paper's recipe."""
        recipe = RECIPES[self.dataset]
        return {"batch_size": recipe.batch_size, "weight_decay": recipe.weight_decay}

    @property
    def begins_as(self) -> tuple:
        """What settings have in common whose runs of one seed begin with the same weights."""
        return self.network, self.dataset, self.norm, self.removed == "input"

    def experiment(self, data: Data) -> Experiment:
        """What the engine trains."""
        return Experiment(
            build=functools.partial(build, self),
            project=functools.partial(project, self),
            optimizer=functools.partial(optimizer, self, data),
            task=tasks.CLASSIFICATION,
            batch_size=RECIPES[self.dataset].batch_size,
            epochs=self.epochs,
            measure=probe.measure if self.block in MEASURED else None,
        )

    def load(self, data_dir: Path) -> Data:
        """Reads the images."""
        data = load_once(self.dataset, data_dir)
        return hold_out(data) if self.held_out else data


@functools.lru_cache(maxsize=1)
def load_once(dataset: Dataset, data_dir: Path) -> Data:
    """Reads a data set; what many runs of one process need is kept."""
    return load(dataset, data_dir)


def hold_out(data: Data) -> Data:
    """Divides the training images: all but the last for training, the last for the test."""
    last = {
        "train": slice(None, -HELD_OUT),
        "test": slice(-HELD_OUT, None),
    }
    return Data(
        **{
            name: type(data.train)(*(array[chosen] for array in data.train))
            for name, chosen in last.items()
        }
    )


def build(setting: Setting, rngs: nnx.Rngs) -> nnx.Module:
    """The network, with weights as drawn."""
    norm = None if setting.norm == "none" else setting.norm
    model = wcgc.models.build(
        setting.network,
        RECIPES[setting.dataset].classes,
        batch_norm=False if norm is None else None,
        norm=norm,
        rngs=rngs,
    )
    if setting.removed == "input":
        controls.centre_inputs(model)
    return model


def project(setting: Setting, params: Any) -> Any:
    """The weights of the first step."""
    if setting.centred or (setting.removed == "mean" and setting.arm in ("WC", "WC+GC")):
        return wcgc.centralize(params, axes=axes_of(setting))
    return params


def axes_of(setting: Setting) -> Any:
    """The kernels of the convolutions that the setting is about."""
    if setting.layers == "all":
        return wcgc.models.rules()
    names = {"first": "conv1", "others": r"conv[^1/][^/]*"}
    return wcgc.by_path((rf"(^|/){names[setting.layers]}/kernel$", wcgc.FLAX))


def optimizer(setting: Setting, data: Data, steps: int) -> optax.GradientTransformation:
    """What the setting trains with, centralization included.

    The L2 penalty of the paper's recipe is added to the gradient behind GC, for SGD and Adam; Lion
    and Muon have none.
    """
    recipe = dataclasses.replace(RECIPES[setting.dataset], learning_rate=setting.learning_rate)
    schedule = recipes.learning_rate(recipe, steps, "late")
    links: list[optax.GradientTransformation] = [BASES[setting.optimizer](recipe, schedule)]
    axes = axes_of(setting)
    if setting.removed == "mean":
        remove = wcgc.centralize_gradients(axes=axes), wcgc.centralize_params(axes=axes)
    elif setting.removed == "half":
        remove = controls.half_of_gradients(axes), controls.half_of_params(axes)
    elif setting.removed == "input":
        return links[0]
    else:
        graph = nnx.graphdef(nnx.eval_shape(lambda: build(setting, nnx.Rngs(0))))
        directions = functools.partial(DIRECTIONS[setting.removed], graph=graph, data=data)
        remove = controls.along_in_gradients(directions), controls.along_in_params(directions)
    if setting.arm in ("GC", "WC+GC"):
        links.insert(0, remove[0])
    if setting.arm in ("WC", "WC+GC"):
        links.append(remove[1])
    return optax.chain(*links)


def _muon(recipe: recipes.Recipe, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon for kernels, each filter a column of its matrix, and Adam for biases and scales."""
    del recipe
    return optax.contrib.muon(schedule, muon_weight_dimension_numbers=_columns)


def _columns(params: Any) -> Any:
    def of_leaf(leaf: Any) -> Any:
        if leaf.ndim < 2:
            return None
        inputs = tuple(range(leaf.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(reduction_axis=inputs, output_axis=leaf.ndim - 1)

    return jax.tree.map(of_leaf, params)


BASES: dict[Optimizer, Callable[[recipes.Recipe, optax.Schedule], optax.GradientTransformation]] = {
    "adam": lambda recipe, schedule: recipes.optimizer(
        dataclasses.replace(recipe, optimizer="adam"), schedule
    ),
    "sgd": lambda recipe, schedule: recipes.optimizer(
        dataclasses.replace(recipe, optimizer="sgd"), schedule
    ),
    "lion": lambda recipe, schedule: optax.lion(schedule, weight_decay=0.0),
    "muon": _muon,
}

DIRECTIONS = {"random": controls.random_directions, "top": controls.top_directions}
