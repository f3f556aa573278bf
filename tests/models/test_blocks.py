"""Blocks against plain loops over pixels, on sides where the two summands differ."""

import jax.numpy as jnp
import numpy as np

from wcgc.models._blocks import DownBlock, ResidualBlock, UpBlock, padded_sum

from helpers.networks import layers


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


def test_a_residual_block_adds_the_image():
    block = ResidualBlock(2, layers())
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 2)).astype(np.float32)
    y = np.maximum(correlate(x, block.conv1, stride=1, pad=1), 0)
    y = correlate(y, block.conv2, stride=1, pad=1)
    np.testing.assert_allclose(block(jnp.asarray(x)), np.maximum(y + x, 0), atol=1e-6)


def test_a_down_block_adds_the_pooled_image():
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


def test_an_up_block_adds_the_image_enlarged():
    block = UpBlock(2, 3, layers())
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 2)).astype(np.float32)
    y = np.maximum(scatter(x, block.conv1, stride=2, pad=0), 0)
    y = scatter(y, block.conv2, stride=1, pad=1)
    shortcut = scatter(x, block.conv_shortcut, stride=2, pad=0)
    assert y.shape == (1, 5, 7, 3)
    assert shortcut.shape == (1, 4, 6, 3)
    y[:, :4, :6] += shortcut
    np.testing.assert_allclose(block(jnp.asarray(x)), np.maximum(y, 0), atol=1e-6)


def test_padded_sum_fills_bottom_right_and_high_channels():
    x, y = jnp.ones((1, 2, 1, 1)), 10 * jnp.ones((1, 1, 2, 2))
    expected = np.array([[[11, 10], [10, 10]], [[1, 0], [0, 0]]])
    np.testing.assert_array_equal(padded_sum(x, y)[0], expected)
