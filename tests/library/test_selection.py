import functools
import gc
import re
import time
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wcgc
from wcgc import EQUINOX, FLAX, KernelAxes, LeftAlone
from wcgc._selection import match, select

KERNEL = np.float32([[1.0, 2.0], [3.0, 6.0]])
BY_COLUMN = np.array([[-1.0, -2.0], [1.0, 2.0]])  # FLAX: means 2 and 4
BY_ROW = np.array([[-0.5, 0.5], [-1.5, 1.5]])  # EQUINOX: means 1.5 and 4.5


def tree():
    return {"enc": {"a": KERNEL, "b": KERNEL}, "dec": [KERNEL, jnp.ones(2)]}


def check(result, a, b, c):
    """What became of the three kernels, in the order of `tree`."""
    np.testing.assert_array_equal(result["enc"]["a"], a)
    np.testing.assert_array_equal(result["enc"]["b"], b)
    np.testing.assert_array_equal(result["dec"][0], c)
    np.testing.assert_array_equal(result["dec"][1], np.ones(2))


class TestAxes:
    def test_defaults_to_flax(self):
        check(wcgc.centralize(tree()), BY_COLUMN, BY_COLUMN, BY_COLUMN)

    def test_one_for_all_leaves(self):
        check(wcgc.centralize(tree(), axes=EQUINOX), BY_ROW, BY_ROW, BY_ROW)

    def test_a_tree(self):
        axes = {"enc": {"a": FLAX, "b": None}, "dec": [EQUINOX, None]}
        check(wcgc.centralize(tree(), axes=axes), BY_COLUMN, KERNEL, BY_ROW)

    def test_a_prefix_of_the_tree(self):
        check(wcgc.centralize(tree(), axes={"enc": EQUINOX, "dec": None}), BY_ROW, BY_ROW, KERNEL)
        axes = {"enc": {"a": None, "b": EQUINOX}, "dec": FLAX}
        check(wcgc.centralize(tree(), axes=axes), KERNEL, BY_ROW, BY_COLUMN)

    def test_a_callable(self):
        def axes(params):
            return jax.tree.map(lambda leaf: EQUINOX if leaf.ndim == 2 else None, params)

        check(wcgc.centralize(tree(), axes=axes), BY_ROW, BY_ROW, BY_ROW)

    def test_a_callable_that_makes_one_for_all_leaves(self):
        check(wcgc.centralize(tree(), axes=lambda params: EQUINOX), BY_ROW, BY_ROW, BY_ROW)

    def test_a_callable_model_is_a_tree(self):
        """An Equinox module may be called, and may also hold the axes of its own leaves."""
        layer = eqx.nn.Linear(2, 2, key=jax.random.key(0))
        axes = jax.tree.map(lambda leaf: EQUINOX if leaf.ndim == 2 else None, layer)
        centred = wcgc.centralize(layer, axes=axes)
        assert callable(axes)
        np.testing.assert_allclose(np.mean(centred.weight, axis=1), [0, 0], atol=1e-7)
        assert centred.bias is layer.bias

    def test_none_entries_may_name_leaves_that_the_tree_lacks(self):
        axes = {"enc": FLAX, "dec": FLAX, "norm": {"mean": None}}
        check(wcgc.centralize(tree(), axes=axes), BY_COLUMN, BY_COLUMN, BY_COLUMN)

    def test_reasons_may_stand_wherever_none_may(self):
        alone = LeftAlone("a table")
        for axes in (
            {"enc": {"a": FLAX, "b": alone}, "dec": [EQUINOX, alone]},
            {"enc": {"a": FLAX, "b": alone}, "dec": [EQUINOX, None], "norm": {"mean": alone}},
            lambda tree: {"enc": {"a": FLAX, "b": alone}, "dec": [EQUINOX, alone]},
        ):
            check(wcgc.centralize(tree(), axes=axes), BY_COLUMN, KERNEL, BY_ROW)
        check(wcgc.centralize(tree(), axes={"enc": alone, "dec": EQUINOX}), KERNEL, KERNEL, BY_ROW)
        rows = wcgc.explain(tree(), axes={"enc": alone, "dec": EQUINOX}).rows
        assert [row.reason for row in rows] == ["", "fewer than two axes", "a table", "a table"]


class Chooser(eqx.Module):
    """Its bound methods are callable pytrees, with leaves of all kinds."""

    axes: KernelAxes
    scale: jax.Array

    def choose(self, params):
        return jax.tree.map(lambda leaf: self.axes if leaf.ndim == 2 else None, params)

    def select(self, params):
        return {"enc": False, "dec": True}


class TestCallablesThatArePytrees:
    chooser = Chooser(EQUINOX, np.ones(3))

    @pytest.mark.parametrize(
        "axes",
        [
            jax.tree_util.Partial(lambda params: EQUINOX),
            jax.tree_util.Partial(lambda axes, params: axes, EQUINOX),
            jax.tree_util.Partial(lambda scale, params: EQUINOX, np.ones(3)),
            functools.partial(lambda axes, params: axes, EQUINOX),
            chooser.choose,
        ],
        ids=["Partial", "Partial of axes", "Partial of an array", "partial", "bound method"],
    )
    def test_as_axes(self, axes):
        check(wcgc.centralize(tree(), axes=axes), BY_ROW, BY_ROW, BY_ROW)

    @pytest.mark.parametrize(
        "mask",
        [
            jax.tree_util.Partial(lambda params: {"enc": False, "dec": True}),
            jax.tree_util.Partial(lambda enc, params: {"enc": enc, "dec": True}, False),
            chooser.select,
        ],
        ids=["Partial", "Partial of a bool", "bound method"],
    )
    def test_as_mask(self, mask):
        check(wcgc.centralize(tree(), mask=mask), KERNEL, KERNEL, BY_COLUMN)

    def test_a_model_of_arrays_is_no_axes(self):
        layer = eqx.nn.Linear(2, 2, key=jax.random.key(0))
        message = (
            r"axes must hold a KernelAxes .* got Array of shape \(2, 2\) at 'weight'\. This Linear "
            r"holds arrays in their place\. Read the axes off the model with wcgc\.axes_of or wcgc"
        )
        with pytest.raises(TypeError, match=message):
            wcgc.centralize(layer, axes=layer)
        with pytest.raises(TypeError, match=r"otherwise must hold .*This Linear holds arrays"):
            wcgc.by_path(("weight", None), otherwise=layer)

    def test_parameters_are_no_mask(self):
        message = (
            r"mask must hold a bool for each leaf, got array of shape \(2, 2\) at 'dec/0'\. This "
            r"dict holds arrays in their place\. Make the mask .* with jax\.tree\.map: True for"
        )
        with pytest.raises(TypeError, match=message):
            wcgc.centralize(tree(), mask=tree())

    def test_one_array_is_no_axes(self):
        with pytest.raises(TypeError, match=r"got array of shape \(2, 2\)\. Read the axes off"):
            wcgc.centralize(KERNEL, axes=KERNEL)


class TestMask:
    def test_a_tree(self):
        mask = {"enc": {"a": True, "b": False}, "dec": [np.True_, np.False_]}
        check(wcgc.centralize(tree(), mask=mask), BY_COLUMN, KERNEL, BY_COLUMN)

    def test_a_prefix_of_the_tree(self):
        mask = {"enc": False, "dec": True}
        check(wcgc.centralize(tree(), mask=mask), KERNEL, KERNEL, BY_COLUMN)

    @pytest.mark.parametrize(("mask", "expected"), [(True, BY_COLUMN), (False, KERNEL)])
    def test_one_for_all_leaves(self, mask, expected):
        check(wcgc.centralize(tree(), mask=mask), expected, expected, expected)

    def test_a_callable(self):
        def mask(params):
            return {"enc": jax.tree.map(lambda leaf: False, params["enc"]), "dec": True}

        check(wcgc.centralize(tree(), mask=mask), KERNEL, KERNEL, BY_COLUMN)

    def test_together_with_axes(self):
        axes, mask = {"enc": EQUINOX, "dec": None}, {"enc": {"a": False, "b": True}, "dec": True}
        check(wcgc.centralize(tree(), axes=axes, mask=mask), KERNEL, BY_ROW, KERNEL)

    def test_that_is_false_hides_axes_that_do_not_fit(self):
        axes = KernelAxes(in_axis=-3)
        check(wcgc.centralize(tree(), axes=axes, mask=False), KERNEL, KERNEL, KERNEL)


class TestWhatAMaskHasCutAway:
    """Axes and masks for the whole tree serve a tree with `MaskedNode` for some of it."""

    def test_leaf_by_leaf(self):
        cut = {"enc": {"a": optax.MaskedNode(), "b": KERNEL}, "dec": [KERNEL, None]}
        axes = {"enc": {"a": FLAX, "b": FLAX}, "dec": [EQUINOX, None]}
        mask = {"enc": {"a": True, "b": False}, "dec": [True, True]}
        result = wcgc.centralize(cut, axes=axes, mask=mask)
        assert result["enc"] == {"a": optax.MaskedNode(), "b": KERNEL}
        np.testing.assert_array_equal(result["dec"][0], BY_ROW)

    def test_a_whole_branch(self):
        cut = {"enc": optax.MaskedNode(), "dec": [KERNEL, None]}
        axes = {"enc": {"a": FLAX, "b": {"c": FLAX}}, "dec": FLAX}
        result = wcgc.centralize(cut, axes=axes, mask={"enc": {"a": True}, "dec": True})
        assert result["enc"] == optax.MaskedNode()
        np.testing.assert_array_equal(result["dec"][0], BY_COLUMN)


class TestReasons:
    """Why a leaf is left alone."""

    @pytest.mark.parametrize(
        ("leaf", "options", "reason"),
        [
            (None, {}, "empty node"),
            (optax.MaskedNode(), {}, "empty node"),
            (3.0, {}, "not an array"),
            (jax.nn.relu, {}, "not an array"),
            (types.SimpleNamespace(shape=(2, 2)), {}, "not an array"),
            (np.float32, {}, "not an array"),
            (np.ones((2, 2), int), {}, "dtype int64 is not floating or complex"),
            (
                np.zeros((2, 2), jax.dtypes.float0),
                {},
                "dtype [('float0', 'V')] is not floating or complex",
            ),
            (KERNEL, {"mask": False}, "mask is False"),
            (KERNEL, {"axes": lambda _: None}, "axes are None"),
            (np.ones(2), {}, "fewer than two axes"),
            (
                KERNEL,
                {"axes": KernelAxes(1, 2, batch_axis=0)},
                "fewer than two axes beside batch axes",
            ),
            (np.ones((0, 2)), {}, "no elements"),
            (np.ones((1, 2)), {}, "slices of one element"),
            (KERNEL, {"area": "instance"}, "slices of one element"),
        ],
    )
    def test_are_given(self, leaf, options, reason):
        ((decided,), _) = select([leaf], **{"area": "tensor", **options})
        assert decided.reason == reason
        assert decided.slice_axes is None
        assert decided.value is leaf
        assert decided.key == ("0",)

    def test_are_empty_for_a_kernel(self):
        ((decided,), _) = select([jnp.ones((3, 3, 2, 4))], "tensor")
        assert (decided.slice_axes, decided.reason) == ((0, 1, 2), "")


class TestErrors:
    @pytest.mark.parametrize(
        ("axes", "message"),
        [
            (KernelAxes(in_axis=-3), r"in_axis=-3 .*out of range .*'dec/0' has shape \(2, 2\)"),
            (KernelAxes(0, -2), r"names one of 2 axes twice: leaf 'dec/0' has shape \(2, 2\)"),
            (
                {"dec": FLAX, "enc": KernelAxes(out_axis=5)},
                r"out_axis=5 .*out of range .*'enc/a' has shape \(2, 2\)",
            ),
        ],
    )
    def test_axes_that_a_leaf_lacks(self, axes, message):
        params = {"enc": {"a": KERNEL}, "dec": [KERNEL]}
        with pytest.raises(
            ValueError,
            match=rf"{message}.*axes with by_path or a tree, or None to leave it alone\.$",
        ):
            wcgc.centralize(params, axes=axes)

    def test_axes_that_one_array_lacks(self):
        with pytest.raises(ValueError, match=r"leaf '\(the array\)' has shape \(2, 2\)"):
            wcgc.centralize(KERNEL, axes=KernelAxes(5))

    @pytest.mark.parametrize(
        ("axes", "message"),
        [
            ({"enc": FLAX}, r"axes do not match .*no entry for 'dec/0' among 'enc'"),
            ({"enc": {"a": FLAX}, "dec": FLAX}, r"no entry for 'enc/b' among 'dec', 'enc/a'"),
            ({}, r"no entry for 'dec/0' among nothing"),
            ({"enc": FLAX, "dec": FLAX, "head": FLAX}, r"no leaf 'head' among .*'dec/0', 'dec/1'"),
            ({"enc": FLAX, "dec": None, "head": FLAX}, r"no leaf 'head' among"),
            ({"enc": {"a": {"c": FLAX}, "b": FLAX}, "dec": FLAX}, r"no entry for 'enc/a' among"),
            (lambda params: {"dec": FLAX}, r"axes do not match .*no entry for 'enc/a' among 'dec'"),
        ],
    )
    def test_axes_that_do_not_match_the_tree(self, axes, message):
        params = {"enc": {"a": KERNEL, "b": KERNEL}, "dec": [KERNEL, jnp.ones(2)]}
        with pytest.raises(ValueError, match=message):
            wcgc.centralize(params, axes=axes)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            ({"enc": True}, r"mask do not match .*no entry for 'dec/0' among 'enc'"),
            ({"enc": True, "dec": True, "head": True}, r"mask do not match .*no leaf 'head'"),
            (
                {"enc": None, "dec": True},
                r"mask do not match .*no entry for 'enc/a' among 'dec'",
            ),
        ],
    )
    def test_a_mask_that_does_not_match_the_tree(self, mask, message):
        with pytest.raises(ValueError, match=message):
            wcgc.centralize(tree(), mask=mask)

    @pytest.mark.parametrize(
        ("axes", "message"),
        [
            (
                None,
                r"^axes must be .* makes one, got None. Leave .* \(\.\.\., in, out\)\.$",
            ),
            ("flax", r"axes must hold a KernelAxes or None for each leaf, got 'flax'\.$"),
            (KernelAxes, r"axes must hold a KernelAxes or None for each leaf, got <class"),
            ((-2, -1), r"got -2 at '0'"),
            ({"enc": FLAX, "dec": "flax"}, r"got 'flax' at 'dec'\.$"),
            (lambda params: {"enc": True, "dec": None}, r"got True at 'enc'"),
        ],
    )
    def test_what_are_no_axes(self, axes, message):
        with pytest.raises(TypeError, match=message):
            wcgc.centralize(tree(), axes=axes)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (1, r"mask must hold a bool for each leaf, got 1\.$"),
            ("enc", r"got 'enc'"),
            (lambda params: {"enc": True, "dec": jnp.array(True)}, r"got Array\(True, .* at 'dec'"),
            (lambda params: {"enc": 0.0, "dec": True}, r"got 0\.0 at 'enc'"),
        ],
    )
    def test_what_is_no_mask(self, mask, message):
        with pytest.raises(TypeError, match=message):
            wcgc.centralize(tree(), mask=mask)


class TestCallableTrees:
    """A model that can be called is a tree of entries all the same, if it holds any."""

    class Layer(eqx.Module):
        weight: jax.Array

        def __call__(self, x):
            return self.weight @ x

    @pytest.fixture
    def layer(self, rng):
        return self.Layer(rng.normal(size=(3, 2)))

    def test_with_one_entry(self, layer):
        axes = jax.tree.map(lambda leaf: EQUINOX, layer)
        centred = wcgc.centralize(layer, axes=axes)
        np.testing.assert_allclose(np.mean(centred.weight, axis=1), 0, atol=1e-7)

    def test_with_none(self, layer):
        axes = jax.tree.map(lambda leaf: None, layer)
        assert wcgc.centralize(layer, axes=axes).weight is layer.weight


class TestMatch:
    names = ("updates", "params")

    def matched(self, updates, params):
        return match(select(updates, "tensor")[0], params, self.names)

    def test_keeps_the_order_of_the_first_tree(self):
        assert self.matched({"a": 1.0, "b": [2.0, None]}, {"b": [5.0, 6.0], "a": 4.0}) == [4, 5, 6]

    def test_leaves_missing_among_the_second(self):
        with pytest.raises(ValueError, match=r"updates and params .* params lack 'b', 'c/0'"):
            self.matched({"a": KERNEL, "b": KERNEL, "c": [KERNEL]}, {"a": KERNEL})

    def test_leaves_missing_among_the_first(self):
        with pytest.raises(ValueError, match=r"updates and params .* updates lack 'b'"):
            self.matched({"a": KERNEL}, {"a": KERNEL, "b": KERNEL})

    def test_one_array_has_a_name(self):
        with pytest.raises(ValueError, match=r"params lack '\(the array\)'"):
            self.matched(KERNEL, {"kernel": KERNEL})
        with pytest.raises(ValueError, match=r"'\(the array\)' is an array in updates but None in"):
            self.matched(KERNEL, None)
        with pytest.raises(ValueError, match=r"'\(the array\)' has shape \(2, 2\) in updates but"):
            self.matched(KERNEL, np.ones((3, 2)))

    def test_many_missing_leaves_are_counted(self):
        updates = {f"layer{n:02}": KERNEL for n in range(20)}
        with pytest.raises(ValueError, match=r"lack 'layer00', .* 'layer09' and 10 more\.$"):
            self.matched(updates, {})

    def test_takes_time_in_proportion_to_the_leaves(self):
        def seconds(count):
            updates = {f"layer{n}": np.ones(1) for n in range(count)}
            leaves = select(updates, "tensor")[0]
            start = time.process_time()
            match(leaves, updates, self.names)
            return time.process_time() - start

        gc.disable()
        try:
            few, many = (min(seconds(count) for _ in range(5)) for count in (1000, 8000))
        finally:
            gc.enable()
        # Eight times as many: a quadratic number of steps would take some 64 times as long.
        assert many < 32 * few

    def test_leaves_that_are_left_alone_of_another_shape(self):
        message = "'b' has shape (5, 3) in updates but (3,) in params. If the first axis numbers ex"
        with pytest.raises(ValueError, match=re.escape(message)):
            self.matched({"b": jnp.ones((5, 3))}, {"b": jnp.ones(3)})

    @pytest.mark.parametrize("other", [(2, 3), (4,), (1, 2, 2)])
    def test_kernels_of_another_shape(self, other):
        message = f"'a/0' has shape (2, 2) in updates but {other} in params"
        with pytest.raises(ValueError, match=re.escape(message)):
            self.matched({"a": [KERNEL]}, {"a": [jnp.ones(other)]})

    @pytest.mark.parametrize("empty", [None, optax.MaskedNode()])
    def test_kernels_that_are_missing(self, empty):
        message = f"'a/0' is an array in updates but {empty} in params. Give both, or make both"
        with pytest.raises(ValueError, match=re.escape(message)):
            self.matched({"a": [KERNEL]}, {"a": [empty]})

    @pytest.mark.parametrize("empty", [None, optax.MaskedNode()])
    def test_empty_leaves_match_each_other_and_any_leaf_without_update(self, empty):
        assert self.matched([empty, empty], [empty, 1.0]) == [empty, 1.0]
