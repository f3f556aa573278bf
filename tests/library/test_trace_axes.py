"""`trace_axes` of plain functions, against perturbations and against what they were built from."""

import functools
import types

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P

import wcgc
from wcgc import FLAX, KernelAxes, LeftAlone

from helpers.perturbation import as_sets, connections, fan_in, gradients, slices
from helpers.traced import STACKED, array, mesh, one_hot


def reason(axes):
    assert isinstance(axes, LeftAlone), axes
    return axes.reason


def convolve(kernel, x, layout, groups=1, **kwargs):
    """A convolution of one image, without an axis of images."""
    return lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(1,) * (x.ndim - 1),
        padding="SAME",
        dimension_numbers=layout,
        feature_group_count=groups,
        **kwargs,
    )[0]


def convolve_zeros(kernel):
    return convolve(kernel[None], jnp.zeros((2, 4)), ("NWC", "WIO", "NWC"))[0]


def by_index(kernels, x):
    return jnp.stack([x[i] @ kernels[i] for i in range(3)])


def by_scan(kernels, x):
    return lax.scan(lambda _, pair: (0, pair[0] @ pair[1]), 0, (x, kernels))[1]


def by_counter(kernels, x):
    def body(i, results):
        row = lax.dynamic_index_in_dim(x, i, keepdims=False)
        return results.at[i].set(row @ lax.dynamic_index_in_dim(kernels, i, keepdims=False))

    return lax.fori_loop(0, 3, body, jnp.zeros((3, 2)))


def by_while(kernels, x):
    def step(state):
        i, results = state
        return i + 1, results.at[i].set(x[i] @ kernels[i])

    return lax.while_loop(lambda state: state[0] < 3, step, (0, jnp.zeros((3, 2))))[1]


@jax.custom_vjp
def halved(x):
    return x / 2


halved.defvjp(lambda x: (x / 2, None), lambda _, g: (g / 2,))


@jax.custom_jvp
def doubled(x):
    return x * 2


doubled.defjvp(lambda primals, tangents: (primals[0] * 2, tangents[0] * 2))


def in_blocks(kernel, x):
    devices = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    blocks = jax.shard_map(
        lambda w, x: lax.psum(x @ w, "i"), mesh=devices, in_specs=(P("i"), P("i")), out_specs=P()
    )
    sharding = jax.sharding.NamedSharding(devices, P("i"))
    return blocks(lax.with_sharding_constraint(kernel, sharding), x)


def gathered(kernel, x):
    devices = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = functools.partial(lax.all_gather, axis_name="i", tiled=True)
    return jax.shard_map(
        lambda w, x: x @ whole(w),
        mesh=devices,
        in_specs=(P("i"), P()),
        out_specs=P(),
        check_vma=False,
    )(kernel, x)


LAYERS = {
    # name: (function of kernel and input, shape of the kernel, axes of the input as in
    # `connections`, the axes to be found)
    "dense": (lambda w, x: x @ w, (4, 3), "f4", FLAX),
    "dense (out, in)": (lambda w, x: w @ x, (3, 4), "f4", wcgc.KernelAxes(-1, -2)),
    "einsum": (
        lambda w, x: jnp.einsum("td,hdk->thk", x, w),
        (2, 4, 3),
        "p2 f4",
        KernelAxes(-2, (-3, -1)),
    ),
    "einsum over several": (
        lambda w, x: jnp.einsum("hk,khd->d", x, w),
        (3, 2, 4),
        "f2 f3",
        KernelAxes((-3, -2), -1),
    ),
    "einsum with a batch axis": (
        lambda w, x: jnp.einsum("eb,bec->ec", x, w),
        (4, 2, 3),
        "f2 f4",
        KernelAxes(-3, -1, 1),
    ),
    "einsum that sums the kernel": (
        lambda w, x: jnp.einsum("i,iko->o", x, w),
        (4, 2, 3),
        "f4",
        KernelAxes(-3, -1),
    ),
    "multiply and sum": (lambda w, x: (x[:, None] * w).sum(0), (4, 3), "f4", FLAX),
    "multiply and mean": (lambda w, x: (w * x).mean(-1), (3, 4), "f4", KernelAxes(-1, -2)),
    "transposed and reshaped": (
        lambda w, x: x @ w.transpose(2, 0, 1).reshape(4, 6),
        (2, 3, 4),
        "f4",
        KernelAxes(-1, (-3, -2)),
    ),
    "reshaped input axes": (
        lambda w, x: x.reshape(6) @ w.reshape(6, 4),
        (2, 3, 4),
        "f2 f3",
        KernelAxes((-3, -2), -1),
    ),
    "an axis split": (
        lambda w, x: jnp.einsum("hk,hkd->d", x, w.reshape(2, 3, 4)),
        (6, 4),
        "f2 f3",
        FLAX,
    ),
    "cast": (lambda w, x: x @ w.astype(jnp.float16).astype(jnp.float32), (4, 3), "f4", FLAX),
    "repeated heads": (
        lambda w, x: jnp.einsum("d,dhk->hk", x, jnp.repeat(w, 2, axis=1)),
        (4, 2, 3),
        "f4",
        KernelAxes(-3, (-2, -1)),
    ),
    "fused, the product split": (
        lambda w, x: jnp.stack(jnp.split(x @ w, 3)),
        (4, 6),
        "f4",
        FLAX,
    ),
    "fused, the kernel split": (
        lambda w, x: jnp.stack([x @ part for part in jnp.split(w, 3, axis=1)]),
        (4, 6),
        "f4",
        FLAX,
    ),
    "concatenated with another": (
        lambda w, x: x @ jnp.concatenate([w, jnp.ones((4, 2))], axis=1),
        (4, 3),
        "f4",
        FLAX,
    ),
    "concatenated and cut again": (
        lambda w, x: x @ jnp.concatenate([jnp.ones((2, 3)), w], axis=0)[2:],
        (4, 3),
        "f4",
        FLAX,
    ),
    "scaled per filter": (
        lambda w, x: x @ (w * jnp.arange(1.0, 4)),
        (4, 3),
        "f4",
        FLAX,
    ),
    "padded with zeros": (
        lambda w, x: jnp.pad(x, 1) @ jnp.pad(w, ((1, 1), (0, 2))),
        (4, 3),
        "f4",
        FLAX,
    ),
    "reversed": (lambda w, x: x @ w[::-1], (4, 3), "f4", FLAX),
    "filters in another order": (lambda w, x: x @ w[:, np.array([2, 0, 1])], (4, 3), "f4", FLAX),
    "stacked, by index": (by_index, (3, 4, 2), "f3 f4", STACKED),
    "stacked, by scan": (by_scan, (3, 4, 2), "f3 f4", STACKED),
    "stacked, by a counter": (by_counter, (3, 4, 2), "f3 f4", STACKED),
    "stacked, by while": (by_while, (3, 4, 2), "f3 f4", STACKED),
    "stacked, by vmap": (jax.vmap(lambda w, x: x @ w), (3, 4, 2), "f3 f4", STACKED),
    "stacked, by map": (
        lambda w, x: lax.map(lambda pair: pair[0] @ pair[1], (x, w)),
        (3, 4, 2),
        "f3 f4",
        STACKED,
    ),
    "stacked along the last axis": (
        jax.vmap(lambda w, x: x @ w, in_axes=(2, 0)),
        (4, 2, 3),
        "f3 f4",
        KernelAxes(-3, -2, 2),
    ),
    "an ensemble, by vmap": (
        jax.vmap(lambda w, x: x @ w, in_axes=(0, None)),
        (3, 4, 2),
        "f4",
        KernelAxes(-2, (-3, -1)),
    ),
    "reshaped in another order": (
        lambda w, x: x @ lax.reshape(w, (4, 6), dimensions=(2, 0, 1)),
        (2, 3, 4),
        "f4",
        KernelAxes(-1, (-3, -2)),
    ),
    "zeros in between": (
        lambda w, x: x @ w + jnp.zeros(4) @ w + convolve_zeros(w),
        (4, 3),
        "f4",
        FLAX,
    ),
    "jit": (lambda w, x: jax.jit(jnp.matmul)(x, w), (4, 3), "f4", FLAX),
    "remat": (lambda w, x: jax.checkpoint(jnp.matmul)(x, w), (4, 3), "f4", FLAX),
    "custom_vjp": (lambda w, x: x @ halved(w), (4, 3), "f4", FLAX),
    "custom_jvp": (lambda w, x: doubled(x @ doubled(w)), (4, 3), "f4", FLAX),
    "cond": (
        lambda w, x: lax.cond(w.sum() > 0, lambda: x @ w, lambda: x @ (2 * w)),
        (4, 3),
        "f4",
        FLAX,
    ),
    "shard_map": (in_blocks, (4, 3), "f4", FLAX),
    "shard_map that gathers": (gathered, (4, 3), "f4", FLAX),
    "convolution": (
        functools.partial(convolve, layout=("NHWC", "HWIO", "NHWC")),
        (2, 3, 4, 3),
        "p3 p3 f4",
        FLAX,
    ),
    "convolution (out, in, ...)": (
        functools.partial(convolve, layout=("NCHW", "OIHW", "NCHW")),
        (3, 4, 2, 3),
        "f4 p3 p3",
        KernelAxes(-3, -4),
    ),
    "dilated convolution": (
        functools.partial(convolve, layout=("NWC", "WIO", "NWC"), rhs_dilation=(2,)),
        (3, 4, 3),
        "p5 f4",
        FLAX,
    ),
    "transposed convolution": (
        lambda w, x: lax.conv_transpose(
            x[None],
            w,
            (2,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            transpose_kernel=True,
        )[0],
        (3, 3, 4),
        "p4 f4",
        KernelAxes(-1, -2),
    ),
    "stacked convolutions": (
        jax.vmap(functools.partial(convolve, layout=("NWC", "WIO", "NWC"))),
        (3, 2, 4, 2),
        "f3 p4 f4",
        STACKED,
    ),
}

DEPTHWISE = {
    "grouped": (
        functools.partial(convolve, layout=("NWC", "WIO", "NWC"), groups=2),
        (3, 2, 6),
        "p4 f4",
        FLAX,
    ),
    "depthwise": (
        functools.partial(convolve, layout=("NWC", "WIO", "NWC"), groups=4),
        (3, 1, 8),
        "p4 f4",
        FLAX,
    ),
    "depthwise (w, channel, multiplier)": (
        lambda w, x: convolve(w.reshape(3, 1, 8), x, ("NWC", "WIO", "NWC"), groups=4),
        (3, 4, 2),
        "p4 f4",
        KernelAxes((), (-2, -1)),
    ),
    "depthwise (w, channel, 1)": (
        lambda w, x: convolve(w.reshape(3, 1, 4), x, ("NWC", "WIO", "NWC"), groups=4),
        (3, 4, 1),
        "p4 f4",
        KernelAxes((), (-2, -1)),
    ),
    "stacked grouped": (
        jax.vmap(functools.partial(convolve, layout=("NWC", "WIO", "NWC"), groups=2)),
        (3, 2, 2, 6),
        "f3 p4 f4",
        STACKED,
    ),
    "stacked depthwise": (
        jax.vmap(functools.partial(convolve, layout=("NWC", "WIO", "NWC"), groups=4)),
        (3, 2, 1, 4),
        "f3 p4 f4",
        STACKED,
    ),
}


# Of which other areas than "tensor" are not those of the computation.
BY_FILTER = {
    "a group of repeated heads": (
        lambda w, x: jnp.stack(
            [jnp.einsum("d,dhk->hk", x, part) for part in jnp.split(jnp.repeat(w, 2, 1), 2, 1)]
        ),
        (4, 2, 3),
        "f4",
        KernelAxes(-3, -1, 1),
    ),
    "experts side by side": (
        lambda w, x: jnp.stack(
            [x[e] @ w.reshape(6, 4)[3 * e : 3 * e + 3].reshape(1, 3, 4)[0] for e in range(2)]
        ),
        (2, 3, 4),
        "f2 f3",
        STACKED,
    ),
    "tiled": (lambda w, x: x @ jnp.tile(w, (1, 2)), (4, 3), "f4", FLAX),
}


@pytest.mark.parametrize("name", LAYERS | DEPTHWISE | BY_FILTER)
def test_axes_are_those_that_inputs_and_outputs_show(name):
    function, shape, inputs, expected = (LAYERS | DEPTHWISE | BY_FILTER)[name]
    x = array(*(int(axis[1:]) for axis in inputs.split()))
    axes = wcgc.trace_axes(function, array(*shape), x)
    assert axes == expected
    connected = connections(function, shape, inputs)
    assert as_sets(connected.any(axis=0)) == slices(axes, shape, "tensor")
    if name not in BY_FILTER:
        assert as_sets(connected) == slices(axes, shape, "instance")
    if name in LAYERS:
        assert as_sets(connected.any(axis=1)) == slices(axes, shape, "channel")


def test_experts_chosen_by_one_hot_inputs():
    def together(w, x, i):
        return jnp.einsum("te,ti,eio->to", jax.nn.one_hot(i, 3), x, w)

    def dispatched(w, x, i):
        return jnp.einsum("ted,edf->tef", jax.nn.one_hot(i, 3)[:, :, None] * x[:, None], w)

    for function in (together, dispatched):
        axes = wcgc.trace_axes(function, array(3, 4, 5), array(7, 4), array(7, dtype=jnp.int32))
        assert axes == STACKED


TEMPLATE = np.float32([0, 0, 1, 1, 2, 2])
MASKS = {
    "one place": lambda x: x * (jnp.arange(6.0) == x[0, 0]).astype(x.dtype)[:, None],
    "a template": lambda x: x * (x[:, 0] == TEMPLATE).astype(x.dtype)[:, None],
    "several features": lambda x: (jnp.arange(4.0) == x[:, :2, None]).reshape(6, 8).astype(x.dtype),
    "set places": lambda x: x * jnp.zeros(6).at[x[0, 0].astype(int)].set(1.0)[:, None],
    "chosen": lambda x: x * jnp.where(jnp.arange(6.0) == x[0, 0], 1.0, 0.0)[:, None],
    "labels": lambda x: (
        x.reshape(6, 4, 2) * jax.nn.one_hot(x[:, 0].astype(int), 4)[..., None]
    ).reshape(6, 8),
}


@pytest.mark.parametrize("name", MASKS)
def test_one_hot_inputs_pick_along_their_own_dimension(name):
    """A mask of positions picks no features."""

    def attend(params, x):
        query = jnp.einsum("td,dhk->thk", MASKS[name](x), params["query"])
        return jnp.einsum("thk,sk->hts", query, x @ params["key"])

    params = {"query": array(8, 2, 5), "key": array(8, 5)}
    axes = wcgc.trace_axes(attend, params, array(6, 8))
    assert axes == {"query": KernelAxes(-3, (-2, -1)), "key": FLAX}


def test_experts_by_ragged_dot():
    def function(w, x):
        return lax.ragged_dot(x, w, jnp.array([1, 1, 1]))

    axes = wcgc.trace_axes(function, array(3, 4, 2), array(3, 4))
    assert axes == STACKED
    one_by_one = functools.partial(functools.partial, lax.map)
    connected = connections(function, (3, 4, 2), "f3 f4", each=one_by_one)
    assert as_sets(connected.any(axis=0)) == slices(axes, (3, 4, 2), "tensor")
    assert as_sets(connected) == slices(axes, (3, 4, 2), "instance")


def test_a_convolution_by_multiply_and_sum():
    def function(w, x):
        shifted = jnp.stack([jnp.roll(x, -k, axis=0) for k in range(2)])
        return (shifted[..., None] * w[:, None]).sum((0, 2))

    axes = wcgc.trace_axes(function, array(2, 4, 3), array(4, 4))
    assert axes == KernelAxes((-3, -2), -1)
    connected = connections(function, (2, 4, 3), "p4 f4")
    assert as_sets(connected.any(axis=0)) == slices(axes, (2, 4, 3), "tensor")


def test_blocks_that_are_gathered_along_an_axis_of_their_own():
    devices = mesh(e=3)

    def function(w, x):
        def block(w, x):
            return jnp.einsum("bi,eio->beo", x, lax.all_gather(w[0], "e"))

        specs = {"in_specs": (P("e"), P()), "out_specs": P(), "check_vma": False}
        return jax.shard_map(block, mesh=devices, **specs)(w, x)

    assert wcgc.trace_axes(function, array(3, 4, 5), array(2, 4)) == STACKED


def sharded_over_eight(params, x):
    devices = mesh(e=4, m=2)

    def block(params, x):
        whole = lax.all_gather(params["gathered"], "m", axis=1, tiled=True)
        stage = params["stages"][0]
        hidden = jnp.einsum("td,edf->etf", x @ whole @ stage, params["experts"])
        hidden = jnp.tanh(lax.psum(hidden.sum(0), "e"))
        return lax.psum(hidden @ params["rows"], "m")

    specs = {"gathered": P(None, "m"), "stages": P("e"), "experts": P("e", None, "m")}
    return jax.shard_map(
        block,
        mesh=devices,
        in_specs=(specs | {"rows": P("m")}, P()),
        out_specs=P(),
        check_vma=False,
    )(params, x)


def test_kernels_in_blocks_on_eight_devices():
    params = {
        "gathered": array(6, 8),
        "stages": array(4, 8, 8),
        "experts": array(8, 8, 10),
        "rows": array(10, 6),
    }
    assert wcgc.trace_axes(sharded_over_eight, params, array(5, 6)) == {
        "gathered": FLAX,
        "stages": STACKED,
        "experts": KernelAxes(-2, (-3, -1)),
        "rows": FLAX,
    }


def test_weight_normalization(rng):
    def function(params, x):
        kernel = params["v"] * params["g"] / jnp.linalg.norm(params["v"], axis=0, keepdims=True)
        return jnp.tanh(x @ kernel)

    params = {"v": rng.normal(size=(5, 4)), "g": rng.normal(size=(1, 4))}
    params, x = jax.tree.map(jnp.float32, (params, rng.normal(size=(2, 5))))
    axes = wcgc.trace_axes(function, params, x)
    assert axes == {"v": FLAX, "g": LeftAlone("it is only multiplied elementwise")}
    moving = gradients(lambda params: function(params, x), params, count=6)
    # The gradient leaves out what is along the filter itself, so that no two filters share a span.
    assert fan_in(moving["v"], reads=2) == ({0}, {1})


def norm(x, axis):
    return jnp.linalg.norm(x, axis=axis, keepdims=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda w, x: (x @ w) / jnp.linalg.norm(w, axis=0),
        lambda w, x: jnp.tanh(x @ w * jnp.abs(w).max(0)) @ jnp.ones((3, 2)),
        lambda w, x: (x @ w).sum() + (w**2).sum(),
        lambda w, x: x @ w / jnp.sqrt((w**2).sum()),
        lambda w, x: x @ w / jnp.maximum(norm(x, 1) * norm(w, 0), 1e-8),
        lambda w, x: x @ w / jnp.sqrt(norm(x, 1) ** 2 * norm(w, 0) ** 2 + 1e-8),
    ],
    ids=["cosine", "largest", "penalty", "whole norm", "cosine at least", "cosine and eps"],
)
def test_a_factor_for_each_output_and_a_penalty_change_no_axes(function):
    assert wcgc.trace_axes(function, array(4, 3), array(2, 4)) == FLAX


def test_the_channel_area_of_a_depthwise_kernel_is_the_kernel():
    axes = KernelAxes((), (-2, -1))
    kernel = np.float32(np.random.default_rng(0).normal(size=(3, 4, 2)))
    for area in ("channel", "global"):
        centered = wcgc.centralize(kernel, area, axes=axes)
        np.testing.assert_allclose(centered, kernel - kernel.mean(), atol=1e-6)
    for area in ("tensor", "instance"):
        centered = wcgc.centralize(kernel, area, axes=axes)
        np.testing.assert_allclose(centered, kernel - kernel.mean(0), atol=1e-6)


@st.composite
def products(draw):
    """A kernel's axes in any order, and a function that multiplies with it in some way."""
    roles = draw(st.lists(st.sampled_from(["in", "out", "batch"]), min_size=2, max_size=5))
    hypothesis.assume({"in", "out"} <= set(roles))
    shape = tuple(draw(st.sampled_from([2, 3, 4, 6])) for _ in roles)
    order = sorted(range(len(roles)), key=lambda axis: ["batch", "in", "out"].index(roles[axis]))
    sizes = [
        int(np.prod([n for n, role in zip(shape, roles, strict=True) if role == wanted]))
        for wanted in ("batch", "in", "out")
    ]
    way = draw(st.sampled_from(["matmul", "einsum", "sum", "scan", "index", "conv"]))
    changes = draw(st.lists(st.sampled_from(["scale", "cast", "flip", "split", "jit"]), max_size=3))

    def change(kernel, name):
        if name == "scale":
            return kernel * jnp.arange(1.0, 1 + sizes[2])
        if name == "cast":
            return kernel.astype(jnp.float16).astype(jnp.float32)
        if name == "flip":
            return kernel[:, ::-1, ::-1]
        if name == "jit":
            return jax.jit(jnp.negative)(kernel)
        return jnp.concatenate([kernel[..., :1], kernel[..., 1:]], axis=-1)

    def function(kernel, x):
        kernel = kernel.transpose(order).reshape(sizes)
        for name in changes:
            kernel = change(kernel, name)
        if way == "matmul":
            return x[:, None] @ kernel
        if way == "einsum":
            return jnp.einsum("bio,bi->ob", kernel, x)
        if way == "sum":
            return (kernel * x[..., None]).sum(1)
        if way == "scan":
            return lax.scan(lambda _, pair: (0, pair[0] @ pair[1]), 0, (x, kernel))[1]
        if way == "index":
            return [x[i] @ kernel[i] for i in range(sizes[0])]
        convolved = jax.vmap(functools.partial(convolve, layout=("NWC", "WIO", "NWC")))
        return convolved(kernel[:, None], x[:, None])

    return roles, shape, function, array(*sizes[:2])


@hypothesis.given(products())
def test_each_axis_has_the_role_that_it_was_given(product):
    roles, shape, function, x = product
    axes = wcgc.trace_axes(function, array(*shape), x)
    found = dict(zip(("in", "out", "batch", "spatial"), axes.resolve(len(shape)), strict=True))
    for role in ("in", "out", "batch"):
        assert set(found[role]) == {axis for axis, given in enumerate(roles) if given == role}


def low_rank(params, x):
    return x @ (params["w"] + 0.5 * params["a"] @ params["m"] @ params["b"])


def test_products_of_parameters_added_to_a_kernel():
    shapes = {"w": (6, 5), "a": (6, 2), "m": (2, 3), "b": (3, 5)}
    params = {name: array(*shape) for name, shape in shapes.items()}
    assert wcgc.trace_axes(low_rank, params, array(7, 6)) == dict.fromkeys(shapes, FLAX)

    def after_the_input(params, x):
        return x @ params["w"] + 0.5 * (x @ params["a"]) @ params["m"] @ params["b"]

    assert wcgc.trace_axes(after_the_input, params, array(7, 6)) == dict.fromkeys(shapes, FLAX)


def test_products_added_to_a_kernel_of_one_output():
    params = {"w": array(64, 1), "a": array(64, 4), "b": array(4, 1)}
    axes = wcgc.trace_axes(lambda p, x: x @ (p["w"] + p["a"] @ p["b"]), params, array(2, 64))
    assert axes["w"] == FLAX


def test_products_added_to_a_convolution_of_one_input():
    def function(p, x):
        kernel = p["w"] + (p["a"] @ p["b"]).reshape(3, 3, 1, 6)
        return convolve(kernel, x, ("NHWC", "HWIO", "NHWC"))

    params = {"w": array(3, 3, 1, 6), "a": array(9, 2), "b": array(2, 6)}
    axes = wcgc.trace_axes(function, params, array(8, 8, 1))
    assert wcgc.explain(params, axes=axes).leaves["w"].slice_axes == (0, 1, 2)


def test_products_of_each_member_added_to_one_kernel():
    params = {"w": array(6, 5), "a": array(3, 6, 2), "b": array(3, 2, 5)}

    def members(params, x):
        one = lambda a, b, x: x @ (params["w"] + a @ b)  # noqa: E731
        return jax.vmap(one, (0, 0, None))(params["a"], params["b"], x)

    axes = wcgc.trace_axes(members, params, array(2, 6))
    assert axes == {"w": FLAX, **dict.fromkeys("ab", KernelAxes(-2, (-3, -1)))}


def test_products_of_parameters_whose_order_is_not_known_are_left_alone():
    def two_paths(params, x):
        return x @ (params["w"] + (params["a"] + params["c"]) @ params["b"])

    params = {"w": array(6, 5), "a": array(6, 2), "c": array(6, 2), "b": array(2, 5)}
    axes = wcgc.trace_axes(two_paths, params, array(7, 6))
    assert axes.pop("w") == FLAX
    assert all("multiplied with constants or other parameters" in reason(v) for v in axes.values())


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("bias", [(2, 5), (1, 5)])
@pytest.mark.parametrize("heads", ["h", ""], ids=["each its keys", "one key for all"])
def test_a_bias_does_not_tell_how_queries_that_are_parameters_are_read(count, bias, heads):
    """As in Flax's and Keras's attention with learned queries."""

    def attend(params, x):
        query = jnp.einsum("nd,dhk->nhk", params["latent"], params["query"]) + params["bias"]
        key = jnp.einsum(f"td,d{heads}k->t{heads}k", x, params["key"])
        return jnp.einsum(f"nhk,t{heads}k->hnt", query, key)

    key = array(8, 2, 5) if heads else array(8, 5)
    params = {"latent": array(count, 8), "query": array(8, 2, 5), "key": key}
    axes = wcgc.trace_axes(attend, {**params, "bias": array(*bias)}, array(7, 8))
    assert axes.pop("key") == (KernelAxes(-3, (-2, -1)) if heads else FLAX)
    assert reason(axes.pop("bias")) == "it is only added to a product of parameters"
    for left in axes.values():
        assert "multiplied with constants or other parameters" in reason(left)


def sharded(function, count, w, x, places):
    """A function of blocks on so many devices, summed over them or put together."""
    devices = mesh(h=count)
    blocks = jax.shard_map(function, mesh=devices, in_specs=places[:2], out_specs=places[2])
    return wcgc.trace_axes(blocks, w, x)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_number_of_devices_does_not_matter(count):
    """Where it is that of heads, too."""

    def out(w, x):
        return lax.psum(jnp.einsum("thk,hkd->td", x, w), "h")

    axes = sharded(out, count, array(4, 3, 5), array(7, 4, 3), (P("h"), P(None, "h"), P()))
    assert slices(axes, (4, 3, 5), "tensor") == slices(
        KernelAxes((-3, -2), -1), (4, 3, 5), "tensor"
    )

    def grouped(w, x):
        project = lambda w, x: jnp.einsum("td,dhk->thk", x, w)  # noqa: E731
        devices = mesh(h=count)
        specs = {"in_specs": (P(None, "h"), P()), "out_specs": P(None, "h")}
        return jax.shard_map(project, mesh=devices, **specs)(jnp.repeat(w, 2, 1), x)

    assert wcgc.trace_axes(grouped, array(5, 4, 3), array(7, 5)) == KernelAxes(-3, (-2, -1))


def test_products_of_parameters_that_may_be_read_either_way_are_left_alone():
    def seeds(params, x):
        return jnp.einsum("nk,btk->btn", params["seeds"] @ params["w"], x)

    params = {"seeds": array(6, 4), "w": array(4, 5)}
    axes = wcgc.trace_axes(seeds, params, array(2, 7, 5))
    assert all("multiplied with constants or other parameters" in reason(v) for v in axes.values())


MASK = np.tril(np.ones((4, 4), np.float32))


def embedded(w, i):
    return w[i] @ w.T


def recurrent_twice(w, x):
    return jnp.tanh(x @ w) @ w.T


def called_back(w, x):
    return x @ jax.pure_callback(lambda w: w, array(4, 4), w)


def shifted(w, x):
    return jnp.pad(x[:, None] * w, 1)


def sampled(w, x, start=None):
    """A loop that feeds back what it has sampled."""

    def step(token, _):
        logits = token @ w + x
        return jax.nn.one_hot(logits.argmax(-1), 4), logits

    return lax.scan(step, one_hot(x) if start is None else start, None, 3)[1]


def called_back_with_inputs(w, x):
    return jax.pure_callback(lambda w, x: x, array(2, 4), w, x)


ALONE = {
    # what is said: functions of a (4, 4) parameter and a (2, 4) input
    "only added": [
        lambda w, x: jnp.stack([x, x], 1) + w[np.array([[0, 1], [1, 2]])],
        lambda w, x: x[:, None] + w,
        lambda w, x: lax.scan(lambda c, b: (jnp.tanh(c + b), None), x, w)[0],
    ],
    "only multiplied elementwise": [
        lambda w, x: x[:, None] * w,
        lambda w, x: x[0, 0] * w,
        lambda w, x: lax.scan(lambda c, s: (jnp.tanh(c) * s, None), x, w)[0],
        lambda w, x: jnp.tanh(x[:, None] * w).sum(1),
        lambda w, x: jnp.einsum("bi,ij->bij", x, w),
        lambda w, x: (x[:, None] * w) * w,
        shifted,
        lambda w, x: (x[:, None] * w) @ jnp.ones((4, 3)),
    ],
    "only looked up by index": [
        lambda w, x: w[x[0].astype(jnp.int32)],
        lambda w, x: jax.nn.one_hot(x[0].astype(jnp.int32), 4) @ w,
        lambda w, x: jnp.take(w, x[0].astype(jnp.int32), axis=0) @ x[0],
        lambda w, x: jnp.eye(4)[x[0].astype(jnp.int32)] @ w,
        lambda w, x: jnp.where(x[0].astype(int)[:, None] == jnp.arange(4), 1.0, 0.0) @ w,
        lambda w, x: jnp.where(x[0][:, None] > 0, jax.nn.one_hot(x[0].astype(int), 4), 0) @ w,
        lambda w, x: jnp.zeros((2, 4)).at[jnp.arange(2), x[:, 0].astype(jnp.int32)].set(1.0) @ w,
        lambda w, x: jnp.zeros((2, 4)).at[jnp.arange(2), x[:, 0].astype(jnp.int32)].add(1.0) @ w,
        lambda w, x: jnp.pad(one_hot(x)[1:], ((1, 0), (0, 0))) @ w,  # teacher forcing
        lambda w, x: jnp.concatenate([jnp.zeros((1, 4)), one_hot(x)[1:]]) @ w,
        lambda w, x: -one_hot(x) @ w,
        lambda w, x: ((x[:, :1] == jnp.arange(4.0)) & (x[:, 1:2] > 0)).astype(x.dtype) @ w,
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: one_hot(x), lambda: jnp.zeros((2, 4))) @ w,
        sampled,
        lambda w, x: sampled(w, x, jnp.zeros((2, 4))),
        lambda w, x: sampled(w, x, jax.nn.one_hot(jnp.zeros(2, int), 4)),
    ],
    "tied embeddings": [
        lambda w, x: jnp.tanh(w[x[0].astype(jnp.int32)]) @ w.T,
        # As where the row of the padding is set to zero first.
        lambda w, x: jnp.tanh(w.at[0].set(0.0)[x[0].astype(jnp.int32)]) @ w.T,
        lambda w, x: jnp.cumsum(w, 1)[x[0].astype(jnp.int32)] @ w.T,
    ],
    "a kernel in one place, and in another it goes through": [
        lambda w, x: (x + jnp.tanh(w)[0]) @ w.T,
        lambda w, x: (x * jax.nn.sigmoid(w)[0]) @ w,
        lambda w, x: (x * jnp.linalg.norm(w, axis=1)) @ w,
        lambda w, x: (x + jnp.sort(w)[0]) @ w,
        lambda w, x: (x**2).sum(-1, keepdims=True) - 2 * x @ w.T + (w**2).sum(-1),  # distances
        lambda w, x: jnp.maximum(x @ w, jnp.abs(w).max(0)),
    ],
    "only concatenated with inputs": [lambda w, x: jnp.concatenate([w, x])],
    "only put in place of some inputs": [lambda w, x: jnp.where(x > 0, x, w[:2])],
    "only an operand of max": [lambda w, x: jnp.maximum(x[:, None], w)],
    "meets no input": [lambda w, x: x, lambda w, x: (x, w)],
    "its axis 0 is an input axis in one place and an output axis in another": [recurrent_twice],
    "a kernel in one place and added in another": [lambda w, x: (x @ w)[:, None] + w],
    "varies along the axes of the mean": [
        lambda w, x: x @ (w * MASK),
        lambda w, x: x @ jnp.tril(w),
        lambda w, x: x @ jnp.where(MASK > 0, w, 0),
        lambda w, x: jnp.einsum("bi,bio->bo", x, w * x[:, :, None]),
        lambda w, x: x @ (w * jnp.abs(w)),
        lambda w, x: jnp.einsum("bij,bij->bi", x[:, None] * w, x[:, None] * jnp.ones((4, 1))),
        lambda w, x: x @ (w / jnp.linalg.norm(w, axis=1, keepdims=True)),
    ],
    "goes through tanh": [
        lambda w, x: x @ jnp.tanh(w),
        lambda w, x: x + jnp.tanh(w)[0],
        lambda w, x: lax.cond(jnp.tanh(w).sum() > 0, lambda: x, lambda: -x),
    ],
    "goes through mul": [lambda w, x: x @ (w * w)],
    "goes through div": [lambda w, x: x[:, None] / w],
    "goes through exp": [lambda w, x: x @ (jnp.exp(w) * jnp.tanh(w))],
    "only a summary of it is used": [
        lambda w, x: x + w.sum(),
        lambda w, x: lax.pad(x, w[0, 0], [(1, 1, 0), (0, 0, 0)]),
    ],
    "multiplied with constants or other parameters": [
        lambda w, x: x @ (MASK @ w),
        lambda w, x: MASK @ w + x[0],
    ],
    "convolved with constants": [
        lambda w, x: x @ convolve(jnp.ones((3, 4, 4)), w, ("NWC", "WIO", "NWC"))
    ],
    "convolved in groups of samples": [
        lambda w, x: lax.conv_general_dilated(
            x[..., None], w[..., None], (1,), "SAME", batch_group_count=2
        )
    ],
    "padded with more than zeros": [lambda w, x: jnp.pad(x, 1) @ jnp.pad(w, 1, constant_values=1)],
    "an operand of ragged_dot": [lambda w, x: lax.ragged_dot(w, x[None].mT, jnp.array([4]))],
    "goes through convert_element_type": [lambda w, x: x @ w.astype(jnp.int8).astype(x.dtype)],
    "goes through cumsum": [lambda w, x: x @ jnp.cumsum(w, axis=0)],
    "goes through pure_callback": [called_back],
    "handed to pure_callback with inputs": [called_back_with_inputs],
    "combined with itself": [
        lambda w, x: x @ (w - w.mean(0)),
        lambda w, x: x @ (w + w.T),
        lambda w, x: x @ (w @ w),
    ],
    "cut or rearranged along its axis 0": [
        lambda w, x: x @ w[np.array([2, 0, 1, 3])],
        lambda w, x: x[:, :2] @ w[:2] + x[:, 2:] @ w[2:],
        lambda w, x: x[:, :3] @ w[:3],
        lambda w, x: x[:, :3] @ lax.pad(w, 0.0, [(-1, 0, 0), (0, 0, 0)]),
        lambda w, x: x @ lax.pad(w, 0.0, [(1, -1, 0), (0, 0, 0)]),
    ],
    "its axis 0 is partly": [lambda w, x: jnp.einsum("bi,eio->beo", x[:, :2], w.reshape(2, 2, 4))],
    "it is only multiplied elementwise": [
        lambda w, x: (lambda t: jnp.einsum("bid,bjd->bij", t, t))(x[:, :, None] * w)
    ],
    "it has no output axis: it is summed over whole": [
        lambda w, x: jnp.einsum("ij,ij->", w, x.T @ x)
    ],
    "it has no output axis: each of a batch has one number for an input": [
        lambda w, x: jnp.einsum("bij,ij->bi", x[:, :, None] * x[:, None], w),
        lambda w, x: jnp.stack([x @ w[:, j] for j in range(4)]),
    ],
    "convolved with a kernel that depends on the inputs": [
        lambda w, x: convolve(x.reshape(2, 4, 1), w, ("NWC", "WIO", "NWC"))
    ],
}


@pytest.mark.parametrize(
    ("said", "function"),
    [(said, function) for said, functions in ALONE.items() for function in functions],
)
def test_what_is_left_alone_says_why(said, function):
    assert said in reason(wcgc.trace_axes(function, array(4, 4), array(2, 4)))


def test_uses_in_a_loop_whose_first_pass_knows_less():
    def recurrence(params, x):
        def step(h, x):
            return jnp.tanh(x @ params["w"] + h @ params["u"]), None

        start = jnp.broadcast_to(params["start"], (2, 5))
        return lax.scan(step, start, x)[0]

    params = {"w": array(4, 5), "u": array(5, 5), "start": array(1, 5)}
    axes = wcgc.trace_axes(recurrence, params, array(3, 2, 4))
    assert axes["w"] == axes["u"] == FLAX
    assert "carried along with inputs" in reason(axes["start"])


def test_the_first_step_of_an_unrolled_loop_may_have_constants():
    def recurrence(params, x, start):
        h = jnp.full((2, 5), start)
        for t in range(3):
            h = jnp.tanh(x[t] @ params["w"] + h @ params["u"])
        return h

    params = {"w": array(4, 5), "u": array(5, 5)}
    for start in (0.0, 1.0):
        axes = wcgc.trace_axes(recurrence, params, array(3, 2, 4), start)
        assert axes == {"w": FLAX, "u": FLAX}


def test_loops_that_rearrange_a_parameter_are_left_alone():
    def turned(w, x):
        return lax.fori_loop(0, 3, lambda _, c: (c[0] @ c[1], c[1].T), (x, w))[0]

    assert "rearranged differently" in reason(wcgc.trace_axes(turned, array(4, 4), array(2, 4)))


def test_zeros_that_inputs_choose_may_be_put_together():
    def function(w, x):
        zeros = lax.cond(x[0, 0] > 0, lambda: jnp.zeros((2, 2)), lambda: jnp.zeros((2, 2)))
        return x @ w + jnp.concatenate([zeros, zeros], 1) @ w

    assert wcgc.trace_axes(function, array(4, 3), array(2, 4)) == FLAX


def test_a_choice_between_kernels():
    def function(params, x, i):
        either = lax.cond(i > 0, lambda: params["a"], lambda: params["b"])
        return x @ either + lax.switch(i, [lambda: x @ params["c"], lambda: x[:, :3]])

    params = dict.fromkeys("abc", array(4, 3))
    axes = wcgc.trace_axes(function, params, array(2, 4), array(dtype=jnp.int32))
    assert axes == dict.fromkeys("abc", FLAX)


def test_experts_chosen_by_the_inputs():
    def function(w, x, i):
        return jnp.einsum("ti,tio->to", x, w[i])

    axes = wcgc.trace_axes(function, array(3, 4, 5), array(7, 4), array(7, dtype=jnp.int32))
    assert axes == STACKED


def test_an_axis_that_is_numbered_in_one_place_and_kept_in_another_is_out():
    def function(w, x):
        return jnp.einsum("bi,cio->cbo", x, w), x @ w[0]

    axes = wcgc.trace_axes(function, array(3, 4, 5), array(2, 4))
    assert axes == KernelAxes(-2, (-3, -1))


def test_names_and_types_do_not_count():
    class Odd(nnx.Module):
        def __init__(self):
            self.bias = nnx.Param(jnp.ones((3, 4)))
            self.kernel = nnx.Param(jnp.ones((2, 3)))
            self.count = nnx.BatchStat(jnp.ones((2, 3)))

        def __call__(self, x):
            return x @ self.bias[...].T + self.kernel[...] + self.count[...]

    axes = wcgc.trace_axes(lambda model, x: model(x), Odd(), array(2, 4))
    assert axes["bias"] == KernelAxes(-1, -2)
    assert axes["kernel"] == LeftAlone("it is only added")
    assert axes["count"] == LeftAlone("it is a BatchStat")


def test_modules_may_hold_trees_and_arrays_by_themselves():
    class Odd(nnx.Module):
        def __init__(self):
            self.tree = nnx.Param({"w": jnp.ones((4, 4)), "b": jnp.ones((3, 4))})
            self.kernel = nnx.Param(jnp.ones((4, 5)))
            self.plain = nnx.data(jnp.ones((5, 3)))

        def __call__(self, x):
            tree = self.tree.get_value()
            return (x @ tree["w"] + tree["b"][0]) @ self.kernel[...] @ self.plain

    axes = wcgc.trace_axes(lambda model, x: model(x), Odd(), array(2, 4))
    assert axes == {"tree": LeftAlone("not an array"), "kernel": FLAX, "plain": FLAX}


class OneKernel(nnx.Module):
    def __init__(self, kernel):
        self.kernel = nnx.Param(kernel)


def test_functions_of_a_module_take_all_kinds_of_arguments():
    def function(model, x, power, *, shift, flag):
        assert flag is True
        return ((x + shift) @ model.kernel[...]) ** power

    model = OneKernel(jnp.ones((4, 3)))
    axes = wcgc.trace_axes(function, model, array(2, 4), 2, shift=array(4), flag=True)
    assert axes == {"kernel": FLAX}


@pytest.mark.parametrize("hold", [lambda w: {"kernel": w}, OneKernel], ids=["tree", "module"])
def test_functions_see_how_arrays_are_sharded(hold):
    devices = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    kernel = jax.device_put(
        np.ones((4, 3), np.float32), jax.sharding.NamedSharding(devices, P(None, "i"))
    )

    def function(params, x):
        w = params["kernel"] if isinstance(params, dict) else params.kernel[...]
        assert jax.typeof(w).sharding.spec == P(None, "i")
        return x @ w

    with jax.set_mesh(devices):
        axes = wcgc.trace_axes(function, hold(kernel), array(2, 4))
    assert axes == {"kernel": FLAX}


def test_the_module_is_not_changed():
    model = nnx.Sequential(nnx.BatchNorm(4, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    axes = wcgc.trace_axes(lambda model, x: model(x), model, array(2, 4))
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert axes["layers"][0]["mean"] == LeftAlone("it is a BatchStat")


def layer(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]


@pytest.fixture
def layer_params(rng):
    shapes = {"w": (4, 5), "b": (5,), "v": (5, 3)}
    return {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}


def test_the_result_serves_as_axes(layer_params, standard_promotion):
    axes = wcgc.trace_axes(layer, layer_params, jnp.ones((2, 4)))
    centered = wcgc.centralize(layer_params, axes=axes)
    for name in ("w", "v"):
        np.testing.assert_allclose(centered[name].mean(0), 0, atol=1e-6)
    np.testing.assert_array_equal(centered["b"], layer_params["b"])
    tx = wcgc.centralized(optax.adam(1e-3), axes=axes)
    updates, _ = tx.update(layer_params, tx.init(layer_params), layer_params)
    assert jax.tree.structure(updates) == jax.tree.structure(layer_params)
    assert wcgc.measure(layer_params, axes=axes).leaves.keys() == {"w", "v"}


def test_explain_gives_the_reasons():
    axes = wcgc.trace_axes(lambda w, x: x[:, None] + w, array(4, 4), array(2, 4))
    (row,) = wcgc.explain(array(4, 4), axes=axes).rows
    assert row.reason == "it is only added"


@pytest.mark.parametrize(
    "view",
    [
        lambda model: nnx.state(model, nnx.Param),
        lambda model: nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        lambda model: model,
    ],
)
def test_the_axes_of_a_module_serve_every_view_of_it(view):
    model = nnx.eval_shape(lambda: nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0)))
    axes = wcgc.trace_axes(lambda model, x: model(x), model, array(2, 3, 4))
    known = wcgc.axes_of(model)
    rows = wcgc.explain(view(model), axes=axes).rows
    averaged = [row.slice_axes for row in rows]
    assert averaged == [row.slice_axes for row in wcgc.explain(view(model), axes=known).rows]
    assert sum(spanned is not None for spanned in averaged) == 4


def test_leaves_that_cannot_be_kernels():
    params = {
        "count": jnp.ones((2, 3), jnp.int32),
        "bias": jnp.ones(3),
        "empty": jnp.ones((0, 3)),
        "activation": jax.nn.relu,
        "none": None,
    }
    axes = wcgc.trace_axes(lambda params, x: x + params["bias"], params, jnp.ones(3))
    assert axes == {
        "count": LeftAlone("dtype int32 is not floating or complex"),
        "bias": LeftAlone("fewer than two axes"),
        "empty": LeftAlone("no elements"),
        "activation": LeftAlone("not an array"),
        "none": None,
    }


def test_arguments_without_a_shape_are_passed_as_they_are():
    def function(w, x, power, *, flag, options):
        assert flag is True
        assert options == {"name": "sum", "scale": 2.0}
        return (x @ w) ** power

    axes = wcgc.trace_axes(
        function,
        array(4, 3),
        np.ones((2, 4), np.float32),
        2,
        flag=True,
        options={"name": "sum", "scale": 2.0},
    )
    assert axes == FLAX


@pytest.mark.parametrize(
    "other",
    [np.float32, jnp.float32, np.dtype(np.float32), types.SimpleNamespace(shape=(2, 4))],
    ids=["class", "type", "dtype", "shape alone"],
)
def test_what_has_a_shape_or_a_dtype_alone_is_passed_as_it_is(other):
    def function(params, x, given):
        assert given is params["other"] is other
        return x @ params["w"]

    params = {"w": array(4, 3), "other": other}
    axes = wcgc.trace_axes(function, params, array(2, 4), other)
    assert axes == {"w": FLAX, "other": LeftAlone("not an array")}


def test_what_is_no_kernel_counts_as_a_constant():
    params = {"w": array(4, 3), "scale": array(4), "bias": array(3)}
    axes = wcgc.trace_axes(lambda p, x: x + p["scale"] @ p["w"] + p["bias"], params, array(2, 3))
    assert axes == {
        "w": LeftAlone(
            "it is multiplied with constants or other parameters before it meets the inputs"
        ),
        **dict.fromkeys(("scale", "bias"), LeftAlone("fewer than two axes")),
    }


def test_random_keys_are_inputs():
    def function(w, key):
        return jax.random.normal(key, (2, 4)) @ w

    assert wcgc.trace_axes(function, array(4, 3), jax.random.key(0)) == FLAX


def test_complex_kernels():
    def function(params, x):
        return x @ lax.complex(params["real"], params["imag"]) @ params["w"]

    params = {"real": array(4, 3), "imag": array(4, 3), "w": array(3, 2, dtype=jnp.complex64)}
    axes = wcgc.trace_axes(function, params, array(2, 4, dtype=jnp.complex64))
    assert axes == dict.fromkeys(params, FLAX)


def test_nothing_is_computed_or_printed(capfd):
    def function(w, x):
        jax.debug.print("{}", w)
        return x @ w

    big = array(100_000, 100_000)
    assert wcgc.trace_axes(function, big, array(100_000, 100_000)) == FLAX
    assert capfd.readouterr().out == ""


def test_it_works_inside_jit(layer_params):
    @jax.jit
    def centered(params, x):
        return wcgc.centralize(params, axes=wcgc.trace_axes(layer, params, x))

    np.testing.assert_allclose(centered(layer_params, jnp.ones((2, 4)))["w"].mean(0), 0, atol=1e-6)


def test_references_are_refused():
    if not hasattr(jax, "new_ref"):
        pytest.skip("no references in this version of JAX")

    def function(w, x):
        reference = jax.new_ref(w)
        return x @ reference[...] + x @ w

    said = reason(wcgc.trace_axes(function, array(4, 4), array(2, 4)))
    assert "cannot be looked into" in said


def test_equinox_modules_keep_their_structure():
    model = eqx.nn.MLP(4, 3, 5, 1, key=jax.random.key(0))
    axes = wcgc.trace_axes(lambda model, x: jax.vmap(model)(x), model, array(2, 4))
    assert isinstance(axes, eqx.nn.MLP)
    assert axes.layers[0].weight == KernelAxes(-1, -2)
    assert axes.layers[0].bias == LeftAlone("fewer than two axes")


@pytest.mark.parametrize(("function", "kind"), [(None, "NoneType"), (3, "int"), ("apply", "str")])
def test_what_is_not_callable_is_rejected(function, kind):
    with pytest.raises(TypeError) as caught:
        wcgc.trace_axes(function, array(4, 3), array(2, 4))
    assert str(caught.value) == (
        f"function must be callable, got {kind}. For a model that is called itself give lambda "
        "model, *args: model(*args)."
    )


def test_params_without_arrays_are_rejected():
    with pytest.raises(TypeError) as caught:
        wcgc.trace_axes(lambda model, x: x, [object(), 3], array(2))
    assert str(caught.value) == (
        "params holds no array, but a leaf of type object. Give arrays in containers that JAX "
        "knows; jax.tree_util.register_dataclass makes a class one."
    )
    assert wcgc.trace_axes(lambda params, x: x, {}, array(2)) == {}


def test_without_inputs_there_is_nothing_to_meet():
    x = jnp.ones((2, 4))
    with pytest.raises(ValueError, match="no array") as caught:
        wcgc.trace_axes(lambda w: x @ w, array(4, 3))
    assert str(caught.value) == (
        "trace_axes follows the parameters to where they meet the inputs, but there is no array "
        "among the arguments beside them. Give the inputs as arguments, or jax.ShapeDtypeStruct "
        "in their place; an array that the function has from elsewhere counts as a constant."
    )
