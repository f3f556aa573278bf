"""Networks in training and in evaluation: statistics, derivatives, and that they learn."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wcgc
import wcgc.models

from helpers.networks import build, params


def train(model, images, labels, steps, optimizer):
    """Trains under WC and GC until all answers are right; returns the share of those that are."""
    tx = wcgc.centralized(optimizer, axes=wcgc.models.rules(fully=True))
    state = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(model, state, images, labels):
        def loss(model):
            logits = model(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (
                logits.argmax(-1) == labels
            ).mean()

        gradients, right = nnx.grad(loss, has_aux=True)(model)
        state.update(model, gradients)
        return right

    right = 0.0
    for _ in range(steps):
        right = float(train_step(model, state, images, labels))
        if right == 1.0:
            break
    return right


def test_batch_norm_updates_running_statistics_in_training_only():
    model = build("a")
    images = jax.random.normal(jax.random.key(0), (6, 32, 32, 3))
    run = nnx.jit(lambda model: model(images))
    activations = model.conv1(images)
    training = run(model)
    np.testing.assert_allclose(
        model.norm1.mean[...], activations.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(model.norm1.var[...], activations.var((0, 1, 2)), rtol=1e-4)
    nnx.jit(lambda model: model(2 * images + 1))(model)
    statistics = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    model.eval()
    evaluation = run(model)
    chex.assert_trees_all_equal(statistics, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    assert jnp.abs(training - evaluation).max() > 0.01
    model.train()
    np.testing.assert_allclose(run(model), training, rtol=1e-5, atol=1e-5)


def test_a_view_for_evaluation_shares_the_parameters():
    model = build("a")
    view = nnx.view(model, use_running_average=True)
    model.conv1.bias[...] += 1.0
    assert (view.conv1.bias[...] == 1.0).all()
    assert view.norm1.use_running_average
    assert not model.norm1.use_running_average


@pytest.mark.parametrize(("letter", "side"), [("a", 32), ("d", 67)])
def test_products_with_the_hessian_are_the_same_forward_and_backward(letter, side):
    model = build(letter, batch_norm=False)
    graph, weights = nnx.split(model)
    weights = nnx.as_pure(weights)
    images = jax.random.normal(jax.random.key(0), (1, side, side, 3))
    # A smooth function of the network's last layers, whose Hessian is not that of a kink.
    names = {"a": ("hidden", "head"), "d": ("conv_out", "head")}[letter]

    def loss(part):
        return (nnx.merge(graph, {**weights, **part})(images) ** 2).mean()

    part = {name: weights[name] for name in names}
    direction = optax.tree.random_like(jax.random.key(1), part)

    @jax.jit
    def both(part, direction):
        gradient = jax.grad(loss)
        forward = jax.jvp(gradient, (part,), (direction,))[1]
        backward = jax.grad(lambda part: optax.tree.vdot(gradient(part), direction))(part)
        return forward, backward

    forward, backward = both(part, direction)
    scale = optax.tree.norm(forward)
    assert scale > 0
    assert optax.tree.norm(optax.tree.sub(forward, backward)) < 1e-4 * scale


@pytest.mark.usefixtures("standard_promotion")
def test_a_step_centralizes_each_filter_but_the_head():
    model = build("a")
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    train(model, images, jnp.arange(2), 1, optax.adam(1e-3))
    for path, leaf in params(model).items():
        if path.endswith("kernel"):
            mean = np.abs(np.mean(leaf, tuple(range(leaf.ndim - 1)))).max()
            # A float32 mean of numbers below one is exact to about 1e-7.
            assert mean > 1e-4 if path == "head/kernel" else mean < 1e-6, path


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(("letter", "batch_norm"), [("a", True), ("a", False), ("c", False)])
def test_small_networks_learn_ten_images_by_heart(letter, batch_norm):
    images = jax.random.normal(jax.random.key(0), (10, 32, 32, 3))
    model = build(letter, batch_norm=batch_norm)
    assert train(model, images, jnp.arange(10), 30, optax.adam(1e-3)) == 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_the_resnet_learns_ten_images_by_heart():
    images = jax.random.normal(jax.random.key(0), (10, 32, 32, 3))
    optimizer = optax.sgd(0.1, momentum=0.9)
    assert train(build("b"), images, jnp.arange(10), 20, optimizer) == 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_the_unet_learns_ten_images_by_heart():
    # Ten images of one colour each with some noise, and each pixel is to be labelled rightly.
    colours = 2.0 * np.stack(np.unravel_index(np.arange(4, 24, 2), (3, 3, 3)), axis=-1) - 2.0
    noise = 0.1 * jax.random.normal(jax.random.key(0), (10, 67, 67, 3))
    images = noise + jnp.asarray(colours, jnp.float32)[:, None, None]
    labels = jnp.broadcast_to(jnp.arange(0, 20, 2)[:, None, None], (10, 67, 67))
    assert train(build("d", 21), images, labels, 90, optax.adam(1e-3)) == 1.0
