import functools
import importlib
import re
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wcgc
import wcgc.models
from wcgc.models._blocks import DownBlock, UpBlock, padded_sum
from wcgc.models._conv_transpose import conv_transpose
from wcgc.models._layers import BatchNorm, Layers
from wcgc.models._pooling import max_pool
from wcgc.models._unet import _join

LETTERS = ("a", "b", "c", "d")


def build(letter, classes=10, seed=0, **choices):
    return wcgc.models.build(letter, classes, rngs=nnx.Rngs(seed), **choices)


def abstract(letter, classes=10, **choices):
    """A network whose parameters are shapes only, so that the big ones cost nothing."""
    return nnx.eval_shape(lambda: build(letter, classes, **choices))


TRANSPOSED = [
    # size, stride, padding of the dilated input
    (3, 2, 2),
    (2, 2, 1),
    (7, 2, 6),
    (3, 1, 1),
    (1, 1, 0),
    (3, 2, 1),
    (5, 3, 4),
    (4, 3, 1),
    (2, 3, 1),
]


def layers(norm=None):
    return Layers(norm=norm, after_layer=None, rngs=nnx.Rngs(0))


def params(model):
    """The parameters of a model or a state by path."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def count(model):
    return sum(leaf.size for leaf in params(model).values())


def output_shape(module, *shape):
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nnx.eval_shape(lambda module, x: module(x), module, images).shape


def layer_outputs(letter, side, **choices):
    """(side, channels) of what each convolution and dense layer makes, in the order of calls."""
    shapes = []

    def record(x):
        shapes.append((x.shape[1], x.shape[-1]) if x.ndim == 4 else x.shape[1:])
        return x

    output_shape(abstract(letter, 21, after_layer=record, **choices), 2, side, side, 3)
    return shapes


def set_kernel(layer, kernel):
    layer.kernel[...] = jnp.asarray(kernel, jnp.float32).reshape(layer.kernel.shape)


class TestParameterCounts:
    @pytest.mark.parametrize(
        ("letter", "classes", "batch_norm", "expected"),
        [
            ("a", 10, False, 145_578),
            ("a", 100, False, 151_428),
            ("a", 10, None, 145_578 + 256),
            ("a", 100, True, 151_428 + 256),
            ("b", 10, None, 21_123_594),
            ("b", 100, True, 21_169_764),
            ("c", 10, None, 1_312_842),
            ("c", 100, False, 1_359_012),
            ("d", 21, None, 40_130_133),
        ],
    )
    def test_are_those_of_the_papers_networks(self, letter, classes, batch_norm, expected):
        assert count(abstract(letter, classes, batch_norm=batch_norm)) == expected

    @pytest.mark.parametrize(
        ("letter", "scales_and_shifts"),
        [
            ("b", 2 * (7 * 64 + 8 * 128 + 12 * 256 + 6 * 512)),
            ("d", 2 * (2 * 64 + 12 * (64 + 128 + 256 + 512))),
        ],
    )
    def test_without_batch_norm_every_layer_keeps_its_bias(self, letter, scales_and_shifts):
        without = abstract(letter, batch_norm=False)
        assert count(abstract(letter)) - count(without) == scales_and_shifts
        kernels = {path for path in params(without) if path.endswith("kernel")}
        assert {path.replace("kernel", "bias") for path in kernels} | kernels == set(
            params(without)
        )

    def test_cifar_stem_of_b_differs_by_its_smaller_kernel(self):
        assert count(abstract("b")) - count(abstract("b", stem="cifar")) == (49 - 9) * 3 * 64

    def test_d_has_41_convolutions_14_transposed_ones_and_50_batch_norms(self):
        modules = [module for _, module in nnx.iter_modules(abstract("d"))]
        kinds = (nnx.Conv, nnx.ConvTranspose, nnx.BatchNorm)
        assert [sum(isinstance(m, kind) for m in modules) for kind in kinds] == [41, 14, 50]


class TestInitialisation:
    @pytest.mark.parametrize("letter", LETTERS)
    def test_kernels_are_uniform_by_formula_16_and_biases_zero(self, letter):
        model = build(letter)
        for name, layer in nnx.iter_modules(model):
            if not isinstance(layer, (nnx.Conv, nnx.ConvTranspose, nnx.Linear)):
                continue
            window = np.prod(getattr(layer, "kernel_size", 1))
            bound = np.sqrt(6 / (window * layer.in_features + layer.out_features))
            kernel = np.asarray(layer.kernel[...], np.float64)
            deviation = bound / np.sqrt(3)
            # Five standard errors of the mean and of the deviation of a uniform sample.
            assert abs(kernel.mean()) < 5 * deviation / np.sqrt(kernel.size), name
            error = 5 * deviation * np.sqrt(0.2 / kernel.size)
            assert abs(kernel.std() - deviation) < error, name
            assert np.abs(kernel).max() <= np.float32(bound), name
            assert not layer.bias[...].any(), name

    def test_bounds_of_network_a_worked_by_hand(self):
        largest = {
            path.removesuffix("/kernel"): np.abs(leaf).max()
            for path, leaf in params(build("a")).items()
            if path.endswith("kernel")
        }
        bounds = {
            "conv1": (6 / (75 + 32)) ** 0.5,
            "conv2": (6 / (800 + 32)) ** 0.5,
            "conv3": (6 / (800 + 64)) ** 0.5,
            "hidden": (6 / (1024 + 64)) ** 0.5,
            "head": (6 / (64 + 10)) ** 0.5,
        }
        assert largest == pytest.approx(bounds, rel=0.02)

    def test_seed_decides(self):
        same, again, other = (params(build("a", seed=seed)) for seed in (1, 1, 2))
        chex.assert_trees_all_equal(same, again)
        assert (same["conv1/kernel"] != other["conv1/kernel"]).mean() > 0.9

    def test_several_seeds_at_once(self):
        def make(key):
            return nnx.state(wcgc.models.build("a", 10, rngs=nnx.Rngs(key)))

        several = jax.jit(jax.vmap(make))(jnp.stack([jax.random.key(seed) for seed in (1, 2)]))
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf: leaf[1], several), jax.jit(make)(jax.random.key(2)), rtol=1e-6
        )


class TestConventions:
    def test_stride_1_keeps_height_and_width(self):
        conv = layers().conv(1, 1, 3)
        set_kernel(conv, np.ones(9))
        expected = [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
        np.testing.assert_array_equal(conv(jnp.ones((1, 3, 3, 1)))[0, :, :, 0], expected)

    def test_larger_strides_pad_nothing_and_drop_what_is_left(self):
        conv = layers().conv(1, 1, 3, stride=2)
        set_kernel(conv, [1, 0, 0, 0, 0, 0, 0, 0, 0])
        image = jnp.arange(36.0).reshape(1, 6, 6, 1)
        np.testing.assert_array_equal(conv(image)[0, :, :, 0], [[0, 2], [12, 14]])

    @pytest.mark.parametrize(
        ("size", "stride", "overlaps"),
        [
            (3, 2, [1, 1, 2, 1, 2, 1, 1]),
            (2, 2, [1, 1, 1, 1, 1, 1]),
            (3, 1, [2, 3, 2]),
            (1, 1, [1, 1, 1]),
        ],
    )
    def test_transposed_convolution_counts_its_overlaps(self, size, stride, overlaps):
        conv = layers().conv_transpose(1, 1, size, stride)
        set_kernel(conv, np.ones(size * size))
        output = conv(jnp.ones((1, 3, 3, 1)))[0, :, :, 0]
        np.testing.assert_array_equal(output, np.outer(overlaps, overlaps))

    @pytest.mark.parametrize("transposed", [False, True])
    def test_in_axis_is_summed_over_and_out_axis_numbers_filters(self, transposed):
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

    @pytest.mark.parametrize(("size", "stride", "padding"), TRANSPOSED)
    def test_transposed_convolution_has_the_derivatives_of_flax_s(self, size, stride, padding):
        keys = jax.random.split(jax.random.key(0), 5)
        x = jax.random.normal(keys[0], (2, 3, 4, 2))
        kernel = jax.random.normal(keys[1], (size, size, 2, 5))

        def reference(x, kernel):
            return jax.lax.conv_transpose(x, kernel, (stride, stride), [(padding, padding)] * 2)

        def ours(x, kernel):
            return conv_transpose(x, kernel, stride, padding)

        tangents = (jax.random.normal(keys[2], x.shape), jax.random.normal(keys[3], kernel.shape))
        found, expected = (jax.jvp(f, (x, kernel), tangents) for f in (ours, reference))
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)
        cotangent = jax.random.normal(keys[4], expected[0].shape)
        found, expected = (jax.vjp(f, x, kernel)[1](cotangent) for f in (ours, reference))
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)

    def test_transposed_convolution_composes(self):
        x = jax.random.normal(jax.random.key(0), (5, 4, 6, 6, 2))
        kernels = jax.random.normal(jax.random.key(1), (5, 3, 3, 2, 3))

        def loss(kernel, x):
            return (conv_transpose(x, kernel, 2, 2) ** 3).sum()

        each = jnp.stack([jax.grad(loss)(*pair) for pair in zip(kernels, x, strict=True)])
        chex.assert_trees_all_close(jax.vmap(jax.grad(loss))(kernels, x), each, rtol=1e-4)
        _, scanned = jax.lax.scan(lambda _, pair: (None, jax.grad(loss)(*pair)), None, (kernels, x))
        chex.assert_trees_all_close(scanned, each, rtol=1e-4)

    @pytest.mark.parametrize(("letter", "side"), [("a", 32), ("d", 67)])
    def test_products_with_the_hessian(self, letter, side):
        model = build(letter, batch_norm=False)
        graph, weights = nnx.split(model)
        weights = nnx.as_pure(weights)
        images = jax.random.normal(jax.random.key(0), (1, side, side, 3))
        # A smooth function of the network's last layers, whose Hessian is not that of a kink.
        names = {"a": ("hidden", "head"), "d": ("conv_out", "head")}[letter]

        def loss(part):
            return (nnx.merge(graph, {**weights, **part})(images) ** 2).mean()

        part = {name: weights[name] for name in names}
        keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(part)))
        direction = jax.tree.unflatten(
            jax.tree.structure(part),
            [
                jax.random.normal(key, leaf.shape)
                for key, leaf in zip(keys, jax.tree.leaves(part), strict=True)
            ],
        )

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

    # Flax's batch normalization in bfloat16 relies on implicit promotion.
    @pytest.mark.usefixtures("standard_promotion")
    @pytest.mark.parametrize("letter", ["a", "c"])
    def test_bfloat16_images(self, letter):
        images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
        exact = build(letter)(images)
        model = build(letter, dtype=jnp.bfloat16)
        logits = nnx.jit(lambda model, images: model(images))(model, images.astype(jnp.bfloat16))
        assert logits.dtype == jnp.bfloat16
        # Eight bits a number, over five layers.
        np.testing.assert_allclose(
            logits.astype(jnp.float32), exact, atol=0.05 * jnp.abs(exact).max()
        )
        assert {leaf.dtype for leaf in params(model).values()} == {jnp.dtype(jnp.float32)}

    @pytest.mark.usefixtures("standard_promotion")
    def test_every_layer_computes_in_the_type_that_was_asked_for(self):
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

    def test_a_convolution_is_flax_s(self):
        x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
        layer = layers().conv(3, 4, 3, stride=2)
        stock = nnx.Conv(3, 4, (3, 3), strides=2, padding="VALID", rngs=nnx.Rngs(1))
        stock.kernel[...], stock.bias[...] = layer.kernel[...], layer.bias[...] + 1.0
        np.testing.assert_array_equal(layer(x) + 1.0, stock(x))

    def test_max_pool(self):
        x = jnp.array([[1.0, 5, 2, 9], [3, 4, 8, 7], [99, 99, 99, 99]]).reshape(1, 3, 4, 1)
        np.testing.assert_array_equal(max_pool(x, 2).ravel(), [5, 9])
        x = jnp.arange(30.0).reshape(1, 5, 6, 1)
        np.testing.assert_array_equal(max_pool(x, 3)[0, :, :, 0], [[14, 16], [26, 28]])

    def test_max_pool_shares_the_gradient_of_equal_maxima(self):
        gradient = jax.grad(lambda x: max_pool(x, 2).sum())(
            jnp.array([3.0, 3, 1, 0]).reshape(1, 2, 2, 1)
        )
        np.testing.assert_array_equal(gradient.ravel(), [0.5, 0.5, 0, 0])

    def test_padded_sum_fills_bottom_right_and_high_channels(self):
        x, y = jnp.ones((1, 2, 1, 1)), 10 * jnp.ones((1, 1, 2, 2))
        expected = np.array([[[11, 10], [10, 10]], [[1, 0], [0, 0]]])
        np.testing.assert_array_equal(padded_sum(x, y)[0], expected)

    @pytest.mark.parametrize(
        ("norm", "axes"), [("batch", (0, 1, 2)), ("layer", (1, 2, 3)), ("instance", (1, 2))]
    )
    def test_normalizations(self, norm, axes):
        x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 6, 7))
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        normalize = layers(norm).normalize(7)
        normalize.scale[...] = scale = jnp.arange(1.0, 8.0)
        normalize.bias[...] = shift = jnp.arange(7.0)
        expected = scale * (x - mean) / jnp.sqrt(var + 1e-4) + shift
        np.testing.assert_allclose(normalize(x), expected, rtol=1e-4, atol=1e-4)


class TestBlocks:
    """Against plain loops over pixels, on sides where the two summands differ."""

    def test_down_block(self):
        block = DownBlock(2, 3, layers())
        x = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
        y = np.maximum(correlate(x, block.conv1, stride=2, pad=0), 0)
        y = correlate(y, block.conv2, stride=1, pad=1)
        pooled = x[:, :4].reshape(1, 2, 2, 3, 2, 2).mean((2, 4))
        assert y.shape == (1, 2, 2, 3)
        assert pooled.shape == (1, 2, 3, 2)
        total = np.zeros((1, 2, 3, 3))
        total[:, :, :2] += y
        total[..., :2] += pooled
        np.testing.assert_allclose(block(jnp.asarray(x)), np.maximum(total, 0), atol=1e-6)

    def test_up_block(self):
        block = UpBlock(2, 3, layers())
        x = np.random.default_rng(0).normal(size=(1, 2, 3, 2)).astype(np.float32)
        y = np.maximum(scatter(x, block.conv1, stride=2, pad=0), 0)
        y = scatter(y, block.conv2, stride=1, pad=1)
        shortcut = scatter(x, block.conv_shortcut, stride=2, pad=0)
        assert y.shape == (1, 5, 7, 3)
        assert shortcut.shape == (1, 4, 6, 3)
        y[:, :4, :6] += shortcut
        np.testing.assert_allclose(block(jnp.asarray(x)), np.maximum(y, 0), atol=1e-6)


def correlate(x, layer, stride, pad):
    kernel = np.asarray(layer.kernel[...])
    size = len(kernel)
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            y[:, i, j] = np.tensordot(patch, kernel, 3)
    return y


def scatter(x, layer, stride, pad):
    # Each pixel adds its multiple of the kernel; JAX stores the kernel mirrored.
    kernel = np.asarray(layer.kernel[...])[::-1, ::-1]
    size = len(kernel)
    height, width = (stride * (n - 1) + size for n in x.shape[1:3])
    y = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            rows = slice(i * stride, i * stride + size)
            columns = slice(j * stride, j * stride + size)
            y[:, rows, columns] += np.einsum("ni,yxio->nyxo", x[:, i, j], kernel)
    return y[:, pad : height - pad, pad : width - pad]


class TestShapes:
    def test_small_networks(self):
        assert layer_outputs("a", 32) == [(32, 32), (16, 32), (8, 64), (64,), (21,)]
        assert layer_outputs("c", 32) == [(32, 32), (16, 64), (8, 128), (512,), (21,)]

    @pytest.mark.parametrize(
        ("stem", "side", "stem_side", "sides"),
        [
            (None, 32, 32, (15, 7, 3, 1)),
            ("stride1", 31, 31, (15, 7, 3, 1)),
            ("cifar", 32, 32, (32, 16, 8, 4)),
            ("imagenet", 227, 111, (55, 27, 13, 6)),
        ],
    )
    def test_resnet(self, stem, side, stem_side, sides):
        found = layer_outputs("b", side, stem=stem)
        blocks = zip(sides, (64, 128, 256, 512), (3, 4, 6, 3), strict=True)
        expected = [(stem_side, 64)]
        for stage_side, filters, count in blocks:
            expected += [(stage_side, filters)] * 2 * count
        # The unpadded convolution of a down block can be one pixel short of the pooled shortcut.
        assert [channels for *_, channels in found] == [c for _, c in expected] + [21]
        assert all(0 <= e - f <= 1 for (f, _), (e, _) in zip(found[:-1], expected, strict=True))
        assert [found[n][0] for n in (0, 3, 9, 17, 29)] == [stem_side, *sides]

    def test_unet_at_227(self):
        expected = [
            (111, 64),
            *[(55, 64)] * 6,
            *[(27, 128)] * 6,
            *[(13, 256)] * 6,
            *[(6, 512)] * 6,
            *[(13, 512), (13, 512), (12, 512)],
            *[(13, 512)] * 4,
            *[(27, 256), (27, 256), (26, 256)],
            *[(27, 256)] * 4,
            *[(55, 128), (55, 128), (54, 128)],
            *[(55, 128)] * 4,
            *[(111, 64), (111, 64), (110, 64)],
            *[(111, 64)] * 4,
            (227, 64),
            (227, 21),
        ]
        assert layer_outputs("d", 227) == expected

    def test_unet_concatenations(self):
        model = abstract("d")
        joined = [model.up3.conv1, model.up2.conv1, model.up1.conv1, model.conv_out]
        assert [layer.in_features for layer in joined] == [768, 384, 192, 128]

    @pytest.mark.parametrize("side", [67, 227, 259, 515])
    def test_unet_fits_without_resizing_at_227_plus_32_k(self, side, monkeypatch):
        monkeypatch.setattr(jax.image, "resize", lambda *_: pytest.fail("resized"))
        assert output_shape(abstract("d", 21), 1, side, side, 3) == (1, side, side, 21)

    def test_unet_takes_other_sizes(self):
        assert output_shape(abstract("d", 21), 2, 375, 500, 3) == (2, 375, 500, 21)

    def test_encoder_tensor_comes_first_and_is_resized(self):
        encoder = jnp.arange(3.0).reshape(1, 1, 3, 1) * jnp.ones((1, 3, 1, 1))
        joined = _join(encoder, 7 * jnp.ones((1, 2, 6, 1)))
        assert joined.shape == (1, 2, 6, 2)
        np.testing.assert_allclose(joined[0, 0, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2], atol=1e-6)
        np.testing.assert_array_equal(joined[..., 1], 7)


class TestModes:
    def test_batch_norm_updates_running_statistics_in_training_only(self):
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

    def test_running_averages_are_plain_ones_up_to_the_window(self):
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

    @pytest.mark.parametrize(("letter", "window"), [("a", 100), ("b", 1000), ("d", 1000)])
    def test_windows_are_dlib_s(self, letter, window):
        norms = [m for _, m in nnx.iter_modules(abstract(letter)) if isinstance(m, nnx.BatchNorm)]
        assert {norm.window for norm in norms} == {window}

    def test_view_for_evaluation_shares_the_parameters(self):
        model = build("a")
        view = nnx.view(model, use_running_average=True)
        model.conv1.bias[...] += 1.0
        assert (view.conv1.bias[...] == 1.0).all()
        assert view.norm1.use_running_average
        assert not model.norm1.use_running_average

    @pytest.mark.parametrize(
        ("choices", "kind"),
        [
            ({}, BatchNorm),
            ({"batch_norm": True}, BatchNorm),
            ({"norm": "batch"}, BatchNorm),
            ({"norm": "layer"}, nnx.LayerNorm),
            ({"norm": "instance", "batch_norm": False}, nnx.InstanceNorm),
        ],
    )
    def test_normalization_as_chosen(self, choices, kind):
        model = abstract("a", **choices)
        assert [type(norm) for norm in (model.norm1, model.norm2, model.norm3)] == [kind] * 3

    def test_error_normalization_after_each_layer(self):
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


def selected(letter, fully):
    tree = nnx.state(abstract(letter), nnx.Param)
    chosen = jax.tree_util.tree_leaves_with_path(
        wcgc.models.rules(fully)(tree), is_leaf=lambda node: isinstance(node, wcgc.KernelAxes)
    )
    for _, axes in chosen:
        assert axes.resolve(4) == ((2,), (3,), (), (0, 1))
    paths = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in chosen)
    return {path.removesuffix("/value").removesuffix("/kernel") for path in paths}


class TestRules:
    @pytest.mark.parametrize("fully", [False, True])
    @pytest.mark.parametrize("letter", LETTERS)
    def test_select_every_convolution_and_fully_adds_hidden(self, letter, fully):
        expected = {
            "/".join(map(str, path))
            for path, module in nnx.iter_modules(abstract(letter))
            if isinstance(module, (nnx.Conv, nnx.ConvTranspose)) and path != ("head",)
        }
        assert len(expected) == {"a": 3, "b": 33, "c": 3, "d": 54}[letter]
        if fully and letter in "ac":
            expected.add("hidden")
        assert selected(letter, fully) == expected

    def test_refuse_a_tree_with_other_names(self):
        with pytest.raises(ValueError, match="dense/kernel"):
            wcgc.models.rules(fully=True)({"dense": {"kernel": jnp.ones((2, 2))}})

    @pytest.mark.usefixtures("standard_promotion")
    def test_centralize_each_filter_but_the_head(self):
        model = build("a")
        images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
        train(model, images, jnp.arange(2), 1, optax.adam(1e-3))
        for path, leaf in params(model).items():
            if path.endswith("kernel"):
                mean = np.abs(np.mean(leaf, tuple(range(leaf.ndim - 1)))).max()
                # A float32 mean of numbers below one is exact to about 1e-7.
                assert mean > 1e-4 if path == "head/kernel" else mean < 1e-6, path


class TestRefuses:
    @pytest.mark.parametrize(
        ("letter", "classes", "choices", "error", "says"),
        [
            ("e", 10, {}, ValueError, "'a', 'b', 'c', 'd', got 'e'"),
            ("a", 0, {}, ValueError, "at least 1, got 0"),
            ("a", 10.0, {}, TypeError, "integer, got 10.0"),
            ("a", True, {}, TypeError, "integer, got True"),
            ("a", 10, {"stem": "cifar"}, ValueError, "'cifar' is a choice of network 'b' only"),
            ("b", 10, {"stem": "resnet"}, ValueError, "'stride1', 'cifar', 'imagenet', got"),
            ("c", 10, {"batch_norm": True}, ValueError, "'c' has no normalization by definition"),
            ("c", 10, {"norm": "layer"}, ValueError, "'c' has no normalization by definition"),
            ("a", 10, {"norm": "group"}, ValueError, "'instance' or None, got 'group'"),
            ("a", 10, {"batch_norm": "no"}, TypeError, "True, False or None, got 'no'"),
            ("a", 10, {"batch_norm": True, "norm": "layer"}, ValueError, "contradicts"),
            ("a", 10, {"batch_norm": False, "norm": "batch"}, ValueError, "contradicts"),
            ("a", 10, {"after_layer": 3}, TypeError, "after_layer must be a function"),
            ("a", 10, {"dtype": jnp.int8}, ValueError, "dtype must be a floating type"),
        ],
    )
    def test_choices_that_there_are_not(self, letter, classes, choices, error, says):
        with pytest.raises(error, match=re.escape(says)):
            build(letter, classes, **choices)

    def test_a_seed_in_place_of_rngs(self):
        with pytest.raises(TypeError, match=r"such as nnx.Rngs\(0\), got 0"):
            wcgc.models.build("a", 10, rngs=0)

    @pytest.mark.parametrize(
        ("letter", "shape", "says"),
        [
            ("a", (2, 28, 28, 3), "32x32, got (2, 28, 28, 3)"),
            ("c", (2, 3, 32, 32), "(batch, height, width, 3)"),
            ("c", (32, 32, 3), "got (32, 32, 3)"),
            ("b", (2, 30, 32, 3), "at least 31"),
            ("d", (2, 67, 66, 3), "at least 67"),
            ("d", (2, 227, 227, 1), "got (2, 227, 227, 1)"),
        ],
    )
    def test_images_of_the_wrong_shape(self, letter, shape, says):
        with pytest.raises(ValueError, match=re.escape(says)):
            output_shape(abstract(letter), *shape)

    def test_images_that_are_bytes(self):
        with pytest.raises(TypeError, match="floating and normalized, got uint8"):
            build("a")(jnp.zeros((1, 32, 32, 3), jnp.uint8))

    def test_missing_flax_is_named(self, monkeypatch):
        for name in list(sys.modules):
            if name.split(".")[0] == "flax" or name.startswith("wcgc.models"):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "flax", None)
        with pytest.raises(ImportError, match=r"needs Flax.*pip install 'wcgc\[flax\]'"):
            importlib.import_module("wcgc.models")


@pytest.mark.usefixtures("standard_promotion")
class TestOverfitsTenImages:
    @pytest.mark.parametrize(("letter", "batch_norm"), [("a", True), ("a", False), ("c", False)])
    def test_small_networks(self, letter, batch_norm):
        images = jax.random.normal(jax.random.key(0), (10, 32, 32, 3))
        model = build(letter, batch_norm=batch_norm)
        assert train(model, images, jnp.arange(10), 30, optax.adam(1e-3)) == 1.0

    @pytest.mark.slow
    def test_resnet(self):
        images = jax.random.normal(jax.random.key(0), (10, 32, 32, 3))
        optimizer = optax.sgd(0.1, momentum=0.9)
        assert train(build("b"), images, jnp.arange(10), 20, optimizer) == 1.0

    @pytest.mark.slow
    def test_unet(self):
        # Ten images of one colour each with some noise, and each pixel is to be labelled rightly.
        colours = 2.0 * np.stack(np.unravel_index(np.arange(4, 24, 2), (3, 3, 3)), axis=-1) - 2.0
        noise = 0.1 * jax.random.normal(jax.random.key(0), (10, 67, 67, 3))
        images = noise + jnp.asarray(colours, jnp.float32)[:, None, None]
        labels = jnp.broadcast_to(jnp.arange(0, 20, 2)[:, None, None], (10, 67, 67))
        assert train(build("d", 21), images, labels, 90, optax.adam(1e-3)) == 1.0
