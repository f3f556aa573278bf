"""`trace_axes` of products and convolutions: which axes are summed over, kept and carried along."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import wcgc
from wcgc import FLAX, KernelAxes, LeftAlone
from wcgc._follow import Follower
from wcgc._provenance import opaque
from wcgc._recorder import Recorder

from helpers.traced import BONDED, STACKED, VARYING, array, one_hot


def product(a, b, contracting=((), ()), batch=((), ())):
    return lax.dot_general(a, b, (contracting, batch))


def multiplied_and_summed(w, x):
    return (x[:, :, None] * w).sum(1)


MASK = np.tril(np.ones((4, 4), np.float32))

PRODUCTS = {
    # name: (function of a parameter and an input, their shapes, what is found)
    "autoencoder that is tied": (
        lambda w, x: multiplied_and_summed(w, x) @ w.T,
        (4, 3),
        (2, 4),
        LeftAlone(
            "it is used in two ways: its axis 0 is an input axis in one place and an output axis "
            "in another"
        ),
    ),
    "autoencoder that is tied, kernel first": (
        lambda w, x: w @ multiplied_and_summed(w, x).T,
        (4, 3),
        (2, 4),
        LeftAlone(
            "it is used in two ways: its axis 0 is an output axis in one place and an input axis "
            "in another"
        ),
    ),
    "embeddings that are no parameters": (
        lambda w, x: (one_hot(x) @ MASK) @ w,
        (4, 3),
        (2, 4),
        FLAX,
    ),
    "embeddings that are no parameters, table first": (
        lambda w, x: w.T @ (MASK @ one_hot(x).T),
        (4, 3),
        (2, 4),
        FLAX,
    ),
    "inputs that repeat along an axis which is summed": (
        lambda w, x: product(jnp.broadcast_to(x[:, None], (4, 2)), w, ((0, 1), (0, 1))),
        (4, 2, 3),
        (4,),
        KernelAxes(-3, -1),
    ),
    "inputs that repeat along an axis which is carried": (
        lambda w, x: product(jnp.broadcast_to(x, (3, 2, 4)), w, ((2,), (1,)), ((0,), (0,))),
        (3, 4, 5),
        (2, 4),
        KernelAxes(-2, (-3, -1)),
    ),
    "inputs that repeat along it, kernel first": (
        lambda w, x: product(w, jnp.broadcast_to(x, (3, 2, 4)), ((1,), (2,)), ((0,), (0,))),
        (3, 4, 5),
        (2, 4),
        KernelAxes(-2, (-3, -1)),
    ),
    "a mask by a product": (
        lambda w, x: x @ product(MASK, w, batch=((0, 1), (0, 1))),
        (4, 4),
        (2, 4),
        VARYING,
    ),
    "a mask by a product, kernel first": (
        lambda w, x: x @ product(w, MASK, batch=((0, 1), (0, 1))),
        (4, 4),
        (2, 4),
        VARYING,
    ),
    "twos by a product": (
        lambda w, x: x @ product(w, jnp.full((4, 4), 2.0), batch=((0, 1), (0, 1))),
        (4, 4),
        (2, 4),
        FLAX,
    ),
    "a factor for each filter by a product": (
        lambda w, x: x @ product(w, jnp.arange(4.0), batch=((1,), (0,))).T,
        (4, 4),
        (2, 4),
        FLAX,
    ),
    "a product with a constant": (
        lambda w, x: x + jnp.arange(4.0) @ w,
        (4, 4),
        (2, 4),
        BONDED,
    ),
    "tokens of an expert that one-hot inputs choose": (
        lambda w, x: jnp.einsum(
            "tv,tvo->to", one_hot(x), product(one_hot(x[:, 1:], 3), w, ((1,), (0,)))
        ),
        (3, 4, 5),
        (2, 4),
        LeftAlone("it is only looked up by index"),
    ),
    "an expert that one-hot inputs choose afterwards": (
        lambda w, x: jnp.einsum("te,teo->to", one_hot(x, 3), (x[:, None, :, None] * w).sum(2)),
        (3, 4, 5),
        (2, 4),
        STACKED,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    function, shape, of_input, expected = PRODUCTS[name]
    assert wcgc.trace_axes(function, array(*shape), array(*of_input)) == expected


PLACES = {
    # A product without a sum, (t, d) in the end, of which t is one-hot.
    "the rows of the first": lambda hot, x: product(hot, x[0]),
    "the columns of the second": lambda hot, x: product(x[0], hot).T,
    "what both share, of the first": lambda hot, x: product(hot, x, batch=((0,), (0,))),
    "what both share, of the second": lambda hot, x: product(x, hot, batch=((0,), (0,))),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_product_without_a_sum_is_one_hot_where_its_sides_are(name):
    """Of the kernels that places number, one is picked."""

    def function(w, x):
        hot = jax.nn.one_hot(x[0, 0].astype(jnp.int32), 3)
        return jnp.einsum("td,tdo->o", PLACES[name](hot, x), w)

    assert wcgc.trace_axes(function, array(3, 4, 5), array(3, 4)) == STACKED


def experts(kernels, rows, sizes=(1, 1, 1)):
    return lax.ragged_dot(rows, kernels, jnp.array(sizes))


def several_experts(kernels, rows):
    numbers = lax.RaggedDotDimensionNumbers((((2,), (2,)), ((0,), (0,))), (1,), (1,))
    return lax.ragged_dot_general(rows, kernels, jnp.ones((2, 3), int), numbers)


def in_parts(kernel, rows):
    """Each part of the features by itself."""
    numbers = lax.RaggedDotDimensionNumbers((((1,), (0,)), ((), ())), (1,), ())
    return lax.ragged_dot_general(rows, kernel, jnp.array([2, 2]), numbers)


RAGGED = {
    # of parameters and a (3, 4) input
    "one after the other": (
        lambda p, x: experts(p["v"], experts(p["w"], x)),
        {"w": (3, 4, 5), "v": (3, 5, 2)},
        {"w": STACKED, "v": STACKED},
    ),
    "several at once": (
        lambda p, x: several_experts(p["w"], jnp.stack([x, -x])),
        {"w": (2, 3, 4, 5)},
        {"w": KernelAxes(-2, -1, (0, 1))},
    ),
    "a kernel behind them": (
        lambda p, x: experts(p["w"], x) @ p["v"],
        {"w": (3, 4, 5), "v": (5, 2)},
        {"w": STACKED, "v": FLAX},
    ),
    "a scale before them": (
        lambda p, x: experts(p["w"], x[:, :1] * p["scale"]),
        {"w": (3, 4, 5), "scale": (1, 4)},
        {"w": STACKED, "scale": LeftAlone("it is only multiplied elementwise")},
    ),
    "of constants": (
        lambda p, x: experts(np.ones((3, 4, 5), np.float32), MASK[:3]) @ p["w"] + x[:, :2],
        {"w": (5, 2)},
        {"w": BONDED},
    ),
    "in sizes that inputs give": (
        lambda p, x: (
            experts(np.ones((3, 4, 5), np.float32), MASK[:3], x[:, 0].astype(int)) @ p["w"]
        ),
        {"w": (5, 2)},
        {"w": FLAX},
    ),
    "rows that are a parameter": (
        lambda p, x: experts(x[:, :, None], p["w"]),
        {"w": (3, 4)},
        {"w": LeftAlone("it is an operand of ragged_dot in an unusual place")},
    ),
    "parts of the features": (
        lambda p, x: in_parts(p["w"], x),
        {"w": (4, 5)},
        {"w": LeftAlone("it is an operand of ragged_dot in an unusual place")},
    ),
}


@pytest.mark.parametrize("name", RAGGED)
def test_ragged_products(name):
    function, shapes, expected = RAGGED[name]
    params = {name: array(*shape) for name, shape in shapes.items()}
    assert wcgc.trace_axes(function, params, array(3, 4)) == expected


def convolve(kernel, x, groups=1, batch_groups=1):
    """A convolution of images (b, w, i) with a kernel (w, i, o)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
        batch_group_count=batch_groups,
    )


def choice(w, x):
    return lax.cond(x[0, 0, 0] > 0, lambda: w, lambda: -w)


IMAGE = np.float32(np.arange(8).reshape(1, 4, 2))
FILTERED = "it is convolved with constants or other parameters before it meets the inputs"

CONVOLUTIONS = {
    # name: (function, the parameter's shape, the input's, what is found)
    "one filter for each group": (
        functools.partial(convolve, groups=4),
        (3, 2, 4),
        (1, 5, 8),
        FLAX,
    ),
    "a filter that is repeated in its group": (
        lambda w, x: convolve(jnp.repeat(w, 2, 2).reshape(3, 2, 8), x, groups=4),
        (3, 2, 4, 1),
        (1, 5, 8),
        KernelAxes(-3, -2),
    ),
    "depthwise, with a filter for two channels": (
        lambda w, x: convolve(jnp.repeat(w, 2, 1)[:, None], x, groups=8),
        (3, 4),
        (1, 5, 8),
        KernelAxes((), -1),
    ),
    "stacked twice": (
        lambda w, x: jax.vmap(jax.vmap(convolve))(w.reshape(2, 3, 3, 4, 4), x),
        (2, 3, 3, 4, 2, 2),
        (2, 3, 1, 5, 4),
        KernelAxes(-3, (-2, -1), (0, 1)),
    ),
    "two in a stack": (
        jax.vmap(convolve),
        (2, 3, 4, 5),
        (2, 1, 5, 4),
        STACKED,
    ),
    "a kernel that inputs choose": (
        lambda w, x: convolve(choice(w, x), x),
        (3, 4, 2),
        (1, 5, 4),
        FLAX,
    ),
    "a kernel that inputs choose, on a constant": (
        lambda w, x: convolve(choice(w, x), IMAGE),
        (3, 2, 4),
        (1, 5, 4),
        LeftAlone("a constant is convolved with it and the inputs"),
    ),
    "in groups of samples": (
        functools.partial(convolve, batch_groups=2),
        (3, 4, 2),
        (2, 5, 4),
        LeftAlone("it is convolved in groups of samples"),
    ),
    "with a kernel that is an input": (
        lambda w, x: convolve(x, w),
        (1, 4, 2),
        (3, 2, 5),
        LeftAlone("it is convolved with a kernel that depends on the inputs"),
    ),
    "with a constant first": (
        lambda w, x: x @ convolve(IMAGE.reshape(2, 2, 2), w[None])[0],
        (4, 2),
        (3, 4),
        LeftAlone(FILTERED),
    ),
    "of a constant first": (
        lambda w, x: x @ convolve(w, IMAGE)[0],
        (3, 2, 5),
        (3, 4),
        LeftAlone(FILTERED),
    ),
    "of a constant beside its use as a kernel": (
        lambda w, x: convolve(w, x) + convolve(w, IMAGE),
        (3, 2, 5),
        (1, 4, 2),
        LeftAlone(f"it is a kernel in one place, and in another {FILTERED}"),
    ),
    "of inputs with a constant, before a kernel": (
        lambda w, x: convolve(IMAGE.reshape(2, 2, 2), x) @ w,
        (2, 3),
        (1, 5, 2),
        FLAX,
    ),
    "of a constant with inputs, before a kernel": (
        lambda w, x: convolve(x, IMAGE) @ w,
        (5, 3),
        (3, 2, 5),
        FLAX,
    ),
    "of inputs that it has scaled": (
        lambda w, x: convolve(IMAGE.reshape(2, 2, 2), x * w),
        (5, 2),
        (1, 5, 2),
        LeftAlone("it is only multiplied elementwise"),
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    function, shape, of_input, expected = CONVOLUTIONS[name]
    assert wcgc.trace_axes(function, array(*shape), array(*of_input)) == expected


def test_a_convolution_of_one_parameter_with_another_and_inputs():
    """Neither counts as a kernel, though both are kernels elsewhere."""

    def function(params, x):
        both = convolve(choice(params["kernel"], x), params["image"][None])
        return both, x @ params["image"][:, :3].T, convolve(params["kernel"], x)

    params = {"kernel": array(3, 2, 5), "image": array(4, 2)}
    with pytest.raises(TypeError):
        wcgc.trace_axes(function, params, array(1, 4, 3))
    axes = wcgc.trace_axes(function, params, array(1, 4, 2))
    assert axes == {
        "kernel": LeftAlone("a constant is convolved with it and the inputs"),
        "image": LeftAlone("it is convolved with a kernel that depends on the inputs"),
    }


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.zeros((2, 4)) @ x,
        lambda x: x.T @ jnp.zeros((4, 2)),
        lambda x: convolve(x[None], jnp.zeros((2, 5, 4))),
        lambda x: convolve(jnp.zeros((3, 3, 2)), x[None]),
    ],
    ids=["zeros first", "zeros second", "an image of zeros", "a kernel of zeros"],
)
def test_products_with_zeros_are_zero(function):
    program = jax.make_jaxpr(function)(array(4, 3))
    (result,) = Follower(Recorder({})).run(program, [opaque((4, 3), True)])
    assert result.zero
    assert not result.inputs
    assert not any(result.varies)
