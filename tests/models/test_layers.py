"""Convolutions and normalizations by dlib's conventions; what becomes of each layer's output."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wcgc
from wcgc.models._layers import BatchNorm

from helpers.networks import abstract, build, layers, params, set_kernel


def test_stride_1_keeps_height_and_width():
    conv = layers().conv(1, 1, 3)
    set_kernel(conv, np.ones(9))
    expected = [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    np.testing.assert_array_equal(conv(jnp.ones((1, 3, 3, 1)))[0, :, :, 0], expected)


def test_larger_strides_pad_nothing_and_drop_what_is_left():
    conv = layers().conv(1, 1, 3, stride=2)
    set_kernel(conv, [1, 0, 0, 0, 0, 0, 0, 0, 0])
    image = jnp.arange(36.0).reshape(1, 6, 6, 1)
    np.testing.assert_array_equal(conv(image)[0, :, :, 0], [[0, 2], [12, 14]])


def test_a_convolution_is_that_of_flax():
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    layer = layers().conv(3, 4, 3, stride=2)
    stock = nnx.Conv(3, 4, (3, 3), strides=2, padding="VALID", rngs=nnx.Rngs(1))
    stock.kernel[...], stock.bias[...] = layer.kernel[...], layer.bias[...] + 1.0
    np.testing.assert_array_equal(layer(x) + 1.0, stock(x))


@pytest.mark.parametrize("transposed", [False, True])
def test_in_axis_is_summed_over_and_out_axis_numbers_filters(transposed):
    make = layers().conv_transpose if transposed else layers().conv
    layer = make(2, 3, 3, 2)
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 2))
    kernel = layer.kernel[...]
    before = layer(x)
    for channel in range(2):
        for filter_ in range(3):
            layer.kernel[...] = kernel.at[:, :, channel, filter_].add(1.0)
            changed = jnp.abs(layer(x) - before).max((0, 1, 2)) > 0
            np.testing.assert_array_equal(changed, np.arange(3) == filter_)
            without = x.at[..., channel].set(0.0)
            after = layer(without)
            layer.kernel[...] = kernel
            np.testing.assert_array_equal(after, layer(without))


@pytest.mark.parametrize(
    ("norm", "axes"), [("batch", (0, 1, 2)), ("layer", (1, 2, 3)), ("instance", (1, 2))]
)
def test_each_normalization_has_its_own_axes_and_epsilon(norm, axes):
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 6, 7))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    normalize = layers(norm).normalize(7)
    normalize.scale[...] = scale = jnp.arange(1.0, 8.0)
    normalize.bias[...] = shift = jnp.arange(7.0)
    expected = scale * (x - mean) / jnp.sqrt(var + 1e-4) + shift
    np.testing.assert_allclose(normalize(x), expected, rtol=1e-4, atol=1e-4)


def test_running_averages_are_plain_ones_up_to_the_window():
    norm = BatchNorm(2, window=3, rngs=nnx.Rngs(0))
    batches = 2 + 3 * np.random.default_rng(0).normal(size=(6, 50, 2)).astype(np.float32)
    means, variances = batches.mean(1), batches.var(1)
    expected = np.zeros(2), np.ones(2)
    for number, batch in enumerate(batches):
        norm(jnp.asarray(batch))
        weight = 1 / (min(number, 3) + 1)
        expected = tuple(
            (1 - weight) * old + weight * new
            for old, new in zip(expected, (means[number], variances[number]), strict=True)
        )
        found = norm.mean[...], norm.var[...]
        chex.assert_trees_all_close(found, expected, rtol=1e-5)
        if number < 4:
            plain = tuple(values[: number + 1].mean(0) for values in (means, variances))
            chex.assert_trees_all_close(found, plain, rtol=1e-5)
    before = nnx.to_pure_dict(nnx.state(norm, nnx.BatchStat))
    x = jnp.asarray(batches[0])
    evaluated = norm(x, use_running_average=True)
    normalized = (x - expected[0]) / np.sqrt(expected[1] + norm.epsilon)
    np.testing.assert_allclose(evaluated, normalized, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(norm, nnx.BatchStat)), before)


# Flax's batch normalization in bfloat16 relies on implicit promotion.
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("letter", ["a", "c"])
def test_bfloat16_gives_float32_s_logits_to_eight_bits(letter):
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    exact = build(letter)(images)
    model = build(letter, dtype=jnp.bfloat16)
    logits = nnx.jit(lambda model, images: model(images))(model, images.astype(jnp.bfloat16))
    assert logits.dtype == jnp.bfloat16
    # Eight bits a number, over five layers.
    np.testing.assert_allclose(logits.astype(jnp.float32), exact, atol=0.05 * jnp.abs(exact).max())
    assert {leaf.dtype for leaf in params(model).values()} == {jnp.dtype(jnp.float32)}


@pytest.mark.usefixtures("standard_promotion")
def test_every_layer_computes_in_the_type_that_was_asked_for():
    types = []
    shapes = jax.ShapeDtypeStruct((2, 67, 67, 3), jnp.bfloat16)

    def record(x):
        types.append(x.dtype)
        return x

    model = abstract("d", dtype=jnp.bfloat16, after_layer=record)
    logits = nnx.eval_shape(lambda model, images: model(images), model, shapes)
    assert logits.dtype == jnp.bfloat16
    assert set(types) == {jnp.dtype(jnp.bfloat16)}
    assert len(types) == 55


def test_errors_centralized_after_each_layer_leave_biases_no_gradient():
    # The channel area takes the mean over samples and pixels out of the error, and with it all
    # that a bias would learn from.
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))

    def loss(model):
        logits = model(images)
        return ((logits - 1.0) ** 2).sum(), logits

    def gradients(**choices):
        gradient, logits = nnx.jit(nnx.grad(loss, has_aux=True))(build("c", **choices))
        return jax.tree.map(np.asarray, params(gradient)), logits

    plain, logits = gradients()
    normalized, same_logits = gradients(
        after_layer=functools.partial(wcgc.centralize_error, area="channel")
    )
    np.testing.assert_array_equal(logits, same_logits)
    biases = [path for path in plain if path.endswith("bias")]
    assert len(biases) == 5
    for path in biases:
        scale = np.abs(plain[path]).max()
        assert np.abs(normalized[path]).max() < 1e-5 * scale, path
    assert np.abs(normalized["conv1/kernel"]).max() > 0
