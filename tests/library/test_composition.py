"""The transforms within Optax's and Flax NNX's machinery."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wcgc
from wcgc import FLAX

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def params(rng):
    def layer(*shape):
        return {
            "kernel": jnp.asarray(rng.normal(1.0, 1.0, shape), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=shape[-1]), jnp.float32),
        }

    return {"hidden": layer(4, 3), "head": layer(3, 2)}


@pytest.fixture
def grads(rng, params):
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(1.0, 1.0, leaf.shape), leaf.dtype), params
    )


def updates_of(tx, params, grads, **extra_args):
    return tx.update(grads, tx.init(params), params, **extra_args)[0]


def assert_trees_close(ours, theirs, atol=1e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=0), ours, theirs)


def means(kernel):
    return np.mean(kernel, axis=tuple(range(kernel.ndim - 1)))


class TestChain:
    def test_gc_goes_before_momentum_and_wc_last(self, params, grads):
        tx = optax.chain(
            wcgc.centralize_gradients(), optax.sgd(0.1, momentum=0.9), wcgc.centralize_params()
        )
        stepped = optax.apply_updates(params, updates_of(tx, params, grads))
        expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, wcgc.centralize(grads))
        assert_trees_close(stepped, wcgc.centralize(expected))

    def test_a_transform_behind_wc_undoes_it(self, params, grads):
        """What the warning is about: a rate behind WC scales what was to centre the kernel."""
        tx = optax.chain(wcgc.centralize_params(), optax.scale(0.5))
        stepped = optax.apply_updates(params, updates_of(tx, params, grads))
        assert np.min(np.abs(means(stepped["hidden"]["kernel"]))) > 0.1

    def test_extra_arguments_pass_through(self, params, grads):
        def scale_by_value(updates, state, params=None, *, value, **extra_args):
            del params, extra_args
            return optax.tree.scale(value, updates), state

        inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, scale_by_value)
        tx = wcgc.centralized(inner, params=None)
        updates = updates_of(tx, params, grads, value=-2.0, unused="other")
        assert_trees_close(updates, optax.tree.scale(-2.0, wcgc.centralize(grads)))

    def test_optimizers_that_take_extra_arguments_get_them(self, params, grads):
        """Polyak's step is as long as the function's value says."""
        polyak = optax.polyak_sgd(max_learning_rate=10.0)
        updates = updates_of(wcgc.centralized(polyak, params=None), params, grads, value=2.0)
        gradient = wcgc.centralize(grads)
        rate = 2.0 / sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient))
        assert_trees_close(updates, optax.tree.scale(-rate, gradient))


class TestMasked:
    @pytest.mark.parametrize(
        "axes",
        [
            {"hidden": {"kernel": FLAX, "bias": None}, "head": {"kernel": FLAX, "bias": None}},
            {"hidden": FLAX, "head": FLAX},
            wcgc.by_path(("kernel$", FLAX)),
        ],
        ids=["tree", "prefix", "by_path"],
    )
    def test_axes_for_the_whole_tree_serve_what_the_mask_leaves(self, axes, params, grads):
        tx = optax.masked(wcgc.centralize_params(axes=axes), {"hidden": True, "head": False})
        stepped = optax.apply_updates(params, updates_of(tx, params, grads))
        np.testing.assert_allclose(means(stepped["hidden"]["kernel"]), 0, atol=1e-6)
        np.testing.assert_array_equal(
            stepped["head"]["kernel"], params["head"]["kernel"] + grads["head"]["kernel"]
        )

    def test_a_frozen_branch_moves_unless_it_is_left_out(self, params, grads):
        labels = {"hidden": "train", "head": "freeze"}
        frozen = optax.partition({"train": optax.sgd(0.1), "freeze": optax.set_to_zero()}, labels)
        moved = updates_of(wcgc.centralized(frozen), params, grads)
        assert np.min(np.abs(moved["head"]["kernel"])) > 0
        mask = {"hidden": True, "head": False}
        kept = updates_of(wcgc.centralized(frozen, mask=mask), params, grads)
        assert not np.any(kept["head"]["kernel"])
        assert_trees_close(kept["hidden"], moved["hidden"], atol=0)


class TestInjectHyperparams:
    def test_learning_rate_and_momentum(self, params, grads):
        tx = optax.inject_hyperparams(wcgc.algorithm_2)(learning_rate=0.1, momentum=0.5)
        state = tx.init(params)
        first, _ = tx.update(grads, state, params)
        assert_trees_close(first, updates_of(wcgc.algorithm_2(0.1, 0.5), params, grads))
        state.hyperparams["learning_rate"] = jnp.float32(0.4)
        second, _ = jax.jit(tx.update)(grads, state, params)
        assert_trees_close(second, updates_of(wcgc.algorithm_2(0.4, 0.5), params, grads))

    def test_a_scheduled_norm(self, params, grads):
        norms = optax.piecewise_constant_schedule(2.0, {1: 3.0})
        tx = optax.inject_hyperparams(wcgc.normalize_params)(norm=norms)
        state = tx.init(params)
        for expected in (2.0, 6.0):
            updates, state = tx.update(grads, state, params)
            kernel = params["hidden"]["kernel"] + updates["hidden"]["kernel"]
            np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), expected, rtol=1e-5)

    def test_callable_axes_are_static(self, params, grads):
        axes = wcgc.by_path(("hidden/kernel", FLAX))
        make = optax.inject_hyperparams(wcgc.algorithm_2, static_args="axes")
        updates = updates_of(make(learning_rate=0.1, axes=axes), params, grads)
        expected = updates_of(wcgc.algorithm_2(0.1, axes=axes), params, grads)
        assert_trees_close(updates, expected)


class TestMultiSteps:
    def test_its_transformation_can_be_wrapped(self, params, grads):
        """Then WC acts in each mini-step, on parameters that rest."""
        multi = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2).gradient_transformation()
        updates = updates_of(wcgc.centralized(multi), params, grads)
        stepped = optax.apply_updates(params, updates)
        assert_trees_close(stepped, wcgc.centralize(params))


class TestMapParams:
    @pytest.mark.parametrize(
        "options",
        [
            {"axes": wcgc.by_path(("kernel", FLAX))},
            {"axes": {"hidden": FLAX, "head": None}},
            {"mask": {"hidden": True, "head": False}},
        ],
        ids=["by_path", "axes tree", "mask tree"],
    )
    def test_maps_what_has_the_shape_of_params(self, options, params):
        tx = wcgc.centralized(optax.adam(0.1), **options)
        state = tx.init(params)
        ones = optax.tree.map_params(tx, lambda leaf: leaf + 1, state)
        assert jax.tree.structure(ones) == jax.tree.structure(state)
        for name in ("mu", "nu"):
            moment = optax.tree.get(ones, name)
            assert_trees_close(moment, jax.tree.map(jnp.ones_like, params), atol=0)
        assert optax.tree.get_all_with_path(ones, "count")[0][1] == 0


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 4, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.hidden(x))))


class TestNnx:
    """Steps of `nnx.Optimizer`, jitted, where params come with and without variables."""

    def train(self, tx):
        traces = []

        @nnx.jit
        def step(model, optimizer, x):
            traces.append(1)
            optimizer.update(model, nnx.grad(lambda model: jnp.sum(jnp.sin(model(x))))(model))

        model = Network(nnx.Rngs(0))
        before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        inputs = jax.random.normal(jax.random.key(1), (8, 2))
        for _ in range(3):
            step(model, optimizer, inputs)
        assert len(traces) == 1
        return before, nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def test_by_path_chooses_what_is_centred(self):
        axes = wcgc.by_path(("head", None), ("kernel$", FLAX))
        before, after = self.train(wcgc.centralized(optax.adam(0.01), axes=axes))
        np.testing.assert_allclose(means(after["hidden"]["kernel"]), 0, atol=1e-6)
        assert np.min(np.abs(means(after["head"]["kernel"]))) > 1e-3
        moves = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), before, after)
        assert min(jax.tree.leaves(moves)) > 1e-3

    def test_axes_as_a_tree_like_the_model_s_own_state(self):
        """With entries for variables, where the updates have plain arrays."""
        state = nnx.state(Network(nnx.Rngs(0)), nnx.Param)
        axes = wcgc.by_path(("hidden/kernel$", FLAX))(state)
        _, after = self.train(wcgc.algorithm_2(0.1, axes=axes))
        np.testing.assert_allclose(means(after["hidden"]["kernel"]), 0, atol=1e-6)
        assert np.min(np.abs(means(after["head"]["kernel"]))) > 1e-3
