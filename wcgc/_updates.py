"""Optax transforms of the kernels among the updates, or of the kernels that the updates lead to."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from wcgc._annotations import Axes, Mask
from wcgc._arrays import Project, widened
from wcgc._axes import Area
from wcgc._init_checks import warn_of_doubtful_choices
from wcgc._paths import flatten
from wcgc._selection import Leaf, as_array, check_selection, check_shapes, match, select
from wcgc._trees import map_leaves

StepTo = Callable[[jax.Array, tuple[int, ...], jax.Array], jax.Array]
"""From an updated kernel, the axes of a slice and the kernel before to what it shall become."""


def of_gradients(
    project: Project, area: Area, axes: Axes, mask: Mask
) -> optax.GradientTransformationExtraArgs:
    """A transform whose updates are `project(update, slice_axes)`."""
    check_selection(area, axes, mask)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        leaves, treedef = select(updates, area, axes, mask)
        if params is not None:
            check_shapes(leaves, dict(flatten(params)[0]), ("updates", "params"))
        return map_leaves(project, leaves, treedef), state

    return optax.GradientTransformationExtraArgs(_checking_init(area, axes, mask), update_fn)


def of_params(
    name: str,
    step_to: StepTo,
    area: Area,
    axes: Axes,
    mask: Mask,
    warns: bool = True,
    erases: bool = True,
    check: Callable[[Sequence[Leaf]], None] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A transform whose updates make the kernels `step_to(param + update, slice_axes, param)`.

    Computed in their working precision.

    Args:
      name: the transform's, for messages.
      step_to: what a kernel becomes.
      area: what a slice is.
      axes: which axis is what.
      mask: which leaves to touch.
      warns: whether `init` warns of choices that are likely not meant.
      erases: whether slices that are constant would be erased.
      check: rejects parameters at `init`.
    """
    check_selection(area, axes, mask)

    def step_leaf(leaf, param):
        if leaf.slice_axes is None:
            return leaf.value
        param, update = as_array(leaf.key, param), as_array(leaf.key, leaf.value)
        wide_param, wide_update = widened(param), widened(update)
        dtype = jnp.promote_types(wide_param.dtype, wide_update.dtype)
        wide_param = wide_param.astype(dtype)
        # The sum is the one array that XLA has to store for this. On a CPU u - mean(p + u) would
        # store u, too: XLA does not fuse what an optimizer computes into a reduction.
        projected = step_to(wide_param + wide_update.astype(dtype), leaf.slice_axes, wide_param)
        return (projected - wide_param).astype(update.dtype)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError(
                f"{name} needs the current parameters: call update(updates, state, params)."
            )
        leaves, treedef = select(updates, area, axes, mask)
        return treedef.unflatten(
            map(step_leaf, leaves, match(leaves, params, ("updates", "params")))
        ), state

    init_fn = _checking_init(area, axes, mask, warns, erases, check)
    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def whatever_was(project: Project) -> StepTo:
    """`project` for steps to a kernel that does not depend on the one before."""

    def step_to(stepped: jax.Array, slice_axes: tuple[int, ...], before: jax.Array) -> jax.Array:
        del before
        return project(stepped, slice_axes)

    return step_to


def _checking_init(
    area: Area,
    axes: Axes,
    mask: Mask,
    warns: bool = True,
    erases: bool = True,
    check: Callable[[Sequence[Leaf]], None] | None = None,
) -> optax.TransformInitFn:
    """An init that makes no state, but sees early whether `axes` and `mask` fit the parameters.

    It warns of choices that are likely not meant.
    """

    def init_fn(params):
        leaves, _ = select(params, area, axes, mask)
        if check is not None:
            check(leaves)
        if warns:
            warn_of_doubtful_choices(leaves, erases)
        return optax.EmptyState()

    return init_fn
