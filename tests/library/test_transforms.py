import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wcgc
from wcgc import EQUINOX

from helpers import reference
from helpers.reference import AREAS

ON_PARAMS = {
    "centralize_params": (wcgc.centralize_params, wcgc.centralize),
    "standardize_params": (wcgc.standardize_params, wcgc.standardize),
    "normalize_params": (wcgc.normalize_params, wcgc.normalize),
}
"""Those that project the updated params, and the projection."""


@pytest.fixture(params=ON_PARAMS.values(), ids=ON_PARAMS)
def on_params(request):
    return request.param


def run(tx, params, gradients, state=None):
    """One step: the new params and the new state."""
    updates, state = tx.update(gradients, tx.init(params) if state is None else state, params)
    return optax.apply_updates(params, updates), state


def assert_trees_close(ours, theirs, atol=1e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=0), ours, theirs)


class TestArguments:
    def test_norms_and_eps_are_checked(self):
        with pytest.raises(ValueError, match=r"eps must be at least 0, got -1e-10"):
            wcgc.standardize_params(eps=-1e-10)
        with pytest.raises(ValueError, match=r"norm must be positive, got 0\.0"):
            wcgc.normalize_params(norm=0.0)
        with pytest.raises(
            TypeError, match=r"norm must be a number, .* in optax\.inject_hyperparams\.$"
        ):
            wcgc.normalize_params(norm=optax.constant_schedule(1.0))

    @pytest.mark.parametrize("make", [wcgc.normalize_params, wcgc.normalize])
    @pytest.mark.parametrize(
        ("norm", "error", "message"),
        [
            (True, TypeError, "norm must be a number, got True"),
            (np.True_, TypeError, "norm must be a number, got "),
            (1j, TypeError, "norm must be a number, got 1j"),
            (np.ones(1), TypeError, "norm must be a number, got array"),
            (float("nan"), ValueError, "norm must be positive, got nan"),
            (float("inf"), ValueError, "norm must be positive, got inf"),
            (1e-50, ValueError, "norm=1e-50 is out of the range of float32"),
            (1e50, ValueError, r"norm=1e\+50 is out of the range of float32"),
        ],
    )
    def test_numbers_of_a_wrong_kind(self, make, norm, error, message):
        arguments = () if make is wcgc.normalize_params else (jnp.eye(3),)
        with pytest.raises(error, match=message):
            make(*arguments, norm=norm)

    def test_a_norm_that_a_float16_kernel_cannot_hold(self):
        params = {"half": jnp.eye(2, dtype=jnp.float16), "single": jnp.eye(2)}
        message = r"norm=1e-08 is below the range of float16, the dtype of 'half'"
        with pytest.raises(ValueError, match=message):
            wcgc.normalize_params(norm=1e-8).init(params)
        wcgc.normalize_params(norm=1e-8, mask={"half": False, "single": True}).init(params)
        # A traced norm has no value to look at.
        jax.jit(lambda norm: wcgc.normalize_params(norm=norm).init(params))(1e-8)

    def test_a_norm_that_is_another_word(self):
        with pytest.raises(TypeError, match="norm must be a number, got '1'"):
            wcgc.normalize(jnp.eye(3), norm="1")
        with pytest.raises(ValueError, match="norm must be a positive number or \"keep\", got '1'"):
            wcgc.normalize_params(norm="1")

    def test_no_norm(self):
        message = 'norm must be a number, got None. "keep" is for the norm that each slice has. For'
        with pytest.raises(TypeError, match=re.escape(message)):
            wcgc.normalize_params(norm=None)
        with pytest.raises(TypeError, match=r"norm must be a number, got None\. For a schedule"):
            wcgc.normalize(jnp.eye(2), norm=None)

    def test_shapes_without_values(self, on_params):
        make, _ = on_params
        shape, array = jax.ShapeDtypeStruct((2, 2), jnp.float32), jnp.eye(2)
        for updates, params in ((shape, shape), (shape, array), (array, shape)):
            with pytest.raises(TypeError, match=r"'kernel' is a ShapeDtypeStruct.*jax\.eval_shape"):
                make().update({"kernel": updates}, optax.EmptyState(), {"kernel": params})

    def test_an_eps_that_vanishes(self):
        with pytest.raises(ValueError, match=r"eps=1e-50 is out of the range of float32.*1\.2e-38"):
            wcgc.standardize_params(eps=1e-50)
        wcgc.standardize_params(eps=0)

    def test_an_eps_that_float64_holds(self, x64):
        wcgc.standardize_params(eps=1e-50)


class TestCentralizeGradients:
    def test_by_hand(self):
        # Means 2 and 6 of the output filters (1, 3) and (4, 8).
        grads = jnp.array([[1.0, 4.0], [3.0, 8.0]])
        tx = wcgc.centralize_gradients()
        updates, _ = tx.update(grads, tx.init(grads))
        np.testing.assert_array_equal(updates, [[-1, -2], [1, 2]])

    @pytest.mark.parametrize("area", AREAS)
    def test_centralizes_the_updates_whatever_the_params(self, area, rng):
        grads = {"kernel": jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)}
        axes = {"kernel": EQUINOX}
        tx = wcgc.centralize_gradients(area, axes=axes)
        without_params, _ = tx.update(grads, tx.init(grads))
        with_params, _ = tx.update(grads, tx.init(grads), grads)
        assert_trees_close(without_params, wcgc.centralize(grads, area, axes=axes), atol=0)
        assert_trees_close(with_params, without_params, atol=0)


class TestOnParams:
    @pytest.mark.parametrize(
        ("tx", "expected"),
        [
            # The updated filter (2, 8) has mean 5 and deviation 3.
            (wcgc.centralize_params(), [[-3], [3]]),
            (wcgc.standardize_params(), [[-1], [1]]),
            (wcgc.normalize_params(norm=np.sqrt(17)), [[1], [4]]),
        ],
        ids=ON_PARAMS,
    )
    def test_by_hand(self, tx, expected):
        params, updates = jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [5.0]])
        np.testing.assert_allclose(run(tx, params, updates)[0], expected, rtol=4e-7)

    @pytest.mark.parametrize("area", ["tensor", "instance"])
    def test_projects_the_updated_params(self, on_params, area, rng):
        make, project = on_params
        params, updates = jnp.asarray(rng.normal(size=(2, 2, 3, 4)), jnp.float32)
        projected, _ = run(make(area, axes=EQUINOX), params, updates)
        expected = project(params + updates, area, axes=EQUINOX)
        np.testing.assert_allclose(projected, expected, atol=2e-6, rtol=0)

    @pytest.mark.parametrize(
        ("param_dtype", "update_dtype"),
        [("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "float16")],
    )
    def test_updates_keep_their_dtype(self, on_params, param_dtype, update_dtype, rng):
        make, project = on_params
        params, updates = rng.normal(size=(2, 4, 3)).astype(np.float32)
        params, updates = jnp.asarray(params, param_dtype), jnp.asarray(updates, update_dtype)
        tx = make()
        result, _ = tx.update(updates, tx.init(params), params)
        assert result.dtype == update_dtype
        expected = project(np.float32(params) + np.float32(updates)) - np.float32(params)
        np.testing.assert_allclose(
            np.float32(result),
            expected,
            atol=4 * float(jnp.finfo(update_dtype).eps),  # Entries of up to 4.
            rtol=0,
        )

    def test_can_be_differentiated_through(self, rng):
        """As in meta-learning: centralizing is its own adjoint."""
        params, grads, c = jnp.asarray(rng.normal(size=(3, 4, 3)), jnp.float32)
        tx = wcgc.centralize_params()
        by_params, by_grads = jax.grad(
            lambda params, grads: jnp.sum(c * run(tx, params, grads)[0]), argnums=(0, 1)
        )(params, grads)
        np.testing.assert_allclose(by_params, c - np.mean(c, axis=0), atol=1e-6)
        np.testing.assert_allclose(by_grads, by_params, atol=1e-6)

    def test_frozen_params_move_unless_they_are_left_out(self, on_params, params):
        make, project = on_params
        zeros = jax.tree.map(jnp.zeros_like, params)
        moved, _ = run(make(), params, zeros)
        assert_trees_close(moved, project(params))
        kept, _ = run(make(mask=False), params, zeros)
        assert_trees_close(kept, params, atol=0)

    def test_params_and_updates_of_different_structure(self, on_params, params, grads):
        tx = on_params[0]()
        state = tx.init(params)
        with pytest.raises(ValueError, match=r"updates and params .*params lack 'bias'"):
            tx.update(grads, state, {"kernel": params["kernel"]})
        with pytest.raises(ValueError, match=r"updates and params .*updates lack 'bias'"):
            tx.update({"kernel": grads["kernel"]}, state, params)

    def test_params_and_updates_of_different_shape(self, on_params, params, grads):
        tx = on_params[0]()
        other = {**params, "kernel": params["kernel"].T}
        message = r"'kernel' has shape \(4, 3\) in updates but \(3, 4\) in params"
        with pytest.raises(ValueError, match=message):
            tx.update(grads, tx.init(params), other)


@pytest.mark.usefixtures("standard_promotion")
class TestCentralized:
    def test_is_the_chain(self, params, grads):
        axes = {"kernel": EQUINOX, "bias": None}
        ours = wcgc.centralized(optax.adam(0.1), "channel", "global", axes=axes)
        chain = optax.chain(
            wcgc.centralize_gradients("channel", axes=axes),
            optax.adam(0.1),
            wcgc.centralize_params("global", axes=axes),
        )
        assert_trees_close(run(ours, params, grads)[0], run(chain, params, grads)[0], atol=0)

    def test_by_hand(self):
        # The gradient (0, 10) is centred to (-5, 5), and (1, 5) - 0.1 (-5, 5) has mean 3.
        params, grads = jnp.array([[1.0], [5.0]]), jnp.array([[0.0], [10.0]])
        result, _ = run(wcgc.centralized(optax.sgd(0.1)), params, grads)
        np.testing.assert_allclose(result, [[-1.5], [1.5]], rtol=1e-6)

    def test_none_switches_either_off(self, params, grads):
        sgd = optax.sgd(0.1)
        neither, _ = run(wcgc.centralized(sgd, None, None), params, grads)
        assert_trees_close(neither, run(sgd, params, grads)[0], atol=0)

        gc, _ = run(wcgc.centralized(sgd, params=None), params, grads)
        assert_trees_close(gc, run(sgd, params, wcgc.centralize(grads))[0])

        wc, _ = run(wcgc.centralized(sgd, gradients=None), params, grads)
        assert_trees_close(wc, wcgc.centralize(run(sgd, params, grads)[0]))

    def test_without_wc_params_are_not_needed(self, params, grads):
        tx = wcgc.centralized(optax.sgd(0.1), params=None)
        tx.update(grads, tx.init(params))

    def test_a_leaf_that_is_left_alone_takes_the_plain_step(self, params, grads):
        adam = optax.adam(0.1)
        ours, _ = run(wcgc.centralized(adam, mask=lambda tree: False), params, grads)
        assert_trees_close(ours, run(adam, params, grads)[0], atol=0)

    @pytest.mark.parametrize("argument", ["gradients", "params"])
    def test_names_the_area_that_is_unknown(self, argument):
        message = rf"{argument} must be one of 'tensor', .*, got 'filter'"
        with pytest.raises(ValueError, match=message):
            wcgc.centralized(optax.sgd(0.1), **{argument: "filter"})

    def test_parameters_in_place_of_an_optimizer(self):
        with pytest.raises(TypeError, match=r"optimizer must be .*, got dict\. .* goes to init"):
            wcgc.centralized({"kernel": np.ones((2, 2))})

    @pytest.mark.parametrize(
        "optimizer", [optax.adam, 1e-3, None, "adam", (), optax.MultiSteps, optax.sgd(0.1).update]
    )
    def test_wants_an_optimizer(self, optimizer):
        message = r"optimizer must be an Optax gradient transformation such as optax\.adam\(1e-3\)"
        with pytest.raises(TypeError, match=message):
            wcgc.centralized(optimizer)

    def test_takes_what_chain_takes(self, params, grads):
        """`optax.MultiSteps` has `init` and `update` without being a transformation."""
        steps = optax.MultiSteps(optax.sgd(0.5), every_k_schedule=2)
        tx = wcgc.centralized(steps)
        state = tx.init(params)
        waiting, state = tx.update(grads, state, params)
        assert_trees_close(optax.apply_updates(params, waiting), wcgc.centralize(params))
        updates, _ = tx.update(grads, state, params)
        expected = wcgc.centralize(optax.apply_updates(params, optax.tree.scale(-0.5, grads)))
        after = optax.apply_updates(params, updates)
        np.testing.assert_allclose(after["kernel"], expected["kernel"], atol=1e-6)


class TestShapes:
    """A gradient whose shape is not its parameter's, as per-example gradients have."""

    @pytest.mark.parametrize("make", [wcgc.centralize_gradients, wcgc.centralize_params])
    @pytest.mark.parametrize("name", ["kernel", "bias"])
    def test_are_refused_with_both(self, make, name, params, grads):
        tx = make()
        many = {**grads, name: jnp.stack([grads[name]] * 5)}
        shape = params[name].shape
        message = (
            f"{name!r} has shape {(5, *shape)} in updates but {shape} in params. If the first axis "
            "numbers examples, place this transform behind what sums over them, such as optax."
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            tx.update(many, tx.init(params), params)

    def test_behind_what_sums_over_the_examples_it_works(self, params, grads):
        private = optax.contrib.differentially_private_aggregate(
            l2_norm_clip=1e9, noise_multiplier=0.0, key=0
        )
        many = jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf]), grads)
        for tx, works in (
            (optax.chain(private, wcgc.centralize_gradients()), True),
            (optax.chain(wcgc.centralize_gradients(), private), False),
        ):
            state = tx.init(params)
            if not works:
                with pytest.raises(ValueError, match="differentially_private_aggregate"):
                    tx.update(many, state, params)
                continue
            updates, _ = tx.update(many, state, params)
            assert_trees_close(updates, wcgc.centralize(optax.tree.scale(2.0, grads)), atol=2e-6)


@pytest.mark.usefixtures("standard_promotion")
def test_features_that_are_all_equal_leave_adam_nothing_to_step_on(rng):
    """Their gradient is the same for each input: exactly 0 is left of it, not rounding noise."""
    features = jnp.broadcast_to(jnp.float32(rng.normal(size=(8, 1))), (8, 27))
    errors = jnp.float32(rng.normal(size=(8, 5)))
    params = jnp.float32(rng.normal(size=(27, 5)))
    grads = jax.jit(jax.grad(lambda w, x: jnp.sum((x @ w) * errors)))(params, features)
    # What is subtracted by hand is not zero, but noise below 1e-6.
    noise = grads - jnp.mean(grads, axis=0)
    assert 0 < np.abs(noise).max() < 1e-6 * np.abs(grads).max()
    tx = wcgc.centralized(optax.adam(0.1), params=None)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params))
    np.testing.assert_array_equal(updates, np.zeros((27, 5)))
    # Nor where the share of the mean is known only when it runs.
    centralize = jax.jit(lambda strength: wcgc.centralize(grads, strength=strength))
    np.testing.assert_array_equal(centralize(1.0), updates)
    np.testing.assert_allclose(centralize(0.5), grads / 2, rtol=1e-5)


def test_transforms_agree_with_the_definition_in_every_layout(rng, x64):
    """GC and WC of all layouts in one tree, which is where the axes come together."""
    params, grads = reference.kernels(rng), reference.kernels(rng)
    tx = wcgc.centralized(optax.sgd(0.5), "tensor", "channel", axes=reference.kernel_axes())
    result, _ = jax.jit(functools.partial(run, tx))(params, grads)
    for name, (_, roles, _) in reference.LAYOUTS.items():
        gradient = reference.each_slice(reference.centralize, grads[name], roles, "tensor")
        expected = reference.each_slice(
            reference.centralize, params[name] - 0.5 * gradient, roles, "channel"
        )
        np.testing.assert_allclose(result[name], expected, atol=2e-14, rtol=0, err_msg=name)
