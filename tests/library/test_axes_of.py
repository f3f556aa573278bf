"""`axes_of` against the definition: which kernel entries carry which input to which output."""

import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from packaging.version import Version

import wcgc
from wcgc import LeftAlone

from helpers.perturbation import as_sets, connections, slices


def stacked(make, layers=3, out_axes=0):
    """A module whose parameters hold `layers` independent ones, as for `nnx.scan`."""
    return nnx.vmap(make, in_axes=0, out_axes=out_axes)(nnx.Rngs(0).split(layers))


def each(in_axes=0):
    """Applies a stacked module, its layers and its inputs in pairs."""
    return nnx.vmap(lambda module, x: module(x), in_axes=(in_axes, 0), out_axes=0)


def call(module, x):
    return module(x)


def part(name):
    return lambda module, x: getattr(module, name)(x)


def conv(*args, **kwargs):
    return lambda rngs: nnx.Conv(*args, **kwargs, rngs=rngs)


def conv_transpose(*args, **kwargs):
    return lambda rngs: nnx.ConvTranspose(*args, **kwargs, rngs=rngs)


def linear_general(*args, **kwargs):
    return lambda rngs: nnx.LinearGeneral(*args, **kwargs, rngs=rngs)


def einsum(*args, **kwargs):
    return lambda rngs: nnx.Einsum(*args, **kwargs, rngs=rngs)


def attention(rngs, **kwargs):
    return nnx.MultiHeadAttention(2, 4, 6, 3, in_kv_features=5, rngs=rngs, **kwargs)


LINEAR = {
    # name: (makes the module from rngs, path of the kernel, how it is applied, axes of the input:
    # lengths of (f)eature axes, which are units of their own, and of axes of (p)ositions)
    "Linear": (lambda rngs: nnx.Linear(4, 3, rngs=rngs), "kernel", call, "f4"),
    "square Linear": (lambda rngs: nnx.Linear(4, 4, rngs=rngs), "kernel", call, "f4"),
    "LinearGeneral": (linear_general(4, 3), "kernel", call, "f4"),
    "LinearGeneral to several": (linear_general(4, (3, 2)), "kernel", call, "f4"),
    "LinearGeneral from several": (
        linear_general((2, 3), (4, 2), axis=(0, -1)),
        "kernel",
        call,
        "f2 f3",
    ),
    "LinearGeneral with a batch axis": (
        linear_general((2, 3), (4, 2), axis=(-2, -1), batch_axis={0: 3}),
        "kernel",
        call,
        "f3 f2 f3",
    ),
    "Einsum": (einsum("ab,bc->ac", (4, 3), (3,)), "kernel", call, "p1 f4"),
    "Einsum (out, in)": (einsum("...b,cb->...c", (3, 4)), "kernel", call, "f4"),
    "Einsum with a batch axis": (einsum("n h, n h d -> n d", (2, 3, 4)), "kernel", call, "f2 f3"),
    "Einsum with a last batch axis": (einsum("hn,dhn->nd", (4, 3, 2)), "kernel", call, "f3 f2"),
    "Einsum that sums the kernel": (einsum("i,iko->o", (4, 2, 3)), "kernel", call, "f4"),
    "Einsum, empty ellipsis": (einsum("...i,i...o->...o", (4, 3)), "kernel", call, "f4"),
    "LoRA a": (
        lambda rngs: nnx.LoRA(4, 2, 3, rngs=rngs),
        "lora_a",
        lambda module, x: x @ module.lora_a[...],
        "f4",
    ),
    "LoRA b": (
        lambda rngs: nnx.LoRA(4, 2, 3, rngs=rngs),
        "lora_b",
        lambda module, x: x @ module.lora_b[...],
        "f2",
    ),
    "LoRALinear": (lambda rngs: nnx.LoRALinear(4, 3, lora_rank=2, rngs=rngs), "kernel", call, "f4"),
    "attention query": (attention, "query/kernel", part("query"), "f4"),
    "attention key": (attention, "key/kernel", part("key"), "f5"),
    "attention value": (
        lambda rngs: attention(rngs, num_kv_heads=1),
        "value/kernel",
        part("value"),
        "f5",
    ),
    "attention out": (attention, "out/kernel", part("out"), "f2 f3"),
    "SpectralNorm": (
        lambda rngs: nnx.SpectralNorm(nnx.Linear(4, 3, rngs=rngs), rngs=rngs),
        "layer_instance/kernel",
        part("layer_instance"),
        "f4",
    ),
    "WeightNorm": (
        lambda rngs: nnx.WeightNorm(nnx.Linear(4, 3, rngs=rngs), rngs=rngs),
        "layer_instance/kernel",
        part("layer_instance"),
        "f4",
    ),
} | {
    f"{cell.__name__} {layer}": (
        lambda rngs, cell=cell: cell(4, 3, rngs=rngs),
        f"{layer}/kernel",
        part(layer),
        inputs,
    )
    for cell, layers in (
        (nnx.LSTMCell, {"ii": "f4", "if_": "f4", "hg": "f3", "ho": "f3"}),
        (nnx.OptimizedLSTMCell, {"dense_i": "f4", "dense_h": "f3"}),
        (nnx.GRUCell, {"dense_i": "f4", "dense_h": "f3"}),
        (nnx.SimpleCell, {"dense_i": "f4", "dense_h": "f3"}),
    )
    for layer, inputs in layers.items()
}

CONV = {
    "Conv 1d": (conv(3, 4, 2), "kernel", call, "p4 f3"),
    "Conv 1d CAUSAL": (conv(3, 4, 2, padding="CAUSAL"), "kernel", call, "p4 f3"),
    "Conv 2d": (conv(3, 4, (2, 3), strides=(1, 2)), "kernel", call, "p3 p6 f3"),
    "square Conv 2d CIRCULAR": (conv(3, 3, (3, 3), padding="CIRCULAR"), "kernel", call, "p3 p4 f3"),
    "dilated Conv 2d REFLECT": (
        conv(2, 3, (3, 2), padding="REFLECT", kernel_dilation=2),
        "kernel",
        call,
        "p5 p4 f2",
    ),
    "Conv 3d": (conv(2, 3, (2, 1, 2)), "kernel", call, "p3 p2 p2 f2"),
    "Conv 1x1": (conv(4, 3, (1, 1)), "kernel", call, "p2 p2 f4"),
    "ConvTranspose": (conv_transpose(3, 4, (2, 3), (2, 2)), "kernel", call, "p3 p3 f3"),
    "square ConvTranspose": (conv_transpose(3, 3, (3, 3)), "kernel", call, "p3 p3 f3"),
    "ConvTranspose, transpose_kernel": (
        conv_transpose(3, 4, (2, 3), (2, 2), transpose_kernel=True),
        "kernel",
        call,
        "p3 p3 f3",
    ),
    "square ConvTranspose, transpose_kernel": (
        conv_transpose(3, 3, 3, padding="CIRCULAR", transpose_kernel=True),
        "kernel",
        call,
        "p5 f3",
    ),
}

STACKED = {
    "stacked Linear": (
        lambda rngs: stacked(lambda rngs: nnx.Linear(4, 2, rngs=rngs)),
        "kernel",
        each(),
        "f3 f4",
    ),
    "stacked square Linear": (
        lambda rngs: stacked(lambda rngs: nnx.Linear(3, 3, rngs=rngs)),
        "kernel",
        each(),
        "f3 f3",
    ),
    "Linear stacked along axis 1": (
        lambda rngs: stacked(lambda rngs: nnx.Linear(4, 2, rngs=rngs), out_axes=1),
        "kernel",
        each(in_axes=1),
        "f3 f4",
    ),
    "Linear stacked along axis 2": (
        lambda rngs: stacked(lambda rngs: nnx.Linear(4, 2, use_bias=False, rngs=rngs), out_axes=2),
        "kernel",
        each(in_axes=2),
        "f3 f4",
    ),
    "stacked Conv": (lambda rngs: stacked(conv(2, 4, (3,))), "kernel", each(), "f3 p4 f2"),
    "stacked ConvTranspose, transpose_kernel": (
        lambda rngs: stacked(conv_transpose(2, 4, (3,), transpose_kernel=True)),
        "kernel",
        each(),
        "f3 p4 f2",
    ),
    "stacked attention out": (
        lambda rngs: stacked(attention),
        "out/kernel",
        nnx.vmap(lambda module, x: module.out(x)),
        "f3 f2 f3",
    ),
    "stacked LinearGeneral with a batch axis": (
        lambda rngs: stacked(linear_general(4, 5, batch_axis={0: 2})),
        "kernel",
        each(),
        "f3 f2 f4",
    ),
}

GROUPED = {
    "depthwise Conv": (conv(4, 4, (3,), feature_group_count=4), "kernel", call, "p4 f4"),
    "depthwise Conv with a multiplier": (
        conv(3, 6, (2, 2), feature_group_count=3),
        "kernel",
        call,
        "p2 p2 f3",
    ),
    "grouped Conv": (conv(6, 4, (2,), feature_group_count=2), "kernel", call, "p3 f6"),
}

CASES = LINEAR | CONV | STACKED | GROUPED


def at(tree, path):
    for key in path.split("/"):
        tree = tree[key] if hasattr(tree, "__getitem__") else getattr(tree, key)
    return tree


def connected_entries(module, path, apply, inputs):
    """`connections` of the kernel at `path` of a module, all other parameters being one."""
    graphdef, state = nnx.split(module)
    state = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), state)
    names = path.split("/")

    def output(kernel, x):
        copy = nnx.merge(graphdef, state, copy=True)
        holder = copy
        for name in names[:-1]:
            holder = getattr(holder, name)
        getattr(holder, names[-1]).set_value(kernel)
        return apply(copy, x)

    return connections(output, at(state, path).shape, inputs)


def abstract(make):
    return nnx.eval_shape(lambda: make(nnx.Rngs(0)))


@pytest.mark.parametrize("name", CASES)
def test_axes_are_those_that_inputs_and_outputs_show(name):
    make, path, apply, inputs = CASES[name]
    module = abstract(make)
    axes = at(wcgc.axes_of(module), path)
    shape = at(nnx.state(module), path).shape
    connected = connected_entries(module, path, apply, inputs)
    assert as_sets(connected.any(axis=0)) == slices(axes, shape, "tensor")
    assert as_sets(connected) == slices(axes, shape, "instance")
    if name not in GROUPED:
        assert as_sets(connected.any(axis=1)) == slices(axes, shape, "channel")


@pytest.mark.parametrize("name", CASES)
def test_traced_axes_are_the_same(name):
    make, path, apply, inputs = CASES[name]
    module = abstract(make)
    x = jax.ShapeDtypeStruct(tuple(int(axis[1:]) for axis in inputs.split()), jnp.float32)
    traced = wcgc.trace_axes(apply, module, x)
    assert at(traced, path) == at(wcgc.axes_of(module), path)


WHOLE = {
    # name: (makes the module, the shapes of its inputs)
    "attention": (attention, [(2, 7, 4), (2, 6, 5)]),
    "attention with norms": (
        lambda rngs: nnx.MultiHeadAttention(2, 4, normalize_qk=True, rngs=rngs),
        [(2, 7, 4)],
    ),
    "LSTM": (lambda rngs: nnx.RNN(nnx.LSTMCell(4, 3, rngs=rngs), rngs=rngs), [(2, 7, 4)]),
    "optimized LSTM": (
        lambda rngs: nnx.RNN(nnx.OptimizedLSTMCell(4, 3, rngs=rngs), unroll=7, rngs=rngs),
        [(2, 7, 4)],
    ),
    "both directions": (
        lambda rngs: nnx.Bidirectional(
            nnx.RNN(nnx.GRUCell(4, 3, rngs=rngs), rngs=rngs),
            nnx.RNN(nnx.SimpleCell(4, 3, rngs=rngs), rngs=rngs),
            rngs=rngs,
        ),
        [(2, 7, 4)],
    ),
    "LoRALinear": (CASES["LoRALinear"][0], [(2, 4)]),
    "SpectralNorm": (CASES["SpectralNorm"][0], [(2, 4)]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_traced_axes_of_whole_modules_are_the_same(name):
    make, shapes = WHOLE[name]
    module = abstract(make)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def apply(module, *inputs):
        kwargs = {"decode": False} if isinstance(module, nnx.MultiHeadAttention) else {}
        return module(*inputs, **kwargs)

    traced = by_text(wcgc.trace_axes(apply, module, *inputs))
    read = by_text(wcgc.axes_of(module))
    assert traced.keys() == read.keys()
    for path, axes in read.items():
        assert traced[path] == axes or (
            axes is None and isinstance(traced[path], wcgc.LeftAlone)
        ), path


def test_traced_axes_of_weight_norm_are_the_same():
    # Its scales are no variables, so that it does not work on shapes alone.
    module = CASES["WeightNorm"][0](nnx.Rngs(0))
    traced = by_text(wcgc.trace_axes(call, module, jax.ShapeDtypeStruct((2, 4), jnp.float32)))
    assert traced["layer_instance/kernel"] == by_text(wcgc.axes_of(module))["layer_instance/kernel"]


@pytest.mark.parametrize("name", GROUPED)
def test_channel_slices_of_grouped_kernels_run_through_all_groups(name):
    make, path, apply, inputs = GROUPED[name]
    module = abstract(make)
    connected = connected_entries(module, path, apply, inputs).any(axis=1)
    groups, fan_in = module.feature_group_count, module.in_features // module.feature_group_count
    across = connected.reshape(groups, fan_in, -1).any(axis=0)
    axes = wcgc.axes_of(module)["kernel"]
    assert as_sets(across) == slices(axes, module.kernel.shape, "channel")


class Model(nnx.Module):
    """One of each kind of layer."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 4, (2, 2), strides=(2, 2), rngs=rngs)
        self.up_transposed = nnx.ConvTranspose(8, 4, (2, 2), transpose_kernel=True, rngs=rngs)
        self.dense = nnx.Linear(4, 8, rngs=rngs)
        self.heads = nnx.LinearGeneral((2, 4), (4, 2), axis=(-2, -1), rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs)
        self.cell = nnx.LSTMCell(8, 4, rngs=rngs)
        self.layers = nnx.List([nnx.BatchNorm(8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


QUERY = wcgc.KernelAxes(-3, (-2, -1))
EXPECTED = {
    # path: (axes, axes that area "tensor" averages over)
    "conv/kernel": (wcgc.FLAX, (0, 1, 2)),
    "depthwise/kernel": (wcgc.FLAX, (0, 1, 2)),
    "up/kernel": (wcgc.FLAX, (0, 1, 2)),
    "up_transposed/kernel": (wcgc.KernelAxes(in_axis=-1, out_axis=-2), (0, 1, 3)),
    "dense/kernel": (wcgc.FLAX, (0,)),
    "heads/kernel": (wcgc.KernelAxes((-4, -3), (-2, -1)), (0, 1)),
    "attention/query/kernel": (QUERY, (0,)),
    "attention/key/kernel": (QUERY, (0,)),
    "attention/value/kernel": (QUERY, (0,)),
    "attention/out/kernel": (wcgc.KernelAxes((-3, -2), -1), (0, 1)),
} | {
    f"cell/{gate}/kernel": (wcgc.FLAX, (0,))
    for gate in ("hf", "hg", "hi", "ho", "if_", "ig", "ii", "io")
}


def less_reasons(axes):
    """The axes with None in place of each reason."""
    return jax.tree.map(lambda leaf: None if isinstance(leaf, LeftAlone) else leaf, axes)


def by_text(tree):
    """The leaves of nested dictionaries by their path, as one writes it; None for a reason."""
    tree = less_reasons(tree)
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: leaf is None)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@pytest.fixture(scope="module")
def model():
    return abstract(Model)


def test_a_model_with_one_of_each(model):
    axes = by_text(wcgc.axes_of(model))
    chosen = {path: leaf for path, leaf in axes.items() if leaf is not None}
    assert chosen == {path: axes for path, (axes, _) in EXPECTED.items()}
    assert set(axes) == {
        "/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))
    }


@pytest.mark.parametrize(
    "view",
    [
        lambda model: nnx.state(model, nnx.Param),
        lambda model: nnx.as_pure(nnx.state(model, nnx.Param)),
        lambda model: nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        lambda model: nnx.split(model)[1],
        lambda model: model,
    ],
    ids=["parameters", "pure parameters", "dictionary", "whole state", "module"],
)
def test_the_axes_serve_every_view_of_the_model(model, view):
    explanation = wcgc.explain(view(model), axes=wcgc.axes_of(model))
    averaged = {row.path: row.slice_axes for row in explanation.rows if row.slice_axes is not None}
    assert averaged == {path: averaged for path, (_, averaged) in EXPECTED.items()}


def test_the_result_can_be_amended(model):
    axes = wcgc.axes_of(model)
    axes["embed"]["embedding"] = wcgc.KernelAxes(in_axis=-1, out_axis=-2)
    rows = wcgc.explain(nnx.state(model, nnx.Param), axes=axes).rows
    assert {row.path: row.slice_axes for row in rows}["embed/embedding"] == (1,)


def test_wrt_selects_the_variables_that_are_trained():
    model = abstract(lambda rngs: nnx.LoRALinear(4, 3, lora_rank=2, rngs=rngs))
    axes = wcgc.axes_of(model, wrt=nnx.LoRAParam)
    assert by_text(axes) == {
        "kernel": None,
        "bias": None,
        "lora/lora_a": wcgc.FLAX,
        "lora/lora_b": wcgc.FLAX,
    }
    assert len(wcgc.explain(nnx.state(model, nnx.LoRAParam), axes=axes).rows) == 2


class Holder(nnx.Module):
    """A module that only holds what it is given."""

    def __init__(self, **held):
        for name, value in held.items():
            setattr(self, name, value)


def warned_axes(model, *mentions):
    """The axes of `model`, and a check that there is one warning that mentions this."""
    with pytest.warns(UserWarning, match="axes_of leaves") as records:
        axes = wcgc.axes_of(model)
    (record,) = records
    assert record.filename == __file__
    for mention in mentions:
        assert mention in str(record.message)
    return axes


def test_parameters_of_unknown_modules_are_left_alone_with_a_warning():
    ours = Holder(tokens=nnx.Param(jnp.ones((1, 4, 8))), scale=nnx.Param(jnp.ones(8)))
    axes = warned_axes(
        Holder(layers=nnx.List([ours])), "layers/0/tokens", "Holder", "axes['layers'][0]['tokens']"
    )
    assert axes == {
        "layers": {
            0: {
                "tokens": LeftAlone("it does not know what Holder does with it"),
                "scale": LeftAlone("fewer than two axes"),
            }
        }
    }


def test_parameters_in_containers_belong_to_the_module_that_holds_them():
    held = Holder(weights=nnx.data({"a": [nnx.Param(jnp.ones((2, 2)))]}))
    axes = warned_axes(held, "weights/a/0", "Holder")
    assert less_reasons(axes) == {"weights": {"a": {0: None}}}


def test_a_further_parameter_of_a_known_module_is_left_alone_with_a_warning():
    layer = abstract(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
    layer.gain = nnx.Param(jnp.ones((2, 3)))
    axes = warned_axes(layer, "'gain'", "Linear")
    assert less_reasons(axes) == {"bias": None, "gain": None, "kernel": wcgc.FLAX}


def test_linen_modules_in_nnx_are_left_alone_with_a_warning():
    layer = nnx.bridge.ToNNX(nn.Dense(3), nnx.Rngs(0)).lazy_init(jnp.ones((1, 2)))
    assert set(by_text(warned_axes(layer, "'kernel'", "ToNNX")).values()) == {None}


@pytest.mark.parametrize(
    ("shape", "mention"),
    [((4, 3, 3), "several ways"), ((4, 5), "in 4, out 3"), ((12,), "in 4, out 3")],
)
def test_a_kernel_that_does_not_fit_its_module_is_left_alone_with_a_warning(shape, mention):
    layer = abstract(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
    layer.kernel = nnx.Param(jnp.ones(shape))
    axes = warned_axes(layer, "'kernel'", str(shape), mention)
    assert less_reasons(axes) == {"bias": None, "kernel": None}
    assert str(shape) in axes["kernel"].reason


@pytest.mark.parametrize(
    "make",
    [
        einsum("b...i,...io->b...o", (2, 4, 3)),  # batch axes or outputs, as the input has it
        einsum("bi,ioo->bo", (4, 3, 3)),
        einsum("bij,ij->b", (4, 3)),
    ],
    ids=["ellipsis", "diagonal", "one output"],
)
def test_an_einsum_without_clear_roles_is_left_alone_with_a_warning(make):
    assert less_reasons(warned_axes(abstract(make), "'kernel'", "Einsum")) == {"kernel": None}


def test_an_einsum_that_sums_over_nothing_holds_no_kernel():
    axes = wcgc.axes_of(abstract(einsum("bhd,hd->bhd", (2, 3))))
    assert axes == {"kernel": LeftAlone("Einsum sums over none of its axes")}


def test_the_axes_serve_a_model_whose_modules_are_shared(rng):
    """As a pytree the model holds what is shared twice, its state once."""
    shared = abstract(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
    tied = abstract(lambda rngs: nnx.Linear(4, 3, use_bias=False, rngs=rngs))
    for layer in shared, tied:
        layer.kernel.set_value(jnp.float32(rng.normal(1.0, 1.0, (4, 3))))
    shared.bias.set_value(jnp.ones(3))
    model = Holder(a=shared, b=shared, c=tied, d=Holder(kernel=tied.kernel))
    axes = wcgc.axes_of(model)
    centred = wcgc.centralize(model, axes=axes)
    expected = shared.kernel[...] - np.mean(shared.kernel[...], axis=0)
    for layer in centred.a, centred.b:
        np.testing.assert_allclose(layer.kernel[...], expected, atol=1e-6)
        np.testing.assert_array_equal(layer.bias[...], np.ones(3))
    np.testing.assert_array_equal(centred.d.kernel[...], centred.c.kernel[...])
    assert wcgc.explain(nnx.state(model, nnx.Param), axes=axes).centralized == 24


def test_many_parameters_of_one_type_of_module_give_one_warning():
    ours = [Holder(w=nnx.Param(jnp.ones((2, 3)))) for _ in range(3)]
    model = Holder(layers=nnx.List(ours), other=abstract(einsum("bij,ij->b", (4, 3))))
    with pytest.warns(UserWarning, match="axes_of leaves") as records:
        wcgc.axes_of(model)
    messages = sorted(str(record.message) for record in records)
    assert len(messages) == 2
    assert "'layers/0/w' and 2 more parameters of Holder alone" in messages[0]
    assert "axes['layers'][0]['w']" in messages[0]
    assert "'other/kernel' alone" in messages[1]
    assert all("wcgc.trace_axes" in message for message in messages)


@pytest.mark.parametrize("make", [conv, conv_transpose])
def test_a_masked_convolution_is_left_alone_with_a_warning(make):
    """Its filter is the product of kernel and mask, whose mean is not the kernel's."""
    layer = abstract(make(2, 3, (3,), mask=jnp.ones((3, 2, 3))))
    axes = warned_axes(layer, "'kernel'", "masks it")
    assert "masks it" in axes["kernel"].reason


def test_reasons_travel_to_explain(model):
    rows = wcgc.explain(nnx.state(model), axes=wcgc.axes_of(model)).rows
    reasons = {row.path: row.reason for row in rows}
    assert reasons["embed/embedding"] == "embedding of Embed"
    assert reasons["attention/query/bias"] == "bias of LinearGeneral"
    trained = abstract(lambda rngs: nnx.LoRALinear(4, 3, lora_rank=2, rngs=rngs))
    axes = wcgc.axes_of(trained, wrt=nnx.LoRAParam)
    assert axes["kernel"] == LeftAlone("wrt=LoRAParam leaves out this Param")


def test_what_a_known_module_holds_in_a_container_is_told():
    layer = abstract(lambda rngs: nnx.Linear(2, 3, use_bias=False, rngs=rngs))
    layer.kernel = nnx.data({"low": nnx.Param(jnp.ones((2, 3)))})
    axes = warned_axes(layer, "'kernel/low'", "Linear")
    assert isinstance(axes["kernel"]["low"], LeftAlone)


def test_shared_modules_and_variables_have_one_entry():
    first, second = (abstract(lambda rngs: nnx.Linear(3, 3, rngs=rngs)) for _ in range(2))
    second.kernel = first.kernel
    model = Holder(a=first, b=second, c=first, kernel=first.kernel)
    axes = wcgc.axes_of(model)
    assert by_text(axes) == {"a/kernel": wcgc.FLAX, "a/bias": None, "b/bias": None}
    assert wcgc.explain(nnx.state(model, nnx.Param), axes=axes).centralized == 9


def test_a_variable_that_modules_use_in_different_ways_is_left_alone_with_a_warning():
    down = abstract(conv(2, 4, (3,), use_bias=False))
    up = abstract(conv_transpose(4, 2, (3,), transpose_kernel=True, use_bias=False))
    up.kernel = down.kernel
    axes = warned_axes(Holder(down=down, up=up), "'down/kernel' as", "'up/kernel' as")
    assert "'up/kernel' as" in axes["down"]["kernel"].reason


@pytest.mark.parametrize(
    "model", [nnx.State({}), {"kernel": jnp.ones((2, 2))}, nnx.Linear, None, nn.Dense(3)]
)
def test_what_is_not_an_nnx_module_is_rejected(model):
    with pytest.raises(TypeError, match=f"got {type(model).__name__}.*by_path"):
        wcgc.axes_of(model)


@pytest.mark.parametrize(
    ("wrt", "got"), [(3, "3"), ([nnx.Param, 3], r"\[<class .*, 3\]"), ({"a": np.ones(2)}, "dict")]
)
def test_what_is_no_filter_is_rejected(wrt, got):
    message = rf"wrt must be an NNX filter such as nnx\.Param or .*, got {got}\.$"
    with pytest.raises(TypeError, match=message):
        wcgc.axes_of(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), wrt=wrt)


@pytest.mark.parametrize(
    "wrt", [nnx.Param, "tag", True, ..., (nnx.Param, nnx.BatchStat), nnx.Not(nnx.BatchStat)]
)
def test_what_nnx_takes_for_a_filter_is_not(wrt):
    wcgc.axes_of(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), wrt=wrt)


def test_without_flax_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax", None)
    with pytest.raises(ImportError, match=r"pip install flax.*by_path"):
        wcgc.axes_of(None)


WITHOUT_KERNELS = [
    lambda rngs: nnx.Embed(4, 3, rngs=rngs),
    lambda rngs: nnx.BatchNorm(4, rngs=rngs),
    lambda rngs: nnx.LayerNorm(4, rngs=rngs),
    lambda rngs: nnx.RMSNorm(4, rngs=rngs),
    lambda rngs: nnx.GroupNorm(4, num_groups=2, rngs=rngs),
    lambda rngs: nnx.InstanceNorm(4, rngs=rngs),
    lambda rngs: nnx.PReLU(),
    lambda rngs: nnx.Dropout(0.5, rngs=rngs),
]
if hasattr(nnx, "RoPE"):  # since flax 0.12.9
    WITHOUT_KERNELS.append(lambda rngs: nnx.RoPE(embedding_size=4, max_seq_len=3))


@pytest.mark.parametrize("make", WITHOUT_KERNELS)
def test_modules_without_kernels_are_left_alone_in_silence(make):
    # Stacked, their scales and biases have two axes and are told from kernels by the module alone.
    axes = by_text(wcgc.axes_of(abstract(lambda rngs: stacked(make))))
    assert set(axes.values()) <= {None}


NEWEST_FLAX = Version("0.12.12")


@pytest.mark.skipif(
    Version(flax.__version__) > NEWEST_FLAX,
    reason=f"Flax may have modules since {NEWEST_FLAX} that axes_of warns of, as of any unknown",
)
def test_every_module_type_of_nnx_is_covered():
    makes = [make for make, *_ in CASES.values()] + WITHOUT_KERNELS
    covered = {type(module) for make in makes for _, module in nnx.iter_modules(abstract(make))}
    containers = {nnx.Module, nnx.List, nnx.Dict, nnx.Sequential}
    recurrence = {nnx.RNNCellBase, nnx.RNN, nnx.Bidirectional}  # hold cells and no parameters
    types = {
        value
        for value in vars(nnx).values()
        if isinstance(value, type) and issubclass(value, nnx.Module)
    }
    assert types == covered | containers | recurrence
