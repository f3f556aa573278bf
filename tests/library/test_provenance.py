"""Where the axes of rearranged values come from, against index arrays that NumPy rearranges."""

import cProfile
import math
import pstats

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

from wcgc._follow import Follower
from wcgc._provenance import (
    Factor,
    Value,
    View,
    lump,
    opaque,
    parameter,
    reshaped,
    reshaped_dims,
    resized,
    sliced,
)
from wcgc._recorder import Recorder

BLOCK = Factor((0,), 1, picked="block")


def followed(function, shape):
    """What is known of the result of a function of one parameter."""
    program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, jnp.float32))
    record = Recorder({0: shape})
    (result,) = Follower(record).run(program, [parameter(0, shape)])
    assert not record.uses
    return result


def dependencies(function, shape):
    """For each dimension of the result, the axes whose index changes along it."""
    places = [np.asarray(function(jnp.asarray(axis))) for axis in np.indices(shape)]
    return [
        {
            axis
            for axis, place in enumerate(places)
            if (place != np.take(place, [0], axis=dimension)).any()
        }
        for dimension in range(places[0].ndim)
    ]


@st.composite
def rearrangements(draw):
    """A shape, and a function that moves, splits, merges, cuts and repeats."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    steps, current = [], shape
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["transpose", "merge", "split", "repeat", "flip", "cut"]))
        dims = len(current)
        at = draw(st.integers(0, dims - 1))
        if kind == "transpose":
            order = tuple(draw(st.permutations(range(dims))))
            steps.append(lambda w, order=order: w.transpose(order))
        elif kind == "merge" and dims > 1:
            at = min(at, dims - 2)
            merged = (*current[:at], current[at] * current[at + 1], *current[at + 2 :])
            steps.append(lambda w, merged=merged: w.reshape(merged))
        elif kind == "split" and current[at] % 2 == 0:
            split = (*current[:at], 2, current[at] // 2, *current[at + 1 :])
            steps.append(lambda w, split=split: w.reshape(split))
        elif kind == "repeat":
            steps.append(lambda w, at=at: jnp.repeat(w[None], 2, axis=0))
        elif kind == "flip":
            steps.append(lambda w, at=at: jnp.flip(w, at))
        elif kind == "cut" and current[at] > 2:
            steps.append(lambda w, at=at: lax.slice_in_dim(w, 1, w.shape[at], axis=at))
        current = jax.eval_shape(
            lambda w: _applied(steps, w), jax.ShapeDtypeStruct(shape, jnp.float32)
        ).shape
    return shape, lambda w: _applied(steps, w)


def _applied(steps, w):
    for step in steps:
        w = step(w)
    return w


@hypothesis.given(rearrangements())
def test_each_dimension_comes_from_the_axes_whose_index_changes_along_it(case):
    shape, function = case
    result = followed(function, shape)
    view = result.views[0]
    for dimension, axes in enumerate(dependencies(function, shape)):
        # Cut parts may be mixed with more than they hold, never with less.
        found = {axis for axis in view.axes([dimension]) if shape[axis] > 1}
        assert axes <= found if any(f.part for d in view.dims for f in d) else axes == found
        assert result.varies[dimension] or not axes
    for digits, length in zip(view.dims, result.shape, strict=True):
        assert np.prod([factor.size for factor in digits]) == length


def test_digits_split_and_merge():
    view = View(((Factor((0,), 6),), (Factor((1,), 4),)))
    assert reshaped(view, (2, 3, 4)).dims == (
        (Factor((0,), 2),),
        (Factor((0,), 3),),
        (Factor((1,), 4),),
    )
    assert reshaped(view, (24,)).dims == ((Factor((0,), 6), Factor((1,), 4)),)
    assert reshaped(view, (2, 12)).dims == (
        (Factor((0,), 2),),
        (Factor((0,), 3), Factor((1,), 4)),
    )
    # 8 x 3 cuts across both axes.
    assert reshaped(view, (8, 3)).dims == ((Factor((0, 1), 8),), (Factor((0, 1), 3),))
    assert reshaped(reshaped(view, (24,)), (6, 4)) == view


def test_axes_of_length_one_keep_a_place():
    view = View(((Factor((0,), 3),), (Factor((1,), 4),), (Factor((2,), 1),)))
    assert reshaped(view, (3, 1, 4)).dims == (
        (Factor((0,), 3),),
        (),
        (Factor((1,), 4), Factor((2,), 1)),
    )
    apart = View(((Factor((0,), 1),), (Factor((1,), 1),), (Factor((2,), 4),)))
    assert reshaped(apart, (1, 1, 2, 2)).dims == (
        (Factor((0,), 1),),
        (Factor((1,), 1),),
        (Factor((2,), 2),),
        (Factor((2,), 2),),
    )
    alone = View(((Factor((0,), 1),), (Factor((1,), 4),)))
    assert reshaped(alone, (4,)).dims == ((Factor((0,), 1), Factor((1,), 4)),)


def test_a_picked_place_is_no_dimension_after_a_reshape():
    view = View(((Factor((0,), 1, picked="batch"),), (Factor((1,), 4),)))
    flat = reshaped(view, (4,))
    assert flat.dims == ((Factor((1,), 4),),)
    assert flat.gone == {(0, "batch")}
    behind = View(((Factor((1,), 4),), (Factor((0,), 1, picked="lookup"),)))
    assert reshaped(behind, (4,)) == View(((Factor((1,), 4),),), gone=frozenset({(0, "lookup")}))


def test_axes_of_length_one_are_no_dimensions_of_a_scalar():
    view = View(((Factor((0,), 1),), (Factor((1,), 1),)))
    assert reshaped(view, ()) == View((), gone=frozenset({(0, "one"), (1, "one")}))


@pytest.mark.parametrize(
    ("old", "new", "source"),
    [
        ((3, 4), (3, 2, 2), {0: 0}),
        ((2, 2, 4), (4, 4), {1: 2}),
        ((3, 1, 4), (3, 4), {0: 0, 1: 2}),
        ((3, 4), (1, 3, 1, 4), {1: 0, 3: 1}),
        ((2, 3), (2, 3, 1), {0: 0, 1: 1}),
        # Each new dimension runs along both old ones.
        ((4, 6), (6, 4), {}),
        ((6, 4), (8, 1, 3), {}),
        ((1, 1), (1,), {}),
        ((0, 3), (3, 0), {}),
    ],
)
def test_which_dimensions_a_reshape_leaves_whole(old, new, source):
    varies, found = reshaped_dims([n > 1 for n in old], old, new)
    assert found == source
    assert varies == tuple(n > 1 for n in new)


def test_an_empty_value_may_vary_where_it_has_several_places():
    assert reshaped_dims((False, False, False), (3, 2, 0), (2, 1, 0)) == ((True, False, False), {})


def test_it_cannot_be_told_what_the_only_place_of_a_device_was_merged_with():
    view = View(((BLOCK,), (Factor((1,), 4),)))
    flat = reshaped(view, (4,))
    assert flat.dims == ((Factor((1,), 4),),)
    assert flat.gone == {(0, "one")}


def test_the_places_of_a_device_stay_together():
    blocks = resized((Factor((0,), 6), Factor((1,), 4)), 1)
    assert blocks == (BLOCK, Factor((1,), 1, picked="block"))
    view = View((blocks, (Factor((2,), 4),)))
    split = reshaped(view, (1, 2, 2))
    assert split.dims == (blocks, (Factor((2,), 2),), (Factor((2,), 2),))
    assert not split.gone


def test_slices_of_merged_axes():
    merged = (Factor((0,), 3), Factor((1,), 4))
    assert sliced(merged, 0, 12) == merged
    assert sliced(merged, 4, 8) == (Factor((0,), 2, part=True), Factor((1,), 4))
    assert sliced(merged, 2, 8) == (Factor((0, 1), 8, part=True),)
    assert sliced(merged, 4, 4) == (Factor((0,), 1, picked="batch"), Factor((1,), 4))
    assert sliced(merged, None, 8) == (Factor((0, 1), 8, part=True),)
    assert sliced((Factor((), 6),), 1, 4) == (Factor((), 4),)
    assert sliced(merged, 4, 4, "lookup") == (Factor((0,), 1, picked="lookup"), Factor((1,), 4))
    assert sliced(merged, None, 1, "lookup") == (
        Factor((0,), 1, picked="lookup"),
        Factor((1,), 1, picked="lookup"),
    )


def test_what_cannot_be_looked_into_depends_on_all_axes():
    view = View(((Factor((0,), 6), Factor((2,), 3)), (Factor((1,), 4),)))
    lumped = lump(view, (2, 5, 1, 5), "it is hidden")
    everything = (Factor((0, 1, 2), 5, part=True),)
    assert lumped.dims == ((Factor((), 2),), everything, (), (Factor((), 5),))
    assert lumped.altered == "it is hidden"
    assert lump(lumped, (2,), "later").dims == ((Factor((0, 1, 2), 2, part=True),),)
    assert lump(view, (1,), "it is hidden").dims == ((),)
    assert lump(View(((Factor((), 3),),)), (4,), "it is hidden").dims == ((Factor((), 4),),)
    assert lump(view, (), "it is hidden").dims == ()


@pytest.mark.parametrize(
    ("digits", "size", "blocks"),
    [
        ((Factor((0,), 6),), 2, (BLOCK, Factor((0,), 2))),
        ((Factor((0,), 3),), 1, (BLOCK,)),
        ((Factor((0,), 6), Factor((1,), 4)), 8, (BLOCK, Factor((0,), 2), Factor((1,), 4))),
        ((Factor((0,), 6), Factor((1,), 4)), 4, (BLOCK, Factor((1,), 4))),
        ((Factor((0,), 2), Factor((1,), 4)), 4, (BLOCK, Factor((1,), 4))),
        ((Factor((0,), 4), Factor((), 2)), 2, (BLOCK, Factor((), 2))),
        ((Factor((), 6),), 2, (Factor((), 2),)),
        ((Factor((), 3), Factor((0,), 4)), 4, (Factor((0,), 4),)),
    ],
)
def test_blocks_of_a_sharded_dimension(digits, size, blocks):
    assert resized(digits, size) == blocks
    whole = math.prod(factor.size for factor in digits)
    if blocks != (Factor((0,), 4),):
        assert resized(blocks, whole) == digits


def test_blocks_of_which_too_little_is_known():
    merged = (Factor((0,), 6), Factor((1,), 4))
    small = resized(merged, 2)
    assert small == (BLOCK, Factor((1,), 1, picked="block"), Factor((1,), 2))
    assert resized(small, 24) == (Factor((0, 1), 24),)
    assert resized(merged, 3) == (Factor((0, 1), 3, part=True),)
    one = Factor((2,), 1)
    assert resized((one, *merged), 4) == (one, BLOCK, Factor((1,), 4))
    picked = Factor((0,), 1, picked="batch")
    assert resized((picked,), 3) == (Factor((0,), 3, part=True),)
    assert resized((), 4) == (Factor((), 4),)


@pytest.mark.parametrize(
    ("function", "varies"),
    [
        (lambda: jnp.zeros((2, 3)), (False, False)),
        (lambda: jnp.arange(3.0), (True,)),
        (lambda: jnp.broadcast_to(jnp.arange(3.0), (2, 3)), (False, True)),
        (lambda: jnp.arange(3.0)[:, None] * jnp.ones((1, 2)), (True, False)),
        (lambda: jnp.ones((2, 3)).reshape(6), (False,)),
        (lambda: jnp.broadcast_to(jnp.arange(3.0), (2, 3)).reshape(6), (True,)),
        (lambda: jnp.broadcast_to(jnp.arange(3.0), (2, 3)).reshape(1, 2, 3), (False, False, True)),
        (lambda: jnp.broadcast_to(jnp.arange(3.0), (2, 3)).T, (True, False)),
        (lambda: jnp.broadcast_to(jnp.arange(3.0), (2, 3)).sum(1), (False,)),
        (lambda: jnp.exp(lax.broadcasted_iota(jnp.float32, (2, 3), 1)), (False, True)),
    ],
)
def test_along_which_dimensions_constants_vary(function, varies):
    program = jax.make_jaxpr(function)()
    (result,) = Follower(Recorder({})).run(program, [])
    assert result.varies == varies
    assert not result.inputs


def test_a_value_of_which_nothing_is_known_may_vary_where_it_has_several_places():
    assert opaque((1, 2, 3), True).varies == (False, True, True)


def test_a_value_that_is_seen_otherwise_is_not_that_of_its_pieces():
    half = parameter(0, (2,))
    whole = Value((4,), (True,), pieces=(0, (half, half), (0, 2)))
    assert whole.with_views({1: View(((Factor((0,), 4),),))}).pieces is None


def test_zeros_are_known():
    def function(x):
        zeros = jnp.zeros((2, 3)).reshape(3, 2).T
        return zeros, zeros @ x, x * 0, zeros + zeros, jnp.ones(3) * zeros, zeros + x.T, zeros + 1

    program = jax.make_jaxpr(function)(jnp.ones((3, 2)))
    results = Follower(Recorder({})).run(program, [opaque((3, 2), True)])
    assert [result.zero for result in results] == [True, True, True, True, True, False, False]
    assert results[5].inputs


def one_by_one(params, x):
    for kernel, bias in params:
        x = jnp.tanh(x @ kernel + bias)
    return x


def through_one_vector(params, x):
    vector, unravel = ravel_pytree(params)
    return one_by_one(unravel(-2 * vector), x)


def stacked_and_scanned(params, x):
    stacks = [jnp.stack(leaves) for leaves in zip(*params, strict=True)]
    return lax.scan(lambda x, layer: (one_by_one([layer], x), None), x, stacks)[0]


@pytest.mark.parametrize("function", [one_by_one, through_one_vector, stacked_and_scanned])
def test_the_cost_is_linear_in_the_number_of_leaves(function):
    def calls(layers):
        shapes = [(8, 8), (8, 1)] * layers
        params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        pairs = list(zip(params[::2], params[1::2], strict=True))
        x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
        program = jax.make_jaxpr(function)(pairs, x)
        record = Recorder(dict(enumerate(shapes)))
        operands = [parameter(i, shape) for i, shape in enumerate(shapes)]
        with cProfile.Profile() as profile:
            Follower(record).run(program, [*operands, opaque((8, 8), True)])
        kernels = {number for number, use in record.uses if use.kind == "kernel"}
        assert kernels == set(range(0, 2 * layers, 2))
        return pstats.Stats(profile).total_calls

    assert calls(100) < 2.2 * calls(50)
