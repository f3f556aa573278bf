"""Small real models of four libraries, trained with WC and GC as their users would."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

import wcgc

STEPS = 4
BATCH = 8
STACKED = wcgc.KernelAxes(batch_axis=0)
QUERY = wcgc.KernelAxes(-3, (-2, -1))
OUT = wcgc.KernelAxes((-3, -2), -1)
TRANSPOSED = wcgc.KernelAxes(in_axis=-1, out_axis=-2)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Adam and the models of these libraries mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def data(rng):
    """Images, tokens and targets."""
    images = jnp.float32(rng.normal(size=(BATCH, 4, 4, 2)))
    tokens = jnp.int32(rng.integers(5, size=(BATCH, 3)))
    return images, tokens, images.mean((1, 2)).sum(-1) + tokens[:, 0].astype(jnp.float32)


def drawn(model):
    """Random arrays in place of abstract ones, since initializers take long to compile."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jnp.float32(rng.normal(scale=0.4, size=leaf.shape))
        return leaf

    return jax.tree.map(draw, model)


class Recorded:
    """An `axes` argument that remembers what it selected from each tree it was shown."""

    def __init__(self, axes):
        self.axes = axes
        self.selected = []

    def __call__(self, tree):
        rows = wcgc.explain(tree, axes=self.axes).rows
        self.selected.append(
            {row.path: row.slice_axes for row in rows if row.slice_axes is not None}
        )
        return self.axes(tree)


def optimizer(axes):
    return wcgc.centralized(optax.adam(1e-2), axes=axes)


def leaves_of(tree):
    """The arrays by their paths, as `by_path` writes them."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    named = ((jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat)
    return {path.removesuffix("/value"): np.asarray(leaf) for path, leaf in named}


def assert_trained(losses, before, after, recorded, fan_in):
    """Checks that a model learned, and that its kernels and nothing else were centralized.

    Args:
      losses: the loss of each step.
      before: the parameters before training.
      after: the parameters after it.
      recorded: the `axes` of the optimizer.
      fan_in: by path, the axes that the outputs of each kernel are summed over.
    """
    assert losses[-1] < losses[0]
    # Two transforms looked at the parameters at init, and at each trace of an update.
    assert len(recorded.selected) >= 4
    assert all(selected == fan_in for selected in recorded.selected)
    before, after = leaves_of(before), leaves_of(after)
    assert before.keys() == after.keys() >= fan_in.keys()
    for path, leaf in after.items():
        if path in fan_in:
            means = leaf.mean(fan_in[path])
            size = leaf.size // means.size
            bound = (2 + 2 * size) * np.finfo(np.float32).eps * abs(leaf).max()
            assert abs(means).max() <= bound, path
            assert abs(before[path].mean(fan_in[path])).max() > 100 * bound, path
        elif leaf.ndim > 1:
            assert all(abs(leaf.mean(axis)).max() > 1e-3 for axis in range(leaf.ndim)), path


class NNXModel(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(4, 4, (3, 3), feature_group_count=4, rngs=rngs)
        self.up = nnx.ConvTranspose(4, 6, (2, 2), transpose_kernel=True, rngs=rngs)
        self.embed = nnx.Embed(5, 6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
        self.layers = nnx.vmap(lambda rngs: nnx.Linear(6, 6, rngs=rngs))(rngs.split(3))
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.head = nnx.Linear(6, 1, rngs=rngs)

    def __call__(self, images, tokens):
        x = self.up(nnx.relu(self.depthwise(nnx.relu(self.conv(images)))))
        x = x.mean((1, 2)) + self.attention(self.embed(tokens)).mean(1)
        x = nnx.scan(
            lambda x, layer: x + nnx.relu(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
        )(x, self.layers)
        return self.head(self.norm(x))[:, 0]


NNX_FAN_IN = {
    "conv/kernel": (0, 1, 2),
    "depthwise/kernel": (0, 1, 2),
    "up/kernel": (0, 1, 3),
    "attention/query/kernel": (0,),
    "attention/key/kernel": (0,),
    "attention/value/kernel": (0,),
    "attention/out/kernel": (0, 1),
    "layers/kernel": (1,),
    "head/kernel": (0,),
}
NNX_RULES = wcgc.by_path(
    ("(query|key|value)/kernel", QUERY),
    ("out/kernel", OUT),
    ("up/kernel", TRANSPOSED),
    ("layers/kernel", STACKED),
    ("kernel", wcgc.FLAX),
)


@pytest.fixture(scope="module")
def nnx_model():
    """The structure and the state of a model."""
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: NNXModel(nnx.Rngs(0))))
    return graphdef, drawn(shapes)


def mean_square(model, images, tokens, targets):
    return jnp.mean((model(images, tokens) - targets) ** 2)


def test_nnx_optimizer(nnx_model, data):
    model = nnx.merge(*nnx_model, copy=True)
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    recorded = Recorded(NNX_RULES)
    tx = optimizer(recorded)
    trainer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, trainer, batch):
        loss, grads = nnx.value_and_grad(mean_square)(model, *batch)
        trainer.update(model, grads)
        return loss

    losses = [step(model, trainer, data) for _ in range(STEPS)]
    after = nnx.state(model, nnx.Param)
    assert_trained(losses, before, after, recorded, NNX_FAN_IN)


def test_nnx_split_and_merge(nnx_model, data):
    model = nnx.merge(*nnx_model, copy=True)
    axes = wcgc.axes_of(model)
    recorded = Recorded(lambda tree: axes)
    tx = optimizer(recorded)
    graphdef, before, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            return mean_square(nnx.merge(graphdef, params, rest), *batch)

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    params, state, losses = before, tx.init(before), []
    for _ in range(STEPS):
        params, state, value = step(params, state, data)
        losses.append(value)
    assert_trained(losses, before, params, recorded, NNX_FAN_IN)


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, images, tokens):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(images))
        x = nn.ConvTranspose(6, (2, 2), transpose_kernel=True, name="up")(x).mean((1, 2))
        y = nn.Embed(5, 6, name="embed")(tokens)
        x += nn.MultiHeadDotProductAttention(2, name="attention")(y).mean(1)
        layers = nn.scan(
            LinenLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(1, name="head")(nn.LayerNorm(name="norm")(x))[:, 0]


class LinenLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.relu(nn.Dense(6, name="dense")(x)), None


LINEN_FAN_IN = {path: axes for path, axes in NNX_FAN_IN.items() if path != "depthwise/kernel"}
LINEN_FAN_IN["layers/dense/kernel"] = LINEN_FAN_IN.pop("layers/kernel")
LINEN_RULES = wcgc.by_path(
    ("(query|key|value)/kernel", QUERY),
    ("out/kernel", OUT),
    ("up/kernel", TRANSPOSED),
    ("layers/.*kernel", STACKED),
    ("kernel", wcgc.FLAX),
)


@pytest.fixture(scope="module")
def linen_params():
    shapes = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 3), jnp.int32)
    return drawn(jax.eval_shape(LinenModel().init, jax.random.key(0), *shapes)["params"])


def test_linen_train_state(linen_params, data):
    recorded = Recorded(LINEN_RULES)
    state = TrainState.create(
        apply_fn=LinenModel().apply, params=linen_params, tx=optimizer(recorded)
    )

    @jax.jit
    def step(state, images, tokens, targets):
        def loss(params):
            return jnp.mean((state.apply_fn({"params": params}, images, tokens) - targets) ** 2)

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    losses = []
    for _ in range(STEPS):
        state, value = step(state, *data)
        losses.append(value)
    assert_trained(losses, linen_params, state.params, recorded, LINEN_FAN_IN)


def haiku_model(images, tokens):
    x = jax.nn.relu(hk.Conv2D(4, 3, name="conv")(images))
    x = hk.Conv2DTranspose(6, 2, name="up")(x).mean((1, 2))
    y = hk.Embed(5, 6, name="embed")(tokens)
    attention = hk.MultiHeadAttention(2, 3, w_init=hk.initializers.VarianceScaling(), name="attend")
    x += attention(y, y, y).mean(1)
    x = hk.nets.MLP([6, 6], activate_final=True, name="mlp")(x)
    return hk.Linear(1, name="head")(hk.LayerNorm(-1, True, True, name="norm")(x))[:, 0]


HAIKU_FAN_IN = {
    "conv/w": (0, 1, 2),
    "up/w": (0, 1, 3),
    "attend/query/w": (0,),
    "attend/key/w": (0,),
    "attend/value/w": (0,),
    "attend/linear/w": (0,),
    "mlp/~/linear_0/w": (0,),
    "mlp/~/linear_1/w": (0,),
    "head/w": (0,),
}
HAIKU_RULES = wcgc.by_path(("up/w$", TRANSPOSED), ("/w$", wcgc.FLAX))


@pytest.fixture(scope="module")
def haiku_params():
    shapes = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 3), jnp.int32)
    return drawn(jax.eval_shape(hk.transform(haiku_model).init, jax.random.key(0), *shapes))


def test_haiku(haiku_params, data):
    recorded = Recorded(HAIKU_RULES)
    tx = optimizer(recorded)
    apply = hk.without_apply_rng(hk.transform(haiku_model)).apply

    @jax.jit
    def step(params, state, images, tokens, targets):
        def loss(params):
            return jnp.mean((apply(params, images, tokens) - targets) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    params, state, losses = haiku_params, tx.init(haiku_params), []
    for _ in range(STEPS):
        params, state, value = step(params, state, *data)
        losses.append(value)
    assert_trained(losses, haiku_params, params, recorded, HAIKU_FAN_IN)


class EquinoxModel(eqx.Module):
    conv: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    embed: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    layers: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = iter(jax.random.split(key, 6))
        self.conv = eqx.nn.Conv2d(2, 4, 3, padding=1, key=next(keys))
        self.up = eqx.nn.ConvTranspose2d(4, 6, 2, key=next(keys))
        self.embed = eqx.nn.Embedding(5, 6, key=next(keys))
        self.attention = eqx.nn.MultiheadAttention(2, 6, key=next(keys))
        self.layers = eqx.filter_vmap(lambda key: eqx.nn.Linear(6, 6, key=key))(
            jax.random.split(next(keys), 3)
        )
        self.norm = eqx.nn.LayerNorm(6)
        self.head = eqx.nn.Linear(6, "scalar", key=next(keys))

    def __call__(self, image, tokens):
        x = self.up(jax.nn.relu(self.conv(jnp.moveaxis(image, -1, 0)))).mean((1, 2))
        y = jax.vmap(self.embed)(tokens)
        x += self.attention(y, y, y).mean(0)
        arrays, static = eqx.partition(self.layers, eqx.is_array)
        x, _ = jax.lax.scan(
            lambda x, layer: (x + jax.nn.relu(eqx.combine(layer, static)(x)), None), x, arrays
        )
        return self.head(self.norm(x))


EQUINOX_FAN_IN = {
    "conv/weight": (1, 2, 3),
    "up/weight": (1, 2, 3),
    "attention/query_proj/weight": (1,),
    "attention/key_proj/weight": (1,),
    "attention/value_proj/weight": (1,),
    "attention/output_proj/weight": (1,),
    "layers/weight": (2,),
    "head/weight": (1,),
}
EQUINOX_RULES = wcgc.by_path(
    ("embed", None),
    ("layers/weight", wcgc.KernelAxes(in_axis=2, out_axis=1, batch_axis=0)),
    ("weight", wcgc.EQUINOX),
)


@pytest.fixture(scope="module")
def equinox_model():
    return drawn(eqx.filter_eval_shape(EquinoxModel, jax.random.key(0)))


def test_equinox(equinox_model, data):
    recorded = Recorded(EQUINOX_RULES)
    tx = optimizer(recorded)
    before = eqx.filter(equinox_model, eqx.is_inexact_array)

    @eqx.filter_jit
    def step(model, state, images, tokens, targets):
        @eqx.filter_value_and_grad
        def loss(model):
            return jnp.mean((jax.vmap(model)(images, tokens) - targets) ** 2)

        value, grads = loss(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, value

    model, state, losses = equinox_model, tx.init(before), []
    for _ in range(STEPS):
        model, state, value = step(model, state, *data)
        losses.append(value)
    after = eqx.filter(model, eqx.is_inexact_array)
    assert_trained(losses, before, after, recorded, EQUINOX_FAN_IN)


def test_the_equinox_layout_alone_leaves_biases_and_the_missing_ones_alone(equinox_model):
    rows = wcgc.explain(eqx.filter(equinox_model, eqx.is_array), axes=wcgc.EQUINOX).rows
    reasons = {row.path: row.reason for row in rows}
    assert reasons["attention/query_proj/bias"] == "empty node"
    assert reasons["conv/bias"] == "named 'bias'"  # of shape (out, 1, 1)
    assert reasons["norm/weight"] == reasons["norm/bias"] == "fewer than two axes"
    assert reasons["embed/weight"] == "weight of Embedding"
    assert reasons["layers/weight"] == "its bias (3, 6) fits other axes"
    assert reasons["conv/weight"] == reasons["head/weight"] == ""


@pytest.fixture(scope="module")
def nnx_params(nnx_model):
    return nnx.state(nnx.merge(*nnx_model), nnx.Param)


@pytest.fixture(scope="module")
def equinox_params(equinox_model):
    return eqx.filter(equinox_model, eqx.is_inexact_array)


@pytest.mark.parametrize(
    ("params", "fan_in"),
    [
        ("nnx_params", NNX_FAN_IN),
        ("linen_params", LINEN_FAN_IN),
        ("haiku_params", HAIKU_FAN_IN),
        ("equinox_params", EQUINOX_FAN_IN),
    ],
)
def test_rules_that_select_nothing_list_the_paths(params, fan_in, request):
    tx = optimizer(wcgc.by_path(("no/such/path", wcgc.FLAX)))
    with pytest.raises(ValueError, match="no/such/path") as error:
        tx.init(request.getfixturevalue(params))
    assert set(fan_in) <= set(str(error.value).replace(".", ",").split(": ")[1].split(", "))


def test_orbax_saves_and_restores_the_optimizer(linen_params, tmp_path):
    tx = optimizer(LINEN_RULES)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(linen_params, tx.init(linen_params))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step1", {"params": params, "state": state})
        checkpointer.wait_until_finished()
        shapes = jax.eval_shape(lambda: {"params": params, "state": tx.init(params)})
        restored = checkpointer.restore(tmp_path / "step1", shapes)
    assert jax.tree.structure(restored["state"]) == jax.tree.structure(state)
    resumed, uninterrupted = step(**restored), step(params, state)
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted)
