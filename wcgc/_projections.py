"""Centralization, standardization and normalization of one array, and of a tree of kernels."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wcgc._axes import FLAX, Area
from wcgc._checks import Scalar, check_eps, check_norm, check_strength
from wcgc._lookup import Axes, Mask
from wcgc._selection import Leaf, select

DEFAULT_EPS = 1e-10

Project = Callable[[jax.Array, tuple[int, ...]], jax.Array]
"""From a kernel and the axes of a slice to the kernel that it shall become."""


def slice_mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The mean over `axes`, kept as axes of length 1."""
    return jnp.mean(x, axis=axes, keepdims=True)


def centralized_array(x: jax.Array, axes: tuple[int, ...], strength: Scalar = 1.0) -> jax.Array:
    """`x` less the share `strength` of its mean over `axes`.

    Where all of the mean goes, the result is exactly 0 where rounding may be all that differs.
    """
    is_number = isinstance(strength, int | float)
    if is_number and strength == 0:
        return x  # nothing is not even computed
    mean = slice_mean(x, axes)
    steps = min(math.prod(x.shape[axis] for axis in axes), 8)
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


def standardized_array(x: jax.Array, axes: tuple[int, ...], eps: Scalar) -> jax.Array:
    """`x` with mean 0 and standard deviation 1 over `axes`."""
    scale = _scale(x, axes)
    factor = scale.astype(x.dtype)
    # Less the smallest first, which leaves nothing of a constant slice. Rounding errors, all that
    # is left when its mean is subtracted, would be taken for its deviation.
    x = centralized_array(x * factor - _smallest(x, axes) * factor, axes)
    deviation = _root_mean_square(x, axes)
    divisor = jnp.hypot(deviation, jnp.sqrt(_like(eps, deviation)) * scale)
    return x / _one_where(divisor == 0, divisor).astype(x.dtype)


def normalized_array(x: jax.Array, axes: tuple[int, ...], norm: Scalar) -> jax.Array:
    """`x` with Euclidean norm `norm` over `axes`, one for all slices or one for each.

    Zero slices stay zero.
    """
    x = x * _scale(x, axes).astype(x.dtype)
    length = _norm(x, axes)
    return x * (_like(norm, length) / _one_where(length == 0, length)).astype(x.dtype)


def slice_norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The Euclidean norm over `axes`, kept as axes of length 1, where it is in range."""
    length = _norm(x * _scale(x, axes).astype(x.dtype), axes)
    mantissa, largest = _mantissa(x, axes)
    # Not divided by the scale: of that XLA makes a product with the largest, which is out of range.
    return length * (largest / (4 * mantissa))


def centralize(
    tree: Any,
    area: Area = "tensor",
    *,
    axes: Axes = FLAX,
    mask: Mask = None,
    strength: Scalar = 1.0,
) -> Any:
    r"""Subtracts from each kernel its slice means: WC (Eq. 2) on weights, GC (Eq. 4) on gradients.

    For every slice :math:`W_j` of the area, :math:`W_j \leftarrow W_j - s \overline{W_j}` with
    s = `strength`. With s = 1, the default, this is the orthogonal projection onto the kernels
    whose slices sum to zero.

    Means are accumulated in float32 for 16-bit leaves and in the leaf's precision otherwise. With
    `eps` the machine epsilon of the leaf's dtype and `eps_acc` that of the accumulation, the mean
    left in a slice of n elements of magnitude at most m is at most
    `(eps + 2 * n * eps_acc) * m + 2 * n * tiny`, where `tiny` is the smallest normal number. It is
    not exactly zero, since subtracting rounds; in 16-bit this is what remains visible. A slice
    whose sum leaves the range of the accumulation (n * m above 3e38 in float32) becomes Inf or NaN.
    What differs from its mean by no more than 8 `eps_acc` times that mean, as the gradient of equal
    features does by rounding alone, becomes exactly 0: Adam would make full steps of such noise.

    .. warning::
      Removing the mean of the kernels of a *pretrained* network changes the function it computes.
      Centralizing its gradients does not.

    Args:
      tree: arrays in any containers. Left alone are leaves with fewer than two axes beside batch
        axes, that are not floating or complex, that are empty, and whose slices have one element,
        which centralizing would erase. `explain` gives the reason for each.
      area: one mean per output filter (`"tensor"`), per input channel (`"channel"`), per (in, out)
        pair (`"instance"`) or per kernel (`"global"`).
      axes: a `KernelAxes` for all leaves; or a tree (or prefix) of `KernelAxes | LeftAlone |
        None`, such as `trace_axes` and `axes_of` read off a model; or a callable from the tree to
        one, such as `by_path` makes. None and `LeftAlone` leave a leaf alone; Muon's dimension
        numbers are taken for a `KernelAxes`. The default is the layout (..., in, out).

        One `KernelAxes` for several leaves is a layout, which cannot know each of them. It leaves
        alone what it cannot vouch for: leaves whose name, the last part of their path, is given to
        what is no kernel (`bias`, `biases`, `bias_n`, `b` beside a `w`, `offset`, `beta`, `scale`,
        `scales`, `gamma`, `alpha`, `negative_slope`, `embedding`, `embeddings`, `embed`, `token`,
        `cls`, `mean`, `var`, `variance`, or one of these behind an underscore, as in
        `pos_embedding`); the norms and embeddings of Equinox, and its kernels in the layout (...,
        in, out); kernels of three or more axes whose bias does not have one number per output; and
        kernels beside norms whose scales show stacked layers. All else with two axes or more it
        takes for kernels: a layout guesses, `trace_axes` reads.
      mask: a tree (or prefix) of bools, or a callable from the tree to one. False leaves a leaf
        alone.
      strength: the share of the mean that is removed, from 0, nothing, to 1, all of it. Below 1 the
        mean that is left is `1 - strength` times what it was. It may be traced; a traced 1 can
        differ from the number 1 in the last bit.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      TypeError: `axes` or `mask` holds something else than documented, or `strength` is not a
        number.
      ValueError: `area` is none of the four, `axes` or `mask` does not match the tree or names an
        axis that a leaf lacks, or `strength` is not between 0 and 1.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> params = {"kernel": jnp.array([[1., 10.], [2., 20.], [6., 60.]]), "bias": jnp.ones(2)}
      >>> wcgc.centralize(params)["kernel"]
      Array([[ -2., -20.],
             [ -1., -10.],
             [  3.,  30.]], dtype=float32)

    References:
      Fuhl and Kasneci, `Weight and Gradient Centralization in Deep Neural Networks
      <https://arxiv.org/abs/2010.00866>`_, 2020, Eqs. 2 and 4; the areas are those of Table 2. On
      gradients, strengths below 1 are `Scaled Gradient Mean Subtraction
      <https://openreview.net/forum?id=UMH1bP9XhO>`_, 2025.
    """
    check_strength(strength)
    return map_kernels(
        functools.partial(centralized_array, strength=strength), tree, area, axes, mask
    )


def standardize(
    tree: Any,
    area: Area = "tensor",
    eps: Scalar = DEFAULT_EPS,
    *,
    axes: Axes = FLAX,
    mask: Mask = None,
) -> Any:
    r"""Brings each slice of each kernel to mean 0 and standard deviation 1: WS (Eq. 3).

    For every slice, :math:`W_j \leftarrow (W_j - \overline{W_j}) / \sqrt{var(W_j) + eps}`, with
    the variance of the slice as a population (ddof 0). No sum or square on the way overflows or
    vanishes, whatever the magnitude of the slice.

    Args:
      tree: arrays in any containers; see `centralize` for what is left alone.
      area: what a slice is; see `centralize`.
      eps: added to the variance, in units of the squared weights, so that a slice that is all but
        constant stays small. A constant one becomes zero. The paper gives none.
      axes: which axis is what; see `centralize`.
      mask: which leaves to touch; see `centralize`.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      TypeError: `axes` or `mask` holds something else than documented, or `eps` is not a number.
      ValueError: as `centralize`, or `eps` is negative.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> wcgc.standardize(jnp.array([[1., 5.], [3., 5.]]))
      Array([[-1.,  0.],
             [ 1.,  0.]], dtype=float32)

    References:
      Fuhl and Kasneci, 2020, Eq. 3. There, as here, the weights themselves are overwritten; the
      `published method <https://arxiv.org/abs/1903.10520>`_ standardizes them anew in each forward
      pass and differentiates through it.
    """
    check_eps(eps)
    return map_kernels(functools.partial(standardized_array, eps=eps), tree, area, axes, mask)


def normalize(
    tree: Any,
    area: Area = "tensor",
    norm: Scalar = 1.0,
    *,
    axes: Axes = FLAX,
    mask: Mask = None,
) -> Any:
    r"""Scales each slice of each kernel to the Euclidean norm `norm`: WN (Eq. 1).

    For every slice, :math:`W_j \leftarrow k W_j / \|W_j\|` with k = `norm`. No square on the way
    overflows or vanishes, whatever the magnitude of the slice.

    Args:
      tree: arrays in any containers; see `centralize` for what is left alone.
      area: what a slice is; see `centralize`.
      norm: the norm that each slice is given, positive. The paper uses 1. A slice of zeros has no
        direction and stays zero, and so may one below the smallest normal number, which XLA
        takes for zeros on a CPU.
      axes: which axis is what; see `centralize`.
      mask: which leaves to touch; see `centralize`.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      TypeError: `axes` or `mask` holds something else than documented, or `norm` is not a number.
      ValueError: as `centralize`, or `norm` is not positive.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> wcgc.normalize(jnp.array([[3., 0.], [4., 0.]]), norm=10.)
      Array([[6., 0.],
             [8., 0.]], dtype=float32)

    References:
      Fuhl and Kasneci, 2020, Eq. 1. The `published method <https://arxiv.org/abs/1602.07868>`_
      learns a gain for each filter and differentiates through the division; this does neither.
    """
    check_norm(norm)
    return map_kernels(functools.partial(normalized_array, norm=norm), tree, area, axes, mask)


def map_kernels(
    project: Project,
    tree: Any,
    area: Area,
    axes: Axes,
    mask: Mask,
) -> Any:
    """Applies `project(kernel, slice_axes)` to the kernels of `tree` in their working precision."""
    leaves, treedef = select(tree, area, axes, mask)
    return map_leaves(project, leaves, treedef)


def map_leaves(project: Project, leaves: list[Leaf], treedef: Any) -> Any:
    """The same for leaves that are selected already."""

    def map_leaf(leaf: Leaf) -> Any:
        if leaf.axes is None:
            return leaf.value
        # JAX may not have the dtype of a NumPy leaf: float64 is float32 unless x64 is enabled.
        kernel = jnp.asarray(leaf.value)
        return project(widened(kernel), leaf.axes).astype(kernel.dtype)

    return treedef.unflatten(map(map_leaf, leaves))


def widened(x: jax.Array) -> jax.Array:
    """`x` in float32 if its own dtype has fewer bits."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def _scale(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The power of two that brings the largest entry of each slice to 2 or more, below 4.

    Scaling by it is exact, and keeps sums and squares from overflowing or vanishing. The results do
    not depend on it, so neither do their derivatives. For slices of zeros it is some finite number.
    """
    mantissa, largest = _mantissa(x, axes)
    # Multiplied by, not divided by: XLA divides by taking reciprocals, and that of 2**127 is zero.
    return 4 * mantissa / largest


def _mantissa(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The mantissa of the largest entry of each slice, from 0.5 to 1, and that entry; 1 for 0."""
    x = jax.lax.stop_gradient(x)
    magnitude = jnp.maximum(jnp.abs(x.real), jnp.abs(x.imag)) if jnp.iscomplexobj(x) else jnp.abs(x)
    largest = jnp.max(magnitude, axis=axes, keepdims=True)
    largest = _one_where(largest == 0, largest)
    return jnp.frexp(largest)[0], largest


def _smallest(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The smallest entry of each slice; of complex ones, the first in lexicographic order."""
    return jax.lax.stop_gradient(jnp.min(x, axis=axes, keepdims=True))


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The Euclidean norm over `axes` of slices whose squares are in range."""
    size = math.prod(x.shape[axis] for axis in axes)
    return _root_mean_square(x, axes) * _like(math.sqrt(size), jnp.real(x))


def _root_mean_square(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    mean_square = slice_mean(jnp.square(jnp.abs(x)), axes)
    is_zero = mean_square == 0
    # The square root has no derivative at zero; that of a slice of zeros shall be zero.
    return jnp.where(is_zero, mean_square, jnp.sqrt(_one_where(is_zero, mean_square)))


def _one_where(condition: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(condition, _like(1.0, x), x)


def _like(value: Scalar, x: jax.Array) -> jax.Array:
    return jnp.asarray(value, dtype=x.dtype)
