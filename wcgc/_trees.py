"""Centralization, standardization and normalization of the kernels of a tree."""

import functools
from collections.abc import Sequence
from typing import Any

from wcgc._annotations import Axes, Mask
from wcgc._arrays import (
    Project,
    centralized_array,
    normalized_array,
    standardized_array,
    widened,
)
from wcgc._axes import FLAX, Area
from wcgc._checks import Scalar, check_eps, check_norm, check_norm_is_held, check_strength
from wcgc._paths import path_of
from wcgc._selection import Leaf, as_array, select

DEFAULT_EPS = 1e-10


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
    What differs from its mean by no more than min(n, 8) `eps_acc` times that mean, as the gradient
    of equal features does by rounding alone, becomes exactly 0: Adam would make full steps of such
    noise.

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
        `scales`, `gamma`, `alpha`, `negative_slope`, `embedding`, `embeddings`, `embed`, `emb`,
        `table`, `wte`, `wpe`, `token`, `cls`, `mean`, `var`, `variance`, or one of these behind an
        underscore, as in `pos_embedding`), and the `weight` of an `embed_tokens` and its like; the
        norms and embeddings of Equinox, and its kernels in the layout (..., in, out); Haiku's and
        Keras's transposed and Keras's depthwise convolutions in that layout, by the names of their
        layers; kernels whose bias does not have one number per output; and kernels beside norms
        whose scales show stacked layers. All else with two axes or more it takes for kernels: a
        layout guesses, `trace_axes` reads. `init` of the transforms warns of kernels of three or
        more axes that may as well be attention's, stacked or experts'.
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
      ValueError: `area` is no area, `axes` or `mask` does not match the tree or names an
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
    project = functools.partial(centralized_array, strength=strength)
    return map_leaves(project, *select(tree, area, axes, mask))


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
    project = functools.partial(standardized_array, eps=eps)
    return map_leaves(project, *select(tree, area, axes, mask))


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
      ValueError: as `centralize`, or `norm` is not positive, or is below the range of a kernel's
        dtype.

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
    leaves, treedef = select(tree, area, axes, mask)
    check_norm_of_leaves(norm, leaves)
    return map_leaves(functools.partial(normalized_array, norm=norm), leaves, treedef)


def map_leaves(project: Project, leaves: list[Leaf], treedef: Any) -> Any:
    """Applies `project(kernel, slice_axes)` to the selected leaves in their working precision."""

    def map_leaf(leaf: Leaf) -> Any:
        if leaf.slice_axes is None:
            return leaf.value
        # JAX may not have the dtype of a NumPy leaf: float64 is float32 unless x64 is enabled.
        kernel = as_array(leaf.key, leaf.value)
        return project(widened(kernel), leaf.slice_axes).astype(kernel.dtype)

    return treedef.unflatten(map(map_leaf, leaves))


def check_norm_of_leaves(norm: Scalar, leaves: Sequence[Leaf]) -> None:
    """Rejects a norm that a selected leaf cannot hold."""
    for leaf in leaves:
        if leaf.slice_axes is not None:
            check_norm_is_held(norm, leaf.value.dtype, path_of(leaf.key))
