"""Transposed convolutions against counts by hand and against those of JAX, with derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wcgc.models._conv_transpose import conv_transpose

from helpers.networks import layers, set_kernel

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


@pytest.mark.parametrize(
    ("size", "stride", "overlaps"),
    [
        (3, 2, [1, 1, 2, 1, 2, 1, 1]),
        (2, 2, [1, 1, 1, 1, 1, 1]),
        (3, 1, [2, 3, 2]),
        (1, 1, [1, 1, 1]),
    ],
)
def test_ones_count_how_often_windows_overlap(size, stride, overlaps):
    conv = layers().conv_transpose(1, 1, size, stride)
    set_kernel(conv, np.ones(size * size))
    output = conv(jnp.ones((1, 3, 3, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(output, np.outer(overlaps, overlaps))


@pytest.mark.parametrize(("size", "stride", "padding"), TRANSPOSED)
def test_values_and_derivatives_are_those_of_jax(size, stride, padding):
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


def test_vmap_and_scan_give_what_each_gives_alone():
    x = jax.random.normal(jax.random.key(0), (5, 4, 6, 6, 2))
    kernels = jax.random.normal(jax.random.key(1), (5, 3, 3, 2, 3))

    def loss(kernel, x):
        return (conv_transpose(x, kernel, 2, 2) ** 3).sum()

    each = jnp.stack([jax.grad(loss)(*pair) for pair in zip(kernels, x, strict=True)])
    chex.assert_trees_all_close(jax.vmap(jax.grad(loss))(kernels, x), each, rtol=1e-4)
    _, scanned = jax.lax.scan(lambda _, pair: (None, jax.grad(loss)(*pair)), None, (kernels, x))
    chex.assert_trees_all_close(scanned, each, rtol=1e-4)
