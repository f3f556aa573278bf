"""What sums, products, quotients, choices and comparisons make of a parameter's axes."""

import jax.numpy as jnp
import pytest
from jax import lax

import wcgc
from wcgc import FLAX, LeftAlone

from helpers.traced import (
    ADDED,
    IN_PLACE,
    LOOKED_UP,
    MULTIPLIED,
    SELF,
    VARYING,
    array,
    beside,
    index,
    one_hot,
    through,
)

NOWHERE = LeftAlone("it meets no input")


def operand(name):
    return LeftAlone(f"it is only an operand of {name}")


def place(x):
    """One place of four from the inputs."""
    return jnp.arange(4) == index(x)[0]


def rising():
    """Constants that vary along the first of two dimensions."""
    return jnp.arange(4.0)[:, None]


def table():
    """A one-hot table of four rows."""
    return jnp.arange(4)[:, None] == jnp.arange(4)


def ones():
    return jnp.ones((4, 1))


def zeros():
    return jnp.zeros((4, 1))


def kept_beside(factor, w, x):
    """A kernel, beside its product with what may be known to be zero."""
    return x @ w + (w * factor).sum(0)


# name: (function of a (4, 4) parameter and a (2, 4) input, what is found)

CASTS = {
    "to numbers that round": (lambda w, x: x @ w.astype(jnp.bfloat16).astype(x.dtype), FLAX),
    "to integers": (
        lambda w, x: x @ w.astype(jnp.int32).astype(x.dtype),
        through("convert_element_type"),
    ),
    "to integers, after a product with inputs": (
        lambda w, x: (w * x[0, 0]).astype(jnp.int32),
        MULTIPLIED,
    ),
    "of one-hot integers": (
        lambda w, x: one_hot(x, dtype=jnp.int32).astype(x.dtype) @ w,
        LOOKED_UP,
    ),
    "of one-hot numbers to integers": (
        lambda w, x: one_hot(x).astype(jnp.int32).astype(x.dtype) @ w,
        LOOKED_UP,
    ),
}

SUMS = {
    "with inputs": (lambda w, x: x[:, None] + w, ADDED),
    "with inputs, multiplied by a kernel": (lambda w, x: (x + 1) @ w, FLAX),
    "with itself": (lambda w, x: x @ (w + w), FLAX),
    "with its transpose": (lambda w, x: x @ (w - w.T), SELF),
    "with a function of itself": (lambda w, x: x @ (w + jnp.tanh(w)), through("tanh")),
    "with constants": (lambda w, x: x @ (w + rising()), FLAX),
    "with zeros, then cut": (
        lambda w, x: x @ (jnp.concatenate([jnp.ones((2, 4)), w]) + jnp.zeros((6, 4)))[2:],
        FLAX,
    ),
    "of zeros": (lambda w, x: kept_beside(zeros() + zeros(), w, x), FLAX),
    "of zeros and ones": (lambda w, x: (x * (zeros() + ones())[:, 0]) @ w, FLAX),
    "of one-hot inputs and zeros": (lambda w, x: (one_hot(x) + jnp.zeros((2, 4))) @ w, LOOKED_UP),
    "of one-hot inputs": (lambda w, x: (one_hot(x) + one_hot(x[:, 1:])) @ w, FLAX),
    "of constants, one of which varies": (lambda w, x: x @ (w * (ones() + rising())), VARYING),
    "of constants, none of which varies": (lambda w, x: x @ (w * (ones() + ones())), FLAX),
    "of inputs and constants, one of which varies": (
        lambda w, x: ((rising() + x[:1, :1]) * w).sum(0),
        FLAX,
    ),
}

PRODUCTS = {
    "with inputs": (lambda w, x: x[:, None] * w, MULTIPLIED),
    "with one input": (lambda w, x: w * x[0, 0], MULTIPLIED),
    "with inputs, summed": (lambda w, x: (w * x[0, :, None]).sum(0), FLAX),
    "with inputs, twice": (lambda w, x: (x[:, None] * w) * w, MULTIPLIED),
    "with constants, a kernel": (lambda w, x: x @ (w * rising()), VARYING),
    "with constants for each output": (lambda w, x: x @ (w * rising()[:, 0]), FLAX),
    "with one constant": (lambda w, x: x @ (2 * w), FLAX),
    "with one constant, then cut": (
        lambda w, x: x @ (2 * jnp.concatenate([jnp.ones((2, 4)), w]))[2:],
        FLAX,
    ),
    "of inputs with zeros": (lambda w, x: (x * 0) @ w, NOWHERE),
    "with zeros": (lambda w, x: kept_beside(zeros() * rising(), w, x), FLAX),
    "with its square": (lambda w, x: x @ (w * w), through("mul")),
    "of two functions of it": (lambda w, x: x @ (jnp.exp(w) * jnp.tanh(w)), through("exp")),
    "of a norm for each output and it": (
        lambda w, x: x @ (jnp.linalg.norm(w, axis=0) * w),
        FLAX,
    ),
    "of it and a norm for each output": (
        lambda w, x: x @ (w * jnp.linalg.norm(w, axis=0)),
        FLAX,
    ),
    "of a norm for each input and it": (
        lambda w, x: x @ (jnp.linalg.norm(w, axis=1, keepdims=True) * w),
        VARYING,
    ),
    "of constants, one of which varies": (lambda w, x: x @ (w * (ones() * rising())), VARYING),
    "of one-hot inputs with inputs": (lambda w, x: (one_hot(x) * x) @ w, LOOKED_UP),
    "of inputs with one-hot inputs": (lambda w, x: (x * one_hot(x)) @ w, LOOKED_UP),
    "of inputs with one place": (
        # No number of it comes from the inputs.
        lambda w, x: (x * (jnp.arange(4) == 2).astype(x.dtype)) @ w,
        FLAX,
    ),
    "of a one-hot table with constants": (
        lambda w, x: (table().astype(x.dtype) * rising())[index(x)] @ w,
        LOOKED_UP,
    ),
}

QUOTIENTS = {
    "by one constant": (lambda w, x: x @ (w / 2), FLAX),
    "by constants that vary": (lambda w, x: x @ (w / (1 + rising())), VARYING),
    "by constants for each output": (lambda w, x: x @ (w / (1 + rising()[:, 0])), FLAX),
    "by inputs": (lambda w, x: w / x[0], MULTIPLIED),
    "by it": (lambda w, x: x[:, None] / w, through("div")),
    "of constants by it": (lambda w, x: x @ (1 / w), through("div")),
    "of its product with inputs by it": (lambda w, x: (w * x[0, 0]) / w, MULTIPLIED),
    "by it, after a product with inputs": (lambda w, x: 1 / (w * x[0, 0]), MULTIPLIED),
    "by its norm for each output": (lambda w, x: x @ (w / jnp.linalg.norm(w, axis=0)), FLAX),
    "of inputs by zeros": (lambda w, x: (x / jnp.zeros(4)) @ w, FLAX),
    "of zeros": (lambda w, x: kept_beside(zeros() / rising(), w, x), FLAX),
    "of one-hot inputs": (lambda w, x: (one_hot(x) / 2) @ w, LOOKED_UP),
    "of one-hot inputs by inputs": (lambda w, x: (one_hot(x) / (1 + x**2)) @ w, LOOKED_UP),
    # What is not a zero of them is infinite.
    "by one-hot inputs": (lambda w, x: (x / one_hot(x)) @ w, FLAX),
}

CHOICES = {
    "by inputs": (lambda w, x: jnp.where(x > 0, x, w[:2]), IN_PLACE),
    "by inputs between parts of it": (lambda w, x: jnp.where(x > 0, w[2:], w[:2]), IN_PLACE),
    "by constants between it and inputs": (
        lambda w, x: jnp.where(rising()[:2] > 0, x, w[:2]),
        IN_PLACE,
    ),
    "by it between inputs": (lambda w, x: jnp.where(w[:2] > 0, x, -x), through("gt")),
    "by it between it and zeros": (lambda w, x: x @ jnp.where(w > 0, w, 0), through("gt")),
    "by inputs between constants": (lambda w, x: jnp.where(x > 0, 1.0, 2.0) @ w, FLAX),
    "by constants between inputs and zeros": (
        lambda w, x: jnp.where(rising()[:, 0] > 1, x, 0) @ w,
        FLAX,
    ),
    "by one input": (lambda w, x: lax.select(x[0, 0] > 0, x, jnp.zeros_like(x)) @ w, FLAX),
    "by constants between it and zeros": (
        lambda w, x: x @ jnp.where(rising() > 1, w, 0),
        VARYING,
    ),
    "by constants between it and zeros for each output": (
        lambda w, x: x @ jnp.where(rising()[:, 0] > 1, w, 0),
        FLAX,
    ),
    "by constants between it and zeros, added": (
        lambda w, x: x[:, None] + jnp.where(rising() > 1, w, 0),
        ADDED,
    ),
    "by constants between it and its transpose": (
        lambda w, x: x @ jnp.where(rising()[:, 0] > 1, w, w.T),
        SELF,
    ),
    "of zeros": (lambda w, x: kept_beside(jnp.where(rising() > 1, zeros(), 0), w, x), FLAX),
    "of zeros or ones": (lambda w, x: (x * jnp.where(ones() > 0, ones(), 0)[:, 0]) @ w, FLAX),
    "of constants by what varies": (
        lambda w, x: x @ (w * jnp.where(rising() > 1, ones(), 2.0)),
        VARYING,
    ),
    "of constants, one of which varies": (
        lambda w, x: x @ (w * jnp.where(ones() > 0, rising(), 1.0)),
        VARYING,
    ),
    "of constants, none of which varies": (
        lambda w, x: x @ (w * jnp.where(ones() > 0, ones(), zeros() * rising())),
        FLAX,
    ),
    "of inputs at one place": (lambda w, x: jnp.where(place(x), x, 0) @ w, LOOKED_UP),
    "of inputs at a constant place": (
        lambda w, x: jnp.where(jnp.arange(4) == 2, x, 0) @ w,
        FLAX,
    ),
    "of inputs but for one place": (lambda w, x: jnp.where(place(x), 0, x) @ w, FLAX),
    "of ones but for inputs at one place": (lambda w, x: jnp.where(place(x), x, 1) @ w, FLAX),
    "of one-hot inputs or zeros": (lambda w, x: jnp.where(x > 0, one_hot(x), 0) @ w, LOOKED_UP),
    "of zeros or one-hot inputs": (lambda w, x: jnp.where(x > 0, 0, one_hot(x)) @ w, LOOKED_UP),
    "of one-hot inputs": (
        lambda w, x: lax.select(x > 0, one_hot(x), one_hot(x[:, 1:])) @ w,
        LOOKED_UP,
    ),
    "of one-hot inputs or others": (lambda w, x: jnp.where(x > 0, one_hot(x), x) @ w, FLAX),
    "of ones at places of a one-hot table": (
        lambda w, x: jnp.where(table(), 1.0, 0.0)[index(x)] @ w,
        LOOKED_UP,
    ),
    "of zeros at places of a one-hot table": (
        lambda w, x: jnp.where(table(), 0.0, 1.0)[index(x)] @ w,
        FLAX,
    ),
}

LOGIC = {
    "of a place and inputs": (
        lambda w, x: (place(x) & (x > 0)).astype(x.dtype) @ w,
        LOOKED_UP,
    ),
    "of inputs and a place": (
        lambda w, x: ((x > 0) & place(x)).astype(x.dtype) @ w,
        LOOKED_UP,
    ),
    "of inputs": (lambda w, x: ((x > 0) & (x < 1)).astype(x.dtype) @ w, FLAX),
    "of inputs and a constant place": (
        lambda w, x: ((x > 0) & (jnp.arange(4) == 2)).astype(x.dtype) @ w,
        FLAX,
    ),
    "of a one-hot table and constants": (
        lambda w, x: (table() & (rising() > 1)).astype(x.dtype)[index(x)] @ w,
        LOOKED_UP,
    ),
    "of signs of it": (
        lambda w, x: x @ ((w > 0) & (w < 1)).astype(x.dtype),
        through("gt"),
    ),
}

OTHERS = {
    "of it": (lambda w, x: x @ jnp.tanh(w), through("tanh")),
    "of it and inputs": (lambda w, x: jnp.maximum(x[:, None], w), operand("max")),
    "of a function of it and inputs": (
        lambda w, x: jnp.maximum(jnp.tanh(x @ w), jnp.abs(w).min(0)),
        beside("abs"),
    ),
    "of it and a function of it": (lambda w, x: x @ jnp.maximum(w, jnp.tanh(w)), through("max")),
    "of it and its transpose": (lambda w, x: x @ jnp.minimum(w, w.T), through("min")),
    "of it within numbers": (lambda w, x: x @ lax.clamp(-1.0, w, 1.0), through("clamp")),
    "of inputs": (lambda w, x: jnp.tanh(x) @ w, FLAX),
    "of inputs, with one number": (lambda w, x: jnp.maximum(x, 0) @ w, FLAX),
    "of constants that vary": (lambda w, x: x @ (w * jnp.exp(rising())), VARYING),
    "of constants, one of which varies": (
        lambda w, x: x @ (w * jnp.maximum(ones(), rising())),
        VARYING,
    ),
    "of constants that do not vary": (lambda w, x: x @ (w * jnp.maximum(ones(), 2)), FLAX),
    "of inputs and constants, one of which varies": (
        lambda w, x: (jnp.maximum(rising(), x[:1, :1]) * w).sum(0),
        FLAX,
    ),
    "of one-hot inputs": (lambda w, x: jnp.cos(one_hot(x)) @ w, FLAX),
}

COMPARISONS = {
    "with a range": (
        lambda w, x: (index(x)[:, None] == jnp.arange(4)).astype(x.dtype) @ w,
        LOOKED_UP,
    ),
    "of a range": (
        lambda w, x: (jnp.arange(4) == index(x)[:, None]).astype(x.dtype) @ w,
        LOOKED_UP,
    ),
    "with one number": (lambda w, x: (x == 1).astype(x.dtype) @ w, FLAX),
    "of one number": (lambda w, x: lax.eq(jnp.ones((2, 4)), x).astype(x.dtype) @ w, FLAX),
    "of inputs": (lambda w, x: (x[:, :1] == x).astype(x.dtype) @ w, FLAX),
    "with a range along which inputs vary too": (
        lambda w, x: (x == jnp.arange(4.0)).astype(x.dtype) @ w,
        FLAX,
    ),
    "with a range, summed over the inputs": (
        lambda w, x: jnp.einsum(
            "te,td->ed", (index(x)[:, None] == jnp.arange(4)).astype(x.dtype), x @ w
        ),
        FLAX,
    ),
    "with a range along the other dimension": (
        lambda w, x: (jnp.arange(2.0)[:, None] == x[:1]).astype(x.dtype) @ w,
        FLAX,
    ),
    "of its own places": (lambda w, x: x @ (w == w.T).astype(x.dtype), through("eq")),
    "of it and inputs": (lambda w, x: (w * x[0, 0]) == 1, MULTIPLIED),
}


def cases(table):
    return pytest.mark.parametrize(("function", "expected"), table.values(), ids=table)


def found(function):
    return wcgc.trace_axes(function, array(4, 4), array(2, 4))


@cases(CASTS)
def test_a_cast_is_linear_unless_it_rounds_to_integers(function, expected):
    assert found(function) == expected


@cases(SUMS)
def test_a_sum_keeps_what_its_terms_agree_on(function, expected):
    assert found(function) == expected


@cases(PRODUCTS)
def test_a_product_may_vary_along_the_outputs_of_a_kernel_alone(function, expected):
    assert found(function) == expected


@cases(QUOTIENTS)
def test_a_quotient_is_a_product_with_an_inverse(function, expected):
    assert found(function) == expected


@cases(CHOICES)
def test_a_choice_by_constants_is_a_mask(function, expected):
    assert found(function) == expected


@cases(LOGIC)
def test_what_holds_at_one_place_besides_other_things_is_one_hot(function, expected):
    assert found(function) == expected


@cases(OTHERS)
def test_any_other_function_of_a_parameter_is_not_linear(function, expected):
    assert found(function) == expected


@cases(COMPARISONS)
def test_a_comparison_with_a_range_is_one_hot_along_it(function, expected):
    assert found(function) == expected


def test_each_of_two_parameters_meets_the_inputs_in_their_product():
    def function(params, x):
        return ((x[:, None] * params["a"]) * (x[:, None] * params["b"])).sum(1) @ params["w"]

    axes = wcgc.trace_axes(function, dict.fromkeys("abw", array(4, 4)), array(2, 4))
    assert axes == {"a": MULTIPLIED, "b": MULTIPLIED, "w": FLAX}


def test_one_hot_inputs_are_so_after_a_product_with_a_parameter():
    def function(params, x):
        return (one_hot(x) * params["scale"] * x) @ params["w"]

    params = {"scale": array(1, 4), "w": array(4, 3)}
    axes = wcgc.trace_axes(function, params, array(2, 4))
    assert axes == {"scale": MULTIPLIED, "w": LOOKED_UP}


def test_the_real_and_the_imaginary_part_of_a_product_with_inputs():
    def function(params, x):
        return lax.complex(x @ params["a"], x @ params["b"])

    axes = wcgc.trace_axes(function, dict.fromkeys("ab", array(4, 3)), array(2, 4))
    assert axes == {"a": FLAX, "b": FLAX}
