"""From a row to a network and its optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from examples.paper import methods, rows


def row_of(table, model, method):
    (row,) = rows.choose(table, model, method)
    return row


def filters(kernel):
    """One row for each output filter."""
    return np.asarray(kernel).reshape(-1, kernel.shape[-1]).T


def weights(row, **arguments):
    model = methods.build(row, 10, nnx.Rngs(0), **arguments)
    return methods.project(row, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


@pytest.fixture(scope="module")
def plain():
    return weights(row_of(3, "a", "Baseline"))


@pytest.mark.parametrize("method", ["WN", "WC", "WS", "WC, GC, fully"])
def test_initial_weights_are_projected(plain, method):
    params = weights(row_of(3, "a", method))
    touched = {"conv1", "conv2", "conv3"} | ({"hidden"} if "fully" in method else set())
    for name, layer in params.items():
        before, after = filters(plain[name]["kernel"]), filters(layer["kernel"])
        if name not in touched:
            np.testing.assert_array_equal(after, before)
        elif method == "WN":
            np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, rtol=1e-5)
        else:
            np.testing.assert_allclose(after.mean(1), 0, atol=1e-6)
            if method == "WS":
                np.testing.assert_allclose(after.std(1), 1, rtol=1e-5)
            else:
                np.testing.assert_allclose(after, before - before.mean(1, keepdims=True), atol=1e-6)


def test_gc_stands_before_the_l2_penalty_and_wc_last():
    row = row_of(3, "a", "WC, GC")
    decay, rate = 0.5, 0.1
    optimizer = methods.around(row, optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate)))
    rng = np.random.default_rng(0)
    shape = (2, 2, 3, 4)
    kernel, grad = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    params = {"conv1": {"kernel": kernel}, "head": {"kernel": kernel}}
    updates, _ = optimizer.update(
        {"conv1": {"kernel": grad}, "head": {"kernel": grad}}, optimizer.init(params), params
    )
    stepped = optax.apply_updates(params, updates)
    means = (0, 1, 2)
    centred = grad - grad.mean(means)
    expected = kernel - rate * (centred + decay * kernel)
    expected -= expected.mean(means)
    np.testing.assert_allclose(stepped["conv1"]["kernel"], expected, atol=1e-6)
    head = kernel - rate * (grad + decay * kernel)
    np.testing.assert_allclose(stepped["head"]["kernel"], head, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "axes"),
    [
        ("gradient global", (0, 1, 2, 3)),
        ("gradient channel", (0, 1, 3)),
        ("gradient instance", (0, 1)),
    ],
)
def test_areas_of_the_gradient(method, axes):
    optimizer = methods.around(row_of(2, "c", method), optax.identity())
    grad = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3, 4)), jnp.float32)
    grads = {"conv1": {"kernel": grad}, "hidden": {"kernel": grad[0, 0]}}
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    expected = grad - grad.mean(axes, keepdims=True)
    np.testing.assert_allclose(updates["conv1"]["kernel"], expected, atol=1e-6)
    np.testing.assert_array_equal(updates["hidden"]["kernel"], grad[0, 0])


def bias_gradients(method):
    model = methods.build(row_of(2, "c", method), 10, nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))

    @nnx.jit
    def gradients(model):
        return nnx.grad(lambda model: jnp.square(model(images)).sum())(model)

    grads = nnx.to_pure_dict(gradients(model))
    return {name: float(jnp.abs(layer["bias"]).max()) for name, layer in grads.items()}


def test_the_error_is_centralized_behind_each_layer():
    # A channel's error that sums to zero leaves its bias no gradient.
    assert max(bias_gradients("error channel").values()) < 1e-5
    assert min(bias_gradients("Baseline").values()) > 1e-3


@pytest.mark.parametrize(
    ("norm", "kind"), [("layer", nnx.LayerNorm), ("instance", nnx.InstanceNorm)]
)
def test_layer_and_instance_normalization_stand_for_batch_normalization(norm, kind):
    built = [
        nnx.eval_shape(lambda m=m: methods.build(row_of(3, "a", m), 10, nnx.Rngs(0), norm=norm))
        for m in ("Baseline, BN", "Baseline")
    ]
    found = [
        {type(part) for _, part in nnx.iter_modules(model)} & {kind, nnx.BatchNorm}
        for model in built
    ]
    assert found == [{kind}, set()]
