"""Centralization, standardization and normalization of one array, given the axes of a slice."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from wcgc._checks import Scalar

Project = Callable[[jax.Array, tuple[int, ...]], jax.Array]
"""From a kernel and the axes of a slice to the kernel that it shall become."""


def slice_mean(x: jax.Array, slice_axes: tuple[int, ...]) -> jax.Array:
    """The mean over `slice_axes`, kept as axes of length 1."""
    return jnp.mean(x, axis=slice_axes, keepdims=True)


def centralized_array(
    x: jax.Array, slice_axes: tuple[int, ...], strength: Scalar = 1.0
) -> jax.Array:
    """`x` less the share `strength` of its mean over `slice_axes`.

    Where all of the mean goes, the result is exactly 0 where rounding may be all that differs.
    """
    is_number = isinstance(strength, int | float)
    if is_number and strength == 0:
        return x  # nothing is not even computed
    mean = slice_mean(x, slice_axes)
    steps = min(math.prod(x.shape[axis] for axis in slice_axes), 8)
    if is_number and strength == 1:
        return _less_noise(x - mean, mean, steps)  # all of it is not multiplied
    share = _like(strength, mean)
    none = jnp.zeros_like(mean)
    # Not 0 times the mean, which is NaN where the sum is out of range.
    deviation = x - jnp.where(share == 0, none, share * mean)
    return _less_noise(deviation, jnp.where(share == 1, mean, none), steps)


# Traced once for each shape, however many kernels have it.
@functools.partial(jax.jit, static_argnums=2, inline=True)
def _less_noise(deviation: jax.Array, mean: jax.Array, steps: int) -> jax.Array:
    """The deviation from a mean, less what is within so many steps of rounding of the mean.

    The mean of equal numbers is off by some eps: up to 4, measured up to a million of them on a
    CPU. Adam would turn that into steps of full length. Derivatives pass by what is taken away.
    """
    noise = steps * float(jnp.finfo(deviation.dtype).eps) * jnp.abs(mean)
    is_noise = jnp.abs(deviation) <= noise
    return deviation - jax.lax.stop_gradient(jnp.where(is_noise, deviation, _like(0.0, deviation)))


def standardized_array(x: jax.Array, slice_axes: tuple[int, ...], eps: Scalar) -> jax.Array:
    """`x` with mean 0 and standard deviation 1 over `slice_axes`."""
    scale = _scale(x, slice_axes)
    factor = scale.astype(x.dtype)
    # Less the smallest first, which leaves nothing of a constant slice. Rounding errors, all that
    # is left when its mean is subtracted, would be taken for its deviation.
    x = centralized_array(x * factor - _smallest(x, slice_axes) * factor, slice_axes)
    deviation = _root_mean_square(x, slice_axes)
    divisor = jnp.hypot(deviation, jnp.sqrt(_like(eps, deviation)) * scale)
    return x / _one_where(divisor == 0, divisor).astype(x.dtype)


def normalized_array(x: jax.Array, slice_axes: tuple[int, ...], norm: Scalar) -> jax.Array:
    """`x` with Euclidean norm `norm` over `slice_axes`, one for all slices or one for each.

    Zero slices stay zero.
    """
    x = x * _scale(x, slice_axes).astype(x.dtype)
    length = _norm(x, slice_axes)
    return x * (_like(norm, length) / _one_where(length == 0, length)).astype(x.dtype)


def slice_norm(x: jax.Array, slice_axes: tuple[int, ...]) -> jax.Array:
    """The Euclidean norm over `slice_axes`, kept as axes of length 1, where it is in range."""
    length = _norm(x * _scale(x, slice_axes).astype(x.dtype), slice_axes)
    mantissa, largest = _mantissa(x, slice_axes)
    # Not divided by the scale: of that XLA makes a product with the largest, which is out of range.
    return length * (largest / (4 * mantissa))


def widened(x: jax.Array) -> jax.Array:
    """`x` in float32 if its own dtype has fewer bits."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def _scale(x: jax.Array, slice_axes: tuple[int, ...]) -> jax.Array:
    """The power of two that brings the largest entry of each slice to 2 or more, below 4.

    Scaling by it is exact, and keeps sums and squares from overflowing or vanishing. The results do
    not depend on it, so neither do their derivatives. For slices of zeros it is some finite number.
    """
    mantissa, largest = _mantissa(x, slice_axes)
    # Multiplied by, not divided by: XLA divides by taking reciprocals, and that of 2**127 is zero.
    return 4 * mantissa / largest


def _mantissa(x: jax.Array, slice_axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The mantissa of the largest entry of each slice, from 0.5 to 1, and that entry; 1 for 0."""
    x = jax.lax.stop_gradient(x)
    magnitude = jnp.maximum(jnp.abs(x.real), jnp.abs(x.imag)) if jnp.iscomplexobj(x) else jnp.abs(x)
    largest = jnp.max(magnitude, axis=slice_axes, keepdims=True)
    largest = _one_where(largest == 0, largest)
    return jnp.frexp(largest)[0], largest


def _smallest(x: jax.Array, slice_axes: tuple[int, ...]) -> jax.Array:
    """The smallest entry of each slice; of complex ones, the first in lexicographic order."""
    return jax.lax.stop_gradient(jnp.min(x, axis=slice_axes, keepdims=True))


def _norm(x: jax.Array, slice_axes: tuple[int, ...]) -> jax.Array:
    """The Euclidean norm over `slice_axes` of slices whose squares are in range."""
    size = math.prod(x.shape[axis] for axis in slice_axes)
    return _root_mean_square(x, slice_axes) * _like(math.sqrt(size), jnp.real(x))


def _root_mean_square(x: jax.Array, slice_axes: tuple[int, ...]) -> jax.Array:
    mean_square = slice_mean(jnp.square(jnp.abs(x)), slice_axes)
    is_zero = mean_square == 0
    # The square root has no derivative at zero; that of a slice of zeros shall be zero.
    return jnp.where(is_zero, mean_square, jnp.sqrt(_one_where(is_zero, mean_square)))


def _one_where(condition: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(condition, _like(1.0, x), x)


def _like(value: Scalar, x: jax.Array) -> jax.Array:
    return jnp.asarray(value, dtype=x.dtype)
