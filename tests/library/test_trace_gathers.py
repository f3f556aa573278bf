"""What padding, indexing, setting places and gathering blocks make of a parameter's axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import wcgc
from wcgc import FLAX, KernelAxes, LeftAlone

from helpers.traced import (
    IN_PLACE,
    LOOKED_UP,
    STACKED,
    VARYING,
    array,
    cut,
    mesh,
)

PADDED = LeftAlone("it is padded with more than zeros")
SET = LeftAlone("some of its places are set before it meets the inputs")


def numbers(*shape):
    return array(*shape, dtype=jnp.int32)


def one_hot(i, count=4, axis=-1):
    return jax.nn.one_hot(i, count, axis=axis)


def ends(before, after, inside=0):
    """Padding of the first of two dimensions."""
    return [(before, after, inside), (0, 0, 0)]


PADDING = {
    # name: (function of a parameter and inputs, shape of the parameter, inputs, what is found)
    "zeros before": (lambda w, x: x @ lax.pad(w, 0.0, ends(1, 0)), (3, 5), [array(2, 4)], FLAX),
    "zeros behind": (lambda w, x: x @ lax.pad(w, 0.0, ends(0, 1)), (3, 5), [array(2, 4)], FLAX),
    "zeros between": (lambda w, x: x @ lax.pad(w, 0.0, ends(0, 0, 1)), (3, 5), [array(2, 5)], FLAX),
    "an output cut off": (
        lambda w, x: x @ lax.pad(w, 0.0, [(0, 0, 0), (-1, 1, 0)]),
        (4, 5),
        [array(2, 4)],
        FLAX,
    ),
    "an input cut off": (
        lambda w, x: x @ lax.pad(w, 0.0, ends(-1, 0)),
        (5, 3),
        [array(2, 4)],
        cut(0),
    ),
    "inputs cut off at both ends": (
        lambda w, x: x @ lax.pad(w, 0.0, ends(-1, -1)),
        (6, 5),
        [array(2, 4)],
        cut(0),
    ),
    "beside merged axes, which can be told apart again": (
        lambda w, x: jnp.einsum(
            "ei,eio->eo",
            x,
            lax.pad(w.reshape(6, 4), 0.0, [(0, 0, 0), (1, 0, 0)]).reshape(2, 3, 5),
        ),
        (2, 3, 4),
        [array(2, 3)],
        STACKED,
    ),
    "inputs around": (
        lambda w, x: lax.pad(w, x[0, 0], ends(1, 1)),
        (3, 5),
        [array(2, 4)],
        LeftAlone("it is only padded"),
    ),
    "ones around": (lambda w, x: x @ lax.pad(w, 1.0, ends(1, 0)), (3, 5), [array(2, 4)], PADDED),
    "its own place around": (
        lambda w, x: x @ lax.pad(w, w[0, 0], ends(1, 0)),
        (3, 5),
        [array(2, 4)],
        PADDED,
    ),
    "a place of it around constants": (
        lambda w, x: x @ lax.pad(jnp.ones((3, 5)), w[0, 0], ends(1, 0)),
        (3, 5),
        [array(2, 4)],
        PADDED,
    ),
    "one-hot inputs with zeros": (
        lambda w, i: lax.pad(one_hot(i, 3), 0.0, [(0, 0, 0), (1, 0, 0)]) @ w,
        (4, 5),
        [numbers(2)],
        LOOKED_UP,
    ),
    "one-hot inputs with ones": (
        lambda w, i: lax.pad(one_hot(i, 3), 1.0, [(0, 0, 0), (1, 0, 0)]) @ w,
        (4, 5),
        [numbers(2)],
        FLAX,
    ),
    "a one-hot table with zeros": (
        lambda w, i: lax.pad(jnp.eye(4, 3), 0.0, [(0, 0, 0), (1, 0, 0)])[i] @ w,
        (4, 5),
        [numbers(2)],
        LOOKED_UP,
    ),
    "a one-hot table with ones": (
        lambda w, i: lax.pad(jnp.eye(4, 3), 1.0, [(0, 0, 0), (1, 0, 0)])[i] @ w,
        (4, 5),
        [numbers(2)],
        FLAX,
    ),
    "ones with zeros are not zero": (
        lambda w, x: (x * lax.pad(jnp.ones(3), 0.0, [(1, 0, 0)])) @ w,
        (4, 5),
        [array(2, 4)],
        FLAX,
    ),
    "zeros with ones are not zero": (
        lambda w, x: (x * lax.pad(jnp.zeros(3), 1.0, [(1, 0, 0)])) @ w,
        (4, 5),
        [array(2, 4)],
        FLAX,
    ),
    "zeros with zeros are zero": (
        lambda w, x: x @ w + (lax.pad(jnp.zeros((3, 1)), 0.0, ends(1, 0)) * w).sum(0),
        (4, 5),
        [array(2, 4)],
        FLAX,
    ),
    "constants cut down to one place do not vary": (
        lambda w, x: x @ (w * lax.pad(jnp.arange(3.0), 0.0, [(-1, -1, 0)])[:, None]),
        (4, 5),
        [array(2, 4)],
        FLAX,
    ),
    "constants with one place more vary": (
        lambda w, x: x @ (w * lax.pad(jnp.ones(1), 0.0, [(1, 0, 0)])[:, None]),
        (2, 5),
        [array(3, 2)],
        VARYING,
    ),
}


def windows(w, starts, size):
    """The places from each of several starts on, along the first axis."""
    return jax.vmap(lambda start: lax.dynamic_slice_in_dim(w, start, size))(starts)


def rows(w, places):
    """Single places, each cut out with its dimension."""
    return lax.squeeze(windows(w, places, 1), (1,))


def experts(x, w):
    return jnp.einsum("ei,eio->eo", x, w)


INDEXING = {
    "by one constant": (
        lambda w, x: experts(x, w[np.array([1])]),
        (3, 4, 2),
        [array(1, 4)],
        STACKED,
    ),
    "by two constants": (
        lambda w, x: experts(x, w[np.array([2, 0])]),
        (3, 4, 2),
        [array(2, 4)],
        STACKED,
    ),
    "by a table of constants": (
        lambda w, x: jnp.einsum("aci,acio->aco", x, w[np.array([[2], [0]])]),
        (3, 4, 2),
        [array(2, 1, 4)],
        STACKED,
    ),
    "by constants along two axes": (
        lambda w, x: experts(x, w[np.arange(3), np.array([2, 0, 1])]),
        (3, 3, 4, 2),
        [array(3, 4)],
        KernelAxes(-2, -1, (0, 1)),
    ),
    "by constants along the input axis": (
        lambda w, x: x @ w[np.array([2, 0, 1])],
        (3, 4),
        [array(2, 3)],
        cut(0),
    ),
    "an axis of length one by constants": (
        lambda w, x: experts(x, w[np.array([0, 0])]),
        (1, 4, 2),
        [array(2, 4)],
        FLAX,
    ),
    "rows by constants": (
        lambda w, x: experts(x, rows(w, np.array([2, 0, 1]))),
        (5, 4, 3),
        [array(3, 4)],
        STACKED,
    ),
    "rows by constants, summed": (
        lambda w, x: jnp.einsum("ei,eio->o", x, rows(w, np.array([2, 0, 1]))),
        (5, 4, 3),
        [array(3, 4)],
        cut(0),
    ),
    "windows of one place by constants": (
        lambda w, x: jnp.einsum("ei,ekio->eo", x, windows(w, np.array([2, 0, 1]), 1)),
        (5, 4, 3),
        [array(3, 4)],
        STACKED,
    ),
    "by one constant, added": (
        lambda w, x: x + w[np.array([1])],
        (3, 4),
        [array(2, 4)],
        LeftAlone("it is only added"),
    ),
    "one row by a constant": (
        lambda w, x: x @ rows(w, np.array([2]))[0],
        (5, 4, 3),
        [array(2, 4)],
        STACKED,
    ),
    "windows by constants": (
        lambda w, x: jnp.einsum("ci,cjio->cjo", x, windows(w, np.array([0, 2]), 2)),
        (4, 5, 3),
        [array(2, 5)],
        KernelAxes(-2, (-3, -1)),
    ),
    "windows by constants, the sum of them": (
        lambda w, x: jnp.einsum("ci,cjio->jo", x, windows(w, np.array([0, 2]), 2)),
        (4, 5, 3),
        [array(2, 5)],
        cut(0),
    ),
    "windows by inputs, summed": (
        lambda w, x, i: jnp.einsum("cj,cjo->co", x, windows(w, i, 2)),
        (4, 3),
        [array(5, 2), numbers(5)],
        cut(0),
    ),
    "by inputs, added": (lambda w, x, i: x + w[i], (3, 4), [array(5, 4), numbers(5)], LOOKED_UP),
    "rows by inputs, added": (
        lambda w, x, i: x + rows(w, i),
        (3, 4),
        [array(5, 4), numbers(5)],
        LOOKED_UP,
    ),
    "rows by inputs": (
        lambda w, x, i: experts(x, rows(w, i)),
        (3, 4, 2),
        [array(5, 4), numbers(5)],
        STACKED,
    ),
    "in each member by inputs": (
        jax.vmap(lambda w, x, i: x @ jnp.take(w, i, axis=0)),
        (2, 3, 4, 5),
        [array(2, 4), numbers(2)],
        KernelAxes(-2, -1, (0, 1)),
    ),
    "in each member by a constant": (
        lambda w, x: jax.vmap(lambda w, k, x: x @ jnp.take(w, k, axis=0))(w, np.array([2, 0]), x),
        (2, 3, 4, 5),
        [array(2, 4)],
        KernelAxes(-2, -1, (0, 1)),
    ),
    "in each member by several constants": (
        lambda w, x: jax.vmap(lambda w, k, x: experts(x, w[k]))(w, np.array([[2, 0], [1, 2]]), x),
        (2, 3, 4, 5),
        [array(2, 2, 4)],
        KernelAxes(-2, -1, (0, 1)),
    ),
    "in each member a window by inputs": (
        jax.vmap(lambda w, x, i: x @ lax.dynamic_slice_in_dim(w, i, 2, 1)),
        (3, 4, 5),
        [array(3, 4), numbers(3)],
        STACKED,
    ),
    "inputs by constants": (
        lambda w, x: x[np.array([1, 0, 1])] @ w,
        (4, 3),
        [array(2, 4)],
        FLAX,
    ),
    "constants by inputs": (
        lambda w, i: jnp.ones((3, 4))[i] @ w,
        (4, 5),
        [numbers(2)],
        FLAX,
    ),
    "zeros by inputs, other numbers where there are none": (
        lambda w, i: jnp.take(jnp.zeros((3, 4)), i, axis=0, mode="fill", fill_value=1.0) @ w,
        (4, 5),
        [numbers(2)],
        FLAX,
    ),
    "one-hot inputs by constants": (
        lambda w, i: one_hot(i)[np.array([[1, 0], [1, 1]])] @ w,
        (4, 5),
        [numbers(2)],
        LOOKED_UP,
    ),
    "one-hot inputs by constants along what is one-hot": (
        lambda w, i: jnp.einsum("et,eo->to", one_hot(i, axis=0)[np.array([0, 1, 0, 1])], w),
        (4, 5),
        [numbers(2)],
        FLAX,
    ),
    "one-hot rows in another order by inputs": (
        lambda w, i: jnp.eye(4)[np.array([3, 1, 0, 2])][i] @ w,
        (4, 5),
        [numbers(2)],
        LOOKED_UP,
    ),
    "one constant of several does not vary": (
        lambda w, x: x @ (w * jnp.arange(5.0)[np.array([2])][:, None]),
        (4, 3),
        [array(2, 4)],
        FLAX,
    ),
    "two constants of several vary": (
        lambda w, x: x @ (w * jnp.arange(5.0)[np.array([2, 1])][:, None]),
        (2, 3),
        [array(4, 2)],
        VARYING,
    ),
    "by what depends on the parameter": (
        lambda w, x: x @ w + jnp.arange(3.0)[jnp.argmax(w[0])],
        (4, 3),
        [array(2, 4)],
        LeftAlone(
            "it is a kernel in one place, and in another it goes through argmax before it meets "
            "the inputs"
        ),
    ),
}

PLACES = {
    "places of inputs": (lambda w, x: x.at[0].set(w[0]), (3, 4), [array(2, 4)], IN_PLACE),
    "inputs in its places": (lambda w, x: w.at[0].set(x[0]), (3, 4), [array(2, 4)], IN_PLACE),
    "at a place from the inputs": (lambda w, i: w.at[i].set(0.0), (3, 4), [numbers()], IN_PLACE),
    "of a kernel": (lambda w, x: x @ w.at[0].set(0.0), (4, 3), [array(2, 4)], SET),
    "put into constants": (
        lambda w, x: x @ jnp.ones((4, 3)).at[np.array([0, 2])].set(w),
        (2, 3),
        [array(2, 4)],
        SET,
    ),
    "at a place that depends on the parameter": (
        lambda w, x: x @ w + jnp.zeros(3).at[jnp.argmax(w[0])].set(1.0),
        (4, 3),
        [array(2, 4)],
        LeftAlone(
            "it is a kernel in one place, and in another it goes through argmax before it meets "
            "the inputs"
        ),
    ),
    "of constants, added": (
        lambda w, x: x @ (w + jnp.zeros((4, 3)).at[0].set(1.0)),
        (4, 3),
        [array(2, 4)],
        FLAX,
    ),
    "of constants make them vary": (
        lambda w, x: x @ (w * jnp.ones((2, 1)).at[0].set(2.0)),
        (2, 3),
        [array(4, 2)],
        VARYING,
    ),
    "of zeros, at a place from the inputs": (
        lambda w, i: jnp.zeros(4).at[i].set(2.0) @ w,
        (4, 3),
        [numbers()],
        LOOKED_UP,
    ),
    "of ones, at a place from the inputs": (
        lambda w, i: jnp.ones(4).at[i].set(2.0) @ w,
        (4, 3),
        [numbers()],
        FLAX,
    ),
    "of zeros, inputs at a constant place": (
        lambda w, x: jnp.zeros(4).at[1].set(x[0, 0]) @ w,
        (4, 3),
        [array(2, 4)],
        FLAX,
    ),
    "sums of segments": (
        lambda w, x, i: jnp.einsum("sd,sdo->o", jnp.zeros((6, 4)).at[i].add(x), w),
        (6, 4, 3),
        [array(9, 4), numbers(9)],
        KernelAxes((-3, -2), -1),
    ),
}


def diagonal_table():
    """For each of three, a one-hot table of four rows."""
    return jnp.arange(4)[:, None] == jnp.arange(4)


REDUCING = {
    "the largest of products with inputs": (
        lambda w, x: (w * x[0, 0]).max(0),
        (4, 3),
        [array(2, 4)],
        LeftAlone("it is only multiplied elementwise"),
    ),
    "the largest for each output, added": (
        lambda w, x: x + w.max(0),
        (4, 3),
        [array(2, 3)],
        LeftAlone("it goes through reduce_max before it meets the inputs"),
    ),
    "a product of kernels": (
        lambda w, x: x @ w.prod(0),
        (2, 4, 3),
        [array(2, 4)],
        LeftAlone("it goes through reduce_prod before it meets the inputs"),
    ),
    "the least for each output, a factor": (
        lambda w, x: x @ w * w.min(0),
        (4, 3),
        [array(2, 4)],
        FLAX,
    ),
    "the least for each input, a factor": (
        lambda w, x: (x * w.min(1)) @ w,
        (4, 3),
        [array(2, 4)],
        LeftAlone(
            "it is a kernel in one place, and in another it goes through reduce_min before it "
            "meets the inputs"
        ),
    ),
    "the largest inputs": (lambda w, x: x.max(1) @ w, (4, 3), [array(2, 5, 4)], FLAX),
    "the product of no zeros is one": (
        lambda w, x: (x * jnp.zeros((0, 4)).prod(0)) @ w,
        (4, 3),
        [array(2, 4)],
        FLAX,
    ),
    "the largest of a table of constants does not vary along what is gone": (
        lambda w, x: x @ (w * jnp.arange(20.0).reshape(5, 4).max(1, keepdims=True).max(0)),
        (4, 3),
        [array(2, 4)],
        FLAX,
    ),
    "the largest of one-hot rows are not one-hot": (
        lambda w, i: jnp.broadcast_to(diagonal_table().astype(jnp.float32).max(0), (3, 4))[i] @ w,
        (4, 5),
        [numbers(2)],
        FLAX,
    ),
}

RANGES = {
    "of two numbers varies": (
        lambda w, x: x @ (w * lax.iota(jnp.float32, 2)[:, None]),
        (2, 3),
        [array(4, 2)],
        VARYING,
    ),
    "of one number does not": (
        lambda w, x: x @ (w * lax.iota(jnp.float32, 1)[:, None]),
        (2, 3),
        [array(4, 2)],
        FLAX,
    ),
    "does not vary along other dimensions": (
        lambda w, x: x @ (w * lax.broadcasted_iota(jnp.float32, (4, 3), 1)),
        (4, 3),
        [array(2, 4)],
        FLAX,
    ),
}


def on_devices(count, function, specs):
    """A function of blocks on so many devices, the first axis of the mesh."""
    devices = mesh(e=count)
    return jax.shard_map(function, mesh=devices, in_specs=specs, out_specs=P(), check_vma=False)


def scaled_by_the_device(count):
    def block(w, x):
        scale = lax.all_gather(lax.axis_index("e").astype(jnp.float32), "e")
        return x @ (w * scale[:, None])

    return on_devices(count, block, (P(), P()))


def gathered(formula, axis, spec):
    """A contraction with the blocks of three devices, put beside each other along an axis."""

    def block(w, x):
        mine = lax.squeeze(w, (tuple(spec).index("e"),))
        return jnp.einsum(formula, x, lax.all_gather(mine, "e", axis=axis))

    return on_devices(3, block, (spec, P()))


def tiled(w, x):
    """A kernel in blocks of two devices, put together along the inputs."""

    def block(w, x):
        return x @ lax.all_gather(w, "e", tiled=True)

    return on_devices(2, block, (P("e"), P()))(w, x)


def one_hot_blocks(spec, places):
    """Inputs of which each of two devices makes a half, with one place that is not zero."""

    def block(i):
        return jax.nn.one_hot(i[:, 0], places)

    devices = mesh(e=2)
    return lambda w, i: jax.shard_map(block, mesh=devices, in_specs=spec, out_specs=spec)(i) @ w


def gathered_one_hot(w, i):
    """The same, put together before it is multiplied."""

    def block(w, i):
        return lax.all_gather(jax.nn.one_hot(i[:, 0], 2), "e", axis=1, tiled=True) @ w

    return on_devices(2, block, (P(), P(None, "e")))(w, i)


def masked_in_blocks(w, x):
    """One place of a mask on each device."""

    def block(w, mask, x):
        return lax.psum(x @ (w * mask[:, None]), "e")

    return on_devices(4, block, (P("e"), P("e"), P(None, "e")))(w, jnp.arange(4.0), x)


DEVICES = {
    "gathered along the first axis": (
        gathered("bei,eio->beo", 0, P("e", None, None)),
        (3, 4, 5),
        [array(2, 3, 4)],
        STACKED,
    ),
    "gathered along another axis": (
        gathered("bei,ieo->beo", 1, P(None, "e", None)),
        (4, 3, 5),
        [array(2, 3, 4)],
        KernelAxes(-3, -1, 1),
    ),
    "gathered along the last axis": (
        gathered("bei,ioe->beo", 2, P(None, None, "e")),
        (4, 5, 3),
        [array(2, 3, 4)],
        KernelAxes(-3, -2, 2),
    ),
    "gathered in another place than it was": (
        gathered("bei,ioe->beo", 2, P("e", None, None)),
        (3, 4, 5),
        [array(2, 3, 4)],
        STACKED,
    ),
    "gathered along what is in blocks": (tiled, (4, 3), [array(2, 4)], FLAX),
    "numbers of two devices vary": (scaled_by_the_device(2), (2, 3), [array(4, 2)], VARYING),
    "the number of one device does not": (scaled_by_the_device(1), (2, 3), [array(4, 2)], FLAX),
    "one-hot blocks of two devices are not one-hot together": (
        one_hot_blocks(P(None, "e"), 2),
        (4, 3),
        [array(2, 4, dtype=jnp.int32)],
        FLAX,
    ),
    "one-hot blocks of other samples are": (
        one_hot_blocks(P("e", None), 4),
        (4, 3),
        [array(2, 4, dtype=jnp.int32)],
        LeftAlone("it is only looked up by index"),
    ),
    "nor where they are gathered": (gathered_one_hot, (4, 3), [array(2, 4, dtype=jnp.int32)], FLAX),
    "a mask in blocks of one place varies": (masked_in_blocks, (4, 3), [array(2, 4)], VARYING),
}


def cases(table):
    return pytest.mark.parametrize(
        ("function", "shape", "inputs", "expected"), table.values(), ids=table
    )


@cases(PADDING)
def test_padding_with_zeros_alone_leaves_a_kernel_as_it_is(function, shape, inputs, expected):
    assert wcgc.trace_axes(function, array(*shape), *inputs) == expected


@cases(INDEXING)
def test_an_axis_of_which_single_places_are_picked_numbers_kernels(
    function, shape, inputs, expected
):
    assert wcgc.trace_axes(function, array(*shape), *inputs) == expected


@cases(PLACES)
def test_setting_places_keeps_no_kernel_and_makes_zeros_one_hot(function, shape, inputs, expected):
    assert wcgc.trace_axes(function, array(*shape), *inputs) == expected


@cases(REDUCING)
def test_a_reduction_other_than_a_sum_is_not_linear(function, shape, inputs, expected):
    assert wcgc.trace_axes(function, array(*shape), *inputs) == expected


@cases(RANGES)
def test_a_range_varies_along_its_dimension_alone(function, shape, inputs, expected):
    assert wcgc.trace_axes(function, array(*shape), *inputs) == expected


@cases(DEVICES)
def test_blocks_are_put_together_where_they_are_gathered(function, shape, inputs, expected):
    assert wcgc.trace_axes(function, array(*shape), *inputs) == expected


def test_a_parameter_in_the_places_of_another_and_around_it():
    def function(params, x):
        padded = lax.pad(params["a"], params["b"][0, 0], ends(1, 0))
        return x @ params["c"].at[0].set(params["d"][0]) @ padded

    shapes = {"a": (2, 5), "b": (2, 2), "c": (4, 3), "d": (2, 3)}
    params = {name: array(*shape) for name, shape in shapes.items()}
    axes = wcgc.trace_axes(function, params, array(2, 4))
    assert axes == {"a": PADDED, "b": PADDED, "c": SET, "d": SET}
