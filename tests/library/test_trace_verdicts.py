"""What `trace_axes` concludes from the places where parameters meet inputs, reasons in full."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import wcgc
from wcgc import FLAX, KernelAxes, LeftAlone

from helpers.traced import (
    ADDED,
    BONDED,
    LOOKED_UP,
    MULTIPLIED,
    SELF,
    STACKED,
    VARYING,
    array,
    beside,
    cut,
    index,
    mesh,
    through,
)

BESIDE_PRODUCT = LeftAlone("it is only added to a product of parameters")
TIED = LeftAlone("it is looked up by index and multiplied as well: tied embeddings")
SUMMARY = LeftAlone("only a summary of it is used")


def two_ways(here, there):
    return LeftAlone(
        f"it is used in two ways: its axis 0 is {here} axis in one place and {there} axis in "
        "another"
    )


def window(kernel, x, groups=1):
    """A convolution of one signal (w, i) with a kernel (w, i, o)."""
    return lax.conv_general_dilated(
        x[None],
        kernel,
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
    )[0]


def heads(x, kernel):
    """What three heads make with a kernel (d, 1, k) or (d, 3, k)."""
    return jnp.einsum("td,dhk->thk", x, jnp.broadcast_to(kernel, (len(kernel), 3, kernel.shape[2])))


RAMP = np.arange(1.0, 5, dtype=np.float32)

ONE_PARAMETER = {
    # name: (function of parameter and input, their shapes, what is concluded)
    # What becomes of it first.
    "a function of it": (lambda w, x: x @ jnp.tanh(w), (4, 3), (2, 4), through("tanh")),
    "its sum with a function of it": (
        lambda w, x: x @ (w + jnp.tanh(w)),
        (4, 3),
        (2, 4),
        through("tanh"),
    ),
    "a function of it and itself": (
        lambda w, x: x @ (jnp.tanh(w) + w),
        (4, 3),
        (2, 4),
        through("tanh"),
    ),
    "its sum with its transpose": (lambda w, x: x @ (w + w.T), (4, 4), (2, 4), SELF),
    "an operand of an unknown function": (
        lambda w, x: jax.pure_callback(lambda w, x: x, x, w, x),
        (4, 3),
        (2, 4),
        LeftAlone("it is handed to pure_callback with inputs, which cannot be looked into"),
    ),
    # What is cut, and along which axis.
    "a part of a window": (lambda w, x: window(w[1:], x), (4, 3, 2), (6, 3), cut(0)),
    "a block of merged axes": (
        lambda w, x: x @ w.reshape(12, 5)[4:8],
        (3, 4, 5),
        (2, 4),
        cut(0),
    ),
    "a part of the second of two summed axes": (
        lambda w, x: jnp.einsum("bij,ijo->bo", x[:, :, :2], w[:, 1:]),
        (4, 3, 5),
        (2, 4, 3),
        cut(1),
    ),
    "a part of the filters": (lambda w, x: x @ w[:, :2], (4, 3), (2, 4), FLAX),
    "the only row among zeros, of which some are cut off": (
        lambda w, x: x @ jnp.pad(w, ((2, 2), (0, 0)))[1:],
        (1, 3),
        (2, 4),
        FLAX,
    ),
    # What it is multiplied with.
    "a scaled window": (
        lambda w, x: window(w * RAMP[:, None, None], x),
        (4, 3, 2),
        (6, 3),
        VARYING,
    ),
    "a gate for each filter, from inputs": (
        lambda w, x: x[0, :2] @ (w * jnp.tanh(x[1])),
        (2, 3),
        (2, 3),
        FLAX,
    ),
    "a mask of two inputs": (lambda w, x: x @ (w * RAMP[:2, None]), (2, 3), (4, 2), VARYING),
    "all of it multiplied by inputs, then a product": (
        lambda w, x: (x * w) @ x[0],
        (4, 3),
        (4, 3),
        MULTIPLIED,
    ),
    "all of it multiplied by inputs, with an axis of length one": (
        lambda w, x: (x * w) @ x[0, 0],
        (4, 1, 3),
        (4, 1, 3),
        MULTIPLIED,
    ),
    # What an index picks.
    "kernels picked by inputs": (
        lambda w, x: jnp.einsum("ti,tio->to", x, w[index(x)]),
        (3, 2, 2),
        (5, 2),
        STACKED,
    ),
    "rows picked by inputs, multiplied": (
        lambda w, x: jnp.einsum("i,tio->to", x[0], w[index(x)]),
        (3, 4, 1),
        (5, 4),
        LOOKED_UP,
    ),
    "rows picked by inputs, and a product": (
        lambda w, x: jnp.tanh(w[index(x)]) @ w.T,
        (3, 4),
        (5, 4),
        TIED,
    ),
    # Elementwise.
    "not used": (lambda w, x: x, (4, 3), (2,), LeftAlone("it meets no input")),
    "added and multiplied": (
        lambda w, x: (x + w, x * w),
        (4, 3),
        (4, 3),
        LeftAlone("it is only added and multiplied elementwise"),
    ),
    "added, short": (lambda w, x: x + w, (2, 2), (2, 2), ADDED),
    "multiplied and summed, short": (lambda w, x: (x[:, None] * w).sum(0), (2, 3), (2,), FLAX),
    "stacked, multiplied and summed": (
        lambda w, x: (x[:, :, None] * w).sum(1),
        (3, 4, 2),
        (3, 4),
        STACKED,
    ),
    "multiplied and summed whole": (lambda w, x: (x * w).sum(), (4, 3), (4, 3), MULTIPLIED),
    "a row of scales, then summed": (lambda w, x: (x * w).sum(0), (1, 3), (5, 1), MULTIPLIED),
    "its sum": (lambda w, x: x + w.sum(), (4, 3), (2,), SUMMARY),
    "its sum along all but an axis of length one": (
        lambda w, x: x + w.sum(0),
        (4, 1),
        (2, 1),
        SUMMARY,
    ),
    "added and multiplied beside a kernel": (
        lambda w, x: (x @ w, x[:, None] + w, x[:, None] * w),
        (4, 4),
        (2, 4),
        LeftAlone("it is a kernel in one place and added and multiplied elementwise in another"),
    ),
    # Kernels that lack a role.
    "a number for each output": (lambda w, x: x @ w, (1, 3), (2, 1), MULTIPLIED),
    "a number for each input": (
        lambda w, x: jnp.einsum("bi,bi->", x, w),
        (4, 3),
        (4, 3),
        LeftAlone("it has no output axis: it is summed over whole"),
    ),
    "a number for each input of several": (
        lambda w, x: jnp.einsum("bi,bi->b", x, w),
        (4, 3),
        (4, 3),
        LeftAlone("it has no output axis: each of a batch has one number for an input"),
    ),
    # Axes of length one, which have no role of their own.
    "an axis of length one behind": (
        lambda w, x: x @ w.squeeze(2),
        (4, 3, 1),
        (2, 4),
        KernelAxes(-3, -2),
    ),
    "an axis of length one in front": (lambda w, x: x @ w.squeeze(0), (1, 4, 3), (2, 4), FLAX),
    "a single output": (lambda w, x: x @ w.squeeze(1), (4, 1), (2, 4), FLAX),
    "a single output and another": (
        lambda w, x: x @ w.squeeze((1, 2)),
        (4, 1, 1),
        (2, 4),
        KernelAxes(-3, -2),
    ),
    "an axis of length one that is summed in one place and kept in another": (
        lambda w, x: (jnp.einsum("thd,hdk->tk", x, w), jnp.einsum("td,hdk->thk", x[:, 0], w)),
        (1, 4, 3),
        (2, 1, 4),
        KernelAxes(-2, (-3, -1)),
    ),
    "mixed by a reshape": (
        lambda w, x: x @ w.reshape(3, 2),
        (2, 3),
        (4, 3),
        LeftAlone("its axis 0 is partly an input and partly an output axis"),
    ),
    "a window of two places of single channels": (
        lambda w, x: window(w[:, None], x, groups=4),
        (2, 4),
        (5, 4),
        KernelAxes((), -1),
    ),
    "mixed by a reshape with an axis of length one": (
        lambda w, x: x @ w.transpose(1, 0, 2).reshape(4, 3),
        (1, 3, 4),
        (2, 4),
        LeftAlone("its axis 1 is partly an input and partly an output axis"),
    ),
    "two ways": (
        lambda w, x: jnp.tanh(x @ w) @ w.T,
        (2, 2),
        (4, 2),
        two_ways("an input", "an output"),
    ),
    # A function of it beside a kernel.
    "stacked weight normalization": (
        jax.vmap(lambda w, x: x @ w / jnp.linalg.norm(w, axis=0)),
        (3, 4, 2),
        (3, 5, 4),
        STACKED,
    ),
    "a term for each of two outputs": (
        lambda w, x: x @ w + jnp.abs(w).sum(0),
        (4, 2),
        (3, 4),
        beside("abs"),
    ),
    "a term for the only output, as a penalty": (
        lambda w, x: x @ w + jnp.abs(w).sum(0),
        (4, 1),
        (3, 4),
        FLAX,
    ),
}


@pytest.mark.parametrize("name", ONE_PARAMETER)
def test_one_parameter(name):
    function, shape, inputs, expected = ONE_PARAMETER[name]
    assert wcgc.trace_axes(function, array(*shape), array(*inputs)) == expected


CONSTANT = np.float32(np.random.default_rng(0).normal(size=(4, 4)))
SEVERAL_PARAMETERS = {
    # name: (function of parameters and input, shapes of the parameters, of the input, conclusions)
    "learned queries beside queries from inputs": (
        lambda p, x: (x @ p["w"]) @ (p["latent"] @ p["w"]).T,
        {"w": (4, 3), "latent": (5, 4)},
        (2, 4),
        {"w": FLAX, "latent": BONDED},
    ),
    "learned queries of each head beside queries from inputs": (
        lambda p, x: jnp.einsum(
            "htk,hnk->htn",
            jnp.einsum("htd,hdk->htk", x, p["w"]),
            jnp.einsum("hnd,hdk->hnk", p["latent"], p["w"]),
        ),
        {"w": (3, 4, 2), "latent": (3, 5, 4)},
        (3, 6, 4),
        {"w": STACKED, "latent": BONDED},
    ),
    "learned queries through the kernel the other way": (
        lambda p, x: (x @ p["w"]) @ (p["latent"] @ p["w"].T).T,
        {"w": (4, 4), "latent": (5, 4)},
        (2, 4),
        {
            "w": two_ways("an input", "an output"),
            "latent": BONDED,
        },
    ),
    "learned queries through one of several kernels": (
        lambda p, x: (x @ p["w"][0]) @ (p["latent"] @ p["w"][1]).T,
        {"w": (3, 4, 2), "latent": (5, 4)},
        (6, 4),
        {"w": STACKED, "latent": BONDED},
    ),
    "learned queries through a part of a kernel": (
        lambda p, x: jnp.einsum("ted,edk->tk", x, p["w"]) @ (p["latent"] @ p["w"][1]).T,
        {"w": (3, 4, 2), "latent": (5, 4)},
        (6, 3, 4),
        {
            "w": two_ways("an input", "a batch"),
            "latent": BONDED,
        },
    ),
    "learned queries through a mask": (
        lambda p, x: x @ (p["latent"] @ (p["w"] * RAMP[:, None])).T,
        {"w": (4, 2), "latent": (5, 4)},
        (6, 2),
        {"w": VARYING, "latent": BONDED},
    ),
    "a product with constants that is added": (
        lambda p, x: (x @ p["w"], x + CONSTANT @ p["w"]),
        {"w": (4, 4)},
        (4, 4),
        {"w": FLAX},
    ),
    "a product with constants, the other way, that is added": (
        lambda p, x: (x @ p["w"], x + p["w"] @ CONSTANT),
        {"w": (4, 4)},
        (4, 4),
        {"w": two_ways("an input", "an output")},
    ),
    "a sum multiplied by inputs, then a product": (
        lambda p, x: ((p["a"] + p["b"]) * x) @ x[0],
        {"a": (4, 3), "b": (4, 3)},
        (4, 3),
        {"a": MULTIPLIED, "b": MULTIPLIED},
    ),
    "a learned query of repeated heads beside queries from inputs": (
        lambda p, x: jnp.einsum("thk,nhk->htn", *(heads(y, p["w"]) for y in (x, p["latent"]))),
        {"w": (4, 1, 2), "latent": (5, 4)},
        (6, 4),
        {"w": KernelAxes(-3, -1), "latent": BONDED},
    ),
    "products added to a kernel": (
        lambda p, x: x @ (p["w"] + p["a"] @ p["m"] @ p["b"]),
        {"w": (6, 5), "a": (6, 2), "m": (2, 3), "b": (3, 5)},
        (7, 6),
        dict.fromkeys("wamb", FLAX),
    ),
    "a product added to a kernel of two outputs": (
        lambda p, x: x @ (p["w"] + p["a"] @ p["b"]),
        {"w": (6, 2), "a": (6, 3), "b": (3, 2)},
        (7, 6),
        dict.fromkeys("wab", FLAX),
    ),
    "a product added to a kernel of repeated heads": (
        lambda p, x: heads(x, (p["w"] + p["a"] @ p["b"])[:, None]),
        {"w": (6, 5), "a": (6, 2), "b": (2, 5)},
        (7, 6),
        dict.fromkeys("wab", FLAX),
    ),
    "a product with a sum": (
        lambda p, x: x @ (p["w"] + p["a"] @ (p["b"] + p["c"])),
        {"w": (6, 5), "a": (6, 2), "b": (2, 5), "c": (2, 5)},
        (7, 6),
        {"w": FLAX, "a": BONDED, "b": BONDED, "c": BONDED},
    ),
    "a sum with a product": (
        lambda p, x: x @ (p["w"] + (p["a"] + p["b"]) @ p["c"]),
        {"w": (6, 5), "a": (6, 2), "b": (6, 2), "c": (2, 5)},
        (7, 6),
        {"w": FLAX, "a": BONDED, "b": BONDED, "c": BONDED},
    ),
    "a product of which both factors read inputs": (
        lambda p, x: jnp.einsum(
            "tij,ijo->to", x, p["w"] + jnp.einsum("ir,jro->ijo", p["a"], p["b"])
        ),
        {"w": (6, 5, 3), "a": (6, 2), "b": (5, 2, 3)},
        (7, 6, 5),
        {"w": KernelAxes((-3, -2), -1), "a": BONDED, "b": BONDED},
    ),
    "a bias in front of a product": (
        lambda p, x: x @ (p["bias"] + p["latent"] @ p["w"]).T,
        {"bias": (1, 3), "latent": (5, 4), "w": (4, 3)},
        (2, 3),
        {"bias": BESIDE_PRODUCT, "latent": BONDED, "w": BONDED},
    ),
    "a bias that lacks the axis that is summed": (
        lambda p, x: x @ (p["a"] @ p["b"] + p["bias"]),
        {"a": (6, 2), "b": (2, 5), "bias": (1, 5)},
        (3, 6),
        {"a": BONDED, "b": BONDED, "bias": BESIDE_PRODUCT},
    ),
    "a kernel of one output, which may be a bias": (
        lambda p, x: x @ (p["w"] + p["a"] @ p["b"]),
        {"w": (6, 1), "a": (6, 2), "b": (2, 1)},
        (3, 6),
        {"w": FLAX, "a": BONDED, "b": BONDED},
    ),
    "a bias of heads beside a product with constants": (
        lambda p, x: jnp.einsum(
            "td,dhk->thk", x, jnp.einsum("de,ehk->dhk", CONSTANT, p["w"]) + p["bias"]
        ),
        {"w": (4, 3, 2), "bias": (3, 2)},
        (5, 4),
        {"w": BONDED, "bias": BESIDE_PRODUCT},
    ),
    "a bias of inputs beside a product with constants": (
        lambda p, x: jnp.einsum(
            "tde,deo->to",
            x,
            jnp.einsum("deq,qo->deo", CONSTANT.reshape(2, 2, 4), p["w"]) + p["bias"][..., None],
        ),
        {"w": (4, 3), "bias": (2, 2)},
        (5, 2, 2),
        {"w": BONDED, "bias": BESIDE_PRODUCT},
    ),
}


@pytest.mark.parametrize("name", SEVERAL_PARAMETERS)
def test_several_parameters(name):
    function, shapes, inputs, expected = SEVERAL_PARAMETERS[name]
    params = {name: array(*shape) for name, shape in shapes.items()}
    assert wcgc.trace_axes(function, params, array(*inputs)) == expected


def on_devices(function, places, count=3):
    """A function of blocks: the parameter lies along its first axis, as the outputs do."""
    devices = mesh(i=count)
    return jax.shard_map(function, mesh=devices, in_specs=(P("i"), places), out_specs=P("i"))


ON_DEVICES = {
    "a kernel on each": (
        on_devices(lambda w, x: jnp.einsum("thk,hkd->td", x, w), P(None, "i")),
        (3, 4, 5),
        (7, 3, 4),
        STACKED,
    ),
    "a window on each": (on_devices(window, P()), (3, 4, 5), (7, 4), STACKED),
    "its only place merged with another axis": (
        on_devices(lambda w, x: x @ w.reshape(w.shape[1:]), P()),
        (3, 4, 5),
        (7, 4),
        LeftAlone("what becomes of its axis 0 cannot be told"),
    ),
    "one of its two places merged with another axis": (
        on_devices(lambda w, x: x @ w.reshape(w.shape[1:]), P(), count=2),
        (2, 4, 5),
        (7, 4),
        LeftAlone("what becomes of its axis 0 cannot be told"),
    ),
    "its only place dropped": (
        on_devices(lambda w, x: x @ w[0], P()),
        (3, 4, 5),
        (7, 4),
        STACKED,
    ),
}


@pytest.mark.parametrize("name", ON_DEVICES)
def test_on_several_devices(name):
    function, shape, inputs, expected = ON_DEVICES[name]
    assert wcgc.trace_axes(function, array(*shape), array(*inputs)) == expected


def test_a_product_added_to_a_kernel_of_one_output_on_each_device():
    devices = mesh(i=4)
    specs = {"w": P(None, "i"), "a": P(), "b": P(None, "i")}
    function = jax.shard_map(
        lambda p, x: x @ (p["w"] + p["a"] @ p["b"]),
        mesh=devices,
        in_specs=(specs, P()),
        out_specs=P(None, "i"),
    )
    params = {"w": array(6, 4), "a": array(6, 2), "b": array(2, 4)}
    assert wcgc.trace_axes(function, params, array(7, 6)) == dict.fromkeys("wab", FLAX)
