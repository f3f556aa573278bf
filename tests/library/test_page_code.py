"""The code of README.md and docs/axes.md that needs a model, run as it is printed."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import pathlib
import re

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import wcgc
from wcgc import FLAX

pytestmark = pytest.mark.usefixtures("standard_promotion")

ROOT = pathlib.Path(__file__).parents[2]
X = np.float32(np.random.default_rng(0).normal(1.0, 1.0, (8, 5)))
LABELS = np.arange(8) % 3


def code(page, word):
    """The first block of Python with these words in it."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    return next(block for block in blocks if word in block)


def part(library):
    """The lines of docs/axes.md between the comment for a library and the next."""
    parts = re.split(r"^# (.*)\n", code("docs/axes.md", "# Flax NNX"), flags=re.M)
    return next(
        lines
        for comment, lines in zip(parts[1::2], parts[2::2], strict=True)
        if comment.startswith(library)
    )


def run(source, **names):
    """What the code has made of these names."""
    names |= {"jax": jax, "jnp": jnp, "nnx": nnx, "optax": optax, "wcgc": wcgc}
    exec(source, names)
    return names


def kernels(axes):
    """The axes of all that is not left alone."""
    leaves = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, wcgc.KernelAxes))
    return [leaf for leaf in leaves if isinstance(leaf, wcgc.KernelAxes)]


def test_the_readme_trains_a_flax_nnx_model():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(5, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
    )
    names = run(code("README.md", "trace_axes"), model=model, x=X)
    axes, optimizer = names["axes"], names["optimizer"]
    assert kernels(axes) == [FLAX, FLAX]

    def removed():
        return float(wcgc.measure(nnx.state(model, nnx.Param), axes=axes).fraction_removed)

    def loss(model):
        logits = model(X)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    assert removed() < 1e-12
    first = loss(model)
    for _ in range(10):
        optimizer.update(model, nnx.grad(loss)(model))
    assert removed() < 1e-12
    assert loss(model) < first


def test_equinox():
    model = eqx.nn.MLP(5, 3, 4, 1, key=jax.random.key(0))
    axes = run(part("Equinox"), model=model, x=X)["axes"]
    assert kernels(axes) == [wcgc.KernelAxes(in_axis=-1, out_axis=-2)] * 2
    wcgc.centralized(optax.adam(1e-3), axes=axes).init(eqx.filter(model, eqx.is_inexact_array))


class LinenModel(linen.Module):
    norm: bool

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(4)(x)
        if self.norm:
            x = linen.BatchNorm(use_running_average=False)(x)
        return linen.Dense(3)(x)


@pytest.mark.parametrize("norm", [False, True])
def test_linen(norm):
    model = LinenModel(norm)
    variables = model.init(jax.random.key(0), X)
    source = part("Flax Linen")
    axes = run(source, linen_model=model, variables=variables, x=X)["axes"]
    assert kernels(axes) == [FLAX, FLAX]
    wcgc.centralized(optax.adam(1e-3), axes=axes).init(variables["params"])


@pytest.mark.parametrize("norm", [False, True])
def test_haiku(norm):
    def network(x):
        x = hk.Linear(4)(x)
        if norm:
            x = hk.BatchNorm(True, True, 0.9)(x, True)
        return hk.Linear(3)(x)

    transform = hk.transform_with_state if norm else hk.transform
    model, rng = transform(network), jax.random.key(0)
    params, *state = [model.init(rng, X)] if not norm else model.init(rng, X)
    lines = part("Haiku").splitlines()
    names = {"haiku_model": model, "params": params, "rng": rng, "x": X}
    axes = run(lines[norm], **names, state=state[0] if norm else None)["axes"]
    assert kernels(axes) == [FLAX, FLAX]
    wcgc.centralized(optax.adam(1e-3), axes=axes).init(params)


def test_keras_is_trained_by_a_loop_of_ones_own():
    keras = pytest.importorskip("keras")
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.1)]
    model = keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(3)])
    before = [np.array(variable.value) for variable in model.trainable_variables]
    source = code("docs/axes.md", "def step")
    names = run(source, keras_model=model, x=X, batches=[(X, LABELS)] * 10)
    assert kernels(names["axes"]) == [FLAX, FLAX]
    again = run(
        part("Keras"),
        **{name: names[name] for name in ("keras_model", "params", "rest", "x")},
    )
    assert again["axes"] == names["axes"]
    after = [np.array(variable.value) for variable in model.trainable_variables]
    assert all(np.any(a != b) for a, b in zip(after, before, strict=True))
    assert float(wcgc.measure(after, axes=names["axes"]).fraction_removed) < 1e-12
    with pytest.raises(ValueError, match="optimizer"):
        model.compile(optimizer=names["tx"])


def test_an_ensemble_with_one_input_needs_its_axis_named_for_some_areas():
    stack = {"kernel": jax.random.normal(jax.random.key(0), (6, 5, 3))}
    members = jax.vmap(lambda params, x: x @ params["kernel"], in_axes=(0, None))
    traced = wcgc.trace_axes(members, stack, X)
    by_hand = wcgc.KernelAxes(-2, -1, batch_axis=0)
    assert traced["kernel"] == wcgc.KernelAxes(-2, (-3, -1))
    right = set()
    for area in ("tensor", "channel", "global"):
        alone = jax.vmap(lambda params, area=area: wcgc.centralize(params, area))(stack)["kernel"]
        named = wcgc.centralize(stack, area, axes=by_hand)["kernel"]
        np.testing.assert_allclose(named, alone, atol=1e-6)
        found = wcgc.centralize(stack, area, axes=traced)["kernel"]
        right |= {area} if np.allclose(found, alone, atol=1e-6) else set()
    assert right == {"tensor"}
