"""What `trace_axes` makes of what is cut, copied, moved and put together, against the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import wcgc
from wcgc import FLAX, KernelAxes, LeftAlone
from wcgc._follow import Follower
from wcgc._provenance import Value, opaque, parameter
from wcgc._recorder import Recorder

from helpers.perturbation import as_sets, connections, slices
from helpers.traced import array, cut

SHAPE = (4, 6)


def followed(function, *operands):
    """What is known of each result of a function of values, none of which may meet inputs."""
    program = jax.make_jaxpr(function)(*(array(*value.shape) for value in operands))
    record = Recorder({0: SHAPE})
    results = Follower(record).run(program, operands)
    assert not record.uses
    return results


def along(array):
    """For each dimension, whether the numbers of an array differ along it."""
    return tuple(bool(np.ptp(array, axis=d).any()) for d in range(array.ndim))


MOVED = {
    # functions of a (4, 6) array whose results hold its elements, each dimension from one axis
    "some rows": lambda w: w[1:3],
    "some columns": lambda w: w[:, 2:5],
    "rows and columns": lambda w: w[2:, :2],
    "one row": lambda w: w[2:3],
    "one column": lambda w: w[:, 5:],
    "the first row": lambda w: w[0],
    "the last column": lambda w: w[:, -1],
    "every second row": lambda w: w[::2],
    "every third column": lambda w: w[1:, ::3],
    "one of every fourth": lambda w: lax.slice(w, (2, 0), (4, 6), (4, 1)),
    "some rows from an index": lambda w: lax.dynamic_slice(w, (1, 0), (2, 6)),
    "some columns from an index": lambda w: lax.dynamic_slice(w, (0, 2), (4, 2)),
    "one row from an index": lambda w: lax.dynamic_slice(w, (3, 0), (1, 6)),
    "all from an index": lambda w: lax.dynamic_slice(w, (0, 0), SHAPE),
    "split rows": lambda w: jnp.split(w, (1, 3)),
    "split columns": lambda w: jnp.split(w, 2, axis=1),
    "unstacked rows": lambda w: jnp.unstack(w),
    "unstacked columns": lambda w: jnp.unstack(w, axis=1),
    "reversed rows": lambda w: jnp.flip(w, 0),
    "reversed both": lambda w: jnp.flip(w),
    "transposed": lambda w: w.T,
    "transposed with more": lambda w: w[:, None].transpose(2, 0, 1),
    "a dimension in front": lambda w: w[None],
    "a dimension between": lambda w: w[:, None],
    "repeated in front": lambda w: jnp.broadcast_to(w, (3, *SHAPE)),
    "repeated between": lambda w: jnp.broadcast_to(w[:, None], (4, 2, 6)),
    "a row repeated": lambda w: jnp.broadcast_to(w[1:2], (5, 6)),
    "a column repeated": lambda w: jnp.broadcast_to(w[:, 1:2], (4, 6)),
    "squeezed in front": lambda w: w[None].squeeze(0),
    "squeezed behind": lambda w: w[..., None].squeeze(-1),
    "a row squeezed": lambda w: w[3:].squeeze(0),
    "rows split": lambda w: w.reshape(2, 2, 6),
    "a length of one by reshape": lambda w: w.reshape(4, 1, 6),
    "flat": lambda w: w.reshape(24),
    "flat, by columns": lambda w: jnp.ravel(w, order="F"),
    "the same shape in another order": lambda w: lax.reshape(w, (6, 4), (1, 0)),
    "no dimension": lambda w: w[1:2, 1:2].reshape(()),
    "one element": lambda w: w[1:2, 1:2].reshape(1),
    "no element": lambda w: w[:0].reshape(6, 0),
    "tiled once": lambda w: lax.tile(w, (1, 1)),
    "a row tiled": lambda w: lax.tile(w[1:2], (3, 1)),
}


def with_zeros(w):
    return jnp.zeros(w.shape, w.dtype)


JOINED = {
    # functions of a (4, 6) array that put it together with itself or constants
    "stacked in front": lambda w: jnp.stack([w, 2 * w]),
    "stacked between": lambda w: jnp.stack([w, 2 * w], 1),
    "stacked behind": lambda w: jnp.stack([w, 2 * w], -1),
    "one stacked": lambda w: lax.stack([w], 0),
    "below itself": lambda w: jnp.concatenate([w, 2 * w]),
    "beside itself": lambda w: jnp.concatenate([w, 2 * w], 1),
    "below zeros": lambda w: jnp.concatenate([with_zeros(w), w]),
    "beside zeros": lambda w: jnp.concatenate([w, with_zeros(w)], 1),
    "between zeros": lambda w: jnp.concatenate([with_zeros(w), w, with_zeros(w)], 1),
    "around zeros": lambda w: jnp.concatenate([w, with_zeros(w), w], 1),
    "a column beside nothing": lambda w: jnp.concatenate([w[:, :1], w[:, :0]], 1),
    "a column beside itself": lambda w: jnp.concatenate([w[:, :1], 2 * w[:, :1]], 1),
    "transposed, beside itself": lambda w: jnp.concatenate([w.T, 2 * w.T], 1),
    "tiled": lambda w: lax.tile(w, (2, 3)),
    "tiled along the rows": lambda w: lax.tile(w, (2, 1)),
    "tiled along the columns": lambda w: lax.tile(w, (1, 2)),
    "summed over rows": lambda w: w.sum(0),
    "summed over columns": lambda w: w.sum(1),
    "summed over both": lambda w: w.sum((0, 1)),
}

ROWS, COLUMNS = np.indices(SHAPE, np.float32)
CONSTANTS = [np.ones(SHAPE, np.float32), 1 + ROWS, 1 + COLUMNS, 1 + 6 * ROWS + COLUMNS]
# In each row one place is not zero: in all the same one, or in each another one.
HOT = [(1 + ROWS) * (k == COLUMNS) for k in range(6)] + [(1 + ROWS) * (COLUMNS == ROWS + 1)]


@pytest.fixture(scope="module")
def shown():
    """What each function makes of the numbers: for each of its results an array of all of them."""
    arrays = np.float32([ROWS, COLUMNS, *CONSTANTS, *HOT])
    functions = MOVED | JOINED
    apply = jax.vmap(lambda w: {name: jax.tree.leaves(f(w)) for name, f in functions.items()})
    return jax.tree.map(np.asarray, jax.jit(apply)(arrays))


@pytest.mark.parametrize("name", MOVED)
def test_dimensions_come_from_the_axes_whose_index_changes_along_them(name, shown):
    for result, places in zip(followed(MOVED[name], parameter(0, SHAPE)), shown[name], strict=True):
        assert result.shape == places[0].shape
        if 0 not in result.shape:
            changing = [along(place) for place in places[: len(SHAPE)]]
            for d, digits in enumerate(result.views[0].dims):
                found = {axis for factor in digits if factor.size > 1 for axis in factor.axes}
                assert found == {axis for axis in range(len(SHAPE)) if changing[axis][d]}


@pytest.mark.parametrize("name", MOVED | JOINED)
def test_constants_vary_along_the_dimensions_along_which_the_numbers_do(name, shown):
    for i, constant in enumerate(CONSTANTS):
        found = followed((MOVED | JOINED)[name], Value(SHAPE, along(constant)))
        for result, arrays in zip(found, shown[name], strict=True):
            if 0 not in result.shape:
                assert result.varies == along(arrays[len(SHAPE) + i])


@pytest.mark.parametrize("name", MOVED | JOINED)
def test_inputs_are_one_hot_along_the_dimensions_along_which_the_numbers_are(name, shown):
    rows = Value(SHAPE, (True, True), inputs=True, hot=frozenset({1}))
    for result, arrays in zip(followed((MOVED | JOINED)[name], rows), shown[name], strict=True):
        assert result.inputs
        if 0 in result.shape:
            continue
        assert {d for d in result.hot if result.shape[d] > 1} == {
            d
            for d, length in enumerate(result.shape)
            if length > 1 and (np.count_nonzero(arrays[-len(HOT) :], axis=1 + d) <= 1).all()
        }


@pytest.mark.parametrize("name", MOVED | JOINED)
def test_zeros_stay_zeros(name):
    zeros = Value(SHAPE, (False, False), zero=True)
    for result in followed((MOVED | JOINED)[name], zeros):
        assert result.zero or 0 in result.shape
        assert not result.inputs


@pytest.mark.parametrize("name", MOVED | JOINED)
def test_digits_fill_each_dimension(name):
    for result in followed((MOVED | JOINED)[name], parameter(0, SHAPE)):
        for view in result.views.values():
            sizes = [np.prod([factor.size for factor in digits]) for digits in view.dims]
            assert sizes == list(result.shape)


def cut_out(kernels, e):
    below = jnp.concatenate([jnp.ones((3, 4)), kernels.reshape(6, 4)])
    return below[3 + 3 * e : 6 + 3 * e].reshape(1, 3, 4)[0]


KERNELS = {
    # name: (function of kernel and input, shape of the kernel, axes of the input as in
    # `connections`, the axes to be found)
    "a length of one squeezed": (
        lambda w, x: x @ w.squeeze(1),
        (4, 1, 3),
        "f4",
        KernelAxes(-3, -1),
    ),
    "one kernel, one by one": (
        lambda w, x: x @ jnp.unstack(w)[0],
        (1, 4, 3),
        "f4",
        FLAX,
    ),
    "repeated by a product": (
        lambda w, x: x @ lax.mul(w, jnp.arange(1.0, 4)[None]),
        (4, 1),
        "f4",
        FLAX,
    ),
    "what a loop makes": (
        lambda w, x: jnp.einsum("i,jio->jo", x, lax.scan(lambda _, n: (0, -w), 0, None, 2)[1]),
        (4, 3),
        "f4",
        FLAX,
    ),
    "kernels side by side, one by one": (
        lambda w, x: jnp.stack([part @ k for part, k in zip(x, jnp.unstack(w), strict=True)]),
        (3, 4, 2),
        "f3 f4",
        KernelAxes(batch_axis=0),
    ),
    "kernels between axes, one by one": (
        lambda w, x: jnp.stack(
            [part @ k for part, k in zip(x, jnp.unstack(w, axis=1), strict=True)]
        ),
        (4, 3, 2),
        "f3 f4",
        KernelAxes(-3, -1, 1),
    ),
    "kernels below others, cut out": (
        lambda w, x: jnp.stack([x[e] @ cut_out(w, e) for e in range(2)]),
        (2, 3, 4),
        "f2 f3",
        KernelAxes(batch_axis=0),
    ),
    "longer and split": (
        lambda w, x: jnp.einsum(
            "ab,abo->o", x, jnp.concatenate([w, jnp.ones((6, 2))], 1).reshape(2, 3, 6)
        ),
        (6, 4),
        "f2 f3",
        FLAX,
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_axes_are_those_that_inputs_and_outputs_show(name):
    function, shape, inputs, expected = KERNELS[name]
    axes = wcgc.trace_axes(function, array(*shape), array(*(int(n[1:]) for n in inputs.split())))
    assert axes == expected
    connected = connections(function, shape, inputs)
    assert as_sets(connected.any(axis=0)) == slices(axes, shape, "tensor")
    assert as_sets(connected) == slices(axes, shape, "instance")
    assert as_sets(connected.any(axis=1)) == slices(axes, shape, "channel")


PICKS = [
    # functions of two arrays of the same shape that put them together and give back the second
    lambda a, b: jnp.concatenate([a, b])[4:],
    lambda a, b: jnp.concatenate([a, b, a])[4:8],
    lambda a, b: jnp.concatenate([a, b], 1)[:, 3:],
    lambda a, b: jnp.concatenate([jnp.concatenate([a, b]), a])[4:8],
    lambda a, b: jnp.concatenate([a, a[:0], b])[4:],
    lambda a, b: -jnp.concatenate([a, -b])[4:],
    lambda a, b: jnp.split(jnp.concatenate([a, b]), 2)[1],
    lambda a, b: jnp.split(jnp.concatenate([a[:2], a[:3], b]), (2, 5))[2],
    lambda a, b: jnp.split(jnp.concatenate([a[:2], b, a]), (2, 6))[1],
    lambda a, b: jnp.stack([a, b])[1],
    lambda a, b: jnp.stack([a, b], 1)[:, 1],
    lambda a, b: jnp.stack([a, b], -1)[..., 1],
    lambda a, b: jnp.unstack(jnp.stack([a, b], 1), axis=1)[1],
    lambda a, b: lax.slice(jnp.stack([a, b]), (1, 0, 0), (2, 4, 3), (2, 1, 1))[0],
    lambda a, b: lax.dynamic_slice(jnp.concatenate([a, b]), (0, 0), (8, 3))[4:],
]


@pytest.mark.parametrize("pick", PICKS)
def test_a_piece_that_is_cut_out_again_is_that_piece_alone(pick, rng):
    a, b = rng.normal(size=(2, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(pick)(a, b), b)
    axes = wcgc.trace_axes(lambda p, x: x @ pick(*p), (array(4, 3), array(4, 3)), array(2, 4))
    assert axes == (LeftAlone("it meets no input"), FLAX)


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        # A part of one piece, and of both.
        (lambda a, b: jnp.concatenate([a, b])[5:7], (LeftAlone("it meets no input"), cut(0))),
        (lambda a, b: jnp.concatenate([a, b])[2:6], (cut(0), cut(0))),
        (lambda a, b: jnp.concatenate([a, b])[:6], (cut(0), cut(0))),
        (lambda a, b: jnp.concatenate([a, b])[::2], (cut(0), cut(0))),
        (lambda a, b: jnp.concatenate([a, b])[2::4], (cut(0), cut(0))),
        # What has been moved since is not where the pieces were.
        (lambda a, b: jnp.flip(jnp.concatenate([a, b]), 0)[:4], (cut(0), cut(0))),
        (lambda a, b: jnp.concatenate([a, b], 1).T[:, :3], (KernelAxes(-1, -2),) * 2),
        (lambda a, b: jnp.concatenate([a, b]).T[:, :3].T, (cut(0), cut(0))),
        (lambda a, b: jnp.concatenate([a, b], 1)[:, :5], (FLAX, FLAX)),
        (lambda a, b: jnp.concatenate([a, b])[:, 1:], (FLAX, FLAX)),
    ],
)
def test_what_is_cut_across_the_pieces_is_of_all_of_them(mix, expected):
    def function(p, x):
        kernel = mix(*p)
        return x[:, : kernel.shape[0]] @ kernel

    assert wcgc.trace_axes(function, (array(4, 3), array(4, 3)), array(2, 8)) == expected


def test_every_second_place_is_no_place_of_merged_axes():
    def function(w, x):
        return x @ w.reshape(6, 4)[::2]

    assert wcgc.trace_axes(function, array(2, 3, 4), array(2, 3)) == cut(0)


def index(x):
    return x[0, 0].astype(jnp.int32)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda w, x: x + lax.dynamic_index_in_dim(w, 1), "it is only added"),
        (
            lambda w, x: lax.fori_loop(0, 4, lambda i, c: jnp.tanh(c + w[i]), x),
            "it is only added",
        ),
        (lambda w, x: x + w[index(x)], "it is only looked up by index"),
        (lambda w, x: jnp.eye(4)[index(x)] @ w, "it is only looked up by index"),
        (
            lambda w, x: jax.nn.one_hot(x[:, :1].astype(int), 4).reshape(2, 4) @ w,
            "it is only looked up by index",
        ),
        (lambda w, x: x[jnp.argmax(w)], "it goes through argmax before it meets the inputs"),
        (
            lambda w, x: x[jnp.argmax(w[0])] @ w,
            "it is a kernel in one place, and in another it goes through argmax before it meets "
            "the inputs",
        ),
        (
            lambda w, x: x @ (w * lax.scan(lambda c, _: (2 * c, (c, w)), 1.0, w)[1][0][:, None]),
            "it is multiplied by something that varies along the axes of the mean, such as a mask",
        ),
    ],
)
def test_what_is_left_alone_says_why(function, said):
    assert wcgc.trace_axes(function, array(4, 4), array(2, 4)) == LeftAlone(said)


@pytest.mark.parametrize(
    "function",
    [
        # A column of one-hot rows, repeated, is a gate.
        lambda w, x: (x * jax.nn.one_hot(x[:, 0].astype(int), 4)[:, 1:2]) @ w,
        lambda w, x: jax.nn.one_hot(x[:, 0].astype(int), 4).sum(0) @ w,  # a bag of words
        lambda w, x: x @ lax.dynamic_slice(w, (index(x), 0), (4, 4)),
    ],
)
def test_what_is_no_look_up_is_a_kernel(function):
    assert wcgc.trace_axes(function, array(4, 4), array(2, 4)) == FLAX


def test_a_slice_depends_on_an_index_by_which_it_may_be_another_one():
    for size, depends in [(4, False), (3, True), (1, True)]:
        program = jax.make_jaxpr(lambda w, i, size=size: lax.dynamic_slice(w, (i, 0), (size, 6)))
        operands = [opaque(SHAPE, False), opaque((), True)]
        jaxpr = program(array(*SHAPE), array(dtype=jnp.int32))
        (result,) = Follower(Recorder({})).run(jaxpr, operands)
        assert result.inputs == depends


@pytest.mark.parametrize("length", [1, 2, 3])
def test_what_a_loop_makes_varies_along_its_steps(length):
    def function(w):
        return lax.scan(lambda c, row: (c + 1, (c, -row)), 0.0, w)[1]

    counts, rows = followed(function, parameter(0, (length, 6)))
    assert counts.varies == (length > 1,)
    assert rows.varies == (length > 1, True)
