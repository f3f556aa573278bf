"""Rules over other axes, as values, and the ones that do nothing. See `test_paths` for paths."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import wcgc
from wcgc import EQUINOX, FLAX, KernelAxes, LeftAlone, by_path

KERNEL = np.float32([[1.0, 2.0], [3.0, 6.0]])
PARAMS = {
    "enc": {"kernel": KERNEL, "scale": KERNEL, "bias": np.ones(2, np.float32)},
    "dec": [{"kernel": KERNEL}, {"kernel": KERNEL}],
}


def averaged(axes, params=PARAMS):
    rows = wcgc.explain(params, axes=axes).rows
    return {row.path: row.slice_axes for row in rows if row.slice_axes is not None}


class TestOtherwise:
    @pytest.mark.parametrize(
        "otherwise",
        [
            FLAX,
            {"enc": {"kernel": FLAX, "scale": None, "bias": None}, "dec": FLAX},
            {"enc": {"kernel": FLAX, "scale": LeftAlone("a scale"), "bias": None}, "dec": FLAX},
            lambda tree: FLAX,
            by_path(("kernel", FLAX)),
        ],
        ids=["layout", "tree", "tree with reasons", "callable", "rules"],
    )
    def test_says_what_no_rule_does(self, otherwise):
        axes = by_path(("dec/0", EQUINOX), ("dec/1", None), otherwise=otherwise)
        expected = {"enc/kernel": (0,), "dec/0/kernel": (1,)}
        assert averaged(axes) == expected
        assert averaged(axes(PARAMS)) == expected

    def test_lets_reasons_through(self):
        axes = by_path(
            ("dec/0", LeftAlone("the first")),
            ("dec/1", None),
            otherwise={"enc": {"kernel": FLAX, "scale": LeftAlone("a scale"), "bias": None}},
        )
        with pytest.raises(ValueError, match=r"no entry for 'dec/0/kernel'"):
            wcgc.explain(PARAMS, axes=axes)
        axes = dataclasses.replace(axes, otherwise=axes.otherwise | {"dec": None})
        reasons = {row.path: row.reason for row in wcgc.explain(PARAMS, axes=axes).rows}
        assert reasons["enc/scale"] == "a scale"
        assert reasons["dec/0/kernel"] == "the first"
        assert reasons["dec/1/kernel"] == "axes are None"

    def test_sees_the_whole_tree(self):
        def last(tree):
            assert tree is PARAMS
            return {"enc": None, "dec": [None, FLAX]}

        axes = by_path(("dec/0", EQUINOX), otherwise=last)
        expected = {"dec/0/kernel": (1,), "dec/1/kernel": (0,)}
        assert averaged(axes) == averaged(axes(PARAMS)) == expected

    @pytest.mark.parametrize("empty", [None, optax.MaskedNode()], ids=["None", "cut"])
    def test_says_nothing_of_what_is_not_there(self, empty):
        tree = {"dec": KERNEL, "enc": {"kernel": KERNEL, "frozen": empty}}
        axes = by_path(("dec", EQUINOX), otherwise=FLAX)
        assert averaged(axes, tree) == {"dec": (1,), "enc/kernel": (0,)}
        assert axes(tree) == {"dec": EQUINOX, "enc": {"kernel": FLAX, "frozen": None}}

    def test_a_layout_knows_modules_of_equinox(self):
        model = {"head": KERNEL, "body": eqx.nn.Linear(2, 3, key=jax.random.key(0))}
        rows = wcgc.explain(model, axes=by_path(("head", FLAX), otherwise=FLAX)).rows
        reasons = {row.path: row.reason for row in rows}
        assert reasons["head"] == ""
        assert reasons["body/weight"] == "Equinox's layout is (out, in, ...)"

    def test_by_default_leaves_alone(self):
        rows = wcgc.explain(PARAMS, axes=by_path(("dec", FLAX))).rows
        assert {row.path: row.reason for row in rows}["enc/kernel"] == "no rule matches"

    def test_may_be_all_that_selects(self):
        assert averaged(by_path(("dec", None), otherwise=FLAX)) == {"enc/kernel": (0,)}
        with pytest.raises(ValueError, match=r"by_path\('dec'\) selects none of the paths: dec/0/"):
            wcgc.explain(PARAMS, axes=by_path(("dec", None), otherwise=lambda tree: None))

    def test_what_is_no_axes(self):
        with pytest.raises(TypeError, match=r"otherwise must hold a KernelAxes .* got 'flax'"):
            by_path(("dec", None), otherwise="flax")

    @pytest.mark.parametrize("make", [wcgc.centralize_gradients, wcgc.centralize_params])
    def test_under_jit(self, make):
        tx = make(axes=by_path(("dec/0", EQUINOX), otherwise=FLAX))
        updates, _ = jax.jit(tx.update)(
            PARAMS, tx.init(PARAMS), jax.tree.map(np.zeros_like, PARAMS)
        )
        np.testing.assert_allclose(updates["dec"][0]["kernel"], [[-0.5, 0.5], [-1.5, 1.5]])
        np.testing.assert_allclose(updates["dec"][1]["kernel"], [[-1, -2], [1, 2]])
        np.testing.assert_array_equal(updates["enc"]["scale"], KERNEL)


class TestValue:
    def test_prints_as_it_is_made(self):
        axes = by_path(("a$", None), ("b", LeftAlone("why")), otherwise=by_path(("c", FLAX)))
        names = {"by_path": by_path, "KernelAxes": KernelAxes, "LeftAlone": LeftAlone}
        assert eval(repr(axes), names) == axes
        assert repr(by_path(("a", None))) == "by_path(('a', None))"

    def test_is_frozen_and_hashable(self):
        axes, same = (by_path(("a", FLAX), otherwise={"b": FLAX}) for _ in range(2))
        assert (axes, hash(axes)) == (same, hash(same))
        assert axes != by_path(("a", FLAX))
        assert axes != by_path(("a", EQUINOX), otherwise={"b": FLAX})
        with pytest.raises(dataclasses.FrozenInstanceError):
            axes.rules = ()

    def test_may_be_a_static_argument(self):
        centralize = jax.jit(wcgc.centralize, static_argnames="axes")
        result = centralize(PARAMS, axes=by_path(("dec/0", EQUINOX)))
        np.testing.assert_allclose(result["dec"][0]["kernel"], [[-0.5, 0.5], [-1.5, 1.5]])
        centralize(PARAMS, axes=by_path(("dec/0", EQUINOX)))
        assert centralize._cache_size() == 1

    def test_rules_are_kept(self):
        assert by_path(("a", FLAX), ("b", None)).rules == (("a", FLAX), ("b", None))


class TestIdleRules:
    def test_are_named_by_explain(self):
        inner = by_path(("scale", None), ("nowhere", FLAX), ("dec/1", FLAX), ("", FLAX))
        axes = by_path(("dec", FLAX), ("head", FLAX), (r"dec/\d", None), otherwise=inner)
        explanation = wcgc.explain(PARAMS, axes=axes)
        assert explanation.unmatched == ("head", "nowhere")
        assert explanation.overruled == (r"dec/\d", "dec/1")
        text = str(explanation)
        assert "Rules that match nothing: 'head', 'nowhere'." in text
        assert r"Rules that match only what earlier ones took: 'dec/\\d', 'dec/1'." in text
        assert "match nothing: &#x27;head&#x27;" in explanation._repr_html_()

    def test_are_not_mentioned_where_there_are_none(self):
        explanation = wcgc.explain(PARAMS, axes=by_path(("dec", None), ("enc", FLAX)))
        assert explanation.unmatched == explanation.overruled == ()
        assert "Rules" not in str(explanation)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("make", [wcgc.algorithm_3, wcgc.algorithm_2])
class TestUnderInjectHyperparams:
    """It takes what is callable for a schedule."""

    params = {"kernel": KERNEL}  # noqa: RUF012, read only

    def test_the_error_says_what_to_do(self, make):
        tx = optax.inject_hyperparams(make)(learning_rate=0.1, axes=by_path(("kernel$", FLAX)))
        with pytest.raises(TypeError, match=r"by_path\(.*static_args=\('axes', 'mask'\)"):
            tx.init(self.params)

    def test_and_that_helps(self, make):
        tx = optax.inject_hyperparams(make, static_args=("axes", "mask"))(
            learning_rate=0.1, axes=by_path(("kernel$", FLAX)), mask=lambda tree: True
        )
        updates, _ = tx.update(self.params, tx.init(self.params), self.params)
        means = np.mean(updates["kernel"] + KERNEL, axis=0)
        np.testing.assert_allclose(means, 0, atol=1e-6)

    @pytest.mark.parametrize(
        "options",
        [
            {"axes": lambda tree: jax.tree.map(lambda leaf: FLAX if leaf.ndim else None, tree)},
            {"mask": lambda tree: jnp.asarray(tree) > 0},
        ],
        ids=["axes", "mask"],
    )
    def test_for_other_callables_too(self, make, options):
        tx = optax.inject_hyperparams(make)(learning_rate=0.1, **options)
        with pytest.raises(TypeError, match=r"static_args"):
            tx.init(self.params)


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal()
        x = nn.Dense(2, kernel_init=nn.with_partitioning(init, ("in", "out")), name="a")(x)
        boxed = nn.with_logical_partitioning(init, ("in", "out"))
        return nn.Dense(2, kernel_init=boxed, name="b")(x)


@pytest.fixture(scope="module")
def variables():
    return Network().init(jax.random.key(0), jnp.ones((1, 3)))


def test_whole_numbers_with_axes_do_not_count_steps():
    numbers = jnp.ones((2, 2), int)
    assert wcgc.centralize(numbers, axes=by_path(("^$", FLAX))) is numbers


class TestBoxedVariables:
    """Of Linen: their path is that of what they hold."""

    def test_rules_see_the_same_paths(self, variables):
        axes = by_path((r"^params/[ab]/kernel$", FLAX))
        expected = {"params/a/kernel": (0,), "params/b/kernel": (0,)}
        assert averaged(axes, variables) == averaged(axes, nn.unbox(variables)) == expected

    def test_names_are_seen(self, variables):
        boxed = {"ln": {"scale": nn.Partitioned(jnp.ones((3, 2)), names=("layers", "out"))}}
        assert wcgc.explain(boxed).rows[0].reason == "named 'scale'"

    def test_axes_of_either_serve_the_other(self, variables):
        axes = {"params": {name: {"kernel": FLAX, "bias": None} for name in "ab"}}
        assert averaged(axes, variables) == averaged(axes, nn.unbox(variables))
        centred = wcgc.centralize(variables, axes=axes)
        assert isinstance(centred["params"]["a"]["kernel"], nn.Partitioned)
        np.testing.assert_allclose(
            np.mean(centred["params"]["a"]["kernel"].value, axis=0), 0, atol=1e-7
        )

    def test_boxes_in_boxes(self):
        box = nn.Partitioned(nn.Partitioned(KERNEL, names=("x", "y")), names=("x", "y"))
        assert averaged(by_path(("^kernel$", FLAX)), {"kernel": box}) == {"kernel": (0,)}
