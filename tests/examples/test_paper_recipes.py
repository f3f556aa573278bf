"""Section 5 of the paper: learning rate, decay, batch; and what the optimizers do with them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples.paper import recipes

# Data set, optimizer, batch, decay, then the epoch and its learning rate.
SECTION_5 = [
    ("CIFAR10", "adam", 50, 5e-5, {0: 1e-3, 49: 1e-3, 50: 1e-4, 100: 1e-5, 299: 1e-8}),
    ("CIFAR100", "sgd", 50, 5e-4, {0: 1e-1, 49: 1e-1, 50: 1e-2, 100: 1e-3, 299: 1e-6}),
    ("VOC2012", "sgd", 10, 1e-4, {0: 1e-1, 50: 1e-1, 100: 1e-1, 200: 1e-2, 799: 1e-4}),
]


@pytest.mark.parametrize(("dataset", "optimizer", "batch", "decay", "rates"), SECTION_5)
def test_recipes_are_those_of_section_5(dataset, optimizer, batch, decay, rates):
    recipe = recipes.RECIPES[dataset]
    assert (recipe.optimizer, recipe.batch_size) == (optimizer, batch)
    assert (recipe.momentum, recipe.second_momentum) == (0.9, 0.999)
    assert recipe.weight_decay == decay
    assert recipe.epochs == max(rates) + 1
    steps = 7  # an epoch
    schedule = recipes.learning_rate(recipe, recipe.epochs * steps)
    for epoch, rate in rates.items():
        first, last = schedule(epoch * steps), schedule(epoch * steps + steps - 1)
        np.testing.assert_allclose([first, last], rate, rtol=1e-5)


@pytest.mark.parametrize(
    ("drops", "starts"),
    [("paper", (0, 20, 40, 60, 80, 100)), ("late", (0, 72, 102))],
)
def test_a_shorter_run_keeps_the_shares(drops, starts):
    schedule = recipes.learning_rate(recipes.RECIPES["CIFAR10"], 120, drops)
    rates = np.array([schedule(step) for step in range(120)])
    (changes,) = np.nonzero(np.diff(rates))
    assert (0, *changes + 1) == starts
    np.testing.assert_allclose(rates[list(starts)], 1e-3 * 0.1 ** np.arange(len(starts)), rtol=1e-5)


def test_other_drops_are_refused():
    with pytest.raises(ValueError, match="'paper' or 'late', got 'early'"):
        recipes.learning_rate(recipes.RECIPES["CIFAR10"], 120, "early")


def test_sgd_has_undamped_momentum_of_steps_and_l2_in_the_gradient():
    recipe = dataclasses.replace(recipes.RECIPES["CIFAR100"], weight_decay=0.5)
    rates = jnp.array([0.1, 0.01])
    optimizer = recipes.optimizer(recipe, lambda step: rates[step])
    params = {"kernel": jnp.array([1.0]), "bias": jnp.array([1.0])}
    state = optimizer.init(params)
    for _ in rates:
        updates, state = optimizer.update(
            {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])}, state, params
        )
        params = optax.apply_updates(params, updates)
    # v1 = -0.1 (2 + 0.5 * 1) = -0.25, w = 0.75; v2 = 0.9 v1 - 0.01 (2 + 0.5 * 0.75) = -0.24875.
    np.testing.assert_allclose(params["kernel"], [0.75 - 0.24875], rtol=1e-6)
    # Without decay: v1 = -0.2, w = 0.8; v2 = -0.18 - 0.02.
    np.testing.assert_allclose(params["bias"], [0.8 - 0.2], rtol=1e-6)


def test_adam_has_l2_in_the_gradient():
    recipe = dataclasses.replace(recipes.RECIPES["CIFAR10"], weight_decay=0.5)
    optimizer = recipes.optimizer(recipe, lambda _: 0.1)
    params = {"kernel": jnp.array([4.0]), "bias": jnp.array([4.0])}
    with jax.numpy_dtype_promotion("standard"):  # for optax's Adam
        updates, _ = optimizer.update(
            {"kernel": jnp.array([-1.0]), "bias": jnp.array([-1.0])}, optimizer.init(params), params
        )
    # Adam's first step goes by the sign of the gradient, which the penalty turns around.
    np.testing.assert_allclose([updates["kernel"], updates["bias"]], [[-0.1], [0.1]], rtol=1e-5)


def test_kernels_alone_decay():
    params = {"conv1": {"kernel": 0.0, "bias": 0.0}, "norm1": {"scale": 0.0, "bias": 0.0}}
    assert recipes.decaying(params) == {
        "conv1": {"kernel": True, "bias": False},
        "norm1": {"scale": False, "bias": False},
    }
