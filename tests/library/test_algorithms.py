import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wcgc
from wcgc import EQUINOX, FLAX

from helpers import reference

pytestmark = pytest.mark.usefixtures("standard_promotion")

STEPS = 6
ROLES = {"conv": "oiss", "hidden": "io", "bias": ""}
AXES = {"conv": EQUINOX, "hidden": FLAX, "bias": None}


def centralize(arrays, area):
    """The first and the last line of both algorithms, for the arrays that have slices."""
    return {
        name: reference.each_slice(reference.centralize, array, ROLES[name], area)
        if ROLES[name]
        else array
        for name, array in arrays.items()
    }


def paper_algorithm_2(weights, gradient, learning_rates, psi, area):
    """Algorithm 2, line by line."""
    trajectory = []
    momentum = {name: np.zeros_like(w) for name, w in weights.items()}
    for t, alpha in enumerate(learning_rates, start=1):
        delta = centralize(gradient(weights, t), area)
        for name in weights:
            momentum[name] = psi * momentum[name] + (1 - psi) * delta[name]
        weights = {name: w - alpha * momentum[name] for name, w in weights.items()}
        weights = centralize(weights, area)
        trajectory.append(weights)
    return trajectory


def paper_algorithm_3(weights, gradient, learning_rates, psi_1, psi_2, eps, area):
    """Algorithm 3, line by line."""
    trajectory = []
    m = {name: np.zeros_like(w) for name, w in weights.items()}
    v = {name: np.zeros_like(w) for name, w in weights.items()}
    for t, alpha in enumerate(learning_rates, start=1):
        delta = centralize(gradient(weights, t), area)
        stepped = {}
        for name, w in weights.items():
            m[name] = psi_1 * m[name]
            m[name] += (1 - psi_1) * delta[name]
            v[name] = psi_2 * v[name]
            v[name] += (1 - psi_2) * delta[name] * delta[name]
            m_hat = m[name] / (1 - psi_1**t)
            v_hat = psi_2 * v[name] / (1 - psi_2**t)
            stepped[name] = w - alpha * m_hat / np.sqrt(v_hat + eps)
        weights = centralize(stepped, area)
        trajectory.append(weights)
    return trajectory


def optax_trajectory(tx, weights, gradient):
    weights = {name: jnp.asarray(w) for name, w in weights.items()}
    state, trajectory = tx.init(weights), []

    @jax.jit
    def step(gradients, state, weights):
        updates, state = tx.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    for t in range(1, STEPS + 1):
        gradients = gradient({name: np.asarray(w) for name, w in weights.items()}, t)
        weights, state = step(gradients, state, weights)
        trajectory.append(weights)
    return trajectory


def gradient(weights, t):
    """Some gradient that depends on the weights and the step, of sizes from 1e-6 to 1."""
    return {name: np.sin(5 * w + t) ** 9 for name, w in weights.items()}


@pytest.fixture
def weights(rng):
    return {
        "conv": rng.normal(0.5, 1.0, (3, 2, 2, 2)),
        "hidden": rng.normal(0.5, 1.0, (4, 3)),
        "bias": rng.normal(0.5, 1.0, (3,)),
    }


RATES = {
    "constant": (0.1, [0.1] * STEPS),
    "schedule": (
        optax.piecewise_constant_schedule(0.1, {2: 0.5, 4: 0.1}),
        [0.1, 0.1, 0.05, 0.05, 0.005, 0.005],
    ),
}


@pytest.fixture(params=RATES.values(), ids=RATES)
def rate(request):
    return request.param


def assert_equal_trajectories(ours, paper):
    for t in range(STEPS):
        for name in ROLES:
            np.testing.assert_allclose(
                ours[t][name], paper[t][name], atol=1e-12, rtol=0, err_msg=f"{name} at {t + 1}"
            )


class TestAgainstThePaper:
    """In float64, with weights of size 1, to 1e-12."""

    @pytest.mark.parametrize("area", ["tensor", "global"])
    def test_algorithm_2(self, weights, rate, area, x64):
        learning_rate, values = rate
        tx = wcgc.algorithm_2(learning_rate, momentum=0.8, area=area, axes=AXES)
        paper = paper_algorithm_2(weights, gradient, values, 0.8, area)
        assert_equal_trajectories(optax_trajectory(tx, weights, gradient), paper)

    @pytest.mark.parametrize("area", ["tensor", "channel"])
    def test_algorithm_3(self, weights, rate, area, x64):
        learning_rate, values = rate
        tx = wcgc.algorithm_3(learning_rate, b1=0.8, b2=0.97, eps=1e-6, area=area, axes=AXES)
        paper = paper_algorithm_3(weights, gradient, values, 0.8, 0.97, 1e-6, area)
        assert_equal_trajectories(optax_trajectory(tx, weights, gradient), paper)

    def test_defaults(self, weights, x64):
        rates = [0.01] * STEPS
        ours = optax_trajectory(wcgc.algorithm_2(0.01, axes=AXES), weights, gradient)
        paper = paper_algorithm_2(weights, gradient, rates, 0.9, "tensor")
        assert_equal_trajectories(ours, paper)
        ours = optax_trajectory(wcgc.algorithm_3(0.01, axes=AXES), weights, gradient)
        paper = paper_algorithm_3(weights, gradient, rates, 0.9, 0.999, 1e-8, "tensor")
        assert_equal_trajectories(ours, paper)

    def test_the_momentum_of_algorithm_2_is_of_centralized_gradients(self, weights, x64):
        # The weights do not show it: what WC takes away at the end covers a missing GC.
        tx = wcgc.algorithm_2(0.1, momentum=0.8, axes=AXES)
        _, state = tx.update(gradient(weights, 1), tx.init(weights), weights)
        momentum = optax.tree.get(state, "ema")
        expected = centralize(gradient(weights, 1), "tensor")
        for name, value in expected.items():
            np.testing.assert_allclose(momentum[name], 0.2 * value, atol=1e-12, err_msg=name)

    def test_masked_leaves_take_the_plain_step(self, weights, x64):
        mask = {"conv": True, "hidden": False, "bias": False}
        tx = wcgc.algorithm_2(0.1, axes=EQUINOX, mask=mask)
        ours = optax_trajectory(tx, weights, gradient)[0]
        plain = weights["hidden"] - 0.1 * 0.1 * gradient(weights, 1)["hidden"]
        np.testing.assert_allclose(ours["hidden"], plain, atol=1e-15)


def single_step(tx, params, gradients):
    return tx.update(gradients, tx.init(params), params)[0]


@pytest.mark.filterwarnings("ignore:Nothing is centralized")
class TestInTermsOfOptax:
    """On a bias, which is not centralized, where only the optimizer remains."""

    def updates(self, tx, rng):
        params = jnp.zeros(3)
        state, updates = tx.init(params), []
        for gradients in rng.normal(size=(3, 3)):
            update, state = tx.update(jnp.asarray(gradients), state, params)
            updates.append(update)
        return np.stack(updates)

    def test_the_momentum_of_algorithm_2_is_a_moving_average(self, x64):
        ema = optax.chain(optax.ema(0.7, debias=False), optax.scale(-0.1))
        ours = self.updates(wcgc.algorithm_2(0.1, 0.7), np.random.default_rng(0))
        np.testing.assert_allclose(ours, self.updates(ema, np.random.default_rng(0)), rtol=1e-14)

    def test_its_steps_are_a_tenth_of_those_of_sgd(self, x64):
        sgd = self.updates(optax.sgd(0.1, momentum=0.9), np.random.default_rng(0))
        ours = self.updates(wcgc.algorithm_2(0.1, 0.9), np.random.default_rng(0))
        np.testing.assert_allclose(ours, sgd / 10, rtol=1e-13)

    def test_algorithm_3_is_adam_with_eps_in_the_root_and_another_rate(self, x64):
        adam = optax.chain(
            optax.scale_by_adam(0.8, 0.9, eps=0.0, eps_root=1e-3 / 0.9),
            optax.scale(-0.1 * 0.9**-0.5),
        )
        ours = self.updates(wcgc.algorithm_3(0.1, 0.8, 0.9, 1e-3), np.random.default_rng(0))
        np.testing.assert_allclose(ours, self.updates(adam, np.random.default_rng(0)), rtol=1e-13)

    @pytest.mark.parametrize(
        ("tx", "first"),
        [
            (wcgc.algorithm_3(1.0), 0.0995),
            # The paper's factor in the second moment, but eps outside the root.
            (optax.chain(optax.scale_by_adam(), optax.scale(-(0.999**-0.5))), 0.9995),
            (optax.adam(1.0), 0.9990),
        ],
        ids=["algorithm_3", "eps outside", "adam"],
    )
    def test_small_gradients_take_small_steps(self, tx, first, x64):
        update = single_step(tx, jnp.zeros(3), jnp.full(3, 1e-5))
        np.testing.assert_allclose(update, np.full(3, -first), atol=5e-5)

    def test_small_gradients_of_kernels_too(self, x64):
        kernel = jnp.array([[-1.0], [1.0]])
        update = single_step(wcgc.algorithm_3(0.1), kernel, 1e-5 * kernel)
        np.testing.assert_allclose(update, -0.1 * 0.0995 * kernel, atol=5e-6)


class TestErrors:
    @pytest.mark.parametrize("make", [wcgc.algorithm_2, wcgc.algorithm_3])
    @pytest.mark.parametrize("rate", [None, "0.1", [0.1], False], ids=repr)
    def test_learning_rate(self, make, rate):
        message = (
            f"learning_rate must be a number or a schedule from .*, got {re.escape(repr(rate))}"
        )
        with pytest.raises(TypeError, match=message):
            make(rate)

    @pytest.mark.parametrize("make", [wcgc.algorithm_2, wcgc.algorithm_3])
    @pytest.mark.parametrize(
        ("tree", "got"), [({"kernel": np.ones((2, 2))}, "dict"), (np.ones(2), r"array of shape")]
    )
    def test_parameters_in_place_of_a_learning_rate(self, make, tree, got):
        with pytest.raises(TypeError, match=rf"got {got}.* goes to init and update of transf"):
            make(tree)

    @pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5, float("nan")])
    def test_momentum(self, momentum):
        message = rf"momentum must be at least 0 and below 1, got {momentum}"
        with pytest.raises(ValueError, match=message):
            wcgc.algorithm_2(0.1, momentum)

    @pytest.mark.parametrize(
        ("argument", "value", "message"),
        [
            ("b1", -0.1, r"b1 must be at least 0 and below 1, got -0\.1"),
            ("b1", 1.0, r"b1 must be at least 0 and below 1, got 1\.0"),
            ("b2", 0.0, r"b2 must be above 0 and below 1, got 0\.0"),
            ("b2", 1, r"b2 must be above 0 and below 1, got 1"),
            ("eps", -1e-8, r"eps must be at least 0, got -1e-08"),
        ],
    )
    def test_decays_and_eps(self, argument, value, message):
        with pytest.raises(ValueError, match=message):
            wcgc.algorithm_3(0.1, **{argument: value})

    @pytest.mark.parametrize("make", [wcgc.algorithm_2, wcgc.algorithm_3])
    def test_learning_rates_of_a_wrong_kind(self, make):
        with pytest.raises(TypeError, match=r"learning_rate must be a number or a schedule.*True"):
            make(True)
        for rate in float("nan"), float("inf"), jnp.float32(np.nan):
            with pytest.raises(ValueError, match=r"learning_rate must be finite, got (nan|inf)"):
                make(rate)

    def test_flags_are_no_numbers(self):
        with pytest.raises(TypeError, match="momentum must be a number, got False"):
            wcgc.algorithm_2(0.1, momentum=False)
        with pytest.raises(TypeError, match="b1 must be a number, got True"):
            wcgc.algorithm_3(0.1, b1=True)

    @pytest.mark.filterwarnings("ignore:Nothing is centralized")
    def test_the_limits_themselves(self):
        bias, gradient = jnp.zeros(2), jnp.array([2.0, -4.0])
        np.testing.assert_allclose(
            single_step(wcgc.algorithm_2(0.5, momentum=0), bias, gradient), [-1, 2]
        )
        # Without moments, the step is the sign of the gradient, times b2**-0.5 = 2.
        update = single_step(wcgc.algorithm_3(0.5, b1=0, b2=0.25, eps=0), bias, gradient)
        np.testing.assert_allclose(update, [-1, 1], rtol=1e-6)

    @pytest.mark.parametrize("schedule", [optax.constant_schedule(0.9)])
    def test_a_schedule_for_another_number_than_the_learning_rate(self, schedule):
        message = r"must be a number, got <function.*optax\.inject_hyperparams"
        with pytest.raises(TypeError, match=f"momentum {message}"):
            wcgc.algorithm_2(0.1, momentum=schedule)
        with pytest.raises(TypeError, match=f"b2 {message}"):
            wcgc.algorithm_3(0.1, b2=schedule)


@pytest.mark.usefixtures("standard_promotion")
class TestSixteenBits:
    """In which eps would be 0, in float16, and b2 1, in bfloat16."""

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_steps_are_those_of_float32(self, dtype, rng):
        params = {"kernel": jnp.asarray(rng.normal(size=(4, 3)), dtype), "bias": jnp.ones(3, dtype)}
        wide = optax.tree.cast(params, jnp.float32)
        tx = wcgc.algorithm_3(0.1)
        state, wide_state = tx.init(params), tx.init(wide)
        for scale in 0.0, 1e-4, 3e-4, 1e-4:
            grads = jax.tree.map(lambda leaf, s=scale: (s * leaf).astype(dtype), params)
            updates, state = tx.update(grads, state, params)
            wide_grads = optax.tree.cast(grads, jnp.float32)
            expected, wide_state = tx.update(wide_grads, wide_state, wide)
            for name, update in updates.items():
                assert update.dtype == dtype
                error = 8 * float(jnp.finfo(dtype).eps)  # Of params up to 2, less steps.
                np.testing.assert_allclose(np.float32(update), expected[name], atol=error)

    def test_the_moments_of_whole_numbers_keep_their_dtype(self):
        params = {"kernel": jnp.eye(3, dtype=jnp.bfloat16), "count": jnp.ones(2, jnp.int8)}
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(wcgc.algorithm_3(1e-3).init(params))]
        # The count of the steps, and two moments of each leaf.
        assert sorted(map(str, dtypes)) == ["float32"] * 2 + ["int32"] + ["int8"] * 2

    def test_injected_numbers_are_told(self):
        params = {"kernel": jnp.eye(3, dtype=jnp.bfloat16)}
        tx = optax.inject_hyperparams(wcgc.algorithm_3)(learning_rate=0.1)
        message = (
            r"b2 must be above 0 and below 1, got 1\.0\. It may have been rounded to bfloat16: .*"
            r"hyperparam_dtype=jnp\.float32, or static_args='b2'"
        )
        with pytest.raises(ValueError, match=message):
            tx.init(params)
        for options in (
            {"hyperparam_dtype": jnp.float32},
            {"static_args": ("b1", "b2", "eps")},
        ):
            tx = optax.inject_hyperparams(wcgc.algorithm_3, **options)(learning_rate=0.1)
            updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
            assert np.all(np.isfinite(np.float32(updates["kernel"])))
