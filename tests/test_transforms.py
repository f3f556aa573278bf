import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from reference import AREAS

import wcgc
from wcgc import EQUINOX, FLAX, KernelAxes

TRANSFORMS = {
    "centralize_gradients": wcgc.centralize_gradients,
    "centralize_params": wcgc.centralize_params,
    "standardize_params": wcgc.standardize_params,
    "normalize_params": wcgc.normalize_params,
    "centralized": functools.partial(wcgc.centralized, optax.sgd(1.0)),
    "algorithm_2": functools.partial(wcgc.algorithm_2, 0.1),
    "algorithm_3": functools.partial(wcgc.algorithm_3, 0.1),
}
"""Every public transform, with what it cannot do without: all take `axes` and `mask`."""

ON_PARAMS = {
    "centralize_params": (wcgc.centralize_params, wcgc.centralize),
    "standardize_params": (wcgc.standardize_params, wcgc.standardize),
    "normalize_params": (wcgc.normalize_params, wcgc.normalize),
}
"""Those that project the updated params, and the projection."""

STATELESS = ("centralize_gradients", *ON_PARAMS)


@pytest.fixture(params=TRANSFORMS.values(), ids=TRANSFORMS)
def make(request):
    return request.param


@pytest.fixture(params=[TRANSFORMS[name] for name in STATELESS], ids=STATELESS)
def make_stateless(request):
    return request.param


@pytest.fixture(params=ON_PARAMS.values(), ids=ON_PARAMS)
def on_params(request):
    return request.param


@pytest.fixture
def params(rng):
    return {
        "kernel": jnp.asarray(rng.normal(1.0, 1.0, (4, 3)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=3), jnp.float32),
    }


@pytest.fixture
def grads(rng, params):
    return {
        name: jnp.asarray(rng.normal(1.0, 1.0, leaf.shape), leaf.dtype)
        for name, leaf in params.items()
    }


def run(tx, params, gradients, state=None):
    """One step: the new params and the new state."""
    updates, state = tx.update(gradients, tx.init(params) if state is None else state, params)
    return optax.apply_updates(params, updates), state


def assert_trees_close(ours, theirs, atol=1e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=0), ours, theirs)


def test_every_public_transform_is_in_the_table():
    def makes_transform(function):
        made = inspect.signature(function).return_annotation
        return inspect.isclass(made) and issubclass(made, optax.GradientTransformation)

    functions = {
        name: value for name in wcgc.__all__ if inspect.isfunction(value := getattr(wcgc, name))
    }
    assert {name for name, value in functions.items() if makes_transform(value)} == set(TRANSFORMS)


@pytest.mark.usefixtures("standard_promotion")
class TestEvery:
    """What all transforms have in common."""

    def test_is_an_optax_transform(self, make):
        assert isinstance(make(), optax.GradientTransformationExtraArgs)

    def test_keeps_structure_shapes_and_dtypes(self, make, params, grads):
        tree = {"layers": [params, (params["kernel"].astype(jnp.bfloat16), None)]}
        updates = {"layers": [grads, (grads["kernel"].astype(jnp.bfloat16), None)]}
        tx = make()
        result, _ = tx.update(updates, tx.init(tree), tree)
        assert jax.tree.structure(result) == jax.tree.structure(updates)
        for ours, theirs in zip(jax.tree.leaves(result), jax.tree.leaves(updates), strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)

    def test_changes_kernels_alone(self, make, params, grads):
        plain = make(mask=False)
        unchanged, _ = plain.update(grads, plain.init(params), params)
        tx = make()
        changed, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_array_equal(changed["bias"], unchanged["bias"])
        assert np.max(np.abs(changed["kernel"] - unchanged["kernel"])) > 0.1

    def test_follows_axes_and_mask(self, make, params, grads):
        tree, updates = {"a": params, "b": params}, {"a": grads, "b": grads}
        alone = make(mask=False)
        unchanged, _ = alone.update(updates, alone.init(tree), tree)
        for options in (
            {"axes": {"a": FLAX, "b": None}},
            {"axes": wcgc.by_path(("^a/", FLAX))},
            {"mask": {"a": True, "b": False}},
            {"mask": lambda tree: {"a": True, "b": False}},
        ):
            tx = make(**options)
            changed, _ = tx.update(updates, tx.init(tree), tree)
            np.testing.assert_array_equal(changed["b"]["kernel"], unchanged["b"]["kernel"])
            assert not np.array_equal(changed["a"]["kernel"], unchanged["a"]["kernel"])

    @pytest.mark.parametrize("tree", [{}, (), {"a": []}])
    def test_takes_trees_without_leaves(self, make, tree):
        tx = make()
        assert tx.update(tree, tx.init(tree), tree)[0] == tree

    def test_takes_extra_arguments(self, make, params, grads):
        tx = make()
        state = tx.init(params)
        expected, _ = tx.update(grads, state, params)
        updates, _ = tx.update(grads, state, params, value=1.0, anything="else")
        assert_trees_close(updates, expected, atol=0)

    def test_compiles_once_in_a_scan_or_a_loop(self, make, params, grads):
        """And gives the same in both, and with donated buffers."""
        tx, traces = make(), []

        def step(carry, _):
            traces.append(carry)
            params, state = carry
            return run(tx, params, grads, state), None

        start = params, tx.init(params)
        scanned, _ = jax.lax.scan(step, start, length=3)
        assert len(traces) == 1
        jitted = jax.jit(step, donate_argnums=0)
        looped = jax.tree.map(jnp.copy, start)
        for _ in range(3):
            looped, _ = jitted(looped, None)
        assert len(traces) == 2
        assert_trees_close(looped, scanned, atol=4e-6)

    def test_vmap_treats_each_alone(self, make, params, grads):
        tx = make()

        def step(params, grads):
            return run(tx, params, grads)[0]

        scales = jnp.array([1.0, -2.0])
        many_params, many_grads = jax.tree.map(
            lambda leaf: jnp.expand_dims(scales, tuple(range(1, leaf.ndim + 1))) * leaf,
            (params, grads),
        )
        mapped = jax.vmap(step)(many_params, many_grads)
        for i in range(2):
            params, grads = jax.tree.map(lambda leaf: leaf[i], (many_params, many_grads))  # noqa: B023
            alone = step(params, grads)
            assert_trees_close(jax.tree.map(lambda leaf: leaf[i], mapped), alone, atol=2e-6)  # noqa: B023

    def test_eval_shape(self, make, params):
        shapes, _ = jax.eval_shape(functools.partial(run, make()), params, params)
        assert shapes == jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)

    def test_unknown_areas_are_refused_at_construction(self, make):
        argument = "params" if make is TRANSFORMS["centralized"] else "area"
        message = rf"{argument} must be one of 'tensor', 'channel', 'instance', 'global', got 'all'"
        with pytest.raises(ValueError, match=message):
            make(**{argument: "all"})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"axes": None}, r"axes must be a KernelAxes.*got None"),
            ({"axes": "flax"}, r"axes must hold a KernelAxes or None for each leaf, got 'flax'"),
            ({"mask": "bias"}, r"mask must hold a bool for each leaf, got 'bias'"),
        ],
    )
    def test_wrong_types_are_refused_at_construction(self, make, options, message):
        with pytest.raises(TypeError, match=message):
            make(**options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"axes": KernelAxes(-3)}, r"in_axis=-3 .*out of range .*'kernel' has shape \(4, 3\)"),
            ({"axes": {"kernel": FLAX}}, r"axes do not match .*no entry for 'bias'"),
            ({"mask": {"kernel": True}}, r"mask do not match .*no entry for 'bias'"),
            ({"axes": wcgc.by_path(("conv", FLAX))}, r"selects none of the paths: bias, kernel"),
        ],
    )
    def test_what_does_not_fit_the_params_is_refused_at_init(self, make, options, message, params):
        with pytest.raises(ValueError, match=message):
            make(**options).init(params)


class TestStateless:
    def test_has_no_state(self, make_stateless, params, grads):
        tx = make_stateless()
        state = tx.init(params)
        assert state == optax.EmptyState()
        assert tx.update(grads, state, params)[1] is state

    def test_leaves_odd_leaves_as_they_are(self, make_stateless):
        leaves = {
            "none": None,
            "cut by optax.masked": optax.MaskedNode(),
            "no gradient": np.zeros((2, 3), jax.dtypes.float0),
            "integers": jnp.ones((2, 3), jnp.int32),
            "bools": np.ones((2, 3), bool),
            "random keys": jax.random.split(jax.random.key(0), (2, 3)),
            "function": jax.nn.relu,
            "python float": 3.0,
            "scalar": jnp.float32(3.0),
            "vector": jnp.arange(3.0),
            "no elements": jnp.ones((0, 3)),
            "one element": jnp.ones((1, 1)),
            "slices of one element": jnp.ones((1, 3)),
        }
        tx = make_stateless()
        updates, _ = tx.update(leaves, tx.init(leaves), leaves)
        assert updates.keys() == leaves.keys()
        for name, leaf in leaves.items():
            assert updates[name] is leaf, name

    def test_leaves_alone_what_has_no_update(self, make_stateless, params):
        """As `equinox.filter_grad` gives for what it does not differentiate."""
        tx = make_stateless()
        updates = {"kernel": None, "bias": None}
        assert tx.update(updates, tx.init(params), params)[0] == updates

    def test_what_is_not_finite_stays_in_its_slice(self, make_stateless, params, grads):
        spoilt = {**grads, "kernel": grads["kernel"].at[1, 2].set(jnp.nan)}
        tx = make_stateless()
        expected, _ = tx.update(grads, tx.init(params), params)
        updates, _ = tx.update(spoilt, tx.init(params), params)
        assert np.all(np.isnan(updates["kernel"][:, 2]))
        np.testing.assert_allclose(
            updates["kernel"][:, :2], expected["kernel"][:, :2], atol=1e-6, rtol=0
        )

    def test_norms_and_eps_are_checked(self):
        with pytest.raises(ValueError, match=r"eps must be at least 0, got -1e-10"):
            wcgc.standardize_params(eps=-1e-10)
        with pytest.raises(ValueError, match=r"norm must be positive, got 0\.0"):
            wcgc.normalize_params(norm=0.0)
        with pytest.raises(TypeError, match=r"norm must be a number, .*optax\.inject_hyperparams"):
            wcgc.normalize_params(norm=optax.constant_schedule(1.0))


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
        tx = wcgc.centralize_gradients(area, axes=EQUINOX)
        without_params, _ = tx.update(grads, tx.init(grads))
        with_params, _ = tx.update(grads, tx.init(grads), grads)
        assert_trees_close(without_params, wcgc.centralize(grads, area, axes=EQUINOX), atol=0)
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

    @pytest.mark.parametrize("name", ON_PARAMS)
    def test_needs_params(self, name, grads):
        message = rf"{name} needs the current parameters: call update\(updates, state, params\)"
        tx = TRANSFORMS[name]()
        with pytest.raises(ValueError, match=message):
            tx.update(grads, tx.init(grads))
        chain = optax.chain(optax.sgd(0.1), tx)
        with pytest.raises(ValueError, match=message):
            chain.update(grads, chain.init(grads))

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


class TestRemainingMean:
    """Of params after `centralize_params`, within twice the bound of `centralize` in `eps`."""

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
    @pytest.mark.parametrize(("scale", "update_scale"), [(1, 1), (1e3, 1), (1, 1e3), (1e-3, 1e-7)])
    def test_is_bounded(self, dtype, scale, update_scale, rng, x64):
        n = 50
        shape = (n, 4)
        phase = np.exp(2j) if dtype == "complex64" else 1.0
        params = jnp.asarray(phase * scale * (1 + rng.normal(size=shape)), dtype)
        updates = jnp.asarray(phase * update_scale * (1 + rng.normal(size=shape)), dtype)
        result, _ = run(wcgc.centralize_params(), params, updates)
        assert result.dtype == dtype
        wide = np.complex128 if dtype == "complex64" else np.float64
        left = np.max(np.abs(np.mean(np.asarray(result).astype(wide), axis=0)))
        largest = max(np.max(np.abs(np.asarray(x).astype(wide))) for x in (params, updates))
        limits = jnp.finfo(dtype)
        eps, tiny = float(limits.eps), float(limits.tiny)
        eps_acc = float(jnp.finfo(jnp.float32).eps) if limits.bits < 32 else eps
        assert left <= (2 * eps + 2 * n * eps_acc) * largest + 2 * n * tiny


@pytest.mark.usefixtures("standard_promotion")
class TestCentralized:
    def test_is_the_chain(self, params, grads):
        ours = wcgc.centralized(optax.adam(0.1), "channel", "global", axes=EQUINOX)
        chain = optax.chain(
            wcgc.centralize_gradients("channel", axes=EQUINOX),
            optax.adam(0.1),
            wcgc.centralize_params("global", axes=EQUINOX),
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

    def test_with_wc_they_are(self, params, grads):
        for tx in (wcgc.centralized(optax.sgd(0.1)), wcgc.algorithm_2(0.1), wcgc.algorithm_3(0.1)):
            state = tx.init(params)
            with pytest.raises(ValueError, match=r"centralize_params needs the current param"):
                tx.update(grads, state)

    def test_adds_no_state_to_that_of_the_optimizer(self, params):
        adam = optax.adam(0.1)
        assert_trees_close(
            jax.tree.leaves(wcgc.centralized(adam).init(params)),
            jax.tree.leaves(adam.init(params)),
        )

    def test_a_leaf_that_is_left_alone_takes_the_plain_step(self, params, grads):
        adam = optax.adam(0.1)
        ours, _ = run(wcgc.centralized(adam, mask=lambda tree: False), params, grads)
        assert_trees_close(ours, run(adam, params, grads)[0], atol=0)

    @pytest.mark.parametrize("argument", ["gradients", "params"])
    def test_names_the_area_that_is_unknown(self, argument):
        message = rf"{argument} must be one of 'tensor', .*, got 'filter'"
        with pytest.raises(ValueError, match=message):
            wcgc.centralized(optax.sgd(0.1), **{argument: "filter"})

    @pytest.mark.parametrize(
        "optimizer", [optax.adam, 1e-3, None, "adam", (), optax.MultiSteps(optax.sgd(0.1), 2)]
    )
    def test_wants_an_optimizer(self, optimizer):
        message = r"optimizer must be an Optax gradient transformation such as optax\.adam\(1e-3\)"
        with pytest.raises(TypeError, match=message):
            wcgc.centralized(optimizer)


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
