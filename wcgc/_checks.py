"""Checks of numeric arguments, which may be traced (as by `optax.inject_hyperparams`)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from wcgc._messages import written
from wcgc._paths import shown

Scalar = float | jax.Array
"""A number, or an array without axes, concrete or traced."""


def is_number(value: object) -> bool:
    """Whether `value` is a real number, or an array of one without axes; a flag is not."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return True
    dtype = getattr(value, "dtype", None)
    if getattr(value, "ndim", None) != 0 or dtype is None:
        return False
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def check_number(
    name: str,
    value: Scalar,
    wanted: str,
    holds: Callable[[Scalar], bool],
    hint: str = "",
) -> None:
    """Raises an error that says what is wanted if `value` is known and does not hold.

    Args:
      name: the argument's.
      value: what was given.
      wanted: which numbers may be given, in words.
      holds: whether this one may.
      hint: what else may be given, as a sentence.

    Raises:
      TypeError: `value` is not a number.
      ValueError: `value` does not hold, or is not finite.
    """
    if not is_number(value):
        raise TypeError(
            f"{name} must be a number, got {written(value)}.{hint} For a schedule, wrap the "
            "transform in optax.inject_hyperparams."
        )
    if isinstance(value, Tracer):
        return
    if not (math.isfinite(value) and holds(value)):
        raise ValueError(f"{name} must be {wanted}, got {value}.{_rounding_hint(name, value)}")


def check_eps(eps: Scalar) -> None:
    """Rejects what cannot be added to a variance."""
    check_number("eps", eps, "at least 0", lambda value: bool(value >= 0))
    _check_range("eps", eps)


def check_norm(norm: Scalar, hint: str = "") -> None:
    """Rejects what cannot be the norm of a slice; `hint` says what else may be given."""
    check_number("norm", norm, "positive", lambda value: bool(value > 0), hint)
    _check_range("norm", norm)


def check_norm_is_held(norm: Scalar, dtype: Any, path: str) -> None:
    """Rejects a known norm so small that a kernel of this dtype would lose all of its entries."""
    least = float(jnp.finfo(dtype).tiny)
    if not isinstance(norm, Tracer) and norm < least:
        raise ValueError(
            f"norm={norm} is below the range of {dtype}, the dtype of {shown(path)!r}, "
            f"whose entries would become 0. Give a norm of at least {least:.1e}, or leave the "
            "kernel alone by mask or axes."
        )


def _check_range(name: str, value: Scalar) -> None:
    """Rejects a known number that computing with it would turn into 0 or infinity."""
    if isinstance(value, Tracer):
        return
    dtype = jnp.result_type(float)
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.asarray(value).astype(dtype)
    limits = jnp.finfo(dtype)
    if (value != 0 and abs(rounded) < limits.tiny) or not np.isfinite(rounded):
        raise ValueError(
            f"{name}={value} is out of the range of {dtype.name}, which is computed in. Give a "
            f"number from {float(limits.tiny):.1e} to {float(limits.max):.1e}."
        )


def _rounding_hint(name: str, value: Scalar) -> str:
    dtype = getattr(value, "dtype", None)
    if dtype is None or dtype.itemsize > 2:
        return ""
    return (
        f" It may have been rounded to {dtype}: optax.inject_hyperparams gives numbers the dtype "
        f"of the parameters unless told hyperparam_dtype=jnp.float32, or static_args={name!r}."
    )


def check_strength(strength: Scalar) -> None:
    """Rejects what cannot be the share of a mean."""
    check_number("strength", strength, "between 0 and 1", lambda value: bool(0 <= value <= 1))
