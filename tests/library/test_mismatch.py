"""Entries that are for another tree: the message says what to give, and that works."""

import re
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wcgc
from wcgc import FLAX, LeftAlone
from wcgc._mismatch import Given, remedy

KERNEL = np.float32([[1.0, 2.0], [3.0, 6.0]])
CENTRED = np.array([[-1.0, -2.0], [1.0, 2.0]])
LAYERS = {name: {"kernel": KERNEL, "bias": np.ones(2, np.float32)} for name in ("in", "out")}
AXES = {name: {"kernel": FLAX, "bias": LeftAlone("a bias")} for name in ("in", "out")}
MASK = {name: {"kernel": True, "bias": False} for name in ("in", "out")}
STATS = {"norm": {"mean": np.ones(2, np.float32)}}


def message_of(tree, **given):
    with pytest.raises(ValueError, match="do not match the tree") as raised:
        wcgc.centralize(tree, **given)
    return str(raised.value)


def remedied(tree, message, name, spec):
    """What comes of giving what the message says."""
    *_, code = re.split(rf": give {name}=|: give one of these, such as |: give ", message)
    code = code.partition(", or the tree")[0].removesuffix(".")
    return wcgc.centralize(tree, **{name: eval(code, {name: spec})})


def check(layers):
    for layer in layers.values():
        np.testing.assert_array_equal(layer["kernel"], CENTRED)
        np.testing.assert_array_equal(layer["bias"], 1)


class TestEntriesThatLieDeeper:
    @pytest.mark.parametrize(
        ("axes", "says"),
        [
            ({"params": AXES}, "The entries lie under 'params': give axes['params']."),
            (
                {"params": AXES, "batch_stats": None},
                "The entries lie under 'params': give axes['params'].",
            ),
            ({"params": AXES, "batch_stats": {"norm": {"mean": None}}}, "give axes['params']."),
            ({0: AXES}, "The entries lie under '0': give axes[0]."),
            ([AXES], "The entries lie under '0': give axes[0]."),
            (
                optax.LookaheadParams(AXES, AXES),
                "Entries lie under 'fast' and 'slow': give one of these, such as axes.fast.",
            ),
        ],
        ids=["params", "variables", "all variables", "number", "list", "lookahead"],
    )
    def test_axes(self, axes, says):
        message = message_of(LAYERS, axes=axes)
        assert message.endswith(says)
        assert "there is no entry for 'in/bias' among " in message
        check(remedied(LAYERS, message, "axes", axes))

    def test_a_mask(self):
        message = message_of(LAYERS, mask={"params": MASK})
        assert message.endswith("The entries lie under 'params': give mask['params'].")
        check(remedied(LAYERS, message, "mask", {"params": MASK}))

    def test_from_a_callable(self):
        message = message_of(LAYERS, axes=lambda tree: {"params": AXES})
        assert message.endswith("'params': let the callable give result['params'].")

    def test_in_rules(self):
        rules = wcgc.by_path(("in/", None), otherwise={"params": AXES})
        message = message_of(LAYERS, axes=rules)
        assert message.startswith("entries of otherwise do not match the tree")
        assert message.endswith("give otherwise['params'].")

    def test_for_one_array(self):
        message = message_of(KERNEL, axes={"kernel": FLAX})
        assert "there is no entry for '(the array)' among 'kernel'." in message
        np.testing.assert_array_equal(remedied(KERNEL, message, "axes", {"kernel": FLAX}), CENTRED)

    def test_one_entry_for_all_below_is_not_taken_for_it(self):
        assert "lie under" not in message_of({"dec": KERNEL}, axes={"enc": FLAX})

    def test_only_where_all_leaves_are_found(self):
        axes = {"params": {"in": AXES["in"]}}
        assert "lie under" not in message_of(LAYERS, axes=axes)


class TestLeavesThatLieDeeper:
    @pytest.mark.parametrize(
        ("tree", "says"),
        [
            (
                {"params": LAYERS},
                "The leaves that they fit lie under 'params': give axes={'params': axes}, or the "
                "tree under 'params' alone.",
            ),
            (
                {"params": LAYERS, "batch_stats": STATS},
                "under 'params': give axes={'params': axes, 'batch_stats': None}, or the tree "
                "under 'params' alone.",
            ),
            (
                optax.LookaheadParams(LAYERS, LAYERS),
                "lie under 'fast' and 'slow': give axes={'fast': axes, 'slow': axes}.",
            ),
            ([LAYERS, None], "give axes={'0': axes}, or the tree under '0' alone."),
        ],
        ids=["params", "variables", "lookahead", "list"],
    )
    def test_axes(self, tree, says):
        message = message_of(tree, axes=AXES)
        # The leaf that is named is the first of the tree.
        assert "there is no entry for " in message
        assert message.endswith(says)
        result = remedied(tree, message, "axes", AXES)
        if isinstance(tree, dict):
            check(result["params"])
        else:
            check(result[0])

    def test_a_mask(self):
        tree = {"params": LAYERS, "batch_stats": STATS}
        message = message_of(tree, mask=MASK)
        assert "give mask={'params': mask, 'batch_stats': False}, or" in message
        result = remedied(tree, message, "mask", MASK)
        check(result["params"])
        np.testing.assert_array_equal(result["batch_stats"]["norm"]["mean"], 1)

    def test_from_a_callable(self):
        message = message_of({"params": LAYERS}, axes=lambda tree: AXES)
        assert "'params': let the callable give {'params': result}, or the tree" in message

    def test_many(self):
        message = message_of([LAYERS] * 6, axes=AXES)
        assert "under '0', '1', '2', '3' and 2 more: give axes={'0': axes, " in message
        assert message.endswith("'3': axes, ...}.")

    def test_several(self):
        message = message_of([LAYERS] * 4, axes=AXES)
        assert "under '0', '1', '2' and '3': give axes={'0': axes, " in message
        assert message.endswith("'3': axes}.")

    @pytest.mark.parametrize(
        "tree",
        [
            {"params": LAYERS, "in": LAYERS["in"]},
            {"params": {"in": LAYERS["in"], "middle": KERNEL}},
            {"params": {"in": LAYERS["in"]}},
        ],
        ids=["some are found", "some are not found below", "an entry finds no leaf below"],
    )
    def test_not_where_that_would_not_fit(self, tree):
        message = message_of(tree, axes=AXES)
        assert "lie under" not in message
        assert message.endswith(" Give one for it: None leaves it alone.")


class TestOthers:
    def test_a_leaf_without_an_entry(self):
        message = message_of(LAYERS, mask={"in": True})
        assert message.endswith("among 'in'. Give one for it: False leaves it alone.")

    def test_a_leaf_that_a_callable_forgets(self):
        message = message_of(LAYERS, axes=lambda tree: {"in": FLAX})
        assert message.endswith(" Let the callable give one for it: None leaves it alone.")

    def test_an_entry_without_a_leaf(self):
        message = message_of(LAYERS, axes=AXES | {"head": FLAX})
        assert message.endswith(
            "there is no leaf 'head' among 'in/bias', 'in/kernel', 'out/bias', 'out/kernel'. "
            "Correct its path, or take it out."
        )

    def test_an_object_whose_parts_are_no_keys(self):
        """A part that cannot be written is named."""
        for top in "params", "0":
            key = (top, "kernel")
            given = Given(types.SimpleNamespace(), "axes", [key], [key], "None", False)
            assert remedy(given, [("kernel",)]).endswith(f"give what is under '{top}'.")

    def test_long_lists_are_cut(self):
        tree = {f"k{n:02}": jnp.ones((2, 2)) for n in range(30)}
        message = message_of(tree, axes={f"q{n:02}": FLAX for n in range(30)})
        assert "'k00' among 'q00', 'q01', " in message
        assert "'q09' and 20 more. Give" in message
