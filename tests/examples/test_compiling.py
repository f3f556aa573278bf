"""Compiled steps against other ways to compute the same: the canary for XLA on CPUs.

jaxlib 0.10.2 and 0.11.2 compile some programs wrongly for a CPU, in fusions by YNN
(https://github.com/jax-ml/jax/issues/39103). What the examples compile with must be right.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wcgc.models
from examples.engine import compiling

pytestmark = [
    pytest.mark.usefixtures("standard_promotion"),
    pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about compilation for CPUs"),
]

ROUNDING = float(jnp.finfo(jnp.float32).eps)


def sum_of_products(e):
    return jnp.sum((e @ jnp.full_like(e, 0.37)) * e, axis=-1)


def norms_of_rows(rows):
    return jax.vmap(lambda row: jnp.sum((jnp.eye(3, dtype=jnp.float32) @ row) ** 2))(rows)


def expected_sum_of_products(e):
    e = np.asarray(e, np.float64)
    return np.sum((e @ np.full_like(e, 0.37)) * e, axis=-1)


def expected_norms_of_rows(rows):
    return np.sum(np.asarray(rows, np.float64) ** 2, axis=-1)


PROGRAMS = {
    "sum of products": (sum_of_products, expected_sum_of_products, (5, 60, 60)),
    "norms of rows": (norms_of_rows, expected_norms_of_rows, (32_769, 3)),
}
"""Each with what it should be in NumPy, and the shape of its argument."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_are_compiled_wrongly_elsewhere_are_right(name):
    program, expected, shape = PROGRAMS[name]
    x = jax.random.normal(jax.random.key(0), shape)
    found = compiling.choose().jit(program)(x)
    # Sums of 60 products of sums of 60 products of numbers of about 1.
    np.testing.assert_allclose(found, expected(x), rtol=1e-4, atol=3600 * ROUNDING)


@pytest.mark.skipif(jax.__version__ not in ("0.10.2", "0.11.2"), reason="known of these only")
def test_the_canary_sees_what_is_wrong_by_default():
    program, expected, shape = PROGRAMS["sum of products"]
    x = jax.random.normal(jax.random.key(0), shape)
    assert not np.allclose(jax.jit(program)(x), expected(x), rtol=1e-4, atol=3600 * ROUNDING)


def fake(supported):
    """Compiles as a jaxlib does that knows these options only, with or without oneDNN."""

    def compile_convolution(options):
        for name in options:
            if name not in supported:
                raise jax.errors.JaxRuntimeError(f"No such compile option: {name!r}\nmore")
        return compiling.ONEDNN_CONVOLUTION if supported.get("onednn") else "convolution"

    return compile_convolution


@pytest.mark.parametrize(
    ("supported", "options", "told"),
    [
        (dict.fromkeys([*compiling.WITH_ONEDNN, "onednn"], True), compiling.WITH_ONEDNN, ""),
        (dict.fromkeys(compiling.WITH_ONEDNN, True), compiling.WITHOUT_YNN, "not to be had"),
        (dict.fromkeys(compiling.WITHOUT_YNN, True), compiling.WITHOUT_YNN, "No such compile"),
        ({}, {}, "YNN's fusions, wrong in some jaxlibs, cannot be switched off (No such"),
    ],
)
def test_what_a_jaxlib_cannot_do_is_left_out_and_told(supported, options, told, monkeypatch):
    monkeypatch.setattr(compiling, "compile_convolution", fake(supported))
    found = compiling._choose_for_cpu.__wrapped__()
    assert found.options == options
    assert not found.scan
    assert told in found.note if told else found.note == ""
    assert "\n" not in found.note


def test_accelerators_have_no_options_and_a_scan():
    found = compiling.choose("gpu")
    assert (found.options, found.scan, found.note) == ({}, True, "")


def test_an_unknown_option_is_an_error_of_this_jaxlib():
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        compiling.compile_convolution({"xla_cpu_there_is_no_such_thing": True})


SIDES = {"a": 32, "b": 32, "c": 32, "d": 67}

ROUNDINGS = {"a": 250, "b": 250, "c": 250, "d": 5000}
"""How far a gradient may be off. Of the many pixels of (d) some lie so near to a ReLU's kink that a
rounding moves them over it."""


def loss_and_gradient(letter, dtype):
    """A network's loss and gradient as a function, and its arguments.

    The deep ones go without batch normalization: at the end of their stages it divides by the
    deviation of a few numbers, and any rounding grows to percents of the gradient.
    """
    batch_norm = None if letter in "ac" else False
    model = wcgc.models.build(letter, 10, batch_norm=batch_norm, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    side = SIDES[letter]
    images = jax.random.normal(jax.random.key(0), (4, side, side, 3), jnp.float32)
    labels = jnp.arange(4)

    def loss(params, rest, images):
        logits = nnx.merge(graph, params, rest, copy=True)(images)
        if logits.ndim == 4:  # a class for each pixel
            logits = logits.mean((1, 2))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def convert(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.value_and_grad(loss), jax.tree.map(convert, (nnx.as_pure(params), rest, images))


def largest_difference(found, expected):
    """Of loss and gradients, relative to the largest entry of the leaf.

    Leaves with much smaller gradients than all others, such as biases in front of batch
    normalization, whose gradient is zero, are measured by the others.
    """
    found, expected = jax.device_get((found, expected))
    least = 1e-2 * max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(expected))

    def difference(a, b):
        return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), least))

    return max(jax.tree.leaves(jax.tree.map(difference, found, expected)))


@pytest.mark.parametrize("letter", SIDES)
def test_gradients_of_the_networks_are_those_in_float64(letter):
    with jax.enable_x64(True):
        function, arguments = loss_and_gradient(letter, jnp.float64)
        expected = jax.jit(function)(*arguments)
    function, arguments = loss_and_gradient(letter, jnp.float32)
    found = compiling.choose().jit(function)(*arguments)
    assert largest_difference(found, expected) < ROUNDINGS[letter] * ROUNDING
