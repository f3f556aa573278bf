"""One way to train a small transformer on a text, where centralization should not help much."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import optax
from flax import nnx

import wcgc
from examples.engine import results
from examples.engine.data import Data
from examples.engine.engine import Experiment, State
from examples.paper import recipes
from examples.study import probe, text
from examples.study.factors import Factors
from examples.study.transformer import Transformer

BATCH_SIZE = 32
WEIGHT_DECAY = 0.1
SECOND_MOMENTUM = 0.99

Kernels = Literal["all", "second"]


@dataclasses.dataclass(frozen=True)
class Setting(Factors):
    """What decides a run on a text, its seed apart.

    Attributes:
      block: the question that it belongs to.
      arm: where the mean is removed: nowhere, from gradients, from weights, or from both.
      kernels: of which kernels: of all, or of the second ones of the dense layers alone, whose
        inputs are behind a GELU and not behind a LayerNorm.
      learning_rate: the initial one, of AdamW; it falls tenfold at 60 % and at 85 % of the run.
      epochs: passes over the training part of the text.
      held_out: whether the end of the training part is tested, in place of the end of the text.
    """

    kernels: Kernels = "all"
    learning_rate: float = 1e-3
    epochs: int = 1
    held_out: bool = False

    @property
    def name(self) -> str:
        """The block and what differs within it."""
        words = [f"{self.block} {self.arm}", f"adamw {self.learning_rate:g}"]
        return ", ".join(words + ([] if self.kernels == "all" else ["second kernels"]))

    @property
    def constants(self) -> results.Record:
        """Of all runs."""
        return {"batch_size": BATCH_SIZE, "weight_decay": WEIGHT_DECAY, "window": text.WINDOW}

    def experiment(self, data: Data) -> Experiment:
        """What the engine trains."""
        build = functools.partial(Transformer, text.alphabet_size(data), text.WINDOW)
        axes = axes_of(self, build)
        return Experiment(
            build=build,
            project=functools.partial(project, self, axes),
            optimizer=functools.partial(optimizer, self, axes),
            task=text.TASK,
            batch_size=BATCH_SIZE,
            epochs=self.epochs,
            measure=measure,
        )

    def load(self, data_dir: Path) -> Data:
        """Reads the text, whose file is given in place of a folder."""
        return text.load(data_dir, self.held_out)


def axes_of(setting: Setting, build: Any) -> Any:
    """The kernels that the setting is about, read off the model."""
    everything = wcgc.axes_of(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    if setting.kernels == "all":
        return everything
    return wcgc.by_path((r"second/kernel$", wcgc.FLAX))


def project(setting: Setting, axes: Any, params: Any) -> Any:
    """The weights of the first step."""
    return wcgc.centralize(params, axes=axes) if setting.arm in ("WC", "WC+GC") else params


def optimizer(setting: Setting, axes: Any, steps: int) -> optax.GradientTransformation:
    """AdamW, with centralization where the setting has it."""
    recipe = dataclasses.replace(recipes.RECIPES["CIFAR10"], learning_rate=setting.learning_rate)
    adamw = optax.adamw(
        recipes.learning_rate(recipe, steps, "late"),
        b2=SECOND_MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        mask=recipes.decaying,
    )
    return wcgc.centralized(
        adamw,
        gradients="tensor" if setting.arm in ("GC", "WC+GC") else None,
        params="tensor" if setting.arm in ("WC", "WC+GC") else None,
        axes=axes,
    )


def measure(
    graph: Any,
    state: State,
    transform: optax.GradientTransformation,
    batch: tuple[jax.Array, jax.Array],
) -> dict[str, dict[str, jax.Array]]:
    """The share of the squared norm that the filters' means have, kernel by kernel.

    Args:
      graph: of the network.
      state: of one run.
      transform: its optimizer.
      batch: windows of characters, and the next ones.

    Returns:
      For each kernel the shares in `gradient` and `weights`.
    """
    del transform
    axes = wcgc.axes_of(nnx.merge(graph, state.params, state.statistics, copy=True))
    trees = {"gradient": probe.gradient_of(graph, state, batch), "weights": state.params}
    found: dict[str, dict[str, jax.Array]] = {}
    for what, tree in trees.items():
        for path, leaf in wcgc.measure(tree, axes=axes).leaves.items():
            found.setdefault(path.removesuffix("/kernel"), {})[what] = leaf.fraction_removed
    return found
