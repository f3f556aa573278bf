"""The paper's two optimizers with centralization built in, as they are printed."""

import jax
import jax.numpy as jnp
import optax

from wcgc._annotations import Axes, Mask
from wcgc._arrays import widened
from wcgc._axes import FLAX, Area, check_area
from wcgc._checks import Scalar, check_eps, check_number, is_number
from wcgc._messages import where_trees_go, written
from wcgc._transforms import centralized


def algorithm_2(
    learning_rate: optax.ScalarOrSchedule,
    momentum: Scalar = 0.9,
    area: Area = "tensor",
    *,
    axes: Axes = FLAX,
    mask: Mask = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with momentum, GC and WC, to the letter of Algorithm 2.

    With gradient :math:`g`, momentum :math:`M`, kernel :math:`W`, :math:`\psi` = `momentum` and
    :math:`\alpha` = `learning_rate`:

    .. math::
      g &\leftarrow g - \overline{g} \\
      M &\leftarrow \psi M + (1 - \psi) g \\
      W &\leftarrow W - \alpha M \\
      W &\leftarrow W - \overline{W}

    .. warning::
      This momentum is a moving average. `optax.sgd` and most libraries compute
      :math:`M = \psi M + g`, whose steps are :math:`1 / (1 - \psi)` times larger at the same
      learning rate: ten times at 0.9.

    Args:
      learning_rate: a number or a schedule from the step's number, 0 for the first, to one.
      momentum: the decay of the moving average, at least 0 and below 1.
      area: what one mean is taken over, for gradients and weights; see `centralize`.
      axes: which axis is what; see `centralize`.
      mask: which leaves to centralize; the others take the plain step.

    Returns:
      The optimizer. Its `update` needs `params`; see the warnings of `centralize_params`.

    Raises:
      TypeError: as `centralize_params`, or `learning_rate` is neither a number nor a schedule, or
        `momentum` is not a number.
      ValueError: as `centralize_params`, or `momentum` is out of range.

    Example:
      >>> import jax.numpy as jnp, optax, wcgc
      >>> params = jnp.array([[-1.], [1.]])
      >>> tx = wcgc.algorithm_2(learning_rate=1.0)
      >>> updates, _ = tx.update(jnp.array([[0.], [10.]]), tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([[-0.5],
             [ 0.5]], dtype=float32)

    References:
      Fuhl and Kasneci, `Weight and Gradient Centralization in Deep Neural Networks
      <https://arxiv.org/abs/2010.00866>`_, 2020, Algorithm 2.
    """
    check_area(area)
    _check_learning_rate(learning_rate)
    check_number("momentum", momentum, "at least 0 and below 1", lambda m: bool(0 <= m < 1))
    sgd = optax.chain(
        optax.ema(momentum, debias=False),
        optax.scale_by_learning_rate(learning_rate),
    )
    return centralized(sgd, area, area, axes=axes, mask=mask)


def algorithm_3(
    learning_rate: optax.ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    area: Area = "tensor",
    *,
    axes: Axes = FLAX,
    mask: Mask = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with GC and WC, to the letter of Algorithm 3.

    With gradient :math:`g`, moments :math:`M` and :math:`V`, kernel :math:`W`, step
    :math:`t = 1, 2, \ldots`, :math:`\psi_1` = `b1`, :math:`\psi_2` = `b2` and :math:`\alpha` =
    `learning_rate`:

    .. math::
      g &\leftarrow g - \overline{g} \\
      M &\leftarrow \psi_1 M + (1 - \psi_1) g \\
      V &\leftarrow \psi_2 V + (1 - \psi_2) g \odot g \\
      \hat{M} &= M / (1 - \psi_1^t) \\
      \hat{V} &= \psi_2 V / (1 - \psi_2^t) \\
      W &\leftarrow W - \alpha \hat{M} / \sqrt{\hat{V} + eps} \\
      W &\leftarrow W - \overline{W}

    .. warning::
      It differs from Adam in two places: the factor :math:`\psi_2` in :math:`\hat{V}`, and `eps`
      inside the root. Where gradients are as small as `sqrt(eps)` the steps are much shorter than
      Adam's: for gradients of 1e-5, a tenth.

    Args:
      learning_rate: a number or a schedule from the step's number, 0 for the first, to one.
      b1: the decay of the first moment, at least 0 and below 1.
      b2: the decay of the second moment, between 0 and 1.
      eps: added to the second moment inside the root, in units of the squared gradient. At 0 a
        gradient that is always zero gives NaN. The moments of 16-bit parameters are kept in
        float32, since there `eps` would be 0 in float16, and `b2` 1 in bfloat16.
      area: what one mean is taken over, for gradients and weights; see `centralize`.
      axes: which axis is what; see `centralize`.
      mask: which leaves to centralize; the others take the plain step.

    Returns:
      The optimizer. Its `update` needs `params`; see the warnings of `centralize_params`.

    Raises:
      TypeError: as `centralize_params`, or `learning_rate` is neither a number nor a schedule, or
        `b1`, `b2` or `eps` is not a number.
      ValueError: as `centralize_params`, or `b1`, `b2` or `eps` is out of range.

    Example:
      >>> import jax.numpy as jnp, optax, wcgc
      >>> params = jnp.array([[-3.], [3.]])
      >>> tx = wcgc.algorithm_3(learning_rate=0.5, b2=0.25)
      >>> updates, _ = tx.update(jnp.array([[0.], [10.]]), tx.init(params), params)
      >>> optax.apply_updates(params, updates).round(4)
      Array([[-2.],
             [ 2.]], dtype=float32)

    References:
      Fuhl and Kasneci, 2020, Algorithm 3.
    """
    check_area(area)
    _check_learning_rate(learning_rate)
    check_number("b1", b1, "at least 0 and below 1", lambda b: bool(0 <= b < 1))
    check_number("b2", b2, "above 0 and below 1", lambda b: bool(0 < b < 1))
    check_eps(eps)
    # m / sqrt(b2 * v + eps) = b2**-0.5 * m / sqrt(v + eps / b2), with m and v Adam's moments.
    adam = optax.chain(
        _in_float32(optax.scale_by_adam(b1, b2, eps=0.0, eps_root=eps / b2)),
        optax.scale(b2**-0.5),
        optax.scale_by_learning_rate(learning_rate),
    )
    return centralized(adam, area, area, axes=axes, mask=mask)


def _in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same, computed and with its state in float32 for 16-bit leaves."""

    def wide(tree):
        return jax.tree.map(
            lambda leaf: widened(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, tree
        )

    def init_fn(params):
        return tx.init(wide(params))

    def update_fn(updates, state, params=None):
        del params  # Adam needs none.
        result, state = tx.update(wide(updates), state)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), result, updates), state

    return optax.GradientTransformation(init_fn, update_fn)


def _check_learning_rate(learning_rate: optax.ScalarOrSchedule) -> None:
    if callable(learning_rate):
        return
    if not is_number(learning_rate):
        raise TypeError(
            "learning_rate must be a number or a schedule from the step's number to one, got "
            f"{written(learning_rate)}.{where_trees_go(learning_rate)}"
        )
    check_number("learning_rate", learning_rate, "finite", lambda rate: True)
