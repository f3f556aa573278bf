import collections
import re

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
from wcgc import EQUINOX, FLAX, by_path
from wcgc._paths import shared

KERNEL = np.float32([[1.0], [3.0]])
CENTRED = np.array([[-1.0], [1.0]])


class Network(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.table = nnx.Param({"kernel": jnp.eye(2), "shift": jnp.ones(2)})


@pytest.fixture(scope="module")
def network():
    return Network(nnx.Rngs(0))


def chosen(axes):
    """The leaves that have axes, by the path JAX gives them, less the `value` of NNX."""
    flat, _ = jax.tree_util.tree_flatten_with_path(axes, is_leaf=lambda node: node is None)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/").replace("/value", "")
        for path, entry in flat
        if entry is not None
    ]
    return tuple(sorted(paths))


class TestRules:
    params = {  # noqa: RUF012, read only
        "conv1": {"kernel": KERNEL, "bias": np.ones(1)},
        "conv2": {"kernel": KERNEL, "bias": np.ones(1)},
        "head": [{"kernel": KERNEL}],
    }

    def test_the_first_match_decides(self):
        axes = by_path(("head", None), ("conv2/kernel", EQUINOX), ("kernel", FLAX))(self.params)
        assert axes == {
            "conv1": {"kernel": FLAX, "bias": None},
            "conv2": {"kernel": EQUINOX, "bias": None},
            "head": [{"kernel": None}],
        }

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("kernel", ("conv1/kernel", "conv2/kernel", "head/0/kernel")),
            (r"^conv\d/kernel$", ("conv1/kernel", "conv2/kernel")),
            ("head/0", ("head/0/kernel",)),
            (r"/\d/kernel$", ("head/0/kernel",)),
            ("nv1/b", ("conv1/bias",)),
            ("", ("conv1/bias", "conv1/kernel", "conv2/bias", "conv2/kernel", "head/0/kernel")),
        ],
    )
    def test_patterns_are_searched_in_paths_with_slashes(self, pattern, expected):
        assert chosen(by_path((pattern, FLAX))(self.params)) == expected

    def test_what_no_rule_matches_is_left_alone(self):
        centred = wcgc.centralize(self.params, axes=by_path(("conv", FLAX)))
        np.testing.assert_array_equal(centred["conv1"]["kernel"], CENTRED)
        np.testing.assert_array_equal(centred["conv2"]["kernel"], CENTRED)
        assert centred["head"][0]["kernel"] is KERNEL

    def test_a_single_array_has_the_empty_path(self):
        np.testing.assert_array_equal(wcgc.centralize(KERNEL, axes=by_path(("^$", FLAX))), CENTRED)

    def test_what_is_cut_from_the_tree_is_no_path(self):
        tree = {"kernel": KERNEL, "frozen": optax.MaskedNode(), "absent": None}
        assert by_path(("", FLAX))(tree) == {"kernel": FLAX, "frozen": None, "absent": None}

    @pytest.mark.parametrize("tree", [{}, None, {"frozen": optax.MaskedNode()}])
    def test_a_tree_without_paths_is_no_error(self, tree):
        assert wcgc.centralize(tree, axes=by_path(("kernel", FLAX))) == tree


class TestErrors:
    @pytest.mark.parametrize("rules", [[("weight", FLAX)], [("kernel", None), ("weight", FLAX)]])
    def test_selecting_nothing_lists_the_paths_there_are(self, rules):
        axes = by_path(*rules)
        tree = {"conv": {"kernel": KERNEL}, "head": [KERNEL]}
        patterns = ", ".join(repr(pattern) for pattern, _ in rules)
        message = (
            f"by_path({patterns}) selects none of the paths: conv/kernel, head/0. "
            "Mend the patterns, or use a mask to leave the whole tree alone."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            wcgc.centralize(tree, axes=axes)
        tx = wcgc.centralize_gradients(axes=axes)
        with pytest.raises(ValueError, match=r"selects none .*: conv/kernel, head/0\."):
            tx.init(tree)

    def test_many_paths_are_counted(self):
        tree = {f"layer{n:02}": KERNEL for n in range(50)}
        with pytest.raises(ValueError, match=r"paths: layer00, .*, layer39 and 10 more\. Mend"):
            wcgc.centralize(tree, axes=by_path(("weight", FLAX)))

    def test_one_array_has_a_name(self):
        with pytest.raises(ValueError, match=r"selects none of the paths: \(the array\)\. Mend"):
            wcgc.centralize(KERNEL, axes=by_path(("weight", FLAX)))

    def test_parameters_are_not_printed(self):
        with pytest.raises(TypeError, match=r"KernelAxes or None\), got dict\.$"):
            by_path({"kernel": KERNEL})
        with pytest.raises(TypeError, match=r"or None, got array of shape \(\d, \d\)\.$"):
            by_path(("kernel", np.asarray(KERNEL)))

    def test_no_rules(self):
        with pytest.raises(ValueError, match=r"^by_path needs at least one \(pattern, Ker"):
            by_path()

    @pytest.mark.parametrize("rule", ["kernel", ("kernel",), (FLAX, "kernel"), ["kernel", FLAX]])
    def test_what_is_no_rule(self, rule):
        with pytest.raises(TypeError, match=r"pair \(pattern, KernelAxes or None\), got "):
            by_path(rule)

    def test_rules_that_are_not_unpacked(self):
        with pytest.raises(TypeError, match=r"is a pair .*got \[\('kernel', KernelAxes"):
            by_path([("kernel", FLAX)])

    @pytest.mark.parametrize("axes", ["flax", (-2, -1), True])
    def test_what_is_no_kernel_axes(self, axes):
        with pytest.raises(TypeError, match=r"'kernel' must give a KernelAxes or None, got "):
            by_path(("kernel", axes))

    def test_what_is_no_regular_expression(self):
        with pytest.raises(ValueError, match=r"'conv\(' is not a regular expression: .*position 4"):
            by_path(("conv(", FLAX))


def test_two_leaves_of_one_path_are_rejected():
    """JAX tells 1 from "1", paths do not: the axes of one would be those of both."""
    tree = collections.OrderedDict([(1, KERNEL), ("1", KERNEL.T)])
    with pytest.raises(ValueError, match="Two leaves of a tree have the path '1'"):
        wcgc.centralize(tree)


class TestContainers:
    """One path for each parameter, in whatever holds it."""

    rules = staticmethod(by_path((r"^(conv1|blocks/\d|table)/kernel$", FLAX)))
    selected = ("blocks/0/kernel", "blocks/1/kernel", "conv1/kernel", "table/kernel")

    @pytest.mark.parametrize(
        "view",
        [
            lambda network: network,
            lambda network: nnx.state(network),
            lambda network: nnx.state(network, nnx.Param),
            lambda network: nnx.as_pure(nnx.state(network)),
            lambda network: nnx.to_pure_dict(nnx.state(network, nnx.Param)),
            lambda network: nnx.split(network, nnx.Param, ...)[1],
            lambda network: nnx.grad(lambda network: jnp.sum(network.conv1.kernel[...]))(network),
            lambda network: jax.eval_shape(lambda: nnx.state(network)),
        ],
        ids=["module", "state", "params", "pure", "dict", "split", "gradient", "shapes"],
    )
    def test_nnx(self, network, view):
        assert chosen(self.rules(view(network))) == self.selected

    def test_nnx_within_another_tree(self, network):
        tree = {"student": network, "temperature": jnp.ones(())}
        rules = by_path(("^student/conv1/kernel$", FLAX))
        assert chosen(rules(tree)) == ("student/conv1/kernel",)

    def test_linen(self):
        class Linen(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Dense(1, name="head")(nn.Dense(2, name="hidden")(x))

        params = Linen().init(jax.random.key(0), jnp.ones((1, 3)))
        assert chosen(by_path(("^params/hidden/kernel$", FLAX))(params)) == (
            "params/hidden/kernel",
        )

    def test_haiku(self):
        network = hk.transform(lambda x: hk.nets.MLP([2, 1])(x))
        params = network.init(jax.random.key(0), jnp.ones((1, 3)))
        assert chosen(by_path((r"^mlp/~/linear_0/w$", FLAX))(params)) == ("mlp/~/linear_0/w",)

    def test_equinox(self):
        mlp = eqx.nn.MLP(3, 1, 2, depth=1, key=jax.random.key(0))
        assert chosen(by_path((r"^layers/0/weight$", EQUINOX))(mlp)) == ("layers/0/weight",)

    def test_variables_keep_their_type(self, network):
        centred = wcgc.centralize(nnx.state(network), axes=self.rules)
        assert isinstance(centred, nnx.State)
        assert isinstance(centred["conv1"]["kernel"], nnx.Param)
        np.testing.assert_allclose(
            np.mean(centred["conv1"]["kernel"][...], axis=(0, 1, 2)), [0, 0], atol=1e-7
        )

    def test_a_bare_variable(self):
        centred = wcgc.centralize(nnx.Param(KERNEL), axes=by_path(("^$", FLAX)))
        np.testing.assert_array_equal(centred[...], CENTRED)


def test_variables_that_modules_share_have_the_key_of_the_first(network):
    box = nn.Partitioned(KERNEL, names=("in", "out"))
    layers = {"a": network.conv1, "b": network.conv1, "c": network.blocks[0]}
    first = {("b", name): ("a", name) for name in ("kernel", "bias")}
    assert shared(layers | {"d": box, "e": box, "f": KERNEL, "g": KERNEL}) == first


def test_axes_of_what_is_shared_are_given_once(network):
    layers = {"a": network.conv1, "b": network.conv1}
    centred = wcgc.centralize(layers, axes={"a": {"kernel": FLAX, "bias": None}})
    for layer in centred.values():
        means = np.mean(layer.kernel[...], axis=(0, 1, 2))
        np.testing.assert_allclose(means, [0, 0], atol=1e-7)


class TestInitAndUpdate:
    def test_state_with_variables_and_pure_state_are_selected_alike(self, network):
        """As in `nnx.Optimizer`, which inits with the one and updates with the other."""
        seen = []

        def axes(tree):
            entries = TestContainers.rules(tree)
            seen.append(chosen(entries))
            return entries

        tx = wcgc.centralize_params(axes=axes)
        params = nnx.state(network, nnx.Param)
        pure = nnx.as_pure(params)
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, pure), tx.init(params), pure)
        assert seen == [TestContainers.selected] * 2
        np.testing.assert_allclose(
            updates["conv1"]["kernel"],
            -np.broadcast_to(np.mean(pure["conv1"]["kernel"], axis=(0, 1, 2)), (3, 3, 1, 2)),
            atol=1e-7,
        )
        assert not np.any(updates["norm"]["scale"])

    def test_updates_and_params_may_be_in_different_containers(self, network):
        params = nnx.state(network, nnx.Param)
        pure = nnx.to_pure_dict(params)
        tx = wcgc.centralize_params()
        zeros = jax.tree.map(jnp.zeros_like, pure)
        from_state, _ = tx.update(zeros, tx.init(params), params)
        from_pure, _ = tx.update(zeros, tx.init(pure), pure)
        jax.tree.map(np.testing.assert_array_equal, from_state, from_pure)
