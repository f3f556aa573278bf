"""Section 5 of the paper as data: how each data set is trained."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from examples.engine.data import Dataset

Drops = Literal["paper", "late"]
"""When the learning rate falls tenfold; see `learning_rate`."""

LATE_DROPS = (0.6, 0.85)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one data set is trained.

    Attributes:
      classes: how many classes there are.
      optimizer: Adam, or SGD with momentum.
      learning_rate: the initial one.
      drop_after: the learning rate falls tenfold each time so many epochs have passed.
      epochs: how many.
      batch_size: images a step.
      weight_decay: of the L2 penalty, whose gradient is this times the weights.
      momentum: the decay of the gradient's average; Adam's momentum one.
      second_momentum: the decay of the squared gradient's average, Adam's momentum two.
    """

    classes: int
    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    drop_after: int
    epochs: int
    batch_size: int
    weight_decay: float
    momentum: float = 0.9
    second_momentum: float = 0.999


RECIPES: dict[Dataset, Recipe] = {
    "CIFAR10": Recipe(
        classes=10,
        optimizer="adam",
        learning_rate=1e-3,
        drop_after=50,
        epochs=300,
        batch_size=50,
        weight_decay=5e-5,
    ),
    "CIFAR100": Recipe(
        classes=100,
        optimizer="sgd",
        learning_rate=1e-1,
        drop_after=50,
        epochs=300,
        batch_size=50,
        weight_decay=5e-4,
    ),
    "VOC2012": Recipe(
        classes=21,  # twenty and the background
        optimizer="sgd",
        learning_rate=1e-1,
        drop_after=200,
        epochs=800,
        batch_size=10,
        weight_decay=1e-4,
    ),
}


def learning_rate(recipe: Recipe, steps: int, drops: Drops = "paper") -> optax.Schedule:
    """The learning rate over a run of `steps` steps, however long.

    Args:
      recipe: of the data set.
      steps: of the whole run.
      drops: `"paper"`: tenfold down at the paper's epochs, which in a shorter run keep their share
        of it; CIFAR's 50 of 300 epochs are a sixth. `"late"`: at 60 % and 85 % of the run, which
        suits a run of few epochs, since the paper's has five drops and learns little after the
        second.

    Returns:
      From the count of steps to the learning rate.

    Raises:
      ValueError: `drops` is neither.

    Example:
      >>> rate = learning_rate(RECIPES["CIFAR10"], steps=300 * 1000)
      >>> print(f"{rate(49_999):.1e} {rate(50_000):.1e} {rate(299_999):.1e}")
      1.0e-03 1.0e-04 1.0e-08
    """
    if drops == "paper":
        stage = recipe.drop_after / recipe.epochs
        shares = [stage * count for count in range(1, recipe.epochs // recipe.drop_after)]
    elif drops == "late":
        shares = [*LATE_DROPS]
    else:
        raise ValueError(f"drops must be 'paper' or 'late', got {drops!r}.")
    ends = jnp.array([round(share * steps) for share in shares], jnp.int32)
    rates = jnp.array([recipe.learning_rate * 0.1**count for count in range(len(shares) + 1)])
    return lambda step: rates[jnp.sum(step >= ends)]


def optimizer(recipe: Recipe, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer of a recipe, L2 penalty included, as the paper's framework, dlib, has it.

    The penalty is added to the gradient, Adam's too. SGD's momentum is undamped and holds steps,
    v = m v - lr g, so that a fall of the learning rate takes effect as the old steps fade.

    Args:
      recipe: of the data set.
      schedule: the learning rate at each step.

    Returns:
      The transform. Its `update` needs `params`.
    """
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=decaying)
    step = optax.scale_by_learning_rate(schedule)
    if recipe.optimizer == "adam":
        average = optax.scale_by_adam(b1=recipe.momentum, b2=recipe.second_momentum, eps=1e-8)
        return optax.chain(decay, average, step)
    return optax.chain(decay, step, optax.trace(recipe.momentum))


def decaying(params: Any) -> Any:
    """Marks the kernels: neither biases nor a normalization's scales and shifts decay."""

    def is_kernel(path: Any, _: Any) -> bool:
        # In an NNX state, the name of the variable is not the last part of the path.
        return "kernel" in [jax.tree_util.keystr((part,), simple=True) for part in path]

    return jax.tree.map_with_path(is_kernel, params)
