"""What people rely on, of every public transform and of every function on arrays."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wcgc
from wcgc import FLAX, KernelAxes

from helpers import reference


@dataclasses.dataclass(frozen=True)
class Transform:
    """One public transform, as the suite needs to know it.

    Attributes:
      make: makes it from optional arguments.
      required: the arguments that it cannot do without.
      numbers: its numeric arguments, with values for `optax.inject_hyperparams`.
      area: the name of its argument for an area.
      wants_params: who complains if params are missing; empty if they are not needed.
      stateless: whether it has no state at all.
    """

    make: Callable[..., optax.GradientTransformationExtraArgs]
    required: dict[str, Any] = dataclasses.field(default_factory=dict)
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    area: str = "area"
    wants_params: str = ""
    stateless: bool = True

    def __call__(self, **options):
        return self.make(**{**self.required, **options})


TRANSFORMS = {
    "centralize_gradients": Transform(wcgc.centralize_gradients, numbers={"strength": 0.5}),
    "centralize_params": Transform(
        wcgc.centralize_params, numbers={"strength": 0.5}, wants_params="centralize_params"
    ),
    "standardize_params": Transform(
        wcgc.standardize_params, numbers={"eps": 0.5}, wants_params="standardize_params"
    ),
    "normalize_params": Transform(
        wcgc.normalize_params, numbers={"norm": 2.0}, wants_params="normalize_params"
    ),
    "centralized": Transform(
        wcgc.centralized,
        {"optimizer": optax.sgd(0.5, momentum=0.9)},
        area="params",
        wants_params="centralize_params",
        stateless=False,
    ),
    "algorithm_2": Transform(
        wcgc.algorithm_2,
        {"learning_rate": 0.5},
        {"learning_rate": 0.1, "momentum": 0.7},
        wants_params="centralize_params",
        stateless=False,
    ),
    "algorithm_3": Transform(
        wcgc.algorithm_3,
        {"learning_rate": 0.5},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.7, "eps": 1e-3},
        wants_params="centralize_params",
        stateless=False,
    ),
}

VARIANTS = {
    "part of the gradients' means": Transform(wcgc.centralize_gradients, {"strength": 0.5}),
    "part of the params' means": Transform(
        wcgc.centralize_params, {"strength": 0.5}, wants_params="centralize_params"
    ),
    "kept norms": Transform(
        wcgc.normalize_params, {"norm": "keep"}, wants_params="normalize_params"
    ),
}
"""What arguments make something else of the public transforms."""


NUMBERS = {
    f"{name}, {argument}": (make, argument)
    for name, make in TRANSFORMS.items()
    for argument in make.numbers
}


@pytest.mark.parametrize("wrong", ["x", None, float("nan"), 1j])
@pytest.mark.parametrize(("make", "argument"), NUMBERS.values(), ids=NUMBERS)
def test_what_is_no_fitting_number_is_refused_when_the_transform_is_made(make, argument, wrong):
    """The error names the argument."""
    with pytest.raises((TypeError, ValueError), match=argument):
        make(**{argument: wrong})


def error_of(function):
    """The error that `function` hands back, as a function of the one it is given."""

    def backward(error):
        return jax.vjp(lambda x: function(x, "channel"), jnp.zeros_like(error))[1](error)[0]

    return backward


def rms_norm_embedding(array):
    """The embedding of a network that reads it through one norm."""
    features = array.shape[-1]
    params = {
        "embed": array,
        "norm": {"scale": jnp.ones(features), "bias": jnp.ones(features)},
        "head": {"kernel": jnp.ones((features, 2)), "bias": jnp.ones(2)},
    }
    return wcgc.layer_norm_to_rms_norm(params, "embed", {"norm": "head"})["embed"]


FUNCTIONS = {
    "centralize": wcgc.centralize,
    "standardize": wcgc.standardize,
    "normalize": wcgc.normalize,
    "measure": wcgc.measure,
    "centralize_error": error_of(wcgc.centralize_error),
    "standardize_error": error_of(wcgc.standardize_error),
    "layer_norm_to_rms_norm": rms_norm_embedding,
}
"""The public functions on arrays, reduced to one array."""

OTHERS = {"axes_of", "by_path", "explain", "muon_dimension_numbers", "trace_axes"}
"""The public functions that never see a number."""


def makes_transform(function):
    made = inspect.signature(function).return_annotation
    return inspect.isclass(made) and issubclass(made, optax.GradientTransformation)


def test_every_public_function_is_listed():
    public = {
        name: value for name in wcgc.__all__ if inspect.isfunction(value := getattr(wcgc, name))
    }
    assert {name for name, value in public.items() if makes_transform(value)} == set(TRANSFORMS)
    assert set(public) == {*TRANSFORMS, *FUNCTIONS, *OTHERS}
    assert all(transform.make is public[name] for name, transform in TRANSFORMS.items())


ALL = {**TRANSFORMS, **VARIANTS}


@pytest.fixture(params=ALL.values(), ids=ALL)
def make(request):
    return request.param


def updates_of(tx, params, grads, **extra_args):
    return tx.update(grads, tx.init(params), params, **extra_args)[0]


def step(tx, params, grads, state):
    """The new params and the new state."""
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def assert_trees_close(ours, theirs, atol=1e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=0), ours, theirs)


def shapes_of(tree):
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)


@pytest.mark.usefixtures("standard_promotion")
class TestUpdates:
    def test_is_an_optax_transform(self, make):
        assert isinstance(make(), optax.GradientTransformationExtraArgs)

    def test_structure_shapes_and_dtypes_are_kept(self, make, params, grads):
        def in_all_dtypes(tree):
            dtypes = ("float16", "bfloat16", "float32", "complex64")
            layers = [optax.tree.cast(tree, dtype) for dtype in dtypes]
            return {"layers": layers, "more": (tree, None, optax.MaskedNode(), {})}

        tree, updates = in_all_dtypes(params), in_all_dtypes(grads)
        tx = make()
        state = tx.init(tree)
        result, after = tx.update(updates, state, tree)
        assert jax.tree.structure(result) == jax.tree.structure(updates)
        assert shapes_of(result) == shapes_of(updates)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        assert shapes_of(after) == shapes_of(state)

    def test_kernels_alone_are_changed(self, make, params, grads):
        plain = updates_of(make(mask=False), params, grads)
        changed = updates_of(make(), params, grads)
        np.testing.assert_array_equal(changed["bias"], plain["bias"])
        assert np.max(np.abs(changed["kernel"] - plain["kernel"])) > 0.1

    def test_axes_and_mask_are_followed(self, make, params, grads):
        tree, updates = {"a": params, "b": params}, {"a": grads, "b": grads}
        plain = updates_of(make(mask=False), tree, updates)
        for options in (
            {"axes": {"a": FLAX, "b": None}},
            {"axes": wcgc.by_path(("^a/", FLAX))},
            {"mask": {"a": True, "b": False}},
            {"mask": lambda tree: {"a": True, "b": False}},
        ):
            changed = updates_of(make(**options), tree, updates)
            np.testing.assert_array_equal(changed["b"]["kernel"], plain["b"]["kernel"])
            assert not np.array_equal(changed["a"]["kernel"], plain["a"]["kernel"])

    @pytest.mark.parametrize("tree", [{}, (), {"a": []}, {"a": None}])
    def test_trees_without_leaves(self, make, tree):
        assert updates_of(make(), tree, tree) == tree

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 3, 4, 5)])
    def test_kernels_without_elements(self, make, shape):
        kernel = jnp.ones(shape)
        assert updates_of(make(), kernel, kernel).shape == shape

    def test_params_without_updates_are_left_alone(self, make, params, grads):
        """As `equinox.filter_grad` gives none for what it does not differentiate."""
        some = {**params, "kernel": None}
        result = updates_of(make(), some, {**grads, "kernel": None})
        assert result["kernel"] is None
        np.testing.assert_array_equal(
            result["bias"], updates_of(make(), params, grads)["bias"], strict=True
        )

    def test_updates_without_params_are_refused_by_name(self, make, params, grads):
        if not make.wants_params:
            tx = make()
            tx.update(grads, tx.init(params))
            return
        message = (
            rf"{make.wants_params} needs the current parameters: "
            r"call update\(updates, state, params\)"
        )
        for tx in (make(), optax.chain(optax.sgd(0.1), make())):
            state = tx.init(params)
            with pytest.raises(ValueError, match=message):
                tx.update(grads, state)


STATELESS = {name: transform for name, transform in ALL.items() if transform.stateless}


@pytest.mark.parametrize("make", STATELESS.values(), ids=STATELESS)
class TestStateless:
    def test_has_no_state(self, make, params, grads):
        tx = make()
        state = tx.init(params)
        assert state == optax.EmptyState()
        assert tx.update(grads, state, params)[1] is state

    def test_odd_leaves_are_returned_as_they_are(self, make):
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
        updates = updates_of(make(), leaves, leaves)
        assert updates.keys() == leaves.keys()
        for name, leaf in leaves.items():
            assert updates[name] is leaf, name


def test_the_others_have_the_state_of_the_optimizer(params):
    adam = optax.adam(0.1)
    assert_trees_close(
        jax.tree.leaves(wcgc.centralized(adam).init(params)), jax.tree.leaves(adam.init(params))
    )


@pytest.mark.usefixtures("standard_promotion")
class TestUnderJax:
    """Transforms under the transformations of JAX."""

    def test_scan_and_jit_give_what_eager_steps_give_and_compile_once(self, make, params, grads):
        """With donated buffers too."""
        tx, traces = make(), []

        def traced(carry, _):
            traces.append(carry)
            params, state = carry
            return step(tx, params, grads, state), None

        start = params, tx.init(params)
        eager = start
        for _ in range(3):
            eager = step(tx, eager[0], grads, eager[1])
        scanned, _ = jax.lax.scan(traced, start, length=3)
        assert len(traces) == 1
        jitted = jax.jit(traced, donate_argnums=0)
        donated = looped = jax.tree.map(jnp.copy, start)
        for _ in range(3):
            looped, _ = jitted(looped, None)
        assert len(traces) == 2
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
        assert_trees_close(looped, eager, atol=4e-6)
        assert_trees_close(scanned, eager, atol=4e-6)

    def test_vmap_treats_each_alone(self, make, params, grads):
        tx = make()

        def new_params(params, grads):
            return step(tx, params, grads, tx.init(params))[0]

        scales = jnp.array([1.0, -2.0])
        many_params, many_grads = jax.vmap(
            lambda scale: jax.tree.map(lambda leaf: scale * leaf, (params, grads))
        )(scales)
        mapped = jax.vmap(new_params)(many_params, many_grads)
        alone = [
            new_params(optax.tree.scale(scale, params), optax.tree.scale(scale, grads))
            for scale in (1.0, -2.0)
        ]
        assert_trees_close(mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone), 2e-6)

    def test_eval_shape(self, make, params):
        tx = make()
        shapes = jax.eval_shape(lambda params: step(tx, params, params, tx.init(params)), params)
        assert shapes == jax.eval_shape(lambda params: (params, tx.init(params)), params)


@pytest.mark.usefixtures("standard_promotion")
class TestUnderOptax:
    """Transforms in the wrappers of Optax."""

    def test_extra_arguments(self, make, params, grads):
        expected = updates_of(make(), params, grads)
        updates = updates_of(make(), params, grads, value=1.0, anything="else")
        assert_trees_close(updates, expected, atol=0)

    @pytest.mark.parametrize(
        "mask",
        [
            {"a": {"kernel": True, "bias": True}, "b": {"kernel": False, "bias": False}},
            {"a": True, "b": False},
            lambda tree: {"a": True, "b": False},
        ],
        ids=["tree", "prefix", "callable"],
    )
    def test_masked(self, make, mask, params, grads):
        tree, updates = {"a": params, "b": params}, {"a": grads, "b": grads}
        masked = updates_of(optax.masked(make(), mask), tree, updates)
        assert_trees_close(masked["b"], updates["b"], atol=0)
        assert_trees_close(masked["a"], updates_of(make(), params, grads), atol=0)
        if make.stateless:
            assert_trees_close(masked, updates_of(make(mask=mask), tree, updates), atol=0)

    def test_partition(self, make, params, grads):
        tree, updates = {"a": params, "b": params}, {"a": grads, "b": grads}
        tx = optax.partition(
            {"ours": make(), "plain": optax.sgd(1.0)},
            {"a": {"kernel": "ours", "bias": "plain"}, "b": "plain"},
        )
        result = updates_of(tx, tree, updates)
        alone = updates_of(make(), params, grads)
        assert_trees_close(result["a"]["kernel"], alone["kernel"])
        np.testing.assert_array_equal(result["a"]["bias"], -grads["bias"])
        assert_trees_close(result["b"], jax.tree.map(jnp.negative, grads), atol=0)

    def test_inject_hyperparams(self, make, params, grads):
        """What is injected may change without a second compilation."""
        static = tuple(make.required.keys() - make.numbers.keys())
        tx = optax.inject_hyperparams(make.make, static_args=static)(
            **{**make.required, **make.numbers}
        )
        state, traces = tx.init(params), []

        @jax.jit
        def update(grads, state, params):
            traces.append(1)
            return tx.update(grads, state, params)

        expected = updates_of(make(**make.numbers), params, grads)
        assert_trees_close(update(grads, state, params)[0], expected)
        halved = {name: value / 2 for name, value in make.numbers.items()}
        state.hyperparams.update({name: jnp.float32(value) for name, value in halved.items()})
        expected = updates_of(make(**halved), params, grads)
        assert_trees_close(update(grads, state, params)[0], expected)
        assert len(traces) == 1

    def test_multi_steps(self, make, params, grads):
        """It acts when the steps are taken, on the mean of the gradients."""
        tx = optax.MultiSteps(make(), every_k_schedule=2).gradient_transformation()
        first, state = tx.update(grads, tx.init(params), params)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(first))
        second, _ = tx.update(optax.tree.scale(3.0, grads), state, params)
        expected = updates_of(make(), params, optax.tree.scale(2.0, grads))
        assert_trees_close(second, expected, atol=2e-6)

    def test_named_chain(self, make, params, grads):
        named = optax.named_chain(("scaled", optax.scale(2.0)), ("ours", make()))
        state = named.init(params)
        assert jax.tree.structure(state["ours"]) == jax.tree.structure(make().init(params))
        updates, after = named.update(grads, state, params)
        expected = updates_of(make(), params, optax.tree.scale(2.0, grads))
        assert_trees_close(updates, expected, atol=0)
        assert after.keys() == state.keys()

    def test_map_params(self, make, params):
        """What has the shape of the params is mapped, and nothing else."""
        tx = make()
        state = tx.init(params)
        mapped = optax.tree.map_params(tx, lambda leaf: leaf + 1, state)
        assert jax.tree.structure(mapped) == jax.tree.structure(state)
        expected = jax.tree.map(lambda leaf: leaf + bool(jnp.ndim(leaf)), state)
        assert_trees_close(mapped, expected, atol=0)


@pytest.mark.usefixtures("standard_promotion")
class TestErrors:
    """Of the arguments that all transforms share."""

    def test_unknown_areas_are_refused_at_construction(self, make):
        message = rf"{make.area} must be one of 'tensor', .*'global'.*, got 'all'"
        with pytest.raises(ValueError, match=message):
            make(**{make.area: "all"})

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

    def test_kernels_with_updates_but_without_params(self, make, params, grads):
        tx = make(params=None) if make.area == "params" else make()
        if make.area == "params" or not make.wants_params:
            tx.update(grads, tx.init(params), {**params, "kernel": None})
            return
        message = "'kernel' is an array in updates but None in params. Give both, or make both None"
        state = tx.init(params)
        with pytest.raises(ValueError, match=re.escape(message)):
            tx.update(grads, state, {**params, "kernel": None})


@pytest.mark.parametrize("area", reference.AREAS)
class TestFormulas:
    """In float64, slice by slice, for all layouts at once."""

    def kernels(self, rng):
        return reference.kernels(rng), reference.kernels(rng)

    def check(self, results, expected, area):
        for name, (_, roles, _) in reference.LAYOUTS.items():
            np.testing.assert_allclose(
                results[name],
                expected(name, functools.partial(reference.each_slice, roles=roles, area=area)),
                atol=1e-12,
                rtol=0,
                err_msg=name,
            )

    @pytest.mark.parametrize("kind", ["number", "traced"])
    def test_a_share_of_the_mean(self, area, kind, rng, x64):
        strength = 0.3125
        params, grads = self.kernels(rng)
        axes = reference.kernel_axes()

        def results(strength):
            options = {"axes": axes, "strength": strength}
            on_grads = wcgc.centralize_gradients(area, **options)
            on_params = wcgc.centralize_params(area, **options)
            return (
                wcgc.centralize(grads, area, **options),
                updates_of(on_grads, params, grads),
                updates_of(on_params, params, grads),
            )

        run = functools.partial(results, strength) if kind == "number" else results
        given = () if kind == "number" else (jnp.float32(strength),)
        plain, of_grads, of_params = jax.jit(run)(*given)
        share = functools.partial(reference.centralize, strength=strength)
        for result in (plain, of_grads):
            self.check(result, lambda name, each: each(share, grads[name]), area)
        self.check(
            of_params,
            lambda name, each: each(share, params[name] + grads[name]) - params[name],
            area,
        )

    def test_kept_norms(self, area, rng, x64):
        params, grads = self.kernels(rng)
        tx = wcgc.normalize_params(area, norm="keep", axes=reference.kernel_axes())
        updates = jax.jit(functools.partial(updates_of, tx))(params, grads)

        def expected(name, each):
            kernel, stepped = params[name], params[name] + grads[name]
            old, new = (
                each(lambda x: np.full_like(x, reference.norm_of(x)), x) for x in (kernel, stepped)
            )
            left_alone = each(np.zeros_like, np.ones_like(kernel)) == 1
            return np.where(left_alone, stepped, stepped * old / new) - kernel

        self.check(updates, expected, area)


STRONG = {
    "centralize": lambda params, grads, **options: wcgc.centralize(grads, **options),
    "centralize_gradients": lambda params, grads, **options: updates_of(
        wcgc.centralize_gradients(**options), params, grads
    ),
    "centralize_params": lambda params, grads, **options: updates_of(
        wcgc.centralize_params(**options), params, grads
    ),
}
"""What has a strength, from params, gradients and options to new gradients or updates."""


def test_layer_norm_to_rms_norm_is_what_the_paper_writes(rng, x64):
    """Centred over the features, and the norm's bias in the reader's, in float64."""
    width, hidden = 4, 3
    params = {
        "embed": rng.normal(1.0, 1.0, (5, width)),
        "norm": {"scale": rng.normal(size=width), "bias": rng.normal(size=width)},
        "up": {"kernel": rng.normal(size=(width, hidden)), "bias": rng.normal(size=hidden)},
        "down": {"kernel": rng.normal(1.0, 1.0, (hidden, width)), "bias": rng.normal(size=width)},
    }
    result = wcgc.layer_norm_to_rms_norm(params, ("embed", "down"), {"norm": "up"})
    # I - 1/n, from the right: the projection onto what sums to zero.
    projection = np.eye(width) - np.ones((width, width)) / width
    expected = {
        "embed": params["embed"] @ projection,
        "norm": {"scale": params["norm"]["scale"], "bias": np.zeros(width)},
        "up": {
            "kernel": params["up"]["kernel"],
            "bias": params["up"]["bias"] + params["norm"]["bias"] @ params["up"]["kernel"],
        },
        "down": {
            "kernel": params["down"]["kernel"] @ projection,
            "bias": params["down"]["bias"] @ projection,
        },
    }
    assert_trees_close(result, expected, atol=1e-12)


class TestStrength:
    """That 1 is what was there before, and 0 nothing."""

    @pytest.fixture(params=STRONG.values(), ids=STRONG)
    def run(self, request):
        return request.param

    @pytest.mark.parametrize("one", [1, 1.0, np.float64(1)])
    def test_the_number_1_compiles_to_the_same(self, run, one, params, grads):
        with_strength = jax.make_jaxpr(functools.partial(run, strength=one))(params, grads)
        assert str(with_strength) == str(jax.make_jaxpr(run)(params, grads))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
    def test_an_array_of_1_gives_the_same_bits(self, run, dtype, params, grads):
        params, grads = optax.tree.cast((params, grads), dtype)
        result = run(params, grads, strength=jnp.float32(1))
        assert result["kernel"].dtype == dtype
        np.testing.assert_array_equal(result["kernel"], run(params, grads)["kernel"])

    def test_a_traced_1_gives_the_same_up_to_rounding(self, run, params, grads):
        """XLA rounds the mean before the product, or does not round it at all."""
        traced = jax.jit(lambda one: run(params, grads, strength=one))(1.0)
        np.testing.assert_allclose(traced["kernel"], run(params, grads)["kernel"], atol=2e-7)

    @pytest.mark.parametrize("zero", [0, 0.0, np.float32(0), "traced"])
    def test_0_is_the_identity(self, run, zero, grads):
        """Even where the sum is out of range, or an entry is not a number."""
        kernel = grads["kernel"].at[0].set(3e38).at[1].set(3e38).at[2, 0].set(np.nan)
        zeros, grads = {"kernel": jnp.zeros_like(kernel)}, {"kernel": kernel}
        if isinstance(zero, str):
            result = jax.jit(lambda zero: run(zeros, grads, strength=zero))(0.0)
        else:
            result = run(zeros, grads, strength=zero)
        np.testing.assert_array_equal(result["kernel"], kernel)

    def test_the_number_0_computes_no_mean(self, run, params, grads):
        program = str(jax.make_jaxpr(functools.partial(run, strength=0))(params, grads))
        assert "reduce_sum" not in program
        assert "reduce_sum" in str(jax.make_jaxpr(run)(params, grads))

    @pytest.mark.parametrize("strength", [-0.1, 1.1, np.nan, np.inf, np.float32(-1)])
    def test_what_is_no_share_is_refused(self, run, strength, params, grads):
        for kind in (lambda number: number, jnp.float32):
            with pytest.raises(ValueError, match="strength must be between 0 and 1, got "):
                run(params, grads, strength=kind(strength))

    @pytest.mark.parametrize("strength", [None, True, "1", 1j, [0.5], np.ones(2)], ids=repr)
    def test_what_is_no_number_is_refused(self, run, strength, params, grads):
        with pytest.raises(TypeError, match="strength must be a number, got "):
            run(params, grads, strength=strength)

    def test_transforms_refuse_it_when_they_are_made(self):
        for make in (wcgc.centralize_gradients, wcgc.centralize_params):
            with pytest.raises(ValueError, match="strength must be between 0 and 1, got 2"):
                make(strength=2)


class TestKeptNorms:
    tx = wcgc.normalize_params(norm="keep")

    def test_by_hand(self):
        """(3, 4) of norm 5 moves to (0, 8), which is brought back to 5."""
        params, updates = jnp.array([[3.0], [4.0]]), jnp.array([[-3.0], [4.0]])
        result = optax.apply_updates(params, updates_of(self.tx, params, updates))
        np.testing.assert_allclose(result, [[0.0], [5.0]], atol=1e-6)

    def test_slices_of_zeros_stay(self, grads):
        params = {"kernel": jnp.zeros((4, 3)).at[:, 1].set(1.0), "bias": jnp.zeros(3)}
        stepped = optax.apply_updates(params, updates_of(self.tx, params, grads))
        np.testing.assert_array_equal(stepped["kernel"][:, [0, 2]], np.zeros((4, 2)))
        np.testing.assert_allclose(np.linalg.norm(stepped["kernel"][:, 1]), 2.0, rtol=1e-6)

    def test_no_update_moves_nothing(self, params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates = updates_of(self.tx, params, zeros)
        np.testing.assert_allclose(updates["kernel"], 0, atol=1e-6)

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_squares_may_leave_the_range(self, scale):
        params, updates = scale * jnp.array([[3.0], [4.0]]), scale * jnp.array([[-3.0], [4.0]])
        result = optax.apply_updates(params, updates_of(self.tx, params, updates))
        np.testing.assert_allclose(result / scale, [[0.0], [5.0]], atol=1e-6)

    def test_other_words_are_refused(self):
        with pytest.raises(ValueError, match=r'a positive number or "keep", got .same.'):
            wcgc.normalize_params(norm="same")

    def test_normalize_has_no_norm_to_keep(self, params):
        with pytest.raises(TypeError, match="norm must be a number, got 'keep'"):
            wcgc.normalize(params, norm="keep")


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
class TestFunctions:
    """Functions on arrays under the transformations of JAX."""

    @pytest.fixture
    def array(self, rng):
        return jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)

    def test_jit_compiles_once_and_gives_what_eager_calls_give(self, function, array):
        traces = []

        @jax.jit
        def jitted(array):
            traces.append(array)
            return function(array)

        for scale in (1.0, 2.0, -3.0):
            assert_trees_close(jitted(scale * array), function(scale * array), atol=2e-6)
        assert len(traces) == 1

    def test_vmap_treats_each_alone(self, function, array):
        arrays = [array, -2.0 * array, array + 1.0]
        mapped = jax.vmap(function)(jnp.stack(arrays))
        alone = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(function, arrays))
        assert_trees_close(mapped, alone, atol=2e-6)
        middle = jax.vmap(function, in_axes=1)(jnp.stack(arrays, axis=1))
        assert_trees_close(middle, alone, atol=2e-6)

    def test_scan(self, function, array):
        arrays = jnp.stack([array, -2.0 * array])
        _, scanned = jax.lax.scan(lambda _, array: (None, function(array)), None, arrays)
        assert_trees_close(scanned, jax.vmap(function)(arrays), atol=2e-6)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
    def test_eval_shape(self, function, array, dtype):
        shapes = jax.eval_shape(function, jax.ShapeDtypeStruct(array.shape, dtype))
        assert shapes_of(shapes) == shapes_of(function(array.astype(dtype)))

    def test_donation(self, function, array):
        expected = function(array)
        given = jnp.copy(array)
        # What returns no array of this shape has no use for the buffer, of which JAX warns.
        if not any(leaf.shape == array.shape for leaf in jax.tree.leaves(expected)):
            with pytest.warns(UserWarning, match="donated buffers were not usable"):
                result = jax.jit(function, donate_argnums=0)(given)
        else:
            result = jax.jit(function, donate_argnums=0)(given)
            assert given.is_deleted()
        assert_trees_close(result, expected, atol=2e-6)
