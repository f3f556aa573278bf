"""What one layout leaves alone: the first line of the README on models as people have them."""

import os

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import wcgc
from wcgc import EQUINOX, FLAX, KernelAxes
from wcgc._vouch import NO_KERNELS

LAYERS, WIDTH, WORDS = 3, 8, 11


def first_line():
    return wcgc.centralized(optax.sgd(0.5))


def drawn(shapes):
    """Random arrays, whose means are far from zero, in place of abstract ones."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        is_abstract = isinstance(leaf, jax.ShapeDtypeStruct)
        return jnp.float32(rng.normal(1.0, 1.0, leaf.shape)) if is_abstract else leaf

    return jax.tree.map(draw, shapes)


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, use_bias=False, rngs=rngs)


class NNXTransformer(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.pos_embedding = nnx.Param(jnp.zeros((1, 5, WIDTH)))
        self.layers = nnx.vmap(NNXBlock)(rngs.split(LAYERS))
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 4, rngs=rngs)


def nnx_params():
    return drawn(nnx.state(nnx.eval_shape(lambda: NNXTransformer(nnx.Rngs(0))), nnx.Param))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.LayerNorm(name="norm")(x)
        x += nn.MultiHeadDotProductAttention(2, name="attention")(y)
        y = nn.relu(nn.Dense(2 * WIDTH, name="up")(x))
        return x + nn.Dense(WIDTH, use_bias=False, name="down")(y), None


class LinenTransformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(WORDS, WIDTH, name="embed")(tokens)
        x += self.param("pos_embedding", nn.initializers.zeros, (1, 5, WIDTH))
        layers = nn.scan(
            LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS
        )
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(4, name="head")(nn.RMSNorm(name="norm")(x))


TOKENS = jax.ShapeDtypeStruct((1, 5), jnp.int32)


def linen_variables():
    return drawn(jax.eval_shape(LinenTransformer().init, jax.random.key(0), TOKENS))


def haiku_transformer(tokens):
    def block(x):
        y = hk.LayerNorm(-1, True, True, name="norm")(x)
        x += hk.MultiHeadAttention(
            2, 4, w_init=hk.initializers.VarianceScaling(), name="attention"
        )(y, y, y)
        return x + hk.nets.MLP([2 * WIDTH, WIDTH], name="mlp")(x)

    x = hk.Embed(WORDS, WIDTH, name="embed")(tokens)
    x += hk.get_parameter("pos_embedding", (1, 5, WIDTH), init=jnp.zeros)
    x = hk.experimental.layer_stack(LAYERS)(block)(x)
    return hk.Linear(4, name="head")(hk.RMSNorm(-1, name="norm")(x))


def haiku_params():
    return drawn(jax.eval_shape(hk.transform(haiku_transformer).init, jax.random.key(0), TOKENS))


class EquinoxBlock(eqx.Module):
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.attention = eqx.nn.MultiheadAttention(2, WIDTH, use_query_bias=True, key=key)
        self.up = eqx.nn.Linear(WIDTH, 2 * WIDTH, key=key)
        self.down = eqx.nn.Linear(2 * WIDTH, WIDTH, use_bias=False, key=key)


class EquinoxTransformer(eqx.Module):
    embed: eqx.nn.Embedding
    pos_embedding: jax.Array
    layers: EquinoxBlock
    norm: eqx.nn.RMSNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        self.embed = eqx.nn.Embedding(WORDS, WIDTH, key=key)
        self.pos_embedding = jnp.zeros((1, 5, WIDTH))
        self.layers = eqx.filter_vmap(EquinoxBlock)(jax.random.split(key, LAYERS))
        self.norm = eqx.nn.RMSNorm(WIDTH)
        self.head = eqx.nn.Linear(WIDTH, 4, key=key)


def equinox_params():
    model = drawn(eqx.filter_eval_shape(EquinoxTransformer, jax.random.key(0)))
    return eqx.filter(model, eqx.is_inexact_array)


def keras_variables():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    tokens = keras.Input((5,))
    x = keras.layers.Embedding(WORDS, WIDTH)(tokens)
    y = keras.layers.LayerNormalization()(x)
    x += keras.layers.MultiHeadAttention(2, 4)(y, y)
    x = keras.layers.GRU(WIDTH)(x)
    return keras.Model(tokens, keras.layers.Dense(4)(x)).trainable_variables


def keras_params():
    rng = np.random.default_rng(0)
    return {v.path: jnp.float32(rng.normal(1.0, 1.0, v.shape)) for v in keras_variables()}


HEAD = {"head/kernel": (0,)}
MODELS = {
    # name: (params, the kernels that the default takes, with the axes it averages over)
    "NNX": (nnx_params, HEAD),
    "Linen": (linen_variables, {"params/head/kernel": (0,)}),
    "Haiku": (haiku_params, {"head/w": (0,)}),
    "Equinox": (equinox_params, {}),
    "Keras": (
        keras_params,
        {
            # (heads, head_dim, out): spatial and in are all that an output sums over.
            "multi_head_attention/attention_output/kernel": (0, 1),
            "gru/gru_cell/kernel": (0,),
            "gru/gru_cell/recurrent_kernel": (0,),
            "dense/kernel": (0,),
        },
    ),
}


def by_path(tree):
    """The arrays by their paths, as `explain` writes them."""
    rows = wcgc.explain(tree).rows
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: node is None)
    return {row.path: leaf for row, leaf in zip(rows, leaves, strict=True)}


@pytest.mark.parametrize("name", MODELS)
def test_the_first_line_moves_kernels_that_it_can_vouch_for_and_nothing_else(name, rng):
    make, kernels = MODELS[name]
    params = make()
    grads = jax.tree.map(lambda leaf: jnp.float32(rng.normal(1.0, 1.0, leaf.shape)), params)
    with pytest.warns(UserWarning, match=r"wcgc\.trace_axes"):
        state = first_line().init(params)
    updates, _ = jax.jit(first_line().update)(grads, state, params)
    plain = by_path(jax.tree.map(lambda leaf: -0.5 * leaf, grads))
    params, updates = by_path(params), by_path(updates)
    assert kernels.keys() <= updates.keys()
    for path, update in updates.items():
        if path not in kernels:
            np.testing.assert_array_equal(update, plain[path], err_msg=path)
        elif update is not None:
            means = np.mean(params[path] + update, axis=kernels[path])
            np.testing.assert_allclose(means, 0, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("name", MODELS)
def test_the_warning_names_a_kernel_and_its_reason(name):
    params = MODELS[name][0]()
    with pytest.warns(UserWarning, match=r"wcgc\.trace_axes") as records:
        first_line().init(params)
    (record,) = records
    reasons = {row.path: row.reason for row in wcgc.explain(params).rows}
    named = next(path for path in reasons if f"'{path}'" in str(record.message))
    assert reasons[named] in str(record.message).replace(
        "since Equinox's is", "Equinox's layout is"
    )


REASONS = {
    "NNX": {
        "embed/embedding": "named 'embedding'",
        "pos_embedding": "named 'pos_embedding'",
        "layers/norm/scale": "named 'scale'",
        "layers/attention/query/kernel": "its bias (3, 2, 4) fits other axes",
        "layers/up/kernel": "its bias (3, 16) fits other axes",
        "layers/down/kernel": "stacked as 'layers/norm/scale' is",
    },
    "Linen": {
        "params/embed/embedding": "named 'embedding'",
        "params/layers/norm/scale": "named 'scale'",
        "params/layers/down/kernel": "stacked as 'params/layers/norm/scale' is",
    },
    "Equinox": {
        "embed/weight": "weight of Embedding",
        "layers/norm/weight": "weight of LayerNorm",
        "layers/up/weight": "Equinox's layout is (out, in, ...)",
        "head/weight": "Equinox's layout is (out, in, ...)",
    },
}


@pytest.mark.parametrize("name", REASONS)
def test_explain_says_why(name):
    reasons = {row.path: row.reason for row in wcgc.explain(MODELS[name][0]()).rows}
    assert {path: reasons[path] for path in REASONS[name]} == REASONS[name]


def test_equinox_in_its_own_layout():
    """All but what is stacked."""
    params = equinox_params()
    rows = wcgc.explain(params, axes=EQUINOX).rows
    assert {row.path: row.slice_axes for row in rows if row.slice_axes} == {"head/weight": (1,)}
    with pytest.warns(UserWarning, match=r"'layers/attention/query_proj/weight' .* 5 more alone"):
        wcgc.centralize_params(axes=EQUINOX).init(params)


@pytest.mark.parametrize("cell", [eqx.nn.GRUCell, eqx.nn.LSTMCell])
def test_recurrent_kernels_of_equinox(cell):
    model = {"net": cell(4, 3, use_bias=False, key=jax.random.key(0))}
    rows = {row.path: row.reason for row in wcgc.explain(model).rows}
    layout = "Equinox's layout is (out, in, ...)"
    assert rows["net/weight_ih"] == rows["net/weight_hh"] == layout


def test_layers_of_equinox_in_variables_of_flax_are_known():
    layer = nnx.Param(eqx.nn.Linear(4, 3, key=jax.random.key(0)))
    rows = {row.path: row.reason for row in wcgc.explain({"net": layer}).rows}
    assert rows["net/weight"] == "Equinox's layout is (out, in, ...)"


def test_biases_of_norms_of_equinox_are_named_for_them():
    norms = eqx.filter_vmap(lambda _: eqx.nn.LayerNorm(3))(jnp.arange(5))
    rows = {row.path: row.reason for row in wcgc.explain({"norms": norms}).rows}
    assert rows["norms/weight"] == "weight of LayerNorm"
    assert rows["norms/bias"] == "bias of LayerNorm"


def test_equinox_in_the_flax_layout_is_told_of_its_own():
    with pytest.warns(UserWarning, match=r"axes=wcgc\.EQUINOX"):
        wcgc.centralize_gradients().init(equinox_params())


def test_a_norm_over_several_axes_is_not_stacked():
    """As Equinox's over (channels, height, width), where a convolution has the same lengths."""
    params = {"net": [eqx.nn.LayerNorm((4, 3, 3)), eqx.nn.Conv2d(3, 4, 3, key=jax.random.key(0))]}
    rows = wcgc.explain(eqx.filter(params, eqx.is_array), axes=EQUINOX).rows
    assert {row.path: row.slice_axes for row in rows}["net/1/weight"] == (1, 2, 3)


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [*NO_KERNELS, "pos_embedding", "cls_token", "moving_mean", "layer_norm_scale", "a/bias"],
    )
    def test_that_are_no_kernels(self, name):
        params = {"layer": {name: jnp.ones((4, 3)), "w": jnp.eye(3)}}
        rows = {row.path: row for row in wcgc.explain(params).rows}
        assert rows[f"layer/{name}"].reason == f"named {name.split('/')[-1]!r}"
        assert rows["layer/w"].slice_axes == (0,)

    @pytest.mark.parametrize("name", ["kernel", "w", "weight", "lora_b", "scale/kernel", "Bias_x"])
    def test_that_may_be_kernels(self, name):
        (row,) = wcgc.explain({"layer": {name: jnp.eye(3)}}).rows
        assert row.slice_axes == (0,)

    def test_b_is_a_kernel_unless_beside_w(self):
        rows = wcgc.explain({"lora": {"a": jnp.ones((4, 2)), "b": jnp.ones((2, 4))}}).rows
        assert [row.slice_axes for row in rows] == [(0,), (0,)]

    def test_do_not_matter_where_axes_are_given_for_the_leaf(self):
        params = {"embed": {"embedding": jnp.ones((4, 3))}}
        for axes in ({"embed": {"embedding": FLAX}}, wcgc.by_path(("embedding", FLAX))):
            assert wcgc.explain(params, axes=axes).rows[0].slice_axes == (0,)

    @pytest.mark.parametrize(
        "axes",
        [
            FLAX,
            lambda tree: FLAX,
            {"embed": FLAX, "head": None},
            wcgc.by_path(("head", None), otherwise=FLAX),
        ],
        ids=["one", "callable", "prefix", "otherwise"],
    )
    def test_matter_wherever_axes_stand_for_several_leaves(self, axes):
        embed = {"embedding": jnp.ones((4, 3)), "kernel": jnp.ones((3, 3))}
        params = {"embed": embed, "head": {"kernel": jnp.ones((3, 2))}}
        rows = wcgc.explain(params, axes=axes).rows
        assert rows[0].reason == "named 'embedding'"
        assert rows[1].slice_axes == (0,)

    @pytest.mark.parametrize(
        "layer", ["embed_tokens", "wte", "word_embeddings", "Embed_0", "relative_attention_bias"]
    )
    def test_of_layers_tell_what_a_weight_is(self, layer):
        shapes = {"weight": (7, 3), "kernel": (3, 4)}
        params = {layer: {name: jnp.eye(*shape) for name, shape in shapes.items()}}
        for path, tree in (layer, params), (f"net/{layer}", {"net": params}):
            rows = {row.path: row for row in wcgc.explain(tree).rows}
            assert rows[f"{path}/weight"].reason == f"weight of {layer!r}"
            assert rows[f"{path}/kernel"].slice_axes == (0,)

    @pytest.mark.parametrize(
        "params",
        [
            {"patch_embed": {"weight": np.ones((4, 3, 2, 2))}},  # a convolution
            {"member": {"weight": np.ones((4, 3))}},
            {"time_embed": {"weight": np.ones((4, 3)), "bias": np.ones(3)}},  # a dense layer
            {"net": {"time_embed": {"weight": np.ones((4, 3)), "bias": np.ones(3)}}},
            {"weight": np.ones((4, 3))},
            {"embed": [np.ones((4, 3))]},
        ],
    )
    def test_of_layers_that_tell_nothing(self, params):
        assert any(row.slice_axes for row in wcgc.explain(params).rows)

    @pytest.mark.parametrize(
        ("layer", "name", "framework"),
        [
            ("conv2d_transpose", "kernel", "Haiku and Keras"),
            ("conv1d_transpose_3", "kernel", "Haiku and Keras"),
            ("net/~/conv2_d_transpose_1", "w", "Haiku and Keras"),
            ("depthwise_conv2d", "kernel", "Keras"),
            ("depthwise_conv1d_2", "kernel", "Keras"),
            ("separable_conv2d", "depthwise_kernel", "Keras"),
        ],
    )
    def test_of_layers_with_another_layout(self, layer, name, framework):
        """Where input and output have one length, no bias tells."""
        params = {layer: {name: jnp.ones((3, 3, 4, 4)), "bias": jnp.ones(4)}}
        row = wcgc.explain(params).rows[1]
        assert row.slice_axes is None
        assert f" of {framework} are (..., " in row.reason
        other = wcgc.explain(params, axes=KernelAxes(-1, -2)).rows[1]
        assert other.slice_axes == (0, 1, 3)
        with pytest.warns(UserWarning, match=rf"leaves '{layer}/{name}' .* are \(\.\.\., "):
            wcgc.centralize_gradients().init({**params, "head": {"kernel": jnp.eye(4)}})

    @pytest.mark.parametrize("layer", ["ConvTranspose_0", "depthwise_conv2_d", "transpose"])
    def test_of_layers_with_this_layout(self, layer):
        params = {layer: {"kernel": jnp.ones((3, 3, 4, 4)), "bias": jnp.ones(4)}}
        assert wcgc.explain(params).rows[1].slice_axes == (0, 1, 2)

    def test_with_dots_are_paths(self):
        shapes = {"conv.weight": (8, 4, 3, 3), "conv.bias": (8,), "norm.bias": (2, 2)}
        rows = wcgc.explain({name: jnp.ones(shape) for name, shape in shapes.items()}).rows
        assert {row.path: row.reason for row in rows} == {
            "conv.bias": "fewer than two axes",
            "conv.weight": "its bias (8,) fits other axes",
            "norm.bias": "named 'bias'",
        }

    def test_are_in_the_documentation(self):
        for name in NO_KERNELS:
            assert f"`{name}`" in wcgc.centralize.__doc__


class TestStacks:
    """Norms whose scales have two axes show that the layers beside them are stacked."""

    @pytest.mark.parametrize(
        ("kernel", "path", "taken"),
        [
            ((5, 6, 4), "layers/dense/kernel", False),
            ((5, 6, 2, 3), "layers/dense/kernel", False),
            ((5, 6, 4), "layers/kernel", False),
            ((5, 6, 4), "other/kernel", True),
            ((6, 5, 4), "layers/dense/kernel", True),
            ((5, 4), "layers/dense/kernel", True),
            ((5, 6, 4), "kernel", True),
        ],
    )
    def test_kernels_beside_them(self, kernel, path, taken):
        params = {path: jnp.ones(kernel), "layers/ln/scale": jnp.ones((5, 6))}
        for collection in (params, {"params": params}):
            rows = {row.path: row for row in wcgc.explain(collection).rows}
            (row,) = (row for where, row in rows.items() if where.endswith(path))
            assert (row.slice_axes is not None) == taken
            assert taken or row.reason.endswith("layers/ln/scale' is")

    def test_kernels_whose_axes_say_so_are_taken(self):
        params = {"layers": {"kernel": jnp.ones((5, 6, 4)), "scale": jnp.ones((5, 6))}}
        rows = wcgc.explain(params, axes=KernelAxes(batch_axis=0)).rows
        assert rows[0].slice_axes == (1,)


class TestBiases:
    """A kernel of three or more axes whose bias does not have one number per output."""

    @pytest.mark.parametrize(
        ("kernel", "bias", "axes", "taken"),
        [
            ((3, 3, 2, 4), (4,), FLAX, True),
            ((5, 6, 4), (5, 4), FLAX, False),  # five scanned layers
            ((5, 6, 4), (5, 4), KernelAxes(batch_axis=0), True),
            ((6, 2, 3), (2, 3), FLAX, False),  # two heads of three
            ((6, 2, 3), (2, 3), KernelAxes(0, (1, 2)), True),
            ((6, 2, 3), (6,), KernelAxes(0, (1, 2)), True),  # one number per output all the same
            ((3, 3, 6, 1), (6,), FLAX, False),  # Keras's depthwise
            ((3, 3, 6, 2), (12,), KernelAxes((), (-2, -1)), True),
            ((3, 3, 4, 2), (4,), FLAX, False),  # Haiku's and Keras's transposed, (..., out, in)
            ((4, 2, 3, 3), (4, 1, 1), EQUINOX, True),
            ((5, 4, 2, 3, 3), (5, 4, 1, 1), EQUINOX, False),
            ((4, 6), (2, 6), FLAX, True),  # the two biases of Keras's GRU
            ((4, 6), (4,), FLAX, False),  # (out, in)
            ((4, 6), (4,), EQUINOX, True),
            ((4, 6), (6,), EQUINOX, False),
            ((4, 6), (5,), FLAX, True),  # a bias of something else
            ((4, 4), (4,), FLAX, True),
            ((4, 6), (4, 1), FLAX, False),  # (out, in), with a bias for columns
            ((4, 6), (4, 1), EQUINOX, True),
            ((4, 6), (1, 6), FLAX, True),
            ((2, 6), (1, 2), FLAX, False),
            ((6, 4), (1, 1, 4), FLAX, True),
            ((4, 6), (1, 1, 4), FLAX, False),
            ((2, 1), (1, 1), FLAX, True),
            ((5, 4, 6), (5, 2, 6), FLAX, False),  # GRUs that are stacked
            ((5, 4, 6), (5, 2, 6), KernelAxes(batch_axis=0), True),
            ((5, 4, 6), (1, 2, 6), KernelAxes(batch_axis=0), True),
            ((6, 2, 3), (1, 2, 3), FLAX, False),  # two heads of three
            ((6, 2, 3), (1, 2, 3), KernelAxes(0, (1, 2)), True),
        ],
    )
    def test_shows_that_the_axes_are_others(self, kernel, bias, axes, taken):
        params = {"kernel": jnp.ones(kernel), "bias": jnp.ones(bias)}
        row = wcgc.explain(params, axes=axes).rows[1]
        assert (row.slice_axes is not None) == taken
        assert row.reason == ("" if taken else f"its bias {bias} fits other axes")

    def test_counts_beside_a_vector_of_another_name(self):
        params = {"kernel": jnp.ones((3, 4)), "gain": jnp.ones(3), "bias": jnp.ones(3)}
        reasons = {row.path: row.reason for row in wcgc.explain(params).rows}
        assert reasons["kernel"] == "its bias (3,) fits other axes"

    def test_counts_beside_a_kernel_that_lacks_the_axes(self):
        """Which is no error where a mask leaves it out."""
        params = {
            "a": {"kernel": jnp.ones((4, 3))},
            "b": {"kernel": jnp.ones((5, 4, 3)), "bias": jnp.ones(4)},
        }
        rows = wcgc.explain(
            params, axes=KernelAxes(batch_axis=0), mask={"a": False, "b": True}
        ).rows
        reasons = {row.path: row.reason for row in rows}
        assert reasons["a/kernel"] == "mask is False"
        assert reasons["b/kernel"] == "its bias (4,) fits other axes"

    def test_of_several_kernels_shows_nothing(self):
        params = {"k1": jnp.ones((3, 5, 4)), "k2": jnp.ones((3, 4, 2)), "bias": jnp.ones((2,))}
        assert wcgc.explain(params).rows[1].slice_axes == (0, 1)


class TestGuesses:
    """A kernel whose shape fits several layouts is taken, and `init` says so."""

    @pytest.mark.parametrize(
        ("kernel", "axes"),
        [
            ((8, 2, 4), FLAX),  # attention's query (in, heads, features), or a convolution's
            ((3, 5, 4), FLAX),  # three experts, or a window of three
            ((3, 3, 6, 1), FLAX),  # depthwise, or one output
            ((4, 3, 8, 5), FLAX),  # two axes of stacks, or a window of 4 x 3
            ((12, 12, 3, 5), FLAX),  # 12 layers of 12 heads, or a wide window
            ((5, 4, 3), EQUINOX),
        ],
    )
    def test_are_told(self, kernel, axes, rng):
        params = {"layer": {"kernel": jnp.float32(rng.normal(size=kernel))}}
        with pytest.warns(
            UserWarning, match=r"'layer/kernel' of shape .* wcgc\.by_path"
        ) as records:
            wcgc.centralize_gradients(axes=axes).init(params)
        (record,) = records
        slice_axes = wcgc.explain(params, axes=axes).rows[0].slice_axes
        assert f"averaged over the axes {slice_axes}." in str(record.message)

    @pytest.mark.parametrize(
        ("shapes", "axes"),
        [
            ({"kernel": (3, 5, 4), "bias": (4,)}, FLAX),
            ({"kernel": (3, 3, 5, 4)}, FLAX),
            ({"kernel": (1, 7, 5, 4)}, FLAX),
            ({"kernel": (2, 2, 5, 4)}, FLAX),
            ({"kernel": (1, 5, 4)}, FLAX),
            ({"kernel": (5, 4)}, FLAX),
            ({"kernel": (3, 3, 1, 6)}, FLAX),  # Flax's depthwise
            ({"kernel": (5, 6, 4)}, KernelAxes(batch_axis=0)),
            ({"kernel": (5, 6, 4)}, wcgc.by_path(("kernel", FLAX))),
            ({"kernel": (5, 6, 4)}, {"kernel": FLAX}),
        ],
    )
    def test_are_not_told_where_there_is_little_to_mistake(self, shapes, axes, rng):
        params = {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
        wcgc.centralize_gradients(axes=axes).init(params)

    def test_are_none_for_one_array_and_for_layers_of_equinox(self, rng):
        wcgc.centralize_gradients().init(jnp.float32(rng.normal(size=(3, 5, 4))))
        conv = eqx.nn.Conv1d(3, 4, 5, use_bias=False, key=jax.random.key(0))
        wcgc.centralize_gradients(axes=EQUINOX).init(eqx.filter(conv, eqx.is_array))
