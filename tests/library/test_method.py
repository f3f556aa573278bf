"""Facts about the method, most of which the paper does not mention, in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wcgc
from wcgc import EQUINOX, FLAX, KernelAxes

from helpers.reference import AREAS

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

ROUNDING = 1e-12  # Entries and steps of size 1, some hundreds of operations, 2.2e-16 for each.


def inner(a, b):
    return np.sum(np.conj(a) * b)


class TestProjection:
    """Centralizing is the orthogonal projection onto the kernels whose slices sum to zero."""

    @pytest.fixture
    def kernels(self, rng):
        return jnp.asarray(rng.normal(0.5, 1.0, (2, 2, 3, 4, 5)))

    @pytest.mark.parametrize("area", AREAS)
    def test_is_linear_idempotent_and_self_adjoint(self, kernels, area):
        x, y = kernels
        project = functools.partial(wcgc.centralize, area=area)
        np.testing.assert_allclose(
            project(2 * x - 3 * y), 2 * project(x) - 3 * project(y), atol=ROUNDING
        )
        np.testing.assert_allclose(project(project(x)), project(x), atol=ROUNDING)
        np.testing.assert_allclose(inner(project(x), y), inner(x, project(y)), atol=ROUNDING)

    @pytest.mark.parametrize("area", AREAS)
    def test_never_grows_the_norm(self, kernels, area):
        x, _ = kernels
        centred = wcgc.centralize(x, area)
        removed = x - centred
        np.testing.assert_allclose(inner(centred, removed), 0, atol=ROUNDING)
        np.testing.assert_allclose(
            inner(x, x), inner(centred, centred) + inner(removed, removed), rtol=1e-14
        )
        assert inner(centred, centred) < inner(x, x)

    @pytest.mark.parametrize(
        ("fine", "coarse"),
        [
            ("instance", "tensor"),
            ("instance", "channel"),
            ("instance", "global"),
            ("tensor", "global"),
            ("channel", "global"),
        ],
    )
    def test_finer_areas_take_more(self, kernels, fine, coarse):
        """Slices of the one are parts of the other's, so the finer decides, in either order."""
        x, _ = kernels
        finer = wcgc.centralize(x, fine)
        np.testing.assert_allclose(
            wcgc.centralize(wcgc.centralize(x, coarse), fine), finer, atol=ROUNDING
        )
        np.testing.assert_allclose(wcgc.centralize(finer, coarse), finer, atol=ROUNDING)
        assert np.linalg.norm(finer) < np.linalg.norm(wcgc.centralize(x, coarse))

    def test_tensor_and_channel_do_not_nest(self, kernels):
        x, _ = kernels
        tensor, channel = wcgc.centralize(x, "tensor"), wcgc.centralize(x, "channel")
        assert np.max(np.abs(wcgc.centralize(tensor, "channel") - tensor)) > 0.1
        assert np.max(np.abs(wcgc.centralize(channel, "tensor") - channel)) > 0.1


class TestEquivariance:
    """A kernel and its axes transposed alike give the transposed result."""

    @pytest.mark.parametrize("area", ["tensor", "channel"])
    def test_under_all_orders_of_the_axes(self, area, rng):
        kernel = jnp.asarray(rng.normal(size=(2, 3, 4)))  # space, in, out
        expected = wcgc.centralize(kernel, area)
        for order in itertools.permutations(range(3)):
            axes = KernelAxes(in_axis=order.index(1), out_axis=order.index(2))
            result = wcgc.centralize(np.transpose(kernel, order), area, axes=axes)
            np.testing.assert_allclose(result, np.transpose(expected, order), atol=ROUNDING)

    def test_axes_that_are_split_are_one(self, rng):
        """Attention's (features, heads, head_dim) is a dense layer of heads * head_dim units."""
        kernel = rng.normal(size=(4, 2, 3))
        split = wcgc.centralize(kernel, axes=KernelAxes(-3, (-2, -1)))
        merged = wcgc.centralize(kernel.reshape(4, 6))
        np.testing.assert_allclose(split, merged.reshape(4, 2, 3), atol=ROUNDING)

    def test_tensor_is_channel_with_inputs_and_outputs_exchanged(self, rng):
        kernel = rng.normal(size=(3, 4, 5))
        np.testing.assert_allclose(
            wcgc.centralize(kernel, "tensor", axes=KernelAxes(-1, -2)),
            wcgc.centralize(kernel, "channel", axes=FLAX),
            atol=ROUNDING,
        )


STEPS = 8


def loss(params, inputs):
    """Of a layer whose gradients have means that are far from zero."""
    return jnp.mean(jnp.square(jnp.tanh(inputs @ params["kernel"] + params["bias"]) - 1.0))


@pytest.fixture
def start(rng):
    return {
        "kernel": jnp.asarray(rng.normal(0.5, 1.0, (4, 3))),
        "bias": jnp.asarray(rng.normal(size=3)),
    }


@pytest.fixture
def centred(start):
    return wcgc.centralize(start)


def trajectories(variants, params):
    """The params after each of some steps, for each of the optimizers, in one compilation."""
    inputs = jnp.asarray(np.random.default_rng(1).normal(1.0, 1.0, (5, 4)))

    def trajectory(tx, params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, inputs), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[1]

    return jax.jit(lambda params: [trajectory(tx, params) for tx in variants])(params)


def distance(a, b):
    """The largest difference between any two entries of two trees."""
    differences = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), a, b)
    return max(jax.tree.leaves(differences))


def gc_wc_both(optimizer, area="tensor"):
    return [
        wcgc.centralized(optimizer, gradients, params)
        for gradients, params in ((area, None), (None, area), (area, area))
    ]


LINEAR = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "moving average": optax.chain(optax.ema(0.9, debias=True), optax.scale(-0.3)),
    "L2 in the gradient": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)),
    "decoupled decay": optax.chain(
        optax.trace(0.9), optax.add_decayed_weights(0.1), optax.scale(-0.1)
    ),
    "schedule": optax.sgd(optax.cosine_decay_schedule(0.3, STEPS), momentum=0.9),
    "schedule-free": optax.contrib.schedule_free_sgd(0.1, weight_decay=0.1),
}

NONLINEAR = {
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "lion": optax.lion(0.05),
    "elementwise clipping": optax.chain(optax.clip(0.05), optax.sgd(1.0)),
}


class TestRedundancy:
    """When GC, WC and both are the same training."""

    @pytest.mark.parametrize("name", LINEAR)
    def test_under_optimizers_that_are_linear_in_the_gradient(self, name, centred):
        gc, wc, both = trajectories(gc_wc_both(LINEAR[name]), centred)
        assert distance(gc, wc) < ROUNDING
        assert distance(gc, both) < ROUNDING

    def test_of_them_but_not_with_the_plain_optimizer(self, centred):
        gc, plain = trajectories([gc_wc_both(LINEAR["sgd"])[0], LINEAR["sgd"]], centred)
        assert distance(gc, plain) > 0.01

    @pytest.mark.parametrize("area", ["channel", "global"])
    def test_in_every_area(self, area, start):
        gc, wc, both = trajectories(
            gc_wc_both(LINEAR["momentum"], area), wcgc.centralize(start, area)
        )
        assert distance(gc, wc) < ROUNDING
        assert distance(gc, both) < ROUNDING

    def test_of_gc_and_wc_only_from_a_centred_start(self, start):
        gc, wc, both = trajectories(gc_wc_both(LINEAR["momentum"]), start)
        assert distance(wc, both) < ROUNDING
        assert distance(gc, wc) > 0.1

    @pytest.mark.parametrize("name", NONLINEAR)
    def test_not_under_others(self, name, centred):
        gc, wc, both = trajectories(gc_wc_both(NONLINEAR[name]), centred)
        assert distance(gc, wc) > 0.01
        assert distance(gc, both) > 0.001
        assert distance(wc, both) > 0.01

    @pytest.mark.parametrize(
        "optimizer",
        [
            optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0, momentum=0.9)),
            optax.contrib.muon(0.1),
        ],
        ids=["global-norm clipping", "muon"],
    )
    def test_of_wc_behind_gc_where_the_optimizer_keeps_centred_gradients_centred(
        self, optimizer, centred
    ):
        gc, wc, both = trajectories(gc_wc_both(optimizer), centred)
        assert distance(gc, both) < ROUNDING
        assert distance(gc, wc) > 0.001

    @pytest.mark.parametrize(
        ("gradients", "params", "same"), [("tensor", "global", True), ("global", "tensor", False)]
    )
    def test_of_wc_behind_gc_of_an_equal_or_finer_area(self, gradients, params, same, centred):
        sgd = LINEAR["momentum"]
        gc, both = trajectories(
            [wcgc.centralized(sgd, gradients, None), wcgc.centralized(sgd, gradients, params)],
            centred,
        )
        assert (distance(gc, both) < ROUNDING) is same
        assert same or distance(gc, both) > 0.01


class TestWhatWeightCentralizationIs:
    @pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.lion(0.05)])
    def test_centralizing_the_optimizer_s_update(self, optimizer, centred):
        wc, update = trajectories(
            [
                optax.chain(optimizer, wcgc.centralize_params()),
                optax.chain(optimizer, wcgc.centralize_gradients()),  # Of what the optimizer made.
            ],
            centred,
        )
        assert distance(wc, update) < ROUNDING

    def test_and_removing_the_initial_mean(self, start):
        """In the first step, and nothing in the second."""
        adam = optax.adam(0.1)
        wc = optax.chain(adam, wcgc.centralize_params())
        centring = optax.chain(adam, wcgc.centralize_gradients())
        grads = jax.tree.map(lambda leaf: jnp.cos(3 * leaf), start)
        with_wc, state = wc.update(grads, wc.init(start), start)
        without, _ = centring.update(grads, centring.init(start), start)
        np.testing.assert_allclose(
            with_wc["kernel"] - without["kernel"],
            -np.broadcast_to(np.mean(start["kernel"], axis=0), (4, 3)),
            atol=ROUNDING,
        )
        np.testing.assert_array_equal(with_wc["bias"], without["bias"])

        params = optax.apply_updates(start, with_wc)
        second, _ = wc.update(grads, state, params)
        np.testing.assert_allclose(np.mean(second["kernel"], axis=0), 0, atol=ROUNDING)

    def test_it_changes_the_function_of_a_pretrained_layer(self, start):
        """Where GC, given a gradient of zero, does not."""
        inputs = jnp.ones((1, 4))
        zeros = jax.tree.map(jnp.zeros_like, start)

        def outputs_after(tx):
            updates, _ = tx.update(zeros, tx.init(start), start)
            return inputs @ optax.apply_updates(start, updates)["kernel"]

        before = inputs @ start["kernel"]
        np.testing.assert_array_equal(outputs_after(wcgc.centralize_gradients()), before)
        assert np.min(np.abs(outputs_after(wcgc.centralize_params()) - before)) > 0.1


class TestOptaxCentralize:
    """`optax.centralize` averages over all axes but the first."""

    def gradients(self, grads):
        theirs, ours = optax.centralize(), wcgc.centralize_gradients()
        return theirs.update(grads, theirs.init(grads))[0], ours.update(grads, ours.init(grads))[0]

    def test_gives_a_flax_layer_of_one_unit_no_gradient(self):
        inputs = jnp.array([[1.0, 2.0, 6.0]])
        kernel = nnx.Linear(3, 1, rngs=nnx.Rngs(0)).kernel[...]
        theirs, ours = self.gradients(jax.grad(lambda kernel: jnp.sum(inputs @ kernel))(kernel))
        np.testing.assert_array_equal(theirs, [[0], [0], [0]])
        np.testing.assert_array_equal(ours, [[-2], [-1], [3]])

    def test_is_the_channel_area_of_flax_kernels(self, rng):
        """Of dense ones: one mean per input, not per output."""
        grads = jnp.asarray(rng.normal(size=(4, 3)))
        theirs, ours = self.gradients(grads)
        np.testing.assert_allclose(theirs, wcgc.centralize(grads, "channel"), atol=ROUNDING)
        assert np.max(np.abs(theirs - ours)) > 0.1

    @pytest.mark.parametrize("shape", [(3, 4), (5, 4, 3, 2)])
    def test_is_the_tensor_area_of_equinox_kernels(self, shape, rng):
        grads = jnp.asarray(rng.normal(size=shape))
        theirs, _ = self.gradients(grads)
        np.testing.assert_allclose(theirs, wcgc.centralize(grads, axes=EQUINOX), atol=ROUNDING)
