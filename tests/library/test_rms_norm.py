"""LayerNorm networks that become RMSNorm networks, and what is refused by name."""

import functools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wcgc
from wcgc import FLAX, KernelAxes

from helpers import tiny_transformers

pytestmark = pytest.mark.usefixtures("standard_promotion")

WRITERS = (r"(embed|position)/", r"attention/out/", r"down/")
NORMS = {
    r"(.*)/norm1/": r"\1/attention/(query|key|value)/",
    r"(.*)/norm2/": r"\1/up/",
    r"^norm/": r"head/",
}
AXES = wcgc.by_path(
    (r"(query|key|value)/kernel", KernelAxes(-3, (-2, -1))),
    (r"attention/out/kernel", KernelAxes((-3, -2), -1)),
    (r"kernel", FLAX),
)

to_rms_norm = functools.partial(
    wcgc.layer_norm_to_rms_norm, writers=WRITERS, norms=NORMS, axes=AXES
)

FRAMEWORKS = {
    "NNX": (
        tiny_transformers.nnx_params,
        tiny_transformers.nnx_apply(),
        tiny_transformers.nnx_apply(nnx.RMSNorm),
    ),
    "Linen": (
        tiny_transformers.linen_params,
        tiny_transformers.linen_apply(),
        tiny_transformers.linen_apply(nn.RMSNorm),
    ),
}


@pytest.fixture(params=FRAMEWORKS.values(), ids=FRAMEWORKS)
def framework(request):
    return request.param


def trained(apply, params, steps=30):
    tx = optax.adam(1e-2)
    batches = jnp.stack([tiny_transformers.some_tokens(seed) for seed in range(steps)])

    @jax.jit
    def run(params):
        def step(carry, tokens):
            params, state = carry
            grads = jax.grad(functools.partial(tiny_transformers.loss, apply))(params, tokens)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]

    return run(params)


def assert_trees_close(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    check = functools.partial(np.testing.assert_allclose, atol=1e-6, rtol=0)
    jax.tree.map(check, ours, theirs)


class TestFunctionIsKept:
    @pytest.fixture
    def tokens(self):
        return tiny_transformers.some_tokens(99)

    @pytest.mark.parametrize("steps", [0, 30], ids=["before training", "after training"])
    def test_of_a_transformer(self, framework, steps, tokens):
        make_params, layer_norm, rms_norm = framework
        params = make_params()
        if steps:
            params = trained(layer_norm, params, steps)
            assert np.min(np.abs(params["norm"]["bias"])) > 1e-3
        expected = layer_norm(params, tokens)
        assert np.std(expected) > 0.1
        rms_params = to_rms_norm(params)
        np.testing.assert_allclose(rms_norm(rms_params, tokens), expected, atol=1e-5, rtol=0)
        np.testing.assert_allclose(layer_norm(rms_params, tokens), expected, atol=1e-5, rtol=0)
        # The parameters as they were do something else there.
        assert np.max(np.abs(rms_norm(params, tokens) - expected)) > 0.1

    def test_in_float64_to_rounding(self, framework, x64, tokens):
        make_params, layer_norm, rms_norm = framework
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf + rng.normal(0.5, 0.5, leaf.shape)), make_params()
        )
        expected = layer_norm(params, tokens)
        result = rms_norm(to_rms_norm(params), tokens)
        assert result.dtype == jnp.float64
        np.testing.assert_allclose(result, expected, atol=1e-12, rtol=0)

    def test_of_blocks_stacked_for_a_scan(self):
        """Their parameters have a first axis that numbers the blocks."""
        params = trained(tiny_transformers.nnx_apply(), tiny_transformers.nnx_params())

        def stacked(tree):
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tree["blocks"].values())

        rules = {
            r"blocks/norm1": r"blocks/attention/(query|key|value)",
            r"blocks/norm2": "blocks/up",
        }
        axes = wcgc.by_path(
            (r"(query|key|value)/kernel", KernelAxes(1, (2, 3), batch_axis=0)),
            (r"attention/out/kernel", KernelAxes((1, 2), 3, batch_axis=0)),
            (r"blocks.*kernel", KernelAxes(batch_axis=0)),
            (r"head/kernel", FLAX),
        )
        result = wcgc.layer_norm_to_rms_norm(
            {**params, "blocks": stacked(params)},
            WRITERS,
            {**rules, "^norm/": "head/"},
            axes=axes,
        )
        alone = to_rms_norm(params)
        for ours, theirs in zip(
            jax.tree.leaves(result),
            jax.tree.leaves({**alone, "blocks": stacked(alone)}),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)

    def test_of_the_model_s_own_state(self, tokens):
        """With the axes read off the model, and under jit."""
        model = tiny_transformers.Model(seed=1)
        params = nnx.state(model, nnx.Param)
        axes = wcgc.axes_of(model)
        convert = jax.jit(
            lambda params: wcgc.layer_norm_to_rms_norm(params, WRITERS, NORMS, axes=axes)
        )
        rms_model = tiny_transformers.Model(nnx.RMSNorm)
        nnx.update(rms_model, convert(params))
        np.testing.assert_allclose(rms_model(tokens), model(tokens), atol=1e-5, rtol=0)

    def test_of_an_equinox_network(self):
        """Kernels (out, in), whose module holds functions beside arrays."""

        class Network(eqx.Module):
            embed: eqx.nn.Embedding
            norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
            up: eqx.nn.Linear
            activation: object
            down: eqx.nn.Linear
            final: eqx.nn.LayerNorm | eqx.nn.RMSNorm
            head: eqx.nn.Linear

            def __call__(self, token):
                x = self.embed(token)
                x = x + self.down(self.activation(self.up(self.norm(x))))
                return self.head(self.final(x))

        keys = jax.random.split(jax.random.key(0), 4)
        network = Network(
            eqx.nn.Embedding(5, 6, key=keys[0]),
            eqx.nn.LayerNorm(6),
            eqx.nn.Linear(6, 7, key=keys[1]),
            jax.nn.gelu,
            eqx.nn.Linear(7, 6, key=keys[2]),
            eqx.nn.LayerNorm(6),
            eqx.nn.Linear(6, 5, key=keys[3]),
        )
        rng = np.random.default_rng(0)
        network = jax.tree.map(
            lambda leaf: (
                leaf + rng.normal(size=leaf.shape).astype(leaf.dtype)
                if eqx.is_array(leaf)
                else leaf
            ),
            network,
        )
        converted = wcgc.layer_norm_to_rms_norm(
            network,
            ("embed", "down"),
            {"^norm": "up", "final": "head"},
            axes=wcgc.by_path(("embed", None), ("weight", wcgc.EQUINOX)),
        )
        norms = [
            eqx.tree_at(
                lambda norm: norm.weight, eqx.nn.RMSNorm(6, eps=1e-5, use_bias=False), old.weight
            )
            for old in (converted.norm, converted.final)
        ]
        rms_network = eqx.tree_at(lambda n: (n.norm, n.final), converted, norms)
        for token in range(5):
            np.testing.assert_allclose(rms_network(token), network(token), atol=1e-5, rtol=0)

    def test_of_a_haiku_network(self):
        """Kernels w, biases b, and slashes in the names of modules."""

        def network(norm):
            def apply(tokens):
                x = hk.Embed(5, 6)(tokens)
                hidden = hk.Linear(7)(norm(name="norm1")(x))
                x += hk.Linear(6, name="down")(jax.nn.gelu(hidden))
                return hk.Linear(5, name="head")(norm(name="norm2")(x))

            return hk.without_apply_rng(hk.transform(apply))

        def layer_norm(name):
            return hk.LayerNorm(-1, create_scale=True, create_offset=True, name=name)

        def rms_norm(name):
            return hk.RMSNorm(-1, eps=1e-5, name=name)

        tokens, rng = jnp.arange(5), np.random.default_rng(0)
        params = network(layer_norm).init(jax.random.key(0), tokens)
        params = jax.tree.map(
            lambda leaf: leaf + rng.normal(size=leaf.shape).astype(np.float32), params
        )
        converted = wcgc.layer_norm_to_rms_norm(
            params, ("embed", "down"), {"norm1": "linear/", "norm2": "head/"}
        )
        expected = network(layer_norm).apply(params, tokens)
        result = network(rms_norm).apply(converted, tokens)
        np.testing.assert_allclose(result, expected, atol=1e-5, rtol=0)

    def test_a_convolution_that_writes_keeps_its_shape_in_space(self):
        """The mean is that over the outputs, for each place of the mask."""
        kernel = jnp.arange(16.0).reshape(2, 2, 2, 2) ** 2
        params = {"patch": kernel, "norm": {"scale": jnp.ones(2)}, "head": jnp.ones((2, 3))}
        result = wcgc.layer_norm_to_rms_norm(params, "patch", {"norm": "head"})
        np.testing.assert_array_equal(result["patch"], kernel - kernel.mean(-1, keepdims=True))


class TestTree:
    @pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32], ids=["float16", "float32"])
    def test_structure_shapes_and_dtypes_are_kept(self, dtype):
        params = {
            "embed": jnp.ones((3, 2), jnp.bfloat16),
            "norm": {"scale": jnp.ones(2, jnp.float32), "bias": jnp.ones(2, jnp.bfloat16)},
            "head": {"kernel": jnp.ones((2, 3), jnp.float16), "bias": jnp.ones(3, dtype)},
            "step": jnp.int32(3),
            "none": None,
            "cut": optax.MaskedNode(),
            "function": jax.nn.relu,
        }
        result = wcgc.layer_norm_to_rms_norm(params, "embed", {"norm": "head"})
        assert jax.tree.structure(result) == jax.tree.structure(params)
        for name in ("embed", "norm", "head"):
            assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), result[name]) == (
                jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params[name])
            )
        for name in ("step", "none", "cut", "function"):
            assert result[name] is params[name]
        np.testing.assert_array_equal(result["head"]["bias"], np.full(3, 3.0))

    def test_twice_is_once(self):
        params = trained(tiny_transformers.nnx_apply(), tiny_transformers.nnx_params(), 5)
        once = to_rms_norm(params)
        assert_trees_close(to_rms_norm(once), once)

    def test_norms_without_bias_move_none(self):
        params = {
            "embed": jnp.ones((3, 2)),
            "norm": {"scale": jnp.ones(2)},
            "head": jnp.ones((2, 3)),
        }
        result = wcgc.layer_norm_to_rms_norm(params, "embed", {"norm": "head"})
        assert result["head"] is params["head"]


class TestRules:
    """Which rule decides, and how a norm's path becomes part of its readers' rule."""

    def tree(self, *names):
        """Blocks of a norm, whose bias is the block's number, and a kernel that reads it."""
        blocks = {
            name: {
                "norm": {"bias": jnp.full(2, number + 1.0)},
                "up": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)},
            }
            for number, name in enumerate(names)
        }
        return {"embed": jnp.ones((3, 2)), **blocks}

    def test_the_first_rule_that_matches_a_norm_decides(self):
        rules = {"b/norm": "b/up", "norm": "a/up"}
        result = wcgc.layer_norm_to_rms_norm(self.tree("a", "b"), "embed", rules)
        np.testing.assert_array_equal(result["a"]["up"]["bias"], [1, 1])
        np.testing.assert_array_equal(result["b"]["up"]["bias"], [2, 2])

    def test_groups_are_taken_literally(self):
        result = wcgc.layer_norm_to_rms_norm(
            self.tree("h.1", "h_1", "h+1"), "embed", {"(.*)/norm": r"\1/up"}
        )
        for number, name in enumerate(("h.1", "h_1", "h+1")):
            np.testing.assert_array_equal(result[name]["up"]["bias"], [number + 1] * 2)

    def test_a_group_that_takes_no_part_is_empty(self):
        rules = {"(x)?a/norm": r"\1a/up"}
        result = wcgc.layer_norm_to_rms_norm(self.tree("a"), "embed", rules)
        np.testing.assert_array_equal(result["a"]["up"]["bias"], [1, 1])

    def test_readers_are_matched_from_the_start(self):
        """So that a rule for block 1 says nothing about block 11."""
        result = wcgc.layer_norm_to_rms_norm(self.tree("1", "11"), "embed", {"(.*)/norm": r"\1/up"})
        np.testing.assert_array_equal(result["1"]["up"]["bias"], [1, 1])
        np.testing.assert_array_equal(result["11"]["up"]["bias"], [2, 2])


def test_float32_parameters_stay_so_with_64_bits(x64):
    params = {
        "embed": jnp.ones((5, 4), jnp.float32),
        "norm": {"scale": jnp.ones(4, jnp.float32), "bias": jnp.ones(4, jnp.float32)},
        "up": {"kernel": jnp.ones((4, 3), jnp.float32), "bias": jnp.ones(3, jnp.float32)},
    }
    result = wcgc.layer_norm_to_rms_norm(params, "embed", {"norm": "up"})
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(result["up"]["bias"], [5, 5, 5])


def test_a_convolution_without_a_window_is_a_dense_layer():
    kernel = jnp.arange(12.0).reshape(4, 3)
    biases = []
    for shape in (4, 3), (1, 1, 4, 3):
        params = {
            "embed": jnp.ones((5, 4)),
            "norm": {"scale": jnp.ones(4), "bias": jnp.arange(4.0)},
            "up": {"kernel": kernel.reshape(shape), "bias": jnp.ones(3)},
        }
        result = wcgc.layer_norm_to_rms_norm(params, "embed", {"norm": "up"})
        biases.append(result["up"]["bias"])
    np.testing.assert_array_equal(biases[0], 1 + jnp.arange(4.0) @ kernel)
    np.testing.assert_array_equal(biases[1], biases[0])


def small_params(**more):
    return {
        "embed": {"embedding": jnp.ones((5, 4))},
        "block": {
            "norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
            "up": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)},
            "down": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
        },
        **more,
    }


SMALL_WRITERS, SMALL_NORMS = ("embed/", "down/"), {r"(.*)/norm/": r"\1/up/"}


class TestRefusals:
    def check(self, error, message, writers=SMALL_WRITERS, norms=SMALL_NORMS, others=(), **more):
        axes = more.pop("axes", FLAX)
        with pytest.raises(error, match=message):
            wcgc.layer_norm_to_rms_norm(small_params(**more), writers, norms, others, axes=axes)

    def test_what_is_well_is_not_refused(self):
        wcgc.layer_norm_to_rms_norm(small_params(), SMALL_WRITERS, SMALL_NORMS)
        more = small_params(more={"kernel": jnp.ones((3, 3))})
        wcgc.layer_norm_to_rms_norm(more, SMALL_WRITERS, SMALL_NORMS, "more/kernel")

    def test_a_leaf_without_a_role(self):
        """As the embedding of positions that somebody forgot."""
        self.check(
            ValueError,
            "No rule says what 'position/embedding' does. Name it in writers",
            position={"embedding": jnp.ones((5, 4))},
        )

    def test_a_bias_beside_a_kernel_that_writes(self):
        self.check(ValueError, "No rule says what 'block/down/bias' does", ("embed", "down/kernel"))

    def test_a_tied_output_embedding(self):
        self.check(
            ValueError,
            "'embed/embedding' writes to the stream and is among the readers of 'final', as a "
            "tied .*give the head a kernel of its own",
            norms={**SMALL_NORMS, "final": "embed"},
            final={"scale": jnp.ones(4)},
        )

    def test_a_leaf_with_two_roles(self):
        self.check(
            ValueError,
            "'block/norm/bias' is among writers and norms; make it one of them",
            ("embed", "down", "norm"),
        )

    def test_a_leaf_that_writes_and_does_not(self):
        self.check(ValueError, "'block/down/bias' is among writers and others", others="down/bias")

    def test_a_kernel_that_reads_two_norms(self):
        self.check(
            ValueError,
            "'block/up/bias' is among readers of 'block/norm' and readers of 'other'",
            norms={**SMALL_NORMS, "other": "block/up"},
            other={"scale": jnp.ones(4)},
        )

    def test_a_bias_that_cannot_be_carried_over(self):
        params = small_params()
        del params["block"]["up"]["bias"]
        message = r"'block/norm/bias' must go into one bias of 'block/up', .* matches no leaf. Give"
        with pytest.raises(ValueError, match=message):
            wcgc.layer_norm_to_rms_norm(params, SMALL_WRITERS, SMALL_NORMS)

    def test_a_norm_of_another_width(self):
        """As one of queries and keys."""
        self.check(
            ValueError,
            r"'block/inner/scale' has shape \(2,\), but the stream has 4 features",
            norms={**SMALL_NORMS, "inner": "middle"},
            block={**small_params()["block"], "inner": {"scale": jnp.ones(2)}},
            middle={"kernel": jnp.ones((2, 2))},
        )

    def test_a_norm_with_statistics(self):
        self.check(
            ValueError,
            "'bn/mean' is neither the scale nor the bias of a LayerNorm",
            norms={**SMALL_NORMS, "bn": "middle"},
            bn={"mean": jnp.ones(4), "scale": jnp.ones(4)},
            middle={"kernel": jnp.ones((4, 4))},
        )

    def test_writers_of_different_widths(self):
        self.check(
            ValueError,
            "'embed/embedding' .*writes 4 features, but 'block/down/bias' .*writes 3",
            block={
                **small_params()["block"],
                "down": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)},
            },
        )

    def test_a_scalar_that_writes(self):
        self.check(
            ValueError, "'gain' is a scalar", writers=(*SMALL_WRITERS, "gain"), gain=jnp.float32(1)
        )

    def test_axes_that_do_not_fit(self):
        self.check(
            ValueError,
            r"'block/up/kernel' of shape \(4, 3\) must read the 4 .*its axes are KernelAxes",
            axes=wcgc.by_path(("up", wcgc.EQUINOX), ("down", FLAX)),
        )
        self.check(
            ValueError,
            r"'block/up/kernel' .*its axes are None",
            axes=wcgc.by_path(("down", FLAX)),
        )

    def test_a_convolution_that_reads(self):
        block = small_params()["block"]
        block["up"]["kernel"] = jnp.ones((3, 3, 4, 3))
        self.check(ValueError, "a convolution with spatial axes is not covered", block=block)

    def test_a_bias_of_another_size_than_the_outputs(self):
        block = small_params()["block"]
        block["up"]["bias"] = jnp.ones(2)
        self.check(
            ValueError,
            r"'block/up/bias' of shape \(2,\) cannot take 'block/norm/bias' of shape \(4,\) "
            "through 1 kernels of 4 inputs and 3 outputs",
            block=block,
        )

    def test_stacked_norms_in_front_of_a_kernel_that_is_not(self):
        block = small_params()["block"]
        block["norm"] = {"scale": jnp.ones((2, 4)), "bias": jnp.ones((2, 4))}
        self.check(
            ValueError,
            r"'block/up/bias' of shape \(3,\) cannot take 'block/norm/bias' of shape \(2, 4\)",
            block=block,
        )

    def test_two_kernels_in_one_reader(self):
        block = small_params()["block"]
        block["up"]["gate"] = jnp.ones((4, 3))
        self.check(
            ValueError,
            "'block/up', which reads 'block/norm', must hold one kernel, but its rule matches "
            "'block/up/gate', 'block/up/kernel'",
            block=block,
        )

    @pytest.mark.parametrize("argument", ["writers", "norms", "others"])
    def test_rules_that_match_nothing(self, argument):
        rules = {"norms": {"no such": "up"}}.get(argument, "no such")
        self.check(
            ValueError, rf"'no such' in {argument} matches none of .*'block/", **{argument: rules}
        )

    def test_norms_that_nothing_reads(self):
        self.check(
            ValueError,
            "Nothing reads the norm 'block/norm': 'up/' matches the beginning of none of",
            norms={"(.*)/norm": "up/"},
        )

    @pytest.mark.parametrize("params", [{}, {"count": 1}, {"count": np.ones(3, int)}], ids=repr)
    def test_no_parameters(self, params):
        with pytest.raises(ValueError, match="params hold no floating array; give the parameters"):
            wcgc.layer_norm_to_rms_norm(params, SMALL_WRITERS, SMALL_NORMS)

    def test_shapes_without_values(self):
        shapes = jax.eval_shape(small_params)
        with pytest.raises(TypeError, match=r"'block/down/bias' is a ShapeDtypeStruct.*eval_shape"):
            wcgc.layer_norm_to_rms_norm(shapes, SMALL_WRITERS, SMALL_NORMS)
        jax.eval_shape(
            lambda params: wcgc.layer_norm_to_rms_norm(params, SMALL_WRITERS, SMALL_NORMS), shapes
        )

    def test_no_writers(self):
        self.check(ValueError, "writers must name what adds", writers=(), others=("embed", "down"))

    @pytest.mark.parametrize(
        ("rules", "error", "message"),
        [
            ({"writers": "("}, ValueError, r"'\(' in writers is not a regular expression"),
            ({"norms": {"norm": "("}}, ValueError, r"'\(' in norms is not a regular expression"),
            ({"norms": {"norm": r"\1/up"}}, ValueError, r"refers to group 1, which 'norm' lacks"),
            ({"writers": (3,)}, TypeError, r"writers must hold regular expressions .*got 3"),
            ({"norms": {"norm": None}}, TypeError, r"norms must hold .*got None"),
            ({"norms": "norm"}, TypeError, r"norms must be a dictionary .*got 'norm'"),
            ({"norms": [np.ones(2)]}, TypeError, r"norms must be a dictionary .*got list\.$"),
            ({"writers": None}, TypeError, r"writers must be a regular .* of them, got None\.$"),
            ({"writers": 3}, TypeError, r"writers must be a regular .* sequence .*, got 3\.$"),
            ({"others": 3}, TypeError, r"others must be a regular expression .*, got 3\.$"),
            ({"others": [np.ones(2)]}, TypeError, r"others must hold .*got array of shape"),
        ],
    )
    def test_rules_that_are_none(self, rules, error, message):
        self.check(error, message, **rules)

    def test_a_post_norm_network_computes_something_else(self):
        """Which its parameters do not tell: the docstring says to compare the logits."""
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), small_params())

        def apply(params, norm):
            block, x = params["block"], params["embed"]["embedding"]
            hidden = jax.nn.gelu(x @ block["up"]["kernel"] + block["up"]["bias"])
            return norm(
                x + hidden @ block["down"]["kernel"] + block["down"]["bias"], **block["norm"]
            )

        def layer_norm(x, scale, bias):
            return rms_norm(x - x.mean(-1, keepdims=True), scale, bias)

        def rms_norm(x, scale, bias):
            return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True)) * scale + bias

        rules = {r"(.*)/norm/": r"\1/up/"}
        converted = wcgc.layer_norm_to_rms_norm(params, SMALL_WRITERS, rules)
        difference = apply(converted, rms_norm) - apply(params, layer_norm)
        assert np.max(np.abs(difference)) > 0.1
