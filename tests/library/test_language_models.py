"""What `docs/language_models.md` says, against NumPy and on a small transformer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wcgc
from wcgc import EQUINOX, FLAX

from helpers import tiny_transformers

pytestmark = pytest.mark.usefixtures("standard_promotion")

UNTIED = wcgc.by_path((r"head/kernel", FLAX))
TIED = wcgc.by_path((r"embed/embedding", EQUINOX))
"""Which axis of the output embeddings is what: (features, words) and (words, features)."""


def new_params(tx, params, grads):
    return optax.apply_updates(params, tx.update(grads, tx.init(params), params)[0])


def in_float64(rng, *shape):
    return jnp.asarray(rng.normal(0.5, 1.0, shape))


class TestHyperball:
    """R Norm(W - rate R Norm(u)) with R the norm of W, as published, after one step."""

    rate = 0.3

    def hyperball(self, optimizer):
        return optax.chain(
            optimizer,
            optax.scale_by_trust_ratio(),
            optax.scale_by_learning_rate(self.rate),
            wcgc.normalize_params("global", norm="keep"),
        )

    def published(self, kernel, update):
        def unit(x):
            return x / np.sqrt(np.sum(x**2))

        radius = np.sqrt(np.sum(kernel**2))
        return radius * unit(kernel - self.rate * radius * unit(update))

    def test_with_adam_inside(self, rng, x64):
        kernel, grads = np.array(in_float64(rng, 5, 3)), np.array(in_float64(rng, 5, 3))
        tx = self.hyperball(optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-8))
        # The bias corrections of the first step undo both averages.
        expected = self.published(kernel, grads / (np.sqrt(grads**2) + 1e-8))
        result = new_params(tx, jnp.asarray(kernel), jnp.asarray(grads))
        np.testing.assert_allclose(result, expected, atol=1e-12, rtol=0)

    def test_with_muon_inside(self, rng, x64):
        kernel, grads = np.array(in_float64(rng, 5, 3)), np.array(in_float64(rng, 5, 3))
        # Nesterov's momentum of the first step is a multiple of the gradient.
        x = grads.T / np.linalg.norm(grads)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        tx = self.hyperball(optax.contrib.scale_by_muon())
        result = new_params(tx, jnp.asarray(kernel), jnp.asarray(grads))
        # Optax keeps the coefficients in float32 and adds 1e-8 to the norm.
        np.testing.assert_allclose(result, self.published(kernel, x.T), atol=2e-7, rtol=0)

    def test_the_projection_alone_keeps_the_norm_of_muon_s_step(self, rng, x64):
        kernel, grads = in_float64(rng, 5, 3), in_float64(rng, 5, 3)
        muon = optax.contrib.muon(0.1)
        stepped = new_params(muon, kernel, grads)
        tx = optax.chain(muon, wcgc.normalize_params("global", norm="keep"))
        expected = stepped * np.linalg.norm(kernel) / np.linalg.norm(stepped)
        np.testing.assert_allclose(new_params(tx, kernel, grads), expected, atol=1e-12, rtol=0)

    def test_experts_keep_a_norm_each(self, rng):
        experts = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
        axes = wcgc.KernelAxes(batch_axis=0)
        tx = optax.chain(optax.sgd(1.0), wcgc.normalize_params("global", norm="keep", axes=axes))
        result = new_params(tx, experts, jnp.ones_like(experts))
        norms = [np.linalg.norm(x, axis=(1, 2)) for x in (experts, result)]
        np.testing.assert_allclose(*norms, rtol=1e-6)
        assert np.max(np.abs(result - experts)) > 0.1


class TestOutputEmbeddingCentring:
    """Each output embedding less their mean over the vocabulary, after the step."""

    def test_is_the_paper_s_formula(self, rng, x64):
        vocabulary, width = 7, 4
        embeddings, grads = in_float64(rng, vocabulary, width), in_float64(rng, vocabulary, width)
        stepped = np.array(new_params(optax.adam(0.1), embeddings, grads))
        mu = sum(stepped) / vocabulary
        expected = np.array([e - mu for e in stepped])
        for axes, name, lay in (
            (UNTIED, ("head", "kernel"), np.transpose),
            (TIED, ("embed", "embedding"), np.array),
        ):
            params, gradient = (
                {name[0]: {name[1]: jnp.asarray(lay(x))}, "other": x} for x in (embeddings, grads)
            )
            tx = optax.chain(optax.adam(0.1), wcgc.centralize_params("channel", axes=axes))
            result = new_params(tx, params, gradient)
            np.testing.assert_allclose(lay(result[name[0]][name[1]]), expected, atol=1e-12, rtol=0)
            np.testing.assert_allclose(result["other"], stepped, atol=1e-12, rtol=0)

    def test_of_an_untied_head_changes_no_probability(self):
        params, tokens = tiny_transformers.nnx_params(), tiny_transformers.some_tokens(1)
        apply = tiny_transformers.nnx_apply()
        centred = wcgc.centralize(params, "channel", axes=UNTIED)
        before, after = (jax.nn.softmax(apply(tree, tokens)) for tree in (params, centred))
        np.testing.assert_allclose(after, before, atol=1e-6)
        assert np.max(np.abs(apply(centred, tokens) - apply(params, tokens))) > 0.05

    def test_adam_moves_the_mean_and_sgd_does_not(self):
        """The softmax's gradients sum to zero over the vocabulary. Adam's updates do not."""
        start = wcgc.centralize(tiny_transformers.nnx_params(), "channel", axes=UNTIED)
        loss = functools.partial(tiny_transformers.loss, tiny_transformers.nnx_apply())
        gradient = jax.jit(jax.grad(loss))
        for tx, moves in ((optax.sgd(0.1, momentum=0.9), False), (optax.adam(0.1), True)):
            params, state = start, tx.init(start)
            for seed in range(3):
                grads = gradient(params, tiny_transformers.some_tokens(seed))
                updates, state = tx.update(grads, state, params)
                params = optax.apply_updates(params, updates)
            mean = np.max(np.abs(np.mean(params["head"]["kernel"], axis=1)))
            assert mean > 1e-2 if moves else mean < 1e-7


def removed(grads, area, axes):
    """By path, what share of its squared norm a gradient has in its means."""
    leaves = wcgc.measure(grads, area, axes=axes).leaves
    return {
        path.removesuffix("/kernel"): float(leaf.fraction_removed) for path, leaf in leaves.items()
    }


class TestMeansOfGradients:
    """Of a pre-LayerNorm transformer, over what a kernel's outputs sum over and over them."""

    @pytest.fixture(params=[False, True], ids=["LayerNorm without scale", "LayerNorm with scale"])
    def scaled(self, request):
        return request.param

    @pytest.fixture
    def measured(self, scaled):
        options = {} if scaled else {"use_scale": False, "use_bias": False}
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32),
            tiny_transformers.nnx_params(**options),
        )
        axes = wcgc.axes_of(tiny_transformers.Model(**options))
        loss = functools.partial(tiny_transformers.loss, tiny_transformers.nnx_apply(**options))
        grads = jax.jit(jax.grad(loss))(params, tiny_transformers.some_tokens(0, sequences=32))
        return {area: removed(grads, area, axes) for area in ("tensor", "channel")}

    def test_over_the_inputs_behind_a_norm(self, measured, scaled):
        """A gradient is a sum of inputs times errors: it has the mean that its inputs have."""
        for path, share in measured["tensor"].items():
            if path.endswith(("query", "key", "value", "up", "head")):
                assert (share > 1e-5) if scaled else (share < 1e-10), path

    def test_over_the_inputs_elsewhere(self, measured):
        """Behind GELU and behind the values, inputs have a mean."""
        for path, share in measured["tensor"].items():
            if path.endswith("down"):
                assert share > 0.03, path
            if path.endswith("out"):
                assert share > 1e-3, path

    def test_over_the_outputs(self, measured):
        """The stream's error has no mean over the features, the softmax's none over the words."""
        for path, share in measured["channel"].items():
            if path.endswith(("out", "down", "head")):
                assert share < 1e-10, path
            else:
                assert share > 1e-3, path

    def test_under_rms_norm_the_stream_s_error_has_a_mean(self):
        loss = functools.partial(tiny_transformers.loss, tiny_transformers.nnx_apply(nnx.RMSNorm))
        params = tiny_transformers.nnx_params(norm=nnx.RMSNorm)
        grads = jax.jit(jax.grad(loss))(params, tiny_transformers.some_tokens(0, sequences=32))
        axes = wcgc.axes_of(tiny_transformers.Model(nnx.RMSNorm))
        for path, share in removed(grads, "channel", axes).items():
            if path.endswith(("out", "down")):
                assert share > 1e-3, path


class TestAnswers:
    """To what people ask."""

    @pytest.fixture
    def params(self):
        return {"kernel": jnp.array([[1.0, -2.0], [-1.0, 2.0]])}

    def means(self, params):
        return np.abs(np.mean(params["kernel"], axis=0))

    def test_clip_behind_gc(self):
        """In front, it is the mean that decides how much is clipped."""
        grads = {"kernel": jnp.array([[10.0, 10.0], [12.0, 10.0]])}
        clip, gc = optax.clip_by_global_norm(2.0), wcgc.centralize_gradients()
        behind = optax.chain(gc, clip).update(grads, (optax.EmptyState(),) * 2)[0]
        before = optax.chain(clip, gc).update(grads, (optax.EmptyState(),) * 2)[0]
        np.testing.assert_allclose(behind["kernel"], [[-1.0, 0.0], [1.0, 0.0]])
        assert np.linalg.norm(before["kernel"]) < 0.15
        # Clipped entry by entry, what is centred does not stay so.
        entries = optax.chain(gc, optax.clip(0.5))
        skewed = {"kernel": jnp.array([[0.0], [0.0], [6.0]])}
        clipped = entries.update(skewed, (optax.EmptyState(),) * 2)[0]
        assert self.means(clipped) > 0.1

    def run(self, tx, start, loss, steps=6):
        params, state = start, tx.init(start)

        @jax.jit
        def step(params, state):
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=loss)
            return optax.apply_updates(params, updates), state

        for _ in range(steps):
            params, state = step(params, state)
        return params, state

    def loss(self, params):
        x = jnp.array([[1.0, 2.0], [3.0, 5.0], [-1.0, 1.0]])
        y = jnp.array([[1.0, 2.0], [0.0, 1.0], [2.0, 2.0]])
        return jnp.mean((x @ params["kernel"] - y) ** 2)

    def test_lbfgs_from_centred_weights(self, params):
        """Its steps are sums of the gradients and steps so far, which stay centred."""
        tx = optax.chain(wcgc.centralize_gradients(), optax.lbfgs())
        end, _ = self.run(tx, wcgc.centralize(params), self.loss)
        np.testing.assert_allclose(self.means(end), 0, atol=1e-6)
        # It is at the minimum that centred weights can reach.
        gradient = wcgc.centralize(jax.grad(self.loss)(end))
        np.testing.assert_allclose(gradient["kernel"], 0, atol=1e-4)
        assert np.max(self.means(self.run(optax.lbfgs(), params, self.loss)[0])) > 0.1

    def test_schedule_free_with_centralization_inside(self, params):
        tx = optax.contrib.schedule_free(wcgc.centralized(optax.sgd(0.05)), 0.05)
        start = wcgc.centralize(params)
        end, state = self.run(optax.with_extra_args_support(tx), start, self.loss)
        np.testing.assert_allclose(self.means(end), 0, atol=1e-6)
        averaged = optax.contrib.schedule_free_eval_params(state, end)
        np.testing.assert_allclose(self.means(averaged), 0, atol=1e-6)
        assert np.max(np.abs(end["kernel"] - start["kernel"])) > 0.1

    def test_lookahead_with_centralization_inside(self, params):
        tx = optax.lookahead(wcgc.centralized(optax.sgd(0.05)), sync_period=3, slow_step_size=0.5)
        start = wcgc.centralize(params)
        both = optax.LookaheadParams.init_synced(start)
        state = tx.init(both)
        for _ in range(5):
            updates, state = tx.update(jax.grad(self.loss)(both.fast), state, both)
            both = optax.apply_updates(both, updates)
        for end in both:
            np.testing.assert_allclose(self.means(end), 0, atol=1e-6)
            assert np.max(np.abs(end["kernel"] - start["kernel"])) > 0.1

    def test_sharpness_aware_with_centralization_inside(self, params):
        """Every second step, when the weights are not those of the adversary, they are centred."""
        adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
        tx = optax.contrib.sam(wcgc.centralized(optax.sgd(0.05)), adversary)
        params = wcgc.centralize(params)
        state = tx.init(params)
        means = []
        for _ in range(4):
            updates, state = tx.update(jax.grad(self.loss)(params), state, params)
            params = optax.apply_updates(params, updates)
            means.append(np.max(self.means(params)))
        assert min(means[0], means[2]) > 1e-3
        assert max(means[1], means[3]) < 1e-6

    def test_gc_over_the_rank_confines_lora(self):
        """B starts at zero, and its sum over the rank stays there unless B is left alone."""
        model = nnx.LoRA(4, 2, 3, rngs=nnx.Rngs(0))
        axes = wcgc.axes_of(model)
        assert axes["lora_b"] == FLAX
        start = nnx.to_pure_dict(nnx.state(model, nnx.LoRAParam))
        x, y = jax.random.normal(jax.random.key(0), (2, 8, 4))

        def loss(params):
            return jnp.mean((x @ params["lora_a"] @ params["lora_b"] - y[:, :3]) ** 2)

        def train(axes):
            tx = optax.chain(wcgc.centralize_gradients(axes=axes), optax.sgd(0.1))
            return self.run(optax.with_extra_args_support(tx), start, loss)[0]["lora_b"]

        confined, free = train(FLAX), train({"lora_a": FLAX, "lora_b": None})
        np.testing.assert_allclose(np.sum(confined, axis=0), 0, atol=1e-6)
        assert np.min(np.abs(np.sum(free, axis=0))) > 1e-2

    def test_an_ensemble_by_vmap(self, rng):
        """Each member is trained as if it were alone."""
        tx = wcgc.centralized(optax.sgd(0.05, momentum=0.9))
        members = {"kernel": jnp.asarray(rng.normal(size=(3, 2, 2)), jnp.float32)}

        def train(params):
            state = tx.init(params)
            for _ in range(3):
                updates, state = tx.update(jax.grad(self.loss)(params), state, params)
                params = optax.apply_updates(params, updates)
            return params

        together = jax.jit(jax.vmap(train))(members)["kernel"]
        alone = [train({"kernel": kernel})["kernel"] for kernel in members["kernel"]]
        np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-6)
