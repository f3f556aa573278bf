"""Centralization as Optax gradient transformations."""

import functools
from typing import Literal

import jax
import optax

from wcgc._annotations import Axes, Mask
from wcgc._arrays import centralized_array, normalized_array, slice_norm, standardized_array
from wcgc._axes import FLAX, Area, check_area
from wcgc._checks import Scalar, check_eps, check_norm, check_strength
from wcgc._messages import where_trees_go, written
from wcgc._trees import DEFAULT_EPS, check_norm_of_leaves
from wcgc._updates import of_gradients, of_params, whatever_was


def centralize_gradients(
    area: Area = "tensor",
    *,
    axes: Axes = FLAX,
    mask: Mask = None,
    strength: Scalar = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Subtracts from the gradient of each kernel its slice means: GC (Eq. 4).

    .. warning::
      Order matters: place it in front of momentum and adaptive scaling, which remember what they
      were given, and behind what sums over per-example gradients. Weight decay that is added to the
      gradient behind it is not centralized, as in the paper's Algorithm 1.

    Args:
      area: what one mean is taken over; see `centralize`.
      axes: which axis is what; see `centralize`.
      mask: which leaves to touch; see `centralize`.
      strength: the share of the mean that is removed, from 0 to 1; see `centralize`.

    Returns:
      A stateless transform. It needs no params; where it is given them, their shapes must be those
      of the updates. Its `init` warns of choices that are likely not meant: of a parameter that is
      constant along its slices but not zero, as the scales of norms are at first, since
      centralizing such weights erases them; of kernels that one layout for all cannot vouch for;
      and where nothing is chosen. So do the `init` of all other transforms here, save that
      `normalize_params`, which erases nothing, does not warn of the first.

    Raises:
      TypeError: `axes` or `mask` holds something else than documented, or `strength` is not a
        number.
      ValueError: `area` is no area, or `strength` is not between 0 and 1; at `init` and
        `update`, `axes` or `mask` does not match the tree or names an axis that a leaf lacks; at
        `update`, updates and params differ in shape.

    Example:
      >>> import jax.numpy as jnp, optax, wcgc
      >>> params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
      >>> grads = {"kernel": jnp.array([[1., 4.], [3., 8.]]), "bias": jnp.ones(2)}
      >>> tx = optax.chain(wcgc.centralize_gradients(), optax.sgd(1.0))
      >>> updates, _ = tx.update(grads, tx.init(params))
      >>> updates["kernel"]
      Array([[ 1.,  2.],
             [-1., -2.]], dtype=float32)

    References:
      Fuhl and Kasneci, `Weight and Gradient Centralization in Deep Neural Networks
      <https://arxiv.org/abs/2010.00866>`_, 2020, Eq. 4; Yong et al., `Gradient Centralization
      <https://arxiv.org/abs/2004.01461>`_, 2020; with `strength` below 1 `Scaled Gradient Mean
      Subtraction <https://openreview.net/forum?id=UMH1bP9XhO>`_, 2025.
    """
    check_strength(strength)
    project = functools.partial(centralized_array, strength=strength)
    return of_gradients(project, area, axes, mask)


def centralize_params(
    area: Area = "tensor",
    *,
    axes: Axes = FLAX,
    mask: Mask = None,
    strength: Scalar = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Makes the updated kernels centralized: WC (Eq. 2), the last line of Algorithms 2 and 3.

    Turns the update :math:`u` of the parameters :math:`p` into :math:`u - s \overline{p + u}` with
    s = `strength`, so that :math:`p + u` has slice means of zero if s is 1. What rounding leaves of
    them is bounded as in `centralize`, with m the largest magnitude in `p` plus that in `u`, and 4
    `eps` in place of `eps`, since taking the difference from `p` and adding it again rounds, too.

    .. warning::
      Order matters: place it last in the chain. Any transform behind it, a learning rate too,
      changes what is added to the parameters. It moves frozen parameters, whose update is zero,
      like any others unless `mask` or `axes` leaves them out, and removing the mean of the kernels
      of a *pretrained* network changes the function it computes.

    Args:
      area: what one mean is taken over; see `centralize`.
      axes: which axis is what; see `centralize`.
      mask: which leaves to touch; see `centralize`.
      strength: the share of the mean that is removed in each step, from 0 to 1; see `centralize`.

    Returns:
      A stateless transform. Its `update` needs `params`.

    Raises:
      TypeError: `axes` or `mask` holds something else than documented, or `strength` is not a
        number.
      ValueError: `area` is no area, or `strength` is not between 0 and 1; at `init` and
        `update`, `axes` or `mask` does not match the tree or names an axis that a leaf lacks; at
        `update`, params are missing or differ from the updates in structure or shape.

    Example:
      >>> import jax.numpy as jnp, optax, wcgc
      >>> params = jnp.array([[1., 4.], [3., 8.]])
      >>> tx = optax.chain(optax.sgd(1.0), wcgc.centralize_params())
      >>> updates, _ = tx.update(jnp.ones((2, 2)), tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([[-1., -2.],
             [ 1.,  2.]], dtype=float32)

    References:
      Fuhl and Kasneci, 2020, Eq. 2 and the last lines of Algorithms 2 and 3.
    """
    check_strength(strength)
    project = functools.partial(centralized_array, strength=strength)
    return of_params("centralize_params", whatever_was(project), area, axes, mask)


def standardize_params(
    area: Area = "tensor", eps: Scalar = DEFAULT_EPS, *, axes: Axes = FLAX, mask: Mask = None
) -> optax.GradientTransformationExtraArgs:
    """Makes the slices of the updated kernels have mean 0 and standard deviation 1: WS (Eq. 3).

    .. warning::
      Order matters, and frozen and pretrained kernels are changed: see `centralize_params`.

    Args:
      area: what a slice is; see `centralize`.
      eps: added to the variance; see `standardize`.
      axes: which axis is what; see `centralize`.
      mask: which leaves to touch; see `centralize`.

    Returns:
      A stateless transform. Its `update` needs `params`.

    Raises:
      TypeError: as `centralize_params`, or `eps` is not a number.
      ValueError: as `centralize_params`, or `eps` is negative.

    Example:
      >>> import jax.numpy as jnp, optax, wcgc
      >>> params = jnp.array([[1., 4.], [3., 8.]])
      >>> tx = optax.chain(optax.sgd(1.0), wcgc.standardize_params())
      >>> updates, _ = tx.update(jnp.zeros((2, 2)), tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([[-1., -1.],
             [ 1.,  1.]], dtype=float32)

    References:
      Fuhl and Kasneci, 2020, Eq. 3 and Algorithm 1.
    """
    check_eps(eps)
    project = functools.partial(standardized_array, eps=eps)
    return of_params("standardize_params", whatever_was(project), area, axes, mask)


def normalize_params(
    area: Area = "tensor",
    norm: Scalar | Literal["keep"] = 1.0,
    *,
    axes: Axes = FLAX,
    mask: Mask = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gives the slices of the updated kernels the Euclidean norm `norm`: WN (Eq. 1).

    With `norm="keep"` each slice keeps the norm that it has before the update: the update :math:`u`
    of the parameters :math:`p` becomes :math:`(p + u) \|p\| / \|p + u\| - p`. With
    `area="global"` that is one norm for each matrix, as Hyperball keeps it. Rounding makes the norm
    drift; `docs/language_models.md` says how far.

    .. warning::
      Order matters, and frozen and pretrained kernels are changed: see `centralize_params`. With
      `"keep"`, a pretrained kernel is not. But a slice of zeros keeps the norm zero and never
      learns: leave kernels that start at zero out by `mask` or `axes`.

    Args:
      area: what a slice is; see `centralize`.
      norm: the norm that each slice is given, positive; see `normalize`. Or `"keep"`, for the norm
        that each slice has.
      axes: which axis is what; see `centralize`.
      mask: which leaves to touch; see `centralize`.

    Returns:
      A stateless transform. Its `update` needs `params`.

    Raises:
      TypeError: as `centralize_params`, or `norm` is neither a number nor a string.
      ValueError: as `centralize_params`, or `norm` is not positive or another string; at `init`,
        it is below the range of a kernel's dtype.

    Example:
      >>> import jax.numpy as jnp, optax, wcgc
      >>> params = jnp.array([[3., 0.], [4., 1.]])
      >>> tx = optax.chain(optax.sgd(1.0), wcgc.normalize_params(norm=10.))
      >>> updates, _ = tx.update(jnp.zeros((2, 2)), tx.init(params), params)
      >>> optax.apply_updates(params, updates).round(4)
      Array([[ 6.,  0.],
             [ 8., 10.]], dtype=float32)

      AdamH, the Hyperball variant of Adam, whose steps are a share of the matrix's norm:

      >>> tx = optax.chain(
      ...     optax.scale_by_adam(),
      ...     optax.scale_by_trust_ratio(),
      ...     optax.scale_by_learning_rate(0.5),
      ...     wcgc.normalize_params("global", norm="keep"),
      ... )
      >>> updates, _ = tx.update(jnp.ones((2, 2)), tx.init(params), params)
      >>> jnp.linalg.norm(params), jnp.linalg.norm(optax.apply_updates(params, updates)).round(4)
      (Array(5.0990195, dtype=float32), Array(5.099, dtype=float32))

    References:
      Fuhl and Kasneci, 2020, Eq. 1 and Algorithm 1; for `"keep"`, Wen et al., `Hyperball
      Optimization <https://arxiv.org/abs/2606.16899>`_, 2026.
    """
    if isinstance(norm, str):
        if norm != "keep":
            raise ValueError(f'norm must be a positive number or "keep", got {written(norm)}.')
        return of_params("normalize_params", _with_kept_norms, area, axes, mask, erases=False)
    check_norm(norm, ' "keep" is for the norm that each slice has.')
    return of_params(
        "normalize_params",
        whatever_was(functools.partial(normalized_array, norm=norm)),
        area,
        axes,
        mask,
        erases=False,
        check=functools.partial(check_norm_of_leaves, norm),
    )


def centralized(
    optimizer: optax.GradientTransformation,
    gradients: Area | None = "tensor",
    params: Area | None = "tensor",
    *,
    axes: Axes = FLAX,
    mask: Mask = None,
) -> optax.GradientTransformationExtraArgs:
    """Puts GC in front of any optimizer and WC behind it, as Algorithms 2 and 3 do.

    The same as `optax.chain(centralize_gradients(...), optimizer, centralize_params(...))`.

    Args:
      optimizer: what turns gradients into updates of the parameters, learning rate included: what
        `optax.chain` takes, `optax.MultiSteps` too.
      gradients: the area of GC, or None for no GC.
      params: the area of WC, or None for no WC; see the warnings of `centralize_params`.
      axes: which axis is what; see `centralize`.
      mask: which leaves to touch; see `centralize`.

    Returns:
      The transform. Its `update` needs `params` unless WC is switched off; extra arguments pass
      through to `optimizer`.

    Raises:
      TypeError: `optimizer` is not a gradient transformation, or `axes` or `mask` holds something
        else than documented.
      ValueError: `gradients` or `params` is no area; otherwise as
        `centralize_params`.

    Example:
      >>> import jax.numpy as jnp, optax, wcgc
      >>> params = jnp.array([[1., 4.], [3., 8.]])
      >>> tx = wcgc.centralized(optax.adam(1e-3))
      >>> updates, _ = tx.update(jnp.ones((2, 2)), tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([[-1., -2.],
             [ 1.,  2.]], dtype=float32)

    References:
      Fuhl and Kasneci, 2020, Algorithms 2 and 3.
    """
    if not _is_transform(optimizer):
        raise TypeError(
            f"optimizer must be an Optax gradient transformation such as optax.adam(1e-3), got "
            f"{written(optimizer)}.{where_trees_go(optimizer)}"
        )
    links = [optimizer]
    if gradients is not None:
        check_area(gradients, "gradients", "None for no GC")
        links.insert(0, centralize_gradients(gradients, axes=axes, mask=mask))
    if params is not None:
        check_area(params, "params", "None for no WC")
        warns = gradients is None  # GC has warned already.
        links.append(
            of_params(
                "centralize_params", whatever_was(centralized_array), params, axes, mask, warns
            )
        )
    return optax.chain(*links)


def _is_transform(optimizer: object) -> bool:
    # As `optax.chain` sees it: `optax.MultiSteps` is one without being a GradientTransformation.
    methods = (getattr(optimizer, name, None) for name in ("init", "update"))
    return not isinstance(optimizer, type) and all(map(callable, methods))


def _with_kept_norms(
    stepped: jax.Array, slice_axes: tuple[int, ...], before: jax.Array
) -> jax.Array:
    return normalized_array(stepped, slice_axes, slice_norm(before, slice_axes))
