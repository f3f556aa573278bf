import dataclasses

import jax
import numpy as np
import optax
import pytest

import wcgc
from wcgc import EQUINOX, FLAX, KernelAxes, LeftAlone
from wcgc._axes import slice_axes_of

from helpers.reference import AREAS


class TestResolve:
    """`resolve` gives (in, out, batch, spatial), counted from the front."""

    @pytest.mark.parametrize(
        ("axes", "ndim", "expected"),
        [
            (FLAX, 2, ((0,), (1,), (), ())),
            (FLAX, 4, ((2,), (3,), (), (0, 1))),
            (FLAX, 5, ((3,), (4,), (), (0, 1, 2))),
            (EQUINOX, 2, ((1,), (0,), (), ())),
            (EQUINOX, 4, ((1,), (0,), (), (2, 3))),
            (KernelAxes(batch_axis=0), 3, ((1,), (2,), (0,), ())),
            (KernelAxes(batch_axis=(0, -4)), 5, ((3,), (4,), (0, 1), (2,))),
            (KernelAxes(-3, (-2, -1)), 3, ((0,), (1, 2), (), ())),
            (KernelAxes((0, 1), 2), 4, ((0, 1), (2,), (), (3,))),
            (KernelAxes(-1, 0), 4, ((3,), (0,), (), (1, 2))),
        ],
    )
    def test_gives_each_axis_one_role(self, axes, ndim, expected):
        assert axes.resolve(ndim) == expected
        assert sorted(sum(axes.resolve(ndim), ())) == list(range(ndim))

    @pytest.mark.parametrize(
        ("axes", "ndim", "message"),
        [
            (KernelAxes(in_axis=-3), 2, r"in_axis=-3 .*out of range for 2 axes"),
            (KernelAxes(in_axis=0, out_axis=4), 4, r"out_axis=4 .*out of range for 4 axes"),
            (KernelAxes(batch_axis=(0, 5)), 3, r"batch_axis=5 .*out of range for 3 axes"),
            (KernelAxes(0, 1, -3), 2, r"batch_axis=-3 .*out of range for 2 axes"),
        ],
    )
    def test_refuses_axes_that_a_kernel_lacks(self, axes, ndim, message):
        with pytest.raises(ValueError, match=message):
            axes.resolve(ndim)

    @pytest.mark.parametrize("axes", [KernelAxes(1, -1), KernelAxes(-2, -1, batch_axis=0)])
    def test_refuses_two_names_for_one_axis(self, axes):
        with pytest.raises(ValueError, match=r"names one of 2 axes twice"):
            axes.resolve(2)
        assert len(axes.resolve(3)) == 4  # In a kernel with more axes they differ.

    @pytest.mark.parametrize("ndim", ["2", True, 2.0, None, (2, 3)])
    def test_wants_a_number_of_axes(self, ndim):
        for function in FLAX.resolve, FLAX.to_muon:
            with pytest.raises(TypeError, match="ndim must be an integer, got "):
                function(ndim)


class TestKernelAxes:
    def test_defaults_to_the_flax_layout(self):
        assert KernelAxes() == FLAX == KernelAxes(in_axis=-2, out_axis=-1, batch_axis=())

    def test_is_a_value(self):
        axes = KernelAxes([0, 1], [2], batch_axis=[3])
        assert axes == KernelAxes((0, 1), (2,), batch_axis=(3,))
        assert hash(axes) == hash(KernelAxes((0, 1), (2,), batch_axis=(3,)))
        assert axes != FLAX
        with pytest.raises(dataclasses.FrozenInstanceError):
            axes.in_axis = 1

    def test_takes_whatever_counts_as_an_integer(self):
        axes = KernelAxes(np.int64(0), (np.int32(1), 2))
        assert axes.resolve(3) == ((0,), (1, 2), (), ())
        assert axes == KernelAxes(0, (1, 2))

    def test_writes_itself_as_it_is_made(self):
        axes = KernelAxes(0, (1, 2), batch_axis=3)
        assert eval(repr(axes), {"KernelAxes": KernelAxes}) == axes

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"in_axis": 1.0}, r"in_axis must be an integer .*got 1\.0"),
            ({"in_axis": None}, r"in_axis must be an integer .*got None"),
            ({"out_axis": "last"}, r"out_axis must be an integer .*got 'last'"),
            ({"batch_axis": (0, "b")}, r"batch_axis must be an integer .*got \(0, 'b'\)"),
            ({"out_axis": np.array([1, 2])}, r"out_axis must be an integer .*got array"),
        ],
    )
    def test_refuses_what_is_no_integer(self, arguments, message):
        with pytest.raises(TypeError, match=message):
            KernelAxes(**arguments)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"in_axis": 0, "out_axis": 0},
            {"in_axis": (0, 0), "out_axis": 1},
            {"in_axis": 0, "out_axis": (1, 2), "batch_axis": 2},
            {"batch_axis": -1},
        ],
    )
    def test_refuses_an_axis_that_is_named_twice(self, arguments):
        with pytest.raises(ValueError, match=r"KernelAxes\(.*\) names an axis twice"):
            KernelAxes(**arguments)

    def test_needs_outputs(self):
        message = (
            r"^out_axis is empty; name at least one axis, or give None in place of the KernelAxes "
            r"for a parameter that is not a kernel\.$"
        )
        with pytest.raises(ValueError, match=message):
            KernelAxes(out_axis=())

    @pytest.mark.parametrize("flag", [True, False, np.True_])
    def test_a_flag_is_no_axis(self, flag):
        for arguments in {"in_axis": flag}, {"out_axis": (0, flag)}, {"batch_axis": [flag]}:
            with pytest.raises(TypeError, match=r"_axis must be an integer or a sequence of int"):
                KernelAxes(**arguments)

    def test_needs_no_inputs(self):
        assert KernelAxes((), (-2, -1)).resolve(4) == ((), (2, 3), (), (0, 1))


class TestSliceAxes:
    """Which axes one slice spans, for the areas of Table 2."""

    @pytest.mark.parametrize(
        ("axes", "ndim", "tensor", "channel", "instance", "whole"),
        [
            (FLAX, 2, (0,), (1,), (), (0, 1)),
            (FLAX, 4, (0, 1, 2), (0, 1, 3), (0, 1), (0, 1, 2, 3)),
            (EQUINOX, 4, (1, 2, 3), (0, 2, 3), (2, 3), (0, 1, 2, 3)),
            (KernelAxes(-1, -2), 4, (0, 1, 3), (0, 1, 2), (0, 1), (0, 1, 2, 3)),
            (KernelAxes(batch_axis=0), 4, (1, 2), (1, 3), (1,), (1, 2, 3)),
            (KernelAxes(-3, (-2, -1)), 3, (0,), (1, 2), (), (0, 1, 2)),
            (KernelAxes((0, 1), 2), 3, (0, 1), (2,), (), (0, 1, 2)),
            (KernelAxes((), (-2, -1)), 4, (0, 1), (0, 1, 2, 3), (0, 1), (0, 1, 2, 3)),
        ],
    )
    def test_by_area(self, axes, ndim, tensor, channel, instance, whole):
        assert slice_axes_of("tensor", axes, ndim) == tensor
        assert slice_axes_of("channel", axes, ndim) == channel
        assert slice_axes_of("instance", axes, ndim) == instance
        assert slice_axes_of("global", axes, ndim) == whole


def test_an_unknown_area_is_refused_with_those_there_are():
    areas = ", ".join(map(repr, AREAS))
    with pytest.raises(ValueError, match=rf"area must be one of {areas}, got 'filter'"):
        wcgc.centralize({}, "filter")


@pytest.mark.parametrize(
    "area", [{"kernel": FLAX}, FLAX, None, 1, ["tensor"], np.ones(2), np.array("tensor")], ids=repr
)
@pytest.mark.parametrize(
    "function",
    [
        lambda area: wcgc.centralize(np.eye(3), area),
        lambda area: wcgc.centralize_gradients(area),
        lambda area: wcgc.algorithm_2(0.1, area=area),
        lambda area: wcgc.explain(np.eye(3), area),
    ],
    ids=["centralize", "centralize_gradients", "algorithm_2", "explain"],
)
def test_what_is_no_area_is_told_how_axes_are_given(function, area):
    message = (
        r"area must be one of 'tensor', .*\. Axes and masks are keyword arguments: axes=, mask="
    )
    with pytest.raises(ValueError, match=message):
        function(area)


@pytest.mark.parametrize(
    "tree", [{"kernel": np.full((2, 2), 7.5)}, [np.full((2, 2), 7.5)]], ids=["dict", "list"]
)
@pytest.mark.parametrize(
    "function",
    [
        wcgc.centralize_gradients,
        wcgc.centralize_params,
        lambda area: wcgc.centralize("tensor", area),
        lambda area: wcgc.centralized(optax.sgd(0.1), area),
        lambda area: wcgc.centralized(optax.sgd(0.1), params=area),
    ],
    ids=["centralize_gradients", "centralize_params", "centralize", "gradients=", "params="],
)
def test_a_tree_in_place_of_an_area_is_told_where_to_go(function, tree):
    message = rf"got {type(tree).__name__}\. .* it goes to init and update of transforms such as"
    with pytest.raises(ValueError, match=message) as raised:
        function(tree)
    assert "7.5" not in str(raised.value)


@pytest.mark.parametrize(
    ("argument", "what"), [("gradients", "GC"), ("params", "WC")], ids=["gradients", "params"]
)
@pytest.mark.parametrize("flag", [False, True])
def test_a_flag_in_place_of_an_area_is_told_what_switches_off(argument, what, flag):
    message = rf"{argument} must be one of 'ten.* 'global', or None for no {what}, got {flag}\.$"
    with pytest.raises(ValueError, match=message):
        wcgc.centralized(optax.sgd(0.1), **{argument: flag})


def test_arrays_in_place_of_axes_are_not_printed():
    with pytest.raises(TypeError, match=r"in_axis must be an integer .*got array of shape \(9,\)"):
        KernelAxes(np.ones(9))
    with pytest.raises(TypeError, match=r"ndim must be an integer, got array of shape \(9,\)"):
        FLAX.resolve(np.ones(9))
    with pytest.raises(TypeError, match=r"reason must be a text, got array of shape \(9,\)"):
        LeftAlone(np.ones(9))


class TestWithoutInputAxes:
    """A depthwise kernel (height, width, channel, multiplier), as Keras has it."""

    axes = KernelAxes((), (-2, -1))

    @pytest.mark.parametrize(
        ("area", "spanned"),
        [
            ("tensor", (0, 1)),
            ("channel", (0, 1, 2, 3)),
            ("instance", (0, 1)),
            ("global", (0, 1, 2, 3)),
        ],
    )
    def test_areas_are_those_of_one_input(self, area, spanned, rng):
        """As Flax has it: (height, width, 1, channel times multiplier)."""
        assert slice_axes_of(area, self.axes, 4) == spanned
        kernel = np.float32(rng.normal(1.0, 1.0, (3, 2, 4, 5)))
        ours = wcgc.centralize(kernel, area, axes=self.axes)
        flax = wcgc.centralize(kernel.reshape(3, 2, 1, 20), area)
        np.testing.assert_allclose(ours, flax.reshape(kernel.shape), atol=1e-6)

    def test_stacked(self):
        axes = KernelAxes((), (-2, -1), batch_axis=0)
        assert axes.resolve(5) == ((), (3, 4), (0,), (1, 2))
        assert slice_axes_of("channel", axes, 5) == (1, 2, 3, 4)

    def test_without_window_there_is_nothing_to_average(self):
        rows = wcgc.explain({"kernel": np.ones((1, 1, 4, 2))}, axes=self.axes).rows
        assert rows[0].reason == "slices of one element"

    def test_is_a_value(self):
        assert KernelAxes([], (-2, -1)) == self.axes
        assert hash(KernelAxes([], (-2, -1))) == hash(self.axes)


class TestLeftAlone:
    def test_is_a_value(self):
        reason = LeftAlone("looked up")
        assert reason == LeftAlone("looked up") != LeftAlone("unused")
        assert hash(reason) == hash(LeftAlone("looked up"))
        assert eval(repr(reason), {"LeftAlone": LeftAlone}) == reason
        with pytest.raises(dataclasses.FrozenInstanceError):
            reason.reason = "other"

    def test_is_a_leaf_of_a_tree(self):
        assert jax.tree.leaves({"a": LeftAlone("x")}) == [LeftAlone("x")]

    @pytest.mark.parametrize("reason", [None, 1, ("a", "b")])
    def test_wants_a_text(self, reason):
        with pytest.raises(TypeError, match="reason must be a text"):
            LeftAlone(reason)

    @pytest.mark.parametrize("reason", ["", "  "])
    def test_wants_a_reason(self, reason):
        with pytest.raises(ValueError, match="reason is empty"):
            LeftAlone(reason)
