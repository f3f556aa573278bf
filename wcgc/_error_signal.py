"""Normalization of the back-propagated error: identity forwards, a projection backwards."""

import functools
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from wcgc._arrays import centralized_array, standardized_array, widened
from wcgc._axes import as_axis
from wcgc._checks import Scalar, check_eps
from wcgc._messages import holds_arrays, written
from wcgc._paths import is_array

ErrorArea = Literal["global", "sample", "channel", "instance"]
"""One mean per batch, per sample, per channel, or per (sample, channel) pair (Table 2)."""


def centralize_error(
    x: jax.Array, area: ErrorArea, *, channel_axis: int = -1, sample_axis: int = 0
) -> jax.Array:
    r"""Returns `x`, and subtracts from the error that flows back through it its slice means.

    For every slice :math:`E_j` of the cotangent, :math:`E_j \leftarrow E_j - \overline{E_j}`: EB
    (Eq. 10) with `"channel"`, EL (Eq. 11) with `"sample"`. In Algorithm 1 this stands on the output
    of each layer. The paper found that it worsens all its results (Table 2).

    .. warning::
      With `"channel"` directly behind a layer's bias, that bias gets no gradient. Slices of one
      element (such as `"instance"` behind a dense layer) are left alone, since centralizing would
      erase them.

    Args:
      x: activations of shape (sample, ..., channel), or as the two axes say; floating or complex.
      area: one mean for the whole batch (`"global"`), per `"sample"`, per `"channel"`, or per
        sample and channel (`"instance"`).
      channel_axis: the axis of the channels.
      sample_axis: the axis of the samples.

    Returns:
      `x`. Reverse-mode differentiation only.

    Raises:
      TypeError: `x` is not a floating or complex array, or an axis is not an integer.
      ValueError: `area` is no area, or the axes are out of range or the same.

    Example:
      >>> import jax, jax.numpy as jnp, wcgc
      >>> error = jnp.array([[1., 5.], [3., 9.]])
      >>> _, backward = jax.vjp(lambda x: wcgc.centralize_error(x, "channel"), jnp.ones((2, 2)))
      >>> backward(error)[0]
      Array([[-1., -2.],
             [ 1.,  2.]], dtype=float32)

    References:
      Fuhl and Kasneci, `Weight and Gradient Centralization in Deep Neural Networks
      <https://arxiv.org/abs/2010.00866>`_, 2020, Eqs. 10 and 11, Algorithm 1, Table 2.
    """
    slice_axes = _slice_axes(x, area, channel_axis, sample_axis)
    if not slice_axes:
        return x
    return _project_error(functools.partial(centralized_array, slice_axes=slice_axes), x)


def standardize_error(
    x: jax.Array,
    area: ErrorArea,
    eps: Scalar = 1e-20,
    *,
    channel_axis: int = -1,
    sample_axis: int = 0,
) -> jax.Array:
    r"""Returns `x`, and brings the error that flows back through it to mean 0 and deviation 1.

    For every slice of the cotangent,
    :math:`E_j \leftarrow (E_j - \overline{E_j}) / \sqrt{var(E_j) + eps}`: EBN (Eq. 8) with
    `"channel"`, ELN (Eq. 9) with `"sample"`. What `centralize_error` warns of holds here too.

    Args:
      x: activations of shape (sample, ..., channel), or as the two axes say; floating or complex.
      area: what a slice is; see `centralize_error`.
      eps: added to the variance (ddof 0), in units of the squared error. Errors are small, the mean
        over a batch smaller still, and so is the default. The paper gives none.
      channel_axis: the axis of the channels.
      sample_axis: the axis of the samples.

    Returns:
      `x`. Reverse-mode differentiation only.

    Raises:
      TypeError: as `centralize_error`, or `eps` is not a number.
      ValueError: as `centralize_error`, or `eps` is negative.

    Example:
      >>> import jax, jax.numpy as jnp, wcgc
      >>> error = jnp.array([[1., 5.], [3., 9.]])
      >>> _, backward = jax.vjp(lambda x: wcgc.standardize_error(x, "channel"), jnp.ones((2, 2)))
      >>> backward(error)[0]
      Array([[-1., -1.],
             [ 1.,  1.]], dtype=float32)

    References:
      Fuhl and Kasneci, 2020, Eqs. 8 and 9.
    """
    check_eps(eps)
    slice_axes = _slice_axes(x, area, channel_axis, sample_axis)
    if not slice_axes:
        return x

    def standardized(error, eps):
        return standardized_array(error, slice_axes, eps)

    return _project_error(standardized, x, jnp.asarray(eps))


# Numbers such as eps are arguments, so that they may be traced, too.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _project_error(
    project: Callable[..., jax.Array], x: jax.Array, *numbers: jax.Array
) -> jax.Array:
    """Returns `x`; the error that flows back becomes `project(error, *numbers)`."""
    del project, numbers
    return x


def _forward(project, x, *numbers):
    del project
    return x, numbers


def _backward(project, numbers, error):
    projected = project(widened(error), *numbers).astype(error.dtype)
    # What comes out on the forward pass does not depend on them.
    return projected, *map(jnp.zeros_like, numbers)


_project_error.defvjp(_forward, _backward)


def _slice_axes(
    x: jax.Array, area: ErrorArea, channel_axis: int, sample_axis: int
) -> tuple[int, ...]:
    """The axes that one slice spans; empty if slices have one element or there are none."""
    if not (isinstance(area, str) and area in get_args(ErrorArea)):
        choices = ", ".join(map(repr, get_args(ErrorArea)))
        raise ValueError(f"area must be one of {choices}, got {written(area)}.")
    if not (is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)):
        got = f"dtype {x.dtype}" if is_array(x) else written(x)
        is_tree = not is_array(x) and holds_arrays(x)
        hint = (
            " It takes the output of one layer; a tree of gradients goes to update of "
            "wcgc.centralize_gradients()."
        )
        raise TypeError(
            f"x must be a floating or complex array to carry an error, got {got}."
            f"{hint if is_tree else ''}"
        )
    for name, axis in ("channel_axis", channel_axis), ("sample_axis", sample_axis):
        try:
            as_axis(axis)
        except TypeError:
            raise TypeError(f"{name} must be an integer, got {written(axis)}.") from None
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"{name}={axis} is out of range for activations of shape {x.shape}.")
    channel, sample = channel_axis % x.ndim, sample_axis % x.ndim
    if channel == sample:
        raise ValueError(
            f"channel_axis={channel_axis} and sample_axis={sample_axis} are the same axis of "
            f"activations of shape {x.shape}."
        )
    kept = {
        "global": (),
        "sample": (sample,),
        "channel": (channel,),
        "instance": (sample, channel),
    }[area]
    slice_axes = tuple(axis for axis in range(x.ndim) if axis not in kept)
    return slice_axes if x.size and any(x.shape[axis] > 1 for axis in slice_axes) else ()
