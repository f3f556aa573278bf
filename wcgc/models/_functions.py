"""Transposed convolution and pooling, in forms that are fast forward and backward."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def conv_transpose(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """A 2-D transposed convolution: `jax.lax.conv_transpose` with a gradient of its own.

    JAX would differentiate a convolution of a dilated input into a kernel gradient that XLA has no
    fast routine for on a CPU; here it is that of the strided convolution which this one transposes.
    The price: reverse mode only, no `jax.jvp`.

    Args:
      x: (batch, height, width, in).
      kernel: (k, k, in, out).
      stride: how far apart the input's pixels land.
      padding: zeros around the dilated input; with k - 1 nothing is cut off the output.

    Returns:
      An array (batch, height', width', out), with height' = stride * (height - 1) + 2 - k
      + 2 * padding, and width' alike.
    """
    return _conv_transpose(x, kernel, stride, padding)


def _apply(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=[(padding, padding)] * 2,
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _apply_and_keep(x, kernel, stride, padding):
    return _apply(x, kernel, stride, padding), (x, kernel)


def _pull_back(stride, padding, inputs, cotangent):
    x, kernel = inputs
    cut_off = kernel.shape[0] - 1 - padding

    def conv(kernel):
        # The strided convolution whose transpose `_apply` is: from the output back to the input.
        return lax.conv_general_dilated(
            cotangent,
            kernel[::-1, ::-1],
            window_strides=(stride, stride),
            padding=[(cut_off, cut_off)] * 2,
            dimension_numbers=("NHWC", "HWOI", "NHWC"),
        )

    return conv(kernel), *jax.linear_transpose(conv, kernel)(x)


_conv_transpose = jax.custom_vjp(_apply, nondiff_argnums=(2, 3))
_conv_transpose.defvjp(_apply_and_keep, _pull_back)


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """The largest of each size x size window at stride 2; what does not fill a window is dropped.

    Equal maxima share the gradient, where `nnx.max_pool` gives it to the first. In exchange it is
    much faster on a CPU, whose backward pass of a window reduction is a plain loop.
    """
    return _pool(jnp.maximum, x, size)


def avg_pool(x: jax.Array, size: int) -> jax.Array:
    """The mean of each size x size window at stride 2; what does not fill a window is dropped."""
    return _pool(jnp.add, x, size) / size**2


def _pool(
    combine: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, size: int
) -> jax.Array:
    for axis in (1, 2):
        last = (x.shape[axis] - size) // 2 * 2
        shifted = [lax.slice_in_dim(x, i, i + last + 1, 2, axis) for i in range(size)]
        x = functools.reduce(combine, shifted)
    return x
