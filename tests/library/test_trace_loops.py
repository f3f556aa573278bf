"""`trace_axes` of loops, branches, calls, blocks on devices, and operations without a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import wcgc
from wcgc import FLAX, KernelAxes, LeftAlone
from wcgc._follow import Follower
from wcgc._provenance import parameter
from wcgc._recorder import Recorder

from helpers.traced import BONDED, STACKED, array, cut, mesh, one_hot

HEADS = KernelAxes((-3, -2), -1)


BRANCHES = {
    # of a (4, 4) parameter and a (2, 4) input
    "one of three, of which one is not linear": (
        lambda w, x: x @ lax.switch(x[0, 0].astype(int), [jnp.ones_like, jnp.zeros_like, abs], w),
        LeftAlone("it goes through abs before it meets the inputs"),
    ),
    "a kernel or its negative": (
        lambda w, x: x @ lax.cond(x[0, 0] > 0, lambda: w, lambda: -w),
        FLAX,
    ),
    "a kernel or its negative, returned": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: w, lambda: -w),
        LeftAlone("it is only returned"),
    ),
    "a kernel or its transpose": (
        lambda w, x: x @ lax.cond(x[0, 0] > 0, lambda: w, lambda: w.T),
        LeftAlone("it is rearranged differently in a loop or a branch"),
    ),
    "inputs or a parameter": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: x, lambda: w[:2]),
        LeftAlone("it is only put in place of some inputs"),
    ),
    "a parameter or inputs": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: w[:2], lambda: x),
        LeftAlone("it is only put in place of some inputs"),
    ),
    "constants or inputs": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: jnp.ones((2, 4)), lambda: x) @ w,
        FLAX,
    ),
    "inputs or constants": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: x, lambda: jnp.ones((2, 4))) @ w,
        FLAX,
    ),
    "zeros or other constants": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: jnp.zeros(4), lambda: jnp.arange(4.0)) @ w,
        FLAX,
    ),
    "other constants or zeros": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: jnp.arange(4.0), lambda: jnp.zeros(4)) @ w,
        FLAX,
    ),
    "one of two rows of a table": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: one_hot(x), lambda: one_hot(-x)) @ w,
        LeftAlone("it is only looked up by index"),
    ),
    "one of two fixed rows": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: one_hot(0 * x), lambda: one_hot(0 * x + 1)) @ w,
        LeftAlone("it is only looked up by index"),
    ),
    "features or one of them": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: one_hot(x), lambda: x) @ w,
        FLAX,
    ),
    "a parameter decides": (
        lambda w, x: lax.cond(w[0, 0] > 0, lambda: x, lambda: -x),
        LeftAlone("it goes through gt before it meets the inputs"),
    ),
    "an entry of the kernel decides": (
        lambda w, x: lax.cond(w[0, 0] > 0, lambda: x @ w, lambda: -x),
        LeftAlone(
            "it is a kernel in one place, and in another it goes through gt before it meets the "
            "inputs"
        ),
    ),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_branches(name):
    function, expected = BRANCHES[name]
    assert wcgc.trace_axes(function, array(4, 4), array(2, 4)) == expected


def printed(x):
    jax.debug.print("{}", x)
    return x


LOOPS = {
    # of a (4, 4) parameter and a (2, 4) input
    "carried along with inputs": (
        lambda w, x: lax.scan(lambda h, row: (jnp.tanh(h + row), None), w[0], x)[0],
        LeftAlone("it is only carried along with inputs"),
    ),
    "turned in each step": (
        lambda w, x: lax.fori_loop(0, 3, lambda _, c: (c[0] @ c[1], c[1].T), (x, w))[0],
        LeftAlone("it is rearranged differently in a loop or a branch"),
    ),
    "taken along as it is": (
        lambda w, x: lax.fori_loop(0, 3, lambda _, c: (jnp.tanh(c[0] @ c[1]), c[1]), (x, w))[0],
        FLAX,
    ),
    "as many steps as an input says": (
        lambda w, x: lax.fori_loop(
            0, x[0, 0].astype(int), lambda _, c: (jnp.tanh(c[0] @ c[1]), c[1]), (x, w)
        ),
        FLAX,
    ),
    "used after the loop": (
        lambda w, x: x @ lax.fori_loop(0, 3, lambda _, kernel: -kernel, w),
        FLAX,
    ),
    "backwards": (
        lambda w, x: lax.scan(lambda h, _: (jnp.tanh(h @ w), h), x, None, 3, reverse=True)[1],
        FLAX,
    ),
    "made in each step": (
        lambda w, x: jnp.einsum("bi,nio->bno", x, lax.scan(lambda c, _: (c, w), 0, None, 3)[1]),
        FLAX,
    ),
    "made of its rows": (
        lambda w, x: x @ lax.map(jnp.negative, w),
        cut(0),
    ),
    "made of its filters": (lambda w, x: x @ lax.map(jnp.negative, w.T).T, FLAX),
    "made of half of its rows": (
        lambda w, x: x[:, :2] @ lax.map(jnp.negative, w.reshape(2, 2, 4)[1]),
        cut(0),
    ),
    "a norm of each filter": (
        lambda w, x: x @ w / lax.map(jnp.linalg.norm, w.T),
        FLAX,
    ),
    "a norm of each row, added up": (
        lambda w, x: (x @ w).sum() + lax.map(jnp.linalg.norm, w).sum(),
        FLAX,
    ),
    "constants beside its rows": (
        lambda w, x: x @ w + lax.scan(lambda c, row: (c + row, jnp.arange(4.0)), 0 * w[0], w)[1][0],
        FLAX,
    ),
    "a norm of each row": (
        lambda w, x: (x / lax.map(jnp.linalg.norm, w)) @ w,
        LeftAlone(
            "it is a kernel in one place, and in another it goes through mul before it meets the "
            "inputs"
        ),
    ),
    "a scan without the parameter": (
        lambda w, x: lax.scan(lambda h, row: (jnp.tanh(h + row), h), x[0], x)[1] @ w,
        FLAX,
    ),
    "a scan without inputs": (
        lambda w, x: x[0] + lax.scan(lambda c, _: (c, jnp.arange(4.0)), 0, None, 3)[1] @ w,
        BONDED,
    ),
    "constants that are printed": (
        lambda w, x: x[0] + lax.map(printed, jnp.arange(4.0)) @ w,
        BONDED,
    ),
    "rows of a table, one by one": (
        lambda w, x: lax.map(lambda row: one_hot(row[None])[0], x) @ w,
        LeftAlone("it is only looked up by index"),
    ),
    "constants of the condition and of the body": (
        lambda w, x: lax.while_loop(
            lambda c: c[1] < x.sum(), lambda c: (jnp.tanh(c[0] @ w), c[1] + 1, c[2]), (x, 0.0, w)
        )[0],
        FLAX,
    ),
    "a condition that computes with it": (
        lambda w, x: lax.while_loop(lambda h: (h @ w).max() < 1, lambda h: 2 * h, x),
        FLAX,
    ),
    "a condition on an entry of it": (
        lambda w, x: lax.while_loop(lambda h: h.sum() < w[0, 0], lambda h: 2 * h, jnp.ones(4)) + x,
        LeftAlone("it goes through lt before it meets the inputs"),
    ),
    "a condition on inputs": (
        lambda w, x: (
            lax.while_loop(
                lambda c: c[0].sum() < x.sum(), lambda c: (2 * c[0], -c[1]), (jnp.arange(4.0), w)
            )[0]
            @ w
        ),
        FLAX,
    ),
    "a condition on inputs and on it": (
        lambda w, x: (
            lax.while_loop(
                lambda c: (c + x * (w**2).sum()).max() < 1, lambda c: 2 * c, jnp.arange(4.0)
            )
            @ w
        ),
        FLAX,
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops(name):
    function, expected = LOOPS[name]
    assert wcgc.trace_axes(function, array(4, 4), array(2, 4)) == expected


def test_what_a_loop_carries_varies_where_it_did_before():
    """The same input for all members in each step, as without a loop."""

    def members(w, x):
        def step(_, carry):
            same, _ = carry
            return same, jnp.tanh(jnp.einsum("ebi,eio->ebo", same, w))

        same = jnp.broadcast_to(x, (3, 2, 4))
        return lax.fori_loop(0, 5, step, (same, jnp.zeros((3, 2, 5))))[1]

    assert wcgc.trace_axes(members, array(3, 4, 5), array(2, 4)) == KernelAxes(-2, (-3, -1))


@pytest.mark.parametrize(
    ("product", "expected"),
    [
        ("ebi,eio->ebo", STACKED),
        ("bi,eio->ebo", KernelAxes(-2, (-3, -1))),
        ("bei,eio->bo", cut(0)),
    ],
)
def test_kernels_that_a_loop_has_put_together(product, expected):
    lengths = {"e": 3, "b": 2, "i": 4}
    x = array(*(lengths[axis] for axis in product.split(",")[0]))
    axes = wcgc.trace_axes(
        lambda w, x: jnp.einsum(product, x, lax.map(jnp.negative, w)), array(3, 4, 5), x
    )
    assert axes == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda w: lax.map(lambda part: part, w),
        lambda w: lax.map(jnp.transpose, w),
        lambda w: lax.map(lambda part: part, w.transpose(2, 0, 1)),
        lambda w: lax.map(lambda part: part, w.reshape(6, 4)),
        lambda w: lax.map(lambda part: lax.map(lambda row: row, part.T), w),
        lambda w: lax.map(lambda part: part[1], w),
        lambda w: lax.map(lambda row: row, w[1]),
        lambda w: lax.scan(lambda c, part: (c, part), 0, w, reverse=True)[1],
    ],
    ids=[
        "as it is",
        "each part turned",
        "along the last axis",
        "along two axes",
        "a loop in a loop",
        "a row of each part",
        "the rows of a part",
        "backwards",
    ],
)
def test_what_a_loop_makes_lies_along_the_axes_that_it_ran_through(function):
    """As index arrays show that run through it."""
    shape = 2, 3, 4
    program = jax.make_jaxpr(function)(array(*shape))
    record = Recorder({0: shape})
    (result,) = Follower(record).run(program, [parameter(0, shape)])
    assert not record.uses
    with jax.disable_jit():
        places = [np.asarray(function(jnp.asarray(place))) for place in np.indices(shape)]
    for d in range(len(result.shape)):
        moving = {axis for axis, place in enumerate(places) if np.ptp(place, axis=d).any()}
        assert result.views[0].axes([d]) == moving


def test_what_a_loop_has_summed_over_is_not_forgotten():
    def function(w, x):
        return x @ lax.map(lambda kernel: kernel.sum(0), w).T

    assert wcgc.trace_axes(function, array(3, 4, 5), array(2, 5)) == KernelAxes(-1, -3)


def test_kernels_of_which_a_loop_makes_products_with_inputs():
    def function(w, x):
        return lax.map(lambda pair: (pair[0] * pair[1][:, None]).sum(0), (w, x))

    assert wcgc.trace_axes(function, array(3, 4, 5), array(3, 4)) == STACKED


CALLS = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "custom_jvp": jax.custom_jvp,
    "custom_vjp": jax.custom_vjp,
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    function = CALLS[name](lambda w, x: x @ w)
    if name == "custom_jvp":
        function.defjvps(None, None)
    if name == "custom_vjp":
        function.defvjp(lambda w, x: (x @ w, None), lambda _, g: (g, g))
    assert wcgc.trace_axes(function, array(4, 3), array(2, 4)) == FLAX


def test_zeros_of_every_dtype_are_known():
    """As constants that pad, and that inputs make one-hot."""

    def padded(w, x):
        zero = np.zeros((), w.dtype)
        return lax.pad(x, zero, [(0, 0, 0), (1, 1, 0)]) @ lax.pad(w, zero, [(1, 1, 0), (0, 2, 0)])

    def looked_up(w, x):
        rows = x[:, 0].astype(jnp.int32)
        return jnp.zeros((2, 4), w.dtype).at[jnp.arange(2), rows].set(1) @ w

    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64, jnp.float8_e4m3fn):
        args = array(4, 3, dtype=dtype), array(2, 4, dtype=dtype)
        assert wcgc.trace_axes(padded, *args) == FLAX
        said = "it is only looked up by index"
        real = args[0], array(2, 4)
        assert wcgc.trace_axes(looked_up, *real) == LeftAlone(said)


def test_other_constants_are_no_zeros():
    def padded(w, x):
        return lax.pad(x, 0.0, [(0, 0, 0), (1, 1, 0)]) @ lax.pad(w, 1.0, [(1, 1, 0), (0, 2, 0)])

    axes = wcgc.trace_axes(padded, array(4, 3), array(2, 4))
    assert axes == LeftAlone("it is padded with more than zeros")


def in_blocks(block, w, x, to):
    return jax.shard_map(
        block, mesh=mesh(h=4), in_specs=(P("h"), P(None, "h")), out_specs=to, check_vma=False
    )(w, x)


def by_head(w, x):
    return jnp.einsum("tek,ekd->td", x, w)


def added(y):
    return lax.psum(y, "h")


ADDED = {
    "at once": (by_head, added, P()),
    "in parts": (by_head, lambda y: lax.psum_scatter(y, "h", tiled=True), P("h")),
    "in a jit": (by_head, jax.jit(added), P()),
    "behind a jit": (jax.jit(by_head), added, P()),
    "in a checkpoint": (by_head, jax.checkpoint(added), P()),
    "in a branch": (by_head, lambda y: lax.cond(y[0, 0] > 0, added, lambda y: y, y), P()),
    "in a loop": (by_head, lambda y: lax.fori_loop(0, 3, lambda _, y: added(y), y), P()),
    "in a scan": (by_head, lambda y: lax.scan(lambda c, _: (added(c), c), y, None, 3)[0], P()),
}


@pytest.mark.parametrize("name", ADDED)
def test_blocks_that_are_added_up_are_summed_over(name):
    product, add, to = ADDED[name]

    def function(w, x):
        return in_blocks(lambda w, x: add(product(w, x)), w, x, to)

    assert wcgc.trace_axes(function, array(4, 3, 5), array(8, 4, 3)) == HEADS


KEPT = {
    "as they are": (by_head, lambda y: y),
    "in a jit": (jax.jit(by_head), jax.jit(jnp.negative)),
    "in a scan": (by_head, lambda y: lax.scan(lambda c, _: (-c, c), y, None, 3)[0]),
    "of which the largest counts": (by_head, lambda y: lax.pmax(y, "h")),
}


@pytest.mark.parametrize("name", KEPT)
def test_blocks_that_are_not_added_up_are_kernels_of_their_own(name):
    product, keep = KEPT[name]

    def function(w, x):
        return in_blocks(lambda w, x: keep(product(w, x)), w, x, P("h"))

    assert wcgc.trace_axes(function, array(4, 3, 5), array(8, 4, 3)) == STACKED


def test_an_input_axis_in_blocks_that_are_not_added_up():
    """Each device has a kernel of its own, whose inputs are a part of an axis."""
    block = lambda w, x: x @ w  # noqa: E731
    axes = wcgc.trace_axes(lambda w, x: in_blocks(block, w, x, P("h")), array(8, 5), array(7, 8))
    assert axes == LeftAlone("its axis 0 is partly a batch and partly an input axis")


def test_blocks_within_blocks():
    """The inner blocks are not added up, the outer ones are."""
    devices = mesh(h=4, m=2)
    options = {"mesh": devices, "check_vma": False}

    def block(w, x):
        halves = {"axis_names": {"m"}, "in_specs": P("m"), "out_specs": P("m")}
        x = jax.shard_map(jnp.tanh, check_vma=False, **halves)(x)
        return added(by_head(w, x))

    def function(w, x):
        specs = {"in_specs": (P("h"), P(None, "h")), "out_specs": P(), "axis_names": {"h"}}
        return jax.shard_map(block, **specs, **options)(w, x)

    assert wcgc.trace_axes(function, array(4, 3, 5), array(8, 4, 3)) == HEADS


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (lambda w, x: added(x @ w) + added((w**2).sum()), FLAX),
        (
            lambda w, x: x[:, :1] + added(w),
            LeftAlone("it goes through psum before it meets the inputs"),
        ),
    ],
    ids=["a penalty", "added to the inputs"],
)
def test_parameters_that_are_added_up_over_devices(block, expected):
    axes = wcgc.trace_axes(lambda w, x: in_blocks(block, w, x, P()), array(8, 5), array(2, 8))
    assert axes == expected


def test_what_has_no_shape_is_passed_by():
    def function(w, x):
        return lax.after_all(lax.create_token()), x @ w

    assert wcgc.trace_axes(function, array(4, 3), array(2, 4)) == FLAX


UNKNOWN = {
    # Operations without a rule, of a (3, 4) parameter and a (2, 3) input.
    "of another length": (
        lambda w, x: x @ jnp.fft.rfft(w).real,
        LeftAlone("it goes through fft before it meets the inputs"),
    ),
    "of another length, reshaped": (
        lambda w, x: x[:, :1] + jnp.fft.rfft(w).real.reshape(9),
        LeftAlone("it goes through fft before it meets the inputs"),
    ),
    "of fewer dimensions, which are no outputs": (
        lambda w, x: (x @ w)[:, :3] * jnp.linalg.svd(w.T, compute_uv=False)[None],
        LeftAlone(
            "it is a kernel in one place, and in another it goes through svd before it meets the "
            "inputs"
        ),
    ),
    "of fewer dimensions": (
        lambda w, x: (x @ w)[:, :3] * jnp.linalg.svd(w, compute_uv=False),
        LeftAlone(
            "it is a kernel in one place, and in another it goes through svd before it meets the "
            "inputs"
        ),
    ),
    "with several results": (
        lambda w, x: jnp.linalg.svd(w)[2][0] + x[:, :1],
        LeftAlone("it goes through svd before it meets the inputs"),
    ),
    "of which one number is used": (
        lambda w, x: x @ w / jnp.linalg.svd(w, compute_uv=False).max(),
        FLAX,
    ),
    "a factor for each output": (lambda w, x: x @ w * jnp.cumsum(w, 0).sum(0), FLAX),
    "one after the other": (
        lambda w, x: x @ jnp.cumsum(jnp.sort(w, 0), 0),
        LeftAlone("it goes through sort before it meets the inputs"),
    ),
    "of a kernel that inputs chose": (
        lambda w, x: jnp.cumsum(lax.cond(x[0, 0] > 0, lambda: w, lambda: -w), 0),
        LeftAlone("it is only an operand of cumsum"),
    ),
    "of a kernel that inputs have scaled": (
        lambda w, x: jnp.cumsum(x[:, :, None] * w, 1),
        LeftAlone("it is only multiplied elementwise"),
    ),
    "of it and inputs": (
        lambda w, x: lax.linalg.triangular_solve(w[:, :3], x),
        LeftAlone("it is handed to triangular_solve with inputs, which cannot be looked into"),
    ),
    "of inputs alone": (lambda w, x: jnp.cumsum(x, 1) @ w, FLAX),
    "of constants alone": (
        lambda w, x: jnp.cumsum(jnp.arange(3.0)) @ w + x[:, :1],
        BONDED,
    ),
    "whose result nothing uses": (
        lambda w, x: (jnp.cumsum(w, 0), x @ w)[1],
        FLAX,
    ),
    "without a result": (
        lambda w, x: (jax.pure_callback(print, (), w), x @ w)[1],
        FLAX,
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_operations_without_a_rule(name):
    function, expected = UNKNOWN[name]
    assert wcgc.trace_axes(function, array(3, 4), array(2, 3)) == expected


@pytest.mark.skipif(not hasattr(jax, "new_ref"), reason="this JAX has no references")
def test_what_is_written_to_a_reference_may_be_an_input():
    def function(params, x):
        reference = jax.new_ref(jnp.zeros((2, 4)))
        reference[...] = x
        hidden = reference[...] @ params["read"]
        reference[...] = params["written"]
        return hidden

    params = {"read": array(4, 3), "written": array(2, 4)}
    assert wcgc.trace_axes(function, params, array(2, 4)) == {
        "read": FLAX,
        "written": LeftAlone("it is handed to swap with inputs, which cannot be looked into"),
    }
