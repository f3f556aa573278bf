"""Checks of numeric arguments, which may be traced (as by `optax.inject_hyperparams`)."""

from collections.abc import Callable

import jax
from jax.core import Tracer

Scalar = float | jax.Array
"""A number, or an array without axes, concrete or traced."""


def is_number(value: object) -> bool:
    """Whether `value` is a number or an array without axes."""
    return isinstance(value, int | float) or getattr(value, "ndim", None) == 0


def check_number(name: str, value: Scalar, wanted: str, holds: Callable[[Scalar], bool]) -> None:
    """Raises an error that says what is wanted if `value` is known and does not hold.

    Raises:
      TypeError: `value` is not a number.
      ValueError: `value` does not hold.
    """
    if isinstance(value, Tracer):
        return
    if not is_number(value):
        raise TypeError(
            f"{name} must be a number, got {value!r}. For a schedule, wrap the transform in "
            "optax.inject_hyperparams."
        )
    if not holds(value):
        raise ValueError(f"{name} must be {wanted}, got {value}.")


def check_eps(eps: Scalar) -> None:
    """Rejects what cannot be added to a variance."""
    check_number("eps", eps, "at least 0", lambda value: bool(value >= 0))


def check_norm(norm: Scalar) -> None:
    """Rejects what cannot be the norm of a slice."""
    check_number("norm", norm, "positive", lambda value: bool(value > 0))


def check_strength(strength: Scalar) -> None:
    """Rejects what cannot be the share of a mean."""
    check_number("strength", strength, "between 0 and 1", lambda value: bool(0 <= value <= 1))
