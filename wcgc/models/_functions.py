"""Convolutions and pooling, in forms that are fast forward and backward on a CPU too."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

PIXELS_AT_ONCE = 2048
"""Output pixels whose neighbourhoods fit into a CPU's cache."""


def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """A 2-D convolution with gradients of its own: `jax.lax.conv_general_dilated`, faster backward.

    XLA takes a kernel's gradient by a convolution with a kernel as large as the image, which on a
    CPU is 1.5 to 20 times slower than the matrix products that are used there instead; on other
    devices XLA's is used. The gradient to the image is written as a convolution of the form that
    XLA runs fast inside of loops, too (https://github.com/jax-ml/jax/issues/12868).
    The price: reverse mode only, no `jax.jvp`.

    Args:
      x: (batch, height, width, in).
      kernel: (k, k, in, out).
      stride: how far apart the windows are.
      padding: zeros around the image.

    Returns:
      An array (batch, height', width', out), with height' = (height + 2 * padding - k) // stride
      + 1, and width' alike.
    """
    return _conv(x, kernel, stride, padding)


def conv_transpose(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """A 2-D transposed convolution with gradients of its own: `jax.lax.conv_transpose`, faster.

    JAX would differentiate a convolution of a dilated input into a kernel gradient that XLA has no
    fast routine for on a CPU; here it is that of the strided convolution which this one transposes.
    The price is that of `conv`.

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, stride, padding):
    if x.shape[-1] % 2:  # the three of an image: a fourth of zeros is faster in a CPU's loops
        x = jnp.pad(x, [(0, 0)] * 3 + [(0, 1)])
        kernel = jnp.pad(kernel, [(0, 0)] * 2 + [(0, 1), (0, 0)])
    return _convolve(x, kernel, stride, ((padding, padding),) * 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_transpose(x, kernel, stride, padding):
    return _convolve(x, kernel, 1, ((padding, padding),) * 2, dilation=stride)


def _conv_forward(x, kernel, stride, padding):
    return _conv(x, kernel, stride, padding), (x, kernel)


def _conv_backward(stride, padding, inputs, cotangent):
    x, kernel = inputs
    size = len(kernel)
    # Pixels at the end that no window reached.
    left_over = [(side + 2 * padding - size) % stride for side in x.shape[1:3]]
    before = size - 1 - padding
    pads = tuple((before, before + more) for more in left_over)
    grad_x = _convolve(cotangent, _turned(kernel), 1, pads, dilation=stride)
    grad_kernel = _kernel_gradient(x, cotangent, size, stride, padding)
    return grad_x.astype(x.dtype), grad_kernel.astype(kernel.dtype)


def _conv_transpose_forward(x, kernel, stride, padding):
    return _conv_transpose(x, kernel, stride, padding), (x, kernel)


def _conv_transpose_backward(stride, padding, inputs, cotangent):
    x, kernel = inputs
    # What `_conv_transpose` transposes, from the output back to the input.
    cut_off = len(kernel) - 1 - padding
    grad_x = _convolve(cotangent, _turned(kernel), stride, ((cut_off, cut_off),) * 2)
    grad_kernel = _turned(_kernel_gradient(cotangent, x, len(kernel), stride, cut_off))
    return grad_x.astype(x.dtype), grad_kernel.astype(kernel.dtype)


_conv.defvjp(_conv_forward, _conv_backward)
_conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


def _convolve(x, kernel, stride, pads, dilation=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _turned(kernel: jax.Array) -> jax.Array:
    """The kernel of the transposed convolution: turned by 180 degrees, in and out exchanged."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _kernel_gradient(
    x: jax.Array, cotangent: jax.Array, size: int, stride: int, padding: int
) -> jax.Array:
    """The gradient of a convolution of `x` to its kernel (size, size, in, out)."""
    options = {"size": size, "stride": stride, "padding": padding}
    return lax.platform_dependent(
        x,
        cotangent,
        cpu=functools.partial(_kernel_gradient_of_products, **options),
        default=functools.partial(_kernel_gradient_of_xla, **options),
    )


def _kernel_gradient_of_xla(x, cotangent, *, size, stride, padding):
    def convolve(kernel):
        return _convolve(x, kernel, stride, ((padding, padding),) * 2)

    kernel = jax.ShapeDtypeStruct((size, size, x.shape[-1], cotangent.shape[-1]), x.dtype)
    return jax.linear_transpose(convolve, kernel)(cotangent)[0]


def _kernel_gradient_of_products(x, cotangent, *, size, stride, padding):
    """The same as matrix products over as many images at a time as the cache takes.

    A row of pixels is multiplied with its windows' neighbours in x side by side, and with the
    cotangents of the windows that it is in side by side: one product gives all of the kernel, or,
    at larger strides, one product for each row of a period.
    """
    batch, height, width, out = cotangent.shape
    fitting = (n for n in range(2, batch + 1) if n * height * width <= PIXELS_AT_ONCE)
    at_once = max((n for n in fitting if batch % n == 0), default=1)

    def of_some(index):
        def some(array):
            # Every so-manieth image, so that a batch split over devices stays split.
            return lax.dynamic_index_in_dim(
                array.reshape(at_once, -1, *array.shape[1:]), index, 1, keepdims=False
            )

        images = jnp.pad(some(x), [(0, 0), (padding, padding), (padding, padding), (0, 0)])
        columns = [
            lax.slice_in_dim(images, i, i + stride * (width - 1) + 1, stride, axis=2)
            for i in range(size)
        ]
        wide = jnp.concatenate(columns, axis=-1)
        rows = []
        for first in range(min(stride, size)):
            count = math.ceil((size - first) / stride)  # rows of the kernel at this one's distance
            high = height + count - 1
            pixels = lax.slice_in_dim(wide, first, first + stride * (high - 1) + 1, stride, axis=1)
            shifted = [
                jnp.pad(some(cotangent), [(0, 0), (i, count - 1 - i), (0, 0), (0, 0)])
                for i in range(count)
            ]
            product = lax.dot_general(
                pixels,
                jnp.concatenate(shifted, axis=-1),
                (((0, 1, 2), (0, 1, 2)), ((), ())),
                preferred_element_type=jnp.float32 if x.dtype.itemsize < 4 else x.dtype,
            )
            rows.append(product.reshape(size, -1, count, out).transpose(2, 0, 1, 3))
        return jnp.stack([rows[y % stride][y // stride] for y in range(size)])

    if at_once == batch:
        return of_some(0)
    total = jax.eval_shape(of_some, 0)
    zeros = lax.full_like(x, 0, total.dtype, total.shape)
    return lax.fori_loop(0, batch // at_once, lambda index, total: total + of_some(index), zeros)


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
