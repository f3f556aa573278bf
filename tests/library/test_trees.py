import functools
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import wcgc

from helpers import reference
from helpers.reference import AREAS

PROJECTIONS = {
    "centralize": wcgc.centralize,
    "standardize": wcgc.standardize,
    "normalize": wcgc.normalize,
}


@pytest.fixture(params=PROJECTIONS.values(), ids=PROJECTIONS)
def project(request):
    return request.param


class TestByHand:
    """A kernel of shape (space 2, in 2, out 2), small enough to average in the head."""

    kernel = np.float32([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 10.0], [7.0, 16.0]]])

    @pytest.mark.parametrize(
        ("area", "expected"),
        [
            # Means 4 and 8 of the output filters (1, 3, 5, 7) and (2, 4, 10, 16).
            ("tensor", [[[-3, -6], [-1, -4]], [[1, 2], [3, 8]]]),
            # Means 4.5 and 7.5 of the input channels (1, 2, 5, 10) and (3, 4, 7, 16).
            ("channel", [[[-3.5, -2.5], [-4.5, -3.5]], [[0.5, 5.5], [-0.5, 8.5]]]),
            # Means 3, 6, 5 and 10 of the pairs (1, 5), (2, 10), (3, 7) and (4, 16).
            ("instance", [[[-2, -4], [-2, -6]], [[2, 4], [2, 6]]]),
            # The mean of all is 48 / 8 = 6.
            ("global", [[[-5, -4], [-3, -2]], [[-1, 4], [1, 10]]]),
        ],
    )
    def test_centralize(self, area, expected):
        np.testing.assert_array_equal(wcgc.centralize(self.kernel, area), expected)

    def test_centralize_of_an_equinox_kernel(self):
        kernel = jnp.array([[1.0, 2.0, 6.0], [10.0, 20.0, 60.0]])
        centred = wcgc.centralize(kernel, axes=wcgc.EQUINOX)
        np.testing.assert_array_equal(centred, [[-2, -1, 3], [-20, -10, 30]])

    def test_centralize_of_scanned_layers(self):
        layers = jnp.array([[[1.0], [3.0]], [[10.0], [30.0]]])
        centred = wcgc.centralize(layers, "global", axes=wcgc.KernelAxes(batch_axis=0))
        np.testing.assert_array_equal(centred, [[[-1], [1]], [[-10], [10]]])

    def test_standardize_divides_by_the_deviation_of_a_population(self):
        # (0, 0, 3, 3) has mean 1.5 and deviation 1.5, ddof 0; (1, 1, 1, 5) has 2 and sqrt(3).
        kernel = jnp.array([[0.0, 1.0], [0.0, 1.0], [3.0, 1.0], [3.0, 5.0]])
        root = math.sqrt(3)
        expected = [[-1, -1 / root], [-1, -1 / root], [1, -1 / root], [1, 3 / root]]
        np.testing.assert_allclose(wcgc.standardize(kernel), expected, rtol=4e-7)

    def test_standardize_adds_eps_to_the_variance(self):
        # Variance 9 and eps 16 make a divisor of 5.
        kernel = jnp.array([[-3.0], [3.0]])
        np.testing.assert_allclose(wcgc.standardize(kernel, eps=16.0), [[-0.6], [0.6]], rtol=4e-7)

    def test_normalize(self):
        kernel = jnp.array([[3.0, 0.0], [4.0, -2.0]])
        np.testing.assert_allclose(wcgc.normalize(kernel), [[0.6, 0], [0.8, -1]], rtol=4e-7)
        np.testing.assert_allclose(wcgc.normalize(kernel, norm=10), [[6, 0], [8, -10]], rtol=4e-7)
        np.testing.assert_allclose(
            wcgc.normalize(kernel, "global"), kernel / math.sqrt(29), rtol=4e-7
        )

    def test_normalize_leaves_a_slice_of_zeros(self):
        kernel = jnp.array([[0.0, 3.0], [0.0, 4.0]])
        np.testing.assert_allclose(wcgc.normalize(kernel), [[0, 0.6], [0, 0.8]], rtol=4e-7)

    def test_complex(self):
        kernel = jnp.array([[1.0 + 1.0j], [3.0 + 5.0j]])
        np.testing.assert_allclose(wcgc.centralize(kernel), [[-1 - 2j], [1 + 2j]])
        # The deviation is the root of the mean squared modulus, sqrt(5).
        np.testing.assert_allclose(
            wcgc.standardize(kernel), np.array([[-1 - 2j], [1 + 2j]]) / math.sqrt(5), rtol=4e-7
        )
        # The norm is sqrt(1 + 1 + 9 + 25) = 6.
        np.testing.assert_allclose(wcgc.normalize(kernel, norm=6.0), kernel, rtol=4e-7)


def check_against(definition, project, names, area, rng):
    kernels = {name: kernel for name, kernel in reference.kernels(rng).items() if name in names}
    axes = {name: axes for name, axes in reference.kernel_axes().items() if name in names}
    results = jax.jit(lambda tree: project(tree, area, axes=axes))(kernels)
    for name, kernel in kernels.items():
        _, roles, _ = reference.LAYOUTS[name]
        np.testing.assert_allclose(
            results[name],
            reference.each_slice(definition, kernel, roles, area),
            atol=1e-14,  # Values up to 4, sums of up to 72 of them, 2.2e-16 for each.
            rtol=0,
            err_msg=name,
        )


@pytest.mark.parametrize("area", AREAS)
class TestLayoutsAgreeWithTheDefinition:
    """In float64, so that a wrong axis cannot hide behind rounding."""

    some = ("conv 2d", "depthwise conv", "Equinox conv", "scanned attention output")

    def test_centralize(self, area, rng, x64):
        check_against(reference.centralize, wcgc.centralize, reference.LAYOUTS, area, rng)

    def test_standardize(self, area, rng, x64):
        ours = functools.partial(wcgc.standardize, eps=0.5)
        check_against(functools.partial(reference.standardize, eps=0.5), ours, self.some, area, rng)

    def test_normalize(self, area, rng, x64):
        ours = functools.partial(wcgc.normalize, norm=3.0)
        check_against(functools.partial(reference.normalize, norm=3.0), ours, self.some, area, rng)


class TestRange:
    def test_the_mean_of_a_float16_kernel_is_not_rounded(self):
        # Between 2048 and 2050, the next number in float16, lies their mean.
        kernel = jnp.array([[2048], [2050]], jnp.float16)
        np.testing.assert_array_equal(wcgc.centralize(kernel), [[-1], [1]])

    def test_float16_kernels_are_summed_in_float32(self):
        # Their sum, 1.5e8, is no float16; nor would 4096 ones and another add up to 4097.
        kernel = jnp.full((4096, 1), 6e4, jnp.float16)
        np.testing.assert_array_equal(wcgc.centralize(kernel), jnp.zeros((4096, 1)))
        kernel = jnp.ones((8192, 1), jnp.float16).at[0].set(8193)
        np.testing.assert_array_equal(wcgc.centralize(kernel)[1:], jnp.full((8191, 1), -1.0))

    def test_a_sum_that_overflows_spoils_its_own_slice_only(self):
        kernel = jnp.array([[3e38, 1.0], [3e38, 3.0]])
        result = wcgc.centralize(kernel)
        assert not np.any(np.isfinite(result[:, 0]))
        np.testing.assert_array_equal(result[:, 1], [-1, 1])

    def test_magnitudes_of_complex_numbers_may_leave_the_range(self):
        kernel = np.complex64([[3e38 + 3e38j], [-3e38 - 3e38j]])
        expected = np.array([[1 + 1j], [-1 - 1j]]) / 2
        np.testing.assert_allclose(wcgc.normalize(kernel), expected, rtol=4e-7)
        np.testing.assert_allclose(wcgc.standardize(kernel, eps=0), expected * 2**0.5, rtol=4e-7)

    def test_each_slice_has_its_own_magnitude(self):
        column = np.float32([1.0, -2.0, 4.0])
        kernel = np.stack([1e30 * column, column, 1e-30 * column], axis=1)
        for project in functools.partial(wcgc.standardize, eps=0), wcgc.normalize:
            expected = project(np.stack([column] * 3, axis=1))
            np.testing.assert_allclose(project(kernel), expected, rtol=1e-6)

    @pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e37])
    def test_squares_may_leave_the_range(self, scale):
        kernel = jnp.array([[3.0], [4.0]]) * scale
        np.testing.assert_allclose(wcgc.normalize(kernel), [[0.6], [0.8]], rtol=4e-7)
        np.testing.assert_allclose(wcgc.standardize(kernel, eps=0), [[-1], [1]], rtol=4e-7)

    @pytest.mark.parametrize("value", [0.1, 1000.1, -3.3e5])
    def test_a_constant_slice_is_standardized_to_zero(self, value):
        # Rounding leaves 1e-8 of its size behind, which must not be taken for its deviation.
        result = wcgc.standardize(jnp.full((7, 2), value))
        np.testing.assert_allclose(result, np.zeros((7, 2)), atol=1e-3)


class TestGradients:
    def gradient(self, project, kernel, c):
        return jax.jit(jax.grad(lambda kernel: jnp.sum(c * project(kernel))))(kernel)

    def test_of_centralize(self, rng):
        """It is its own adjoint."""
        kernel, c = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
        expected = c - np.mean(c, axis=0)
        np.testing.assert_allclose(self.gradient(wcgc.centralize, kernel, c), expected, atol=1e-6)

    def test_of_standardize(self, rng):
        # With y the result, the gradient along x is (c - mean(c) - y mean(c y)) / deviation.
        kernel, c = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
        gradient = self.gradient(functools.partial(wcgc.standardize, eps=0), kernel, c)
        y = (kernel - np.mean(kernel, axis=0)) / np.std(kernel, axis=0)
        expected = (c - np.mean(c, axis=0) - y * np.mean(c * y, axis=0)) / np.std(kernel, axis=0)
        np.testing.assert_allclose(gradient, expected, atol=4e-6)

    def test_of_normalize(self, rng):
        # With y the result, the gradient along x is (c - y <c, y>) / norm.
        kernel, c = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
        gradient = self.gradient(wcgc.normalize, kernel, c)
        length = np.sqrt(np.sum(np.square(kernel), axis=0))
        y = kernel / length
        expected = (c - y * np.sum(c * y, axis=0)) / length
        np.testing.assert_allclose(gradient, expected, atol=4e-6)

    def test_are_finite_at_zero(self, project):
        gradient = self.gradient(project, jnp.zeros((4, 3)), jnp.ones((4, 3)))
        assert np.all(np.isfinite(gradient))


def test_what_is_centred_exactly_is_returned_exactly():
    kernel = np.float32([[1.0, -4.0], [-3.0, 3.0], [2.0, 1.0]])
    np.testing.assert_array_equal(wcgc.centralize(kernel), kernel)


def odd_leaves():
    """Leaves that no function may touch, whatever the area."""
    return {
        "none": None,
        "cut by optax.masked": optax.MaskedNode(),
        "no gradient": np.zeros((2, 3), jax.dtypes.float0),
        "integers": jnp.ones((2, 3), jnp.int32),
        "bytes": np.ones((2, 3), np.uint8),
        "bools": jnp.ones((2, 3), bool),
        "random keys": jax.random.split(jax.random.key(0), (2, 3)),
        "raw random key": jax.random.PRNGKey(0),
        "function": jax.nn.relu,
        "string": "relu",
        "object": object(),
        "python float": 3.0,
        "python complex": 3.0j,
        "numpy float": np.float32(3.0),
        "scalar": jnp.float32(3.0),
        "vector": jnp.arange(3.0),
        "vector of one": jnp.ones(1),
        "no rows": jnp.ones((0, 3)),
        "no columns": jnp.ones((3, 0)),
        "no space": jnp.ones((0, 3, 4, 5)),
        "one element": jnp.ones((1, 1)),
        "one element with space": jnp.ones((1, 1, 1, 1)),
        "numpy vector": np.arange(3.0),
    }


class TestLeftAlone:
    @pytest.mark.parametrize("choice", ["mask", "axes"])
    def test_what_mask_and_axes_leave_out(self, project, choice):
        tree = {"a": jnp.array([[1.0, 5.0], [4.0, 7.0]]), "b": jnp.ones((3, 2))}
        entries = {"a": True, "b": False} if choice == "mask" else {"a": wcgc.FLAX, "b": None}
        result = project(tree, **{choice: entries})
        assert result["b"] is tree["b"]
        np.testing.assert_array_equal(result["a"], project(tree["a"]))
        assert not np.array_equal(result["a"], tree["a"])

    @pytest.mark.parametrize("area", AREAS)
    def test_odd_leaves(self, project, area):
        leaves = odd_leaves()
        results = project(leaves, area)
        assert results.keys() == leaves.keys()
        for name, leaf in leaves.items():
            assert results[name] is leaf, name

    @pytest.mark.parametrize("tree", [None, {}, (), [], {"a": {}, "b": []}, optax.EmptyState()])
    def test_trees_without_leaves(self, project, tree):
        assert project(tree) == tree

    @pytest.mark.parametrize(
        ("shape", "area"),
        [
            ((4, 3), "instance"),  # a dense layer
            ((1, 1, 4, 3), "instance"),  # a 1x1 convolution
            ((1, 3), "tensor"),  # fan-in 1
            ((1, 1, 1, 3), "tensor"),
            ((4, 1), "channel"),  # one output
            ((1, 1), "global"),
        ],
    )
    def test_slices_of_one_element(self, project, shape, area):
        kernel = jnp.ones(shape)
        assert project(kernel, area) is kernel

    @pytest.mark.parametrize(
        ("shape", "area"),
        [
            ((2, 4, 3), "instance"),
            ((2, 1), "tensor"),
            ((3, 1, 1, 3), "tensor"),  # depthwise
            ((1, 2), "channel"),
            ((1, 2), "global"),
        ],
    )
    def test_but_not_slices_of_two(self, shape, area):
        np.testing.assert_array_equal(wcgc.centralize(jnp.ones(shape), area), np.zeros(shape))

    @pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 4)])
    def test_leaves_with_fewer_than_two_axes_beside_batch_axes(self, project, shape):
        axes = wcgc.KernelAxes(batch_axis=tuple(range(len(shape) - 1)))
        leaf = jnp.ones(shape)
        assert project(leaf, axes=axes) is leaf

    def test_beside_them_kernels_are_projected(self, project, rng):
        kernel = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
        results = project({"kernel": kernel, **odd_leaves()})
        np.testing.assert_array_equal(results["kernel"], project(kernel))


class TestContainers:
    def test_structure_is_kept(self, project):
        tree = {"a": [jnp.ones((2, 2)), None], "b": (jnp.ones(2), {"c": jnp.ones((3, 2))})}
        result = project(tree)
        assert jax.tree.structure(result) == jax.tree.structure(tree)
        assert jax.tree.map(jnp.shape, result) == jax.tree.map(jnp.shape, tree)

    def test_the_input_is_not_changed(self, project):
        kernel = np.array([[1.0, 4.0], [3.0, 8.0]], np.float32)
        tree = {"kernel": kernel}
        project(tree)
        assert tree["kernel"] is kernel
        np.testing.assert_array_equal(kernel, [[1, 4], [3, 8]])

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
    def test_numpy_arrays(self, project, dtype):
        kernel = np.array([[1.0, 4.0], [3.0, 8.0]], dtype)
        result = project(kernel)
        assert isinstance(result, jax.Array)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, project(jnp.asarray(kernel)))

    def test_float64_numpy_arrays_become_what_jax_makes_of_them(self, project):
        kernel = np.array([[1.0, 4.0], [3.0, 8.0]])
        assert project(kernel).dtype == jnp.float32
        with jax.enable_x64(True):
            assert project(kernel).dtype == jnp.float64


class TestTransformations:
    """Of JAX's kind."""

    def test_vmap_is_a_batch_axis(self, project, rng):
        layers = jnp.asarray(rng.normal(size=(3, 4, 2)), jnp.float32)
        axes = wcgc.KernelAxes(batch_axis=0)
        batched = jax.jit(lambda layers: project(layers, axes=axes))(layers)
        mapped = jax.jit(jax.vmap(project))(layers)
        np.testing.assert_allclose(mapped, batched, atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        ("function", "argument", "value"),
        [(wcgc.standardize, "eps", 0.25), (wcgc.normalize, "norm", 2.0)],
    )
    def test_numbers_may_be_arrays_and_traced(self, function, argument, value, rng):
        kernel = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
        expected = function(kernel, **{argument: value})
        array = jnp.asarray(value)
        np.testing.assert_array_equal(function(kernel, **{argument: array}), expected)
        traced = jax.jit(lambda number: function(kernel, **{argument: number}))(array)
        np.testing.assert_allclose(traced, expected, atol=1e-6, rtol=0)


class TestErrors:
    kernel = np.ones((2, 2), np.float32)

    def test_shapes_without_values(self, project):
        shapes = {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
        message = r"'kernel' is a ShapeDtypeStruct, .* no values\. .* let jax\.eval_shape make the"
        with pytest.raises(TypeError, match=message):
            project(shapes)
        with pytest.raises(TypeError, match=r"'\(the array\)' is a ShapeDtypeStruct"):
            project(shapes["kernel"])
        assert jax.eval_shape(project, shapes) == shapes

    def test_unknown_area(self, project):
        areas = ", ".join(map(repr, AREAS))
        with pytest.raises(ValueError, match=rf"area must be one of {areas}, got 'kernel'"):
            project(self.kernel, "kernel")

    def test_layout_in_place_of_area(self, project):
        with pytest.raises(ValueError, match=r"area must be one of .*got KernelAxes\(in_axis=1"):
            project(self.kernel, wcgc.EQUINOX)

    @pytest.mark.parametrize("eps", [-1e-9, math.nan, np.float32(-1)])
    @pytest.mark.parametrize("kind", [lambda number: number, jnp.float32], ids=["plain", "array"])
    def test_negative_eps(self, eps, kind):
        with pytest.raises(ValueError, match=r"^eps must be at least 0, got (-1.*|-9.99.*|nan)\.$"):
            wcgc.standardize(self.kernel, eps=kind(eps))

    def test_the_smallest_eps(self):
        tiny = float(np.finfo(np.float32).tiny)
        wcgc.standardize(self.kernel, eps=tiny)
        with pytest.raises(ValueError, match=r"^eps=.* is out of the range of float32"):
            wcgc.standardize(self.kernel, eps=tiny / 2)

    @pytest.mark.parametrize("norm", [0, -2.0, math.nan])
    def test_norm_that_is_not_positive(self, norm):
        with pytest.raises(ValueError, match=rf"norm must be positive, got {norm}"):
            wcgc.normalize(self.kernel, norm=norm)

    @pytest.mark.parametrize("norm", [1e-8, np.float32(6e-5)])
    def test_norm_that_a_float16_kernel_cannot_hold(self, norm):
        tree = {"half": jnp.ones((2, 2), jnp.float16), "single": jnp.ones((2, 2))}
        message = (
            rf"^norm={norm} is below the range of float16, the dtype of 'half', whose entries "
            r"would become 0\. Give a norm of at least 6\.1e-05, or leave the kernel alone by mask "
            r"or axes\.$"
        )
        with pytest.raises(ValueError, match=message):
            wcgc.normalize(tree, norm=norm)
        result = wcgc.normalize(tree, norm=norm, mask={"half": False, "single": True})
        assert result["half"] is tree["half"]
        np.testing.assert_allclose(np.linalg.norm(result["single"], axis=0), norm, rtol=4e-7)
        with pytest.raises(ValueError, match=r"the dtype of '\(the array\)'"):
            wcgc.normalize(tree["half"], norm=norm)

    def test_norm_that_a_float16_kernel_just_holds(self):
        for norm in 7e-5, float(np.finfo(np.float16).tiny):
            result = wcgc.normalize(jnp.ones((2, 2), jnp.float16), norm=norm)
            np.testing.assert_allclose(result, np.full((2, 2), norm / math.sqrt(2)), atol=6e-8)

    @pytest.mark.parametrize("number", [None, "1e-5", 1j, [1.0], np.ones(2)], ids=repr)
    def test_what_is_no_number(self, number):
        with pytest.raises(TypeError, match=r"eps must be a number, got "):
            wcgc.standardize(self.kernel, eps=number)
        with pytest.raises(TypeError, match=r"norm must be a number, got "):
            wcgc.normalize(self.kernel, norm=number)

    def test_a_tree_in_place_of_a_number_is_not_printed(self):
        with pytest.raises(TypeError, match=r"eps must be a number, got dict\. For a schedule"):
            wcgc.standardize(self.kernel, eps={"kernel": self.kernel})
