"""Errors and warnings word for word: that each names the value, and says what to do."""

import collections
import re
import sys
import types
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wcgc
from wcgc import FLAX, LeftAlone

KERNEL = np.float32([[1.0, 2.0], [3.0, 6.0], [2.0, 2.0]])
SHAPE = jax.ShapeDtypeStruct((2, 2), jnp.float32)
READ = "read the axes off the computation with wcgc.trace_axes, or choose them with wcgc.by_path"


def to_rms_norm(writers="embed", others=(), **more):
    params = {
        "embed": jnp.ones((5, 4)),
        "norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
        "head": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)},
    }
    return wcgc.layer_norm_to_rms_norm(params | more, writers, {"norm/": "head/"}, others)


ERRORS = {
    "LeftAlone without a reason": (
        lambda: LeftAlone(""),
        "reason is empty; say why the parameter is left alone, or give None.",
    ),
    "no axes": (
        lambda: wcgc.centralize(KERNEL, axes=None),
        "axes must be a KernelAxes, a tree of KernelAxes and None, or a callable that makes one, "
        "got None. Leave the argument out, or, if you gave a callable, name it in the static_args "
        "of optax.inject_hyperparams. The default is the layout (..., in, out).",
    ),
    "axes in place of an area": (
        lambda: wcgc.centralized(optax.sgd(0.1), FLAX),
        "gradients must be one of 'tensor', 'channel', 'instance', 'global', or None for no GC, "
        "got KernelAxes(in_axis=-2, out_axis=-1, batch_axis=()). Axes and masks are keyword "
        "arguments: axes=, mask=.",
    ),
    "a flag in place of an area or None": (
        lambda: wcgc.centralized(optax.sgd(0.1), params=False),
        "params must be one of 'tensor', 'channel', 'instance', 'global', or None for no WC, got "
        "False.",
    ),
    "a flag in place of an area": (
        lambda: wcgc.centralize_params(False),
        "area must be one of 'tensor', 'channel', 'instance', 'global', got False. Axes and masks "
        "are keyword arguments: axes=, mask=.",
    ),
    "shapes without values": (
        lambda: wcgc.centralize({"kernel": SHAPE}),
        "'kernel' is a ShapeDtypeStruct, which has a shape but no values. Give arrays, or let "
        "jax.eval_shape make the call, for shapes alone. wcgc.explain takes shapes.",
    ),
    "another shape": (
        lambda: wcgc.centralize_params().update({"a": KERNEL}, optax.EmptyState(), {"a": KERNEL.T}),
        "'a' has shape (3, 2) in updates but (2, 3) in params.",
    ),
    "examples": (
        lambda: wcgc.centralize_params().update(
            {"a": np.ones((5, 3, 2))}, optax.EmptyState(), {"a": KERNEL}
        ),
        "'a' has shape (5, 3, 2) in updates but (3, 2) in params. If the first axis numbers "
        "examples, place this transform behind what sums over them, such as "
        "optax.contrib.differentially_private_aggregate.",
    ),
    "two leaves of one path": (
        lambda: wcgc.centralize(
            collections.OrderedDict([("other", KERNEL), (1, KERNEL), ("1", KERNEL)])
        ),
        "Two leaves of a tree have the path '1', since keys are told apart by their text. Give one "
        "of them another key.",
    ),
    "no writers": (
        lambda: to_rms_norm(writers=(), others="embed"),
        "writers must name what adds to the residual stream, got no rule.",
    ),
    "a norm of another width": (
        lambda: to_rms_norm(norm={"scale": jnp.ones(3)}),
        "'norm/scale' has shape (3,), but the stream has 4 features: the norm does not read it. "
        "Norms inside of a block, as of queries, belong to others.",
    ),
    "a reader without a bias": (
        lambda: to_rms_norm(head={"kernel": jnp.ones((4, 3))}),
        "'norm/bias' must go into one bias of 'head', but the rule for what reads it matches no "
        "leaf. Give 'head/kernel' a bias of zeros if it has none.",
    ),
    "a bias of another size": (
        lambda: to_rms_norm(head={"kernel": jnp.ones((4, 3)), "bias": jnp.ones(2)}),
        "'head/bias' of shape (2,) cannot take 'norm/bias' of shape (4,) through 1 kernels of 4 "
        "inputs and 3 outputs. Mend axes.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    function, text = ERRORS[name]
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(text)}$"):
        function()


WARNINGS = {
    "constant slices": (
        {"kernel": KERNEL, "norm": {"weight": np.ones((5, 3), np.float32)}},
        FLAX,
        "Centralizing would erase 'norm/weight' of shape (5, 3), constant along slices over the "
        "axes (0,), as the scale of a norm is at first. If it is no kernel, leave it alone: with "
        "None or wcgc.LeftAlone in its place in axes, with wcgc.by_path, or with wcgc.trace_axes, "
        "which reads it off the computation.",
    ),
    "nothing": (
        {"bias": np.ones(3, np.float32)},
        FLAX,
        "Nothing is centralized, since all parameters are left alone, 'bias' of shape (3,) for "
        f"one: fewer than two axes. wcgc.explain shows them all. If this is not meant, {READ}.",
    ),
    "a guess": (
        {"layer": {"kernel": np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)}},
        FLAX,
        "One layout for all parameters takes 'layer/kernel' of shape (2, 4, 3) for a convolution's "
        "kernel, to be averaged over the axes (0, 1). Those of attention, of stacked layers and of "
        "experts look the same, and no bias of their own tells them apart. If it is one of these, "
        f"{READ}; if it is not, a rule of wcgc.by_path says so.",
    ),
    "another layout": (
        {"a": {"kernel": KERNEL}, "b": {"kernel": np.ones((5, 4, 3)), "bias": np.ones((5, 3))}},
        FLAX,
        "One layout for all parameters leaves 'b/kernel' of shape (5, 4, 3) alone: its bias (5, 3) "
        f"fits other axes. To centralize what is left alone, {READ}.",
    ),
    "a transposed convolution": (
        {"a": {"kernel": KERNEL}, "conv2_d_transpose": {"w": np.ones((3, 3, 2, 4))}},
        FLAX,
        "One layout for all parameters leaves 'conv2_d_transpose/w' of shape (3, 3, 2, 4) alone: "
        "transposed convolutions of Haiku and Keras are (..., out, in). To centralize what is left "
        f"alone, {READ}.",
    ),
    "a depthwise convolution": (
        {"a": {"kernel": KERNEL}, "b": {"depthwise_kernel": np.ones((3, 3, 2, 4))}},
        FLAX,
        "One layout for all parameters leaves 'b/depthwise_kernel' of shape (3, 3, 2, 4) alone: "
        "depthwise kernels of Keras are (..., channel, multiplier). To centralize what is left "
        f"alone, {READ}.",
    ),
    "other variables": (
        {"a": KERNEL, "b": KERNEL},
        {"a": FLAX, "b": LeftAlone("wrt=LoRAParam leaves out this Param")},
        "wcgc.axes_of has read the axes of other variables than the optimizer holds, which leaves "
        "'b' of shape (3, 2) alone: wrt=LoRAParam leaves out this Param. Give it the wrt of the "
        "optimizer.",
    ),
}


def warned(params, axes):
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        wcgc.centralize_params(axes=axes).init(params)
    return [str(record.message) for record in records]


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings(name):
    params, axes, text = WARNINGS[name]
    assert warned(params, axes) == [text]


def test_a_warning_of_equinox():
    params = {"layer": eqx.nn.Linear(2, 3, key=jax.random.key(0))}
    assert warned(params, FLAX) == [
        "The layout (..., in, out) leaves 'layer/weight' of shape (3, 2) alone, since Equinox's is "
        "(out, in, ...). Give axes=wcgc.EQUINOX, or read the axes off the computation with "
        "wcgc.trace_axes."
    ]


def test_a_warning_of_lists(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", types.ModuleType("keras"))
    assert warned([KERNEL], FLAX) == [
        "A list of parameters has no names, by which embeddings and biases are left alone; '0' of "
        "shape (3, 2) will be centralized. Give a dictionary, such as {v.path: v.value for v in "
        "model.trainable_variables}, or read the axes with wcgc.trace_axes."
    ]
