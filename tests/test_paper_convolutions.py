"""Convolutions rewritten for the CPU's fast form compute what they did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from examples.paper.convolutions import canonical

NHWC = ("NHWC", "HWIO", "NHWC")
NCHW = ("NCHW", "OIHW", "NCHW")


def convolution(strides, padding, numbers=NHWC, **dilation):
    def run(image, kernel):
        return lax.conv_general_dilated(
            image, kernel, strides, padding, dimension_numbers=numbers, **dilation
        )

    return run


CASES = {
    "same": (convolution((1, 1), "SAME"), (2, 8, 8, 3), (3, 3, 3, 4)),
    "strided": (convolution((2, 2), "VALID"), (2, 9, 9, 4), (3, 3, 4, 5)),
    "transposed": (
        convolution((1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2)),
        (2, 4, 4, 4),
        (3, 3, 4, 2),
    ),
    "channels first": (convolution((1, 1), "SAME", NCHW), (2, 3, 6, 7), (4, 3, 3, 3)),
    "grouped": (
        convolution((1, 1), "SAME", feature_group_count=2),
        (2, 6, 6, 6),
        (3, 3, 3, 4),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_same(case, rng):
    convolve, image_shape, kernel_shape = CASES[case]
    image = rng.normal(size=image_shape).astype(np.float32)
    kernel = rng.normal(size=kernel_shape).astype(np.float32)

    def loss(image, kernel):
        out = convolve(image, kernel)
        return jnp.sum(jnp.sin(out)), out

    graded = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    expected, found = jax.jit(graded)(image, kernel), jax.jit(canonical(graded))(image, kernel)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Sums of up to 162 products of normal numbers, in another order.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", sorted(set(CASES) - {"grouped"}))
def test_all_convolutions_take_the_fast_form(case):
    convolve, image_shape, kernel_shape = CASES[case]
    graded = jax.grad(lambda image, kernel: jnp.sum(convolve(image, kernel) ** 2), argnums=(0, 1))
    arguments = np.zeros(image_shape, np.float32), np.zeros(kernel_shape, np.float32)
    jaxpr = jax.make_jaxpr(canonical(graded))(*arguments)
    found = [
        equation
        for equation in jaxpr.jaxpr.eqns
        if equation.primitive is lax.conv_general_dilated_p
    ]
    fast = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), NHWC)
    assert len(found) == 3
    assert {equation.params["dimension_numbers"] for equation in found} == {fast}
    assert all(equation.invars[1].aval.shape[-2] % 2 == 0 for equation in found)
