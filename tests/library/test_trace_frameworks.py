"""Traced axes of small models of five libraries, against what perturbations of the model show."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import wcgc

from helpers.perturbation import drawn, fan_in, gradients

WIDTH, TOKENS, LAYERS = 5, 2, 3


@pytest.fixture(autouse=True)
def standard_promotion():
    """The models of these libraries mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def paths(tree):
    """The leaves of a tree by their paths, without what NNX puts below its variables."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: leaf is None)
    written = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    names = [path.removesuffix("/value") for path in written]
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True))


def assert_as_perturbed(function, params, inputs, kernels, reads=TOKENS, loose=()):
    """Compares the traced axes with those of `fan_in` for each kernel.

    Args:
      function: a function of the parameters and the inputs.
      params: a tree of abstract parameters.
      inputs: arrays.
      kernels: the paths of all kernels; all other leaves are to be left alone.
      reads: how many vectors each kernel reads.
      loose: the paths of those whose filters do not read the same, so that their output axes
        number kernels as well.
    """
    abstract = jax.eval_shape(lambda: params)
    traced = paths(wcgc.trace_axes(function, abstract, *inputs))
    chosen = {path for path, axes in traced.items() if isinstance(axes, wcgc.KernelAxes)}
    assert chosen == set(kernels)
    values = drawn(params)
    moving = paths(gradients(lambda values: function(values, *inputs), values, reads + 3))
    for path in kernels:
        shape = moving[path].shape[1:]
        in_axes, out_axes, batch_axes, spatial = traced[path].resolve(len(shape))
        filter_axes, numbering = fan_in(moving[path], reads)
        long = {axis for axis, length in enumerate(shape) if length > 1}
        assert (set(in_axes) | set(spatial)) & long == filter_axes, path
        assert set(batch_axes) & long <= numbering <= set(batch_axes + out_axes), path
        if path not in loose:
            assert set(batch_axes) & long == numbering, path


def tokens(rng, *shape):
    return jnp.float32(rng.normal(size=shape or (1, TOKENS, WIDTH)))


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            3, WIDTH, 12, normalize_qk=True, decode=False, rngs=rngs
        )
        self.widen = nnx.Linear(WIDTH, 7, rngs=rngs)
        self.narrow = nnx.Linear(7, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.narrow(nnx.gelu(self.widen(x)))


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.first = NnxBlock(rngs)
        self.blocks = nnx.vmap(NnxBlock)(rngs.split(LAYERS))

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block, x):
            return block(x)

        return run(self.blocks, self.first(x))


ATTENTION = ("query/kernel", "key/kernel", "value/kernel", "out/kernel")


def test_nnx(rng):
    model = nnx.eval_shape(lambda: NnxModel(nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    x = tokens(rng)
    block = [f"attention/{name}" for name in ATTENTION] + ["widen/kernel", "narrow/kernel"]
    kernels = [f"{part}/{name}" for part in ("first", "blocks") for name in block]

    def apply(params, x):
        return nnx.merge(graphdef, params, rest)(x)

    assert_as_perturbed(apply, params, [x], kernels)
    # The module itself gives the same, in dictionaries.
    traced = wcgc.trace_axes(lambda model, x: model(x), model, x)
    assert {path for path, axes in paths(traced).items() if isinstance(axes, wcgc.KernelAxes)} == (
        set(kernels)
    )
    assert traced["first"]["attention"]["out"] == {
        "bias": wcgc.LeftAlone("fewer than two axes"),
        "kernel": wcgc.KernelAxes((-3, -2), -1),
    }


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(3, qkv_features=12)(y, y)
        return x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(7)(nn.LayerNorm()(x)))), None


class LinenModel(nn.Module):
    remat: bool

    @nn.compact
    def __call__(self, x):
        block = nn.remat(LinenBlock, prevent_cse=False) if self.remat else LinenBlock
        layers = nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS
        )
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(4)(x)


@pytest.mark.parametrize("remat", [False, True])
def test_linen(remat, rng):
    model, x = LinenModel(remat), tokens(rng)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    attention = [f"MultiHeadDotProductAttention_0/{name}" for name in ATTENTION]
    stacked = [*attention, "Dense_0/kernel", "Dense_1/kernel"]
    kernels = [*(f"params/layers/{name}" for name in stacked), "params/Dense_0/kernel"]
    assert_as_perturbed(model.apply, variables, [x], kernels)


def test_linen_partitioned():
    initializer = nn.with_partitioning(nn.initializers.ones, ("a", "b"))
    model, x = nn.Dense(3, kernel_init=initializer), jnp.ones((2, 5))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    axes = wcgc.trace_axes(model.apply, variables, x)
    assert axes["params"]["kernel"].value == wcgc.FLAX
    assert len(wcgc.explain(variables, axes=axes).rows) == 2


def haiku_network(x):
    def block(x):
        return x + hk.Linear(WIDTH)(jax.nn.gelu(hk.Linear(7)(hk.LayerNorm(-1, True, True)(x))))

    x = hk.experimental.layer_stack(LAYERS)(block)(x)
    initializer = hk.initializers.VarianceScaling()
    return hk.MultiHeadAttention(3, 4, w_init=initializer, name="attention")(x, x, x)


def test_haiku(rng):
    network, x = hk.without_apply_rng(hk.transform(haiku_network)), tokens(rng)
    params = jax.eval_shape(network.init, jax.random.key(0), x)
    stack = "__layer_stack_no_per_layer"
    kernels = [f"{stack}/linear/w", f"{stack}/linear_1/w"]
    kernels += [f"attention/{name}/w" for name in ("query", "key", "value", "linear")]
    assert_as_perturbed(network.apply, params, [x], kernels)


def test_haiku_recurrence(rng):
    def function(x):
        gru, lstm = hk.GRU(6), hk.LSTM(4)
        states, _ = hk.dynamic_unroll(gru, x, gru.initial_state(1))
        return hk.static_unroll(lstm, states, lstm.initial_state(1))[0]

    network, x = hk.without_apply_rng(hk.transform(function)), tokens(rng, TOKENS, 1, WIDTH)
    params = jax.eval_shape(network.init, jax.random.key(0), x)
    assert_as_perturbed(network.apply, params, [x], ["gru/w_i", "gru/w_h", "lstm/linear/w"])


class EquinoxModel(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    layers: eqx.nn.MLP
    norms: eqx.nn.LayerNorm
    cell: eqx.nn.GRUCell

    def __init__(self, key):
        keys = jax.random.split(key, LAYERS)
        self.attention = eqx.nn.MultiheadAttention(3, WIDTH, qk_size=4, vo_size=4, key=key)
        self.layers = eqx.filter_vmap(lambda key: eqx.nn.MLP(WIDTH, WIDTH, 7, 1, key=key))(keys)
        self.norms = eqx.filter_vmap(lambda _: eqx.nn.LayerNorm(WIDTH))(keys)
        self.cell = eqx.nn.GRUCell(WIDTH, 4, key=key)

    def __call__(self, x):
        x = self.attention(x, x, x)
        arrays, static = eqx.partition((self.layers, self.norms), eqx.is_array)

        def step(x, arrays):
            layer, norm = eqx.combine(arrays, static)
            return x + jax.vmap(layer)(jax.vmap(norm)(x)), None

        x, _ = jax.lax.scan(step, x, arrays)
        return jax.lax.scan(lambda h, y: (self.cell(y, h), None), jnp.zeros(4), x)[0]


def test_equinox(rng):
    model, x = eqx.filter_eval_shape(EquinoxModel, jax.random.key(0)), tokens(rng, TOKENS, WIDTH)
    arrays, static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    kernels = [f"attention/{name}_proj/weight" for name in ("query", "key", "value", "output")]
    kernels += ["layers/layers/0/weight", "layers/layers/1/weight"]
    kernels += ["cell/weight_ih", "cell/weight_hh"]

    def apply(arrays, x):
        return eqx.combine(arrays, static)(x)

    assert_as_perturbed(apply, arrays, [x], kernels)
    # The module itself, with its functions and numbers, gives the same.
    traced = wcgc.trace_axes(lambda model, x: model(x), model, x)
    assert isinstance(traced, EquinoxModel)
    assert {path for path, axes in paths(traced).items() if isinstance(axes, wcgc.KernelAxes)} == (
        set(kernels)
    )
    chosen = [row.path for row in wcgc.explain(arrays, axes=traced).rows if row.slice_axes]
    assert set(chosen) == set(kernels)


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


def keras_function(keras, layers, shape, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    model = keras.Model(inputs, layers(inputs))
    fixed = [variable.value for variable in model.non_trainable_variables]
    params = {variable.path: variable.value for variable in model.trainable_variables}

    def apply(params, x):
        return model.stateless_call(list(params.values()), fixed, x)[0]

    # A dictionary would be sorted on its way through JAX.
    order = list(params)
    return lambda p, x: apply({path: p[path] for path in order}, x), params


def test_keras_depthwise_convolutions(keras, rng):
    layers = keras.layers

    def network(x):
        x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise")(x)
        x = layers.BatchNormalization(name="norm")(x)
        return layers.SeparableConv2D(5, 3, padding="same", name="separable")(x)

    apply, params = keras_function(keras, network, (2, 3, 4))
    depthwise = ["depthwise/kernel", "separable/depthwise_kernel"]
    kernels = [*depthwise, "separable/pointwise_kernel"]
    x = tokens(rng, 1, 2, 3, 4)
    assert_as_perturbed(apply, params, [x], kernels, reads=6, loose=depthwise)
    traced = wcgc.trace_axes(apply, params, x)
    assert traced["depthwise/kernel"] == wcgc.KernelAxes((), (-2, -1))
    assert traced["separable/depthwise_kernel"] == wcgc.KernelAxes((), (-2, -1))


def test_keras_transposed_convolutions(keras, rng):
    layers = keras.layers

    def network(x):
        x = layers.Conv2DTranspose(5, 3, padding="same", name="transposed")(x)
        return layers.Conv2D(4, 3, padding="same", name="conv")(x)

    apply, params = keras_function(keras, network, (4, 4, 5))
    x = tokens(rng, 1, 4, 4, 5)
    assert_as_perturbed(apply, params, [x], ["transposed/kernel", "conv/kernel"], reads=16)
    traced = wcgc.trace_axes(apply, params, x)
    assert traced["transposed/kernel"] == wcgc.KernelAxes(in_axis=-1, out_axis=-2)


def test_keras_sequences(keras, rng):
    layers = keras.layers

    def network(x):
        x = layers.MultiHeadAttention(3, 4, name="attention")(x, x)
        x = layers.LayerNormalization(name="norm")(x)
        x = layers.GRU(6, return_sequences=True, name="gru")(x)
        return layers.LSTM(4, return_sequences=True, unroll=True, name="lstm")(x)

    apply, params = keras_function(keras, network, (TOKENS, WIDTH))
    kernels = [
        *(f"attention/{name}/kernel" for name in ("query", "key", "value", "attention_output")),
        *(f"gru/gru_cell/{name}" for name in ("kernel", "recurrent_kernel")),
        *(f"lstm/lstm_cell/{name}" for name in ("kernel", "recurrent_kernel")),
    ]
    assert_as_perturbed(apply, params, [tokens(rng)], kernels)


def test_keras_variables_stand_for_their_values(keras):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x = np.ones((2, 4), np.float32)
    axes = wcgc.trace_axes(model.stateless_call, model.trainable_variables, [], x)
    assert axes == [wcgc.FLAX, wcgc.LeftAlone("fewer than two axes")]


def test_a_masked_convolution_is_left_alone_for_its_mask():
    mask = np.ones((3, 3, 2, 4), np.float32)
    mask[2, 1:] = 0.0  # pixels that are not known yet, as in PixelCNN
    x = jax.ShapeDtypeStruct((1, 6, 6, 2), jnp.float32)

    def traced(**choices):
        model = nnx.Conv(2, 4, (3, 3), rngs=nnx.Rngs(0), **choices)
        return paths(wcgc.trace_axes(lambda model, x: model(x), model, x))["kernel"]

    assert isinstance(traced(), wcgc.KernelAxes)
    found = traced(mask=jnp.asarray(mask))
    assert isinstance(found, wcgc.LeftAlone)
    assert "varies along the axes of the mean" in found.reason, found.reason
