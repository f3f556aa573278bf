"""What `init` warns of, and what it does not."""

import sys
import types
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wcgc
from wcgc import FLAX, LeftAlone
from wcgc import _init_checks as init_checks

EYE = np.eye(3, dtype=np.float32)
TRANSFORMS = {
    "centralize_gradients": wcgc.centralize_gradients,
    "centralize_params": wcgc.centralize_params,
    "standardize_params": wcgc.standardize_params,
    "centralized": lambda *args, **kwargs: wcgc.centralized(optax.sgd(0.1), **kwargs),
}


@pytest.fixture
def kernel(rng):
    return jnp.float32(rng.normal(size=(4, 3)))


def warned(tree, **options):
    """What `init` warns of, in the one warning that there is."""
    with pytest.warns(UserWarning, match=r"wcgc\.\w+") as records:
        wcgc.centralized(optax.sgd(0.1), **options).init(tree)
    (record,) = records
    assert record.filename == __file__
    return str(record.message)


def init(params, **options):
    """Warnings are errors."""
    return wcgc.centralize_params(**options).init(params)


class TestConstantSlices:
    @pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
    @pytest.mark.parametrize("array", [jnp.ones, np.ones])
    def test_are_told_with_path_and_remedy(self, make, array, kernel):
        params = {"kernel": kernel, "norm": {"weight": array((5, 3), np.float32)}}
        with pytest.warns(UserWarning, match=r"erase 'norm/weight' of shape \(5, 3\).*by_path"):
            make().init(params)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
    def test_of_each_dtype(self, dtype, kernel):
        message = warned({"kernel": kernel, "g": jnp.full((5, 3), 0.5, dtype)})
        assert "'g' of shape (5, 3)" in message

    def test_one_is_enough(self, kernel):
        assert "'weight'" in warned({"weight": kernel.at[:, 1].set(2.0), "kernel": kernel})

    def test_over_the_axes_of_the_slices(self, kernel):
        across = jnp.broadcast_to(kernel[:, :1], (4, 3))
        init({"weight": across})
        assert "'weight'" in warned({"weight": across}, axes=wcgc.EQUINOX)

    def test_along_the_longest_axis(self, kernel):
        """Which need not be the last one."""
        norm = {"weight": jnp.ones((3, 1, 4)), "bias": jnp.ones(4)}
        assert "'norm/weight'" in warned({"norm": norm, "kernel": kernel})

    def test_slice_by_slice(self, kernel):
        """One of zeros beside one whose first entries are alike."""
        weight = jnp.array([[0.0, 0.0, 0.0], [1.0, 1.0, 2.0]])
        init({"weight": weight, "kernel": kernel}, axes=wcgc.EQUINOX)

    def test_several_are_told_at_once(self, kernel):
        params = {"kernel": kernel, "g": [{"weight": jnp.ones((5, 3))} for _ in range(3)]}
        assert "'g/0/weight' of shape (5, 3) and 2 more" in warned(params)

    @pytest.mark.parametrize(
        "leaf",
        [
            np.zeros((5, 3)),
            np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])[:, 1:],
            np.full((5, 3), np.nan),
            np.array([[1.0, 0.0], [1.5, 0.0]]),
        ],
        ids=["zero", "first two alike", "NaN", "zero in part"],
    )
    def test_what_would_lose_nothing_is_not_told(self, leaf, kernel):
        init({"kernel": kernel, "weight": leaf.astype(np.float32)})

    def test_rules_may_choose_a_constant_kernel_by_its_name(self, kernel):
        params = {"layer": {"kernel": jnp.ones((4, 3))}, "norm": {"weight": jnp.ones((4, 3))}}
        assert "'layer/kernel' of shape (4, 3) and 1 more" in warned(params)
        init(params, axes=wcgc.by_path(("kernel", FLAX)))
        message = warned(params, axes=wcgc.by_path(("kernel|weight", FLAX)))
        assert "'norm/weight' of shape (4, 3), constant" in message

    @pytest.mark.parametrize("norm", [2.0, "keep"])
    def test_normalization_erases_none(self, norm, kernel):
        wcgc.normalize_params(norm=norm).init({"kernel": kernel, "weight": jnp.ones((5, 3))})

    def test_abstract_and_traced_leaves_have_no_values(self, kernel):
        params = {"kernel": kernel, "weight": jnp.ones((5, 3))}
        tx = wcgc.centralize_params()
        jax.eval_shape(tx.init, params)
        jax.jit(tx.init)(params)
        jax.vmap(tx.init)(jax.tree.map(lambda leaf: leaf[None], params))
        init(jax.eval_shape(lambda: params))

    def test_known_leaves_are_seen_while_tracing(self, kernel):
        params = {"kernel": kernel, "weight": jnp.ones((5, 3))}
        with pytest.warns(UserWarning, match="'weight'"):
            jax.jit(lambda: wcgc.centralize_params().init(params))()

    def test_deleted_leaves_are_passed_over(self, kernel):
        weight = jnp.ones((5, 3))
        weight.delete()
        init({"kernel": kernel, "weight": weight})

    def test_on_another_device_only_what_is_looked_at_is_fetched(self, kernel, monkeypatch):
        fetched = []

        class OnDevice:
            def __init__(self, array):
                self.array, self.ndim = array, array.ndim

            def __getitem__(self, where):
                fetched.append(self.array[where].size)
                return self.array[where]

            def addressable_data(self, index):
                assert index == 0
                return self

            def devices(self):
                return [types.SimpleNamespace(platform="gpu")]

        monkeypatch.setattr(init_checks.jax, "Array", OnDevice)
        entries = init_checks._entries(OnDevice(np.asarray(kernel)), {0: slice(1, 2)})
        np.testing.assert_array_equal(entries, kernel[1:2])
        assert fetched == [3]


class TestNothingChosen:
    @pytest.mark.parametrize(
        ("params", "options", "mention"),
        [
            ({"b": np.ones(3)}, {}, r"'b' of shape (3,) for one: fewer than two axes"),
            (np.ones(3), {}, "'(the array)' of shape (3,)"),
            (
                {"scale": np.ones((4, 3)), "b": np.ones(3)},
                {},
                "'scale' of shape (4, 3) for one: named 'scale'",
            ),
            (
                {"kernel": EYE},
                {"params": "instance", "gradients": None},
                "one element",
            ),
            (
                {"kernel": EYE},
                {"axes": {"kernel": LeftAlone("a lookup")}},
                "'kernel' of shape (3, 3) for one: a lookup",
            ),
            ({"kernel": np.ones(3)}, {"axes": wcgc.by_path(("kernel", FLAX))}, "two axes"),
        ],
    )
    def test_is_told(self, params, options, mention):
        message = warned(params, **options)
        assert message.startswith("Nothing is centralized")
        assert mention in message
        assert "wcgc.explain" in message

    @pytest.mark.parametrize(
        ("params", "options"),
        [
            ({}, {}),
            ({"kernel": None, "bias": np.ones(3)}, {}),
            ({"kernel": optax.MaskedNode(), "bias": np.ones(3)}, {}),
            ({"kernel": EYE}, {"mask": False}),
            ({"kernel": EYE}, {"axes": {"kernel": None}}),
            ({"count": np.ones((2, 2), int)}, {}),
            ({"kernel": np.ones((0, 3))}, {}),
            ({"temperature": 1.0}, {}),
            ({"names": types.SimpleNamespace(shape=(2, 3))}, {}),
            ({"dtype": np.float32}, {}),
        ],
        ids=[
            "empty",
            "none",
            "cut",
            "mask",
            "None",
            "integers",
            "no elements",
            "number",
            "object",
            "class",
        ],
    )
    def test_is_not_told_where_it_is_meant(self, params, options):
        init(params, **options)


class TestLists:
    def test_of_keras_have_no_names(self, kernel, monkeypatch):
        monkeypatch.setitem(sys.modules, "keras", types.ModuleType("keras"))
        message = warned([kernel, jnp.ones(3), kernel])
        assert "'0' of shape (4, 3) and 1 more will be centralized" in message
        assert "{v.path: v.value for v in model.trainable_variables}" in message
        init({"layers": [kernel]})
        init([kernel], axes=[FLAX])
        monkeypatch.delitem(sys.modules, "keras")
        init([kernel])


def test_axes_that_were_read_for_other_variables(kernel):
    """As for LoRA, where the optimizer trains all."""
    model = nnx.eval_shape(lambda: nnx.LoRALinear(4, 3, lora_rank=2, rngs=nnx.Rngs(0)))
    axes = wcgc.axes_of(model, wrt=nnx.LoRAParam)
    message = warned(nnx.state(model, nnx.Param), axes=axes)
    assert "leaves 'kernel' of shape (4, 3) alone: wrt=LoRAParam leaves out this Param" in message
    init(nnx.state(model, nnx.LoRAParam), axes=axes)
    init(nnx.state(model, nnx.Param), axes=wcgc.axes_of(model))


def test_one_layout_that_does_not_fit_is_told_once(kernel):
    layer = {"kernel": jnp.ones((5, 4, 3)), "bias": jnp.ones((5, 3))}
    message = warned({"layers": layer, "more": layer, "head": {"kernel": kernel}})
    assert "leaves 'layers/kernel' of shape (5, 4, 3) and 1 more alone" in message
    assert "its bias (5, 3) fits other axes" in message
    init({"layers": layer, "head": {"kernel": kernel}}, mask={"layers": False, "head": True})
    integers = {**layer, "kernel": jnp.ones((5, 4, 3), int)}
    init({"layers": integers, "head": {"kernel": kernel}})


def test_what_is_cut_out_of_an_equinox_model_is_not_told(kernel):
    frozen = eqx.tree_at(
        lambda layer: layer.weight, eqx.nn.Linear(3, 2, key=jax.random.key(0)), None
    )
    init({"frozen": frozen, "head": {"kernel": kernel}})


def test_warnings_point_to_the_line_of_the_user_through_optax(kernel):
    tx = optax.chain(optax.chain(wcgc.centralize_params()), optax.sgd(0.1))
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        tx.init({"scale": jnp.ones((4, 3))})
    assert [record.filename for record in records] == [__file__]
