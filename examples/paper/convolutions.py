"""Fast convolutions inside compiled loops on the CPU."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core


def canonical(function: Callable) -> Callable:
    """The same function, its convolutions all written for (n, y, x, c) and (y, x, in, out).

    XLA's fast convolutions for the CPU take this form alone. Into it XLA brings those outside of
    loops, but not those in a loop's body (https://github.com/jax-ml/jax/issues/12868), where the
    convolutions of a backward pass, which come in other forms, run some fifty times slower. The
    transpositions that are added here are those that XLA adds outside of loops. Three channels get
    a fourth of zeros, which makes the first layer of a network four times as fast.

    Args:
      function: of arrays, for example a `jax.value_and_grad`.

    Returns:
      A function of the same arguments and results, for use inside jit.
    """

    def rewritten(*args: Any) -> Any:
        closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return rewritten


def _evaluate(jaxpr: core.Jaxpr, consts: list, args: list) -> list:
    """Evaluates equation by equation, as JAX's guide to jaxpr interpreters does."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = map(read, equation.invars)
        if equation.primitive is lax.conv_general_dilated_p:
            outputs = [_convolve(*inputs, **equation.params)]
        else:
            params = equation.primitive.get_bind_params(equation.params)
            bound = equation.primitive.bind(*inputs, **params)
            outputs = bound if equation.primitive.multiple_results else [bound]
        values.update(zip(equation.outvars, outputs, strict=True))
    return list(map(read, jaxpr.outvars))


def _convolve(
    image: jax.Array, kernel: jax.Array, *, dimension_numbers: Any, **params
) -> jax.Array:
    # Each names its axes in the order batch or out, feature or in, spatial.
    image_spec, kernel_spec, out_spec = dimension_numbers
    last = len(image_spec) - 1
    canonical_image = (0, last, *range(1, last))
    numbers = lax.ConvDimensionNumbers(
        canonical_image, (last, last - 1, *range(last - 1)), canonical_image
    )
    image = image.transpose(image_spec[0], *image_spec[2:], image_spec[1])
    kernel = kernel.transpose(*kernel_spec[2:], kernel_spec[1], kernel_spec[0])
    if params["feature_group_count"] == params["batch_group_count"] == 1:
        image, kernel = _even(image, -1), _even(kernel, -2)
    out = lax.conv_general_dilated_p.bind(
        image,
        kernel,
        dimension_numbers=numbers,
        **params,
    )
    return lax.transpose(out, _inverse((out_spec[0], *out_spec[2:], out_spec[1])))


def _even(array: jax.Array, axis: int) -> jax.Array:
    """Adds a channel of zeros to an odd number of them."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, array.shape[axis] % 2)
    return jnp.pad(array, widths)


def _inverse(permutation: tuple[int, ...]) -> list[int]:
    return sorted(range(len(permutation)), key=permutation.__getitem__)
