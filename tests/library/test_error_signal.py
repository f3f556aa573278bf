import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wcgc

FUNCTIONS = {
    "centralize_error": wcgc.centralize_error,
    "standardize_error": wcgc.standardize_error,
}
AREAS = ["global", "sample", "channel", "instance"]


@pytest.fixture(params=FUNCTIONS.values(), ids=FUNCTIONS)
def function(request):
    return request.param


def backward(function, error, *arguments, **options):
    """The error before the function, given the one behind it."""
    error = jnp.asarray(error)
    activations = jnp.arange(error.size, dtype=jnp.float32).reshape(error.shape)
    activations = activations.astype(error.dtype)
    _, vjp = jax.vjp(lambda x: function(x, *arguments, **options), activations)
    return vjp(error)[0]


# Errors of two samples of two pixels with two channels: (sample, space, channel).
ERROR = np.array([[[1.0, 2.0], [3.0, 6.0]], [[5.0, 10.0], [7.0, 14.0]]], np.float32)


class TestByHand:
    @pytest.mark.parametrize(
        ("area", "expected"),
        [
            # The mean of all is 48 / 8 = 6.
            ("global", [[[-5, -4], [-3, 0]], [[-1, 4], [1, 8]]]),
            # EL: means 3 and 9 of the samples (1, 2, 3, 6) and (5, 10, 7, 14).
            ("sample", [[[-2, -1], [0, 3]], [[-4, 1], [-2, 5]]]),
            # EB: means 4 and 8 of the channels (1, 3, 5, 7) and (2, 6, 10, 14).
            ("channel", [[[-3, -6], [-1, -2]], [[1, 2], [3, 6]]]),
            # Means 2, 4, 6 and 12 of the pairs (1, 3), (2, 6), (5, 7) and (10, 14).
            ("instance", [[[-1, -2], [1, 2]], [[-1, -2], [1, 2]]]),
        ],
    )
    def test_centralize_error(self, area, expected):
        np.testing.assert_array_equal(backward(wcgc.centralize_error, ERROR, area), expected)

    def test_standardize_error_by_channel(self):
        # EBN: means 4 and 8, deviations sqrt(5) and 2 sqrt(5).
        steps = np.array([[[-3, -3], [-1, -1]], [[1, 1], [3, 3]]])
        np.testing.assert_allclose(
            backward(wcgc.standardize_error, ERROR, "channel"), steps / np.sqrt(5), rtol=4e-7
        )

    def test_standardize_error_by_sample(self):
        # ELN: deviations sqrt(14 / 4) and sqrt(46 / 4).
        centred = np.array([[[-2, -1], [0, 3]], [[-4, 1], [-2, 5]]])
        expected = centred / np.sqrt([[[3.5]], [[11.5]]])
        np.testing.assert_allclose(
            backward(wcgc.standardize_error, ERROR, "sample"), expected, rtol=4e-7
        )

    def test_standardize_error_adds_eps_to_the_variance(self):
        # Variance 9 and eps 16 make a divisor of 5.
        error = backward(wcgc.standardize_error, [[-3.0], [3.0]], "channel", eps=16.0)
        np.testing.assert_allclose(error, [[-0.6], [0.6]], rtol=4e-7)

    @pytest.mark.parametrize(
        ("area", "spanned"),
        [("global", (0, 1, 2)), ("sample", (1, 2)), ("channel", (0, 1)), ("instance", (1,))],
    )
    def test_small_errors_are_standardized_too(self, area, spanned):
        result = backward(wcgc.standardize_error, 1e-7 * ERROR, area)
        np.testing.assert_allclose(np.mean(result, axis=spanned), 0, atol=1e-6)
        np.testing.assert_allclose(np.std(result, axis=spanned), 1, atol=1e-6)


class TestAxes:
    """The same error in other layouts, transposed there and back."""

    @pytest.mark.parametrize("area", AREAS)
    @pytest.mark.parametrize(
        ("order", "sample_axis", "channel_axis"), [((0, 2, 1), 0, 1), ((1, 2, 0), -1, -2)]
    )
    def test_layouts(self, area, order, sample_axis, channel_axis):
        error = np.transpose(ERROR, order)
        axes = {"sample_axis": sample_axis, "channel_axis": channel_axis}
        result = backward(wcgc.centralize_error, error, area, **axes)
        expected = np.transpose(backward(wcgc.centralize_error, ERROR, area), order)
        np.testing.assert_array_equal(result, expected)

    def test_of_standardize_error(self):
        result = backward(wcgc.standardize_error, ERROR.T, "sample", channel_axis=0, sample_axis=2)
        expected = backward(wcgc.standardize_error, ERROR, "sample").T
        np.testing.assert_allclose(result, expected, rtol=1e-6)


class TestForward:
    @pytest.mark.parametrize("area", AREAS)
    def test_is_the_identity(self, function, area):
        x = jnp.array([[1.0, jnp.nan], [jnp.inf, -0.0]])
        np.testing.assert_array_equal(function(x, area), x)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
    def test_and_backward_keep_the_dtype(self, function, dtype):
        error = backward(function, jnp.asarray(ERROR, dtype), "channel")
        assert error.dtype == dtype
        expected = backward(function, ERROR, "channel")
        np.testing.assert_allclose(
            np.asarray(error, np.complex64), expected, rtol=2 * float(jnp.finfo(dtype).eps)
        )

    def test_the_mean_of_a_float16_error_is_not_rounded(self):
        # Between 2048 and 2050, the next number in float16, lies their mean.
        error = jnp.array([[2048], [2050]], jnp.float16)
        np.testing.assert_array_equal(
            backward(wcgc.centralize_error, error, "channel"), [[-1], [1]]
        )

    def test_takes_numpy_arrays(self, function):
        np.testing.assert_array_equal(function(ERROR, "sample"), ERROR)


class TestLeftAlone:
    """Slices of one element, which centralizing would erase."""

    @pytest.mark.parametrize(
        ("shape", "area"),
        [
            ((4, 3), "instance"),
            ((4, 1, 1, 3), "instance"),
            ((1, 3), "channel"),
            ((4, 1), "sample"),
            ((1, 1), "global"),
        ],
    )
    def test_slices_of_one_element(self, function, shape, area, rng):
        error = jnp.asarray(rng.normal(size=shape), jnp.float32)
        np.testing.assert_array_equal(backward(function, error, area), error)

    @pytest.mark.parametrize("area", AREAS)
    @pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 0, 3), (0, 2, 3)])
    def test_errors_without_elements(self, function, shape, area):
        assert backward(function, jnp.ones(shape), area).shape == shape


class TestStandardizingNothing:
    """Where there is no deviation, what rounding leaves must not be taken for one."""

    @pytest.mark.parametrize("value", [0.0, 1 / 21, -30.7])
    def test_a_constant_error_becomes_zero(self, value):
        error = backward(wcgc.standardize_error, jnp.full((7, 3), value), "channel")
        np.testing.assert_allclose(error, np.zeros((7, 3)), atol=1e-2)


class TestInANetwork:
    """A dense layer with a bias, of 4 samples and 3 channels."""

    def gradients(self, rng, normalized, nonlinearity=lambda x: x):
        inputs, kernel, targets = (
            jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 2), (2, 3), (4, 3))
        )

        def loss(kernel, bias):
            outputs = nonlinearity(normalized(inputs @ kernel + bias))
            return jnp.sum(jnp.square(outputs - targets))

        bias = jnp.zeros(3)
        errors = 2 * (np.asarray(inputs @ kernel) - np.asarray(targets))
        return np.asarray(inputs), errors, jax.grad(loss, argnums=(0, 1))(kernel, bias)

    def test_eb_centralizes_the_error_that_the_layer_sees(self, rng):
        eb = functools.partial(wcgc.centralize_error, area="channel")
        inputs, errors, (kernel_gradient, _) = self.gradients(rng, eb)
        centred = errors - np.mean(errors, axis=0)
        np.testing.assert_allclose(kernel_gradient, inputs.T @ centred, atol=1e-5)

    @pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
    def test_directly_behind_a_layer_eb_and_ebn_leave_its_bias_no_gradient(self, function, rng):
        error_by_channel = functools.partial(function, area="channel")
        _, _, (_, bias_gradient) = self.gradients(rng, error_by_channel)
        np.testing.assert_allclose(bias_gradient, np.zeros(3), atol=4e-6)

    def test_el_leaves_the_bias_its_gradient(self, rng):
        el = functools.partial(wcgc.centralize_error, area="sample")
        _, errors, (_, bias_gradient) = self.gradients(rng, el)
        expected = np.sum(errors - np.mean(errors, axis=1, keepdims=True), axis=0)
        np.testing.assert_allclose(bias_gradient, expected, atol=1e-5)
        assert np.min(np.abs(bias_gradient)) > 0.1

    def test_eb_before_a_nonlinearity_is_not_eb_behind_it(self, rng):
        """The layer's bias is without gradient only if nothing stands between."""

        def relu_then_eb(x):
            return wcgc.centralize_error(jax.nn.relu(x), "channel")

        _, _, (_, bias_gradient) = self.gradients(rng, relu_then_eb)
        assert np.max(np.abs(bias_gradient)) > 0.1


class TestTransformations:
    """Of JAX's kind."""

    def test_eps_may_be_traced(self):
        standardized = jax.jit(lambda eps: backward(wcgc.standardize_error, ERROR, "channel", eps))
        np.testing.assert_allclose(
            standardized(0.5), backward(wcgc.standardize_error, ERROR, "channel", 0.5), rtol=4e-7
        )

    def test_forward_mode_is_refused(self, function):
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(lambda x: function(x, "channel"), (ERROR,), (ERROR,))


class TestErrors:
    def test_unknown_area(self, function):
        four = r"'global', 'sample', 'channel', 'instance'"
        with pytest.raises(ValueError, match=rf"area must be one of {four}, got 'tensor'"):
            function(ERROR, "tensor")

    @pytest.mark.parametrize("axis", [3, -4])
    @pytest.mark.parametrize("name", ["channel_axis", "sample_axis"])
    def test_axis_out_of_range(self, function, name, axis):
        message = rf"{name}={axis} is out of range for activations of shape \(2, 2, 2\)"
        with pytest.raises(ValueError, match=message):
            function(ERROR, "channel", **{name: axis})

    @pytest.mark.parametrize(
        ("shape", "axes"), [((3,), {}), ((2, 3), {"channel_axis": 0}), ((2, 3), {"sample_axis": 1})]
    )
    def test_axes_that_are_the_same(self, function, shape, axes):
        message = r"channel_axis=.* and sample_axis=.* are the same axis .*of shape"
        with pytest.raises(ValueError, match=message):
            function(jnp.ones(shape), "channel", **axes)

    @pytest.mark.parametrize(
        ("x", "got"), [(np.ones((2, 2), int), "dtype int64"), ([[1.0, 2.0]], r"\[\[1\.0, 2\.0\]\]")]
    )
    def test_what_carries_no_error(self, function, x, got):
        message = rf"x must be a floating or complex array to carry an error, got {got}\.$"
        with pytest.raises(TypeError, match=message):
            function(x, "channel")

    def test_a_tree(self, function):
        message = r"x must be .*, got dict\. It takes .* one layer; .* wcgc\.centralize_gradients"
        with pytest.raises(TypeError, match=message):
            function({"kernel": np.ones((2, 2))}, "channel")
        with pytest.raises(ValueError, match=r"area must be one of .*, got dict\.$"):
            function(np.ones((2, 2)), {"kernel": np.ones((2, 2))})

    def test_negative_eps(self):
        with pytest.raises(ValueError, match=r"eps must be at least 0, got -1\.0"):
            wcgc.standardize_error(ERROR, "channel", eps=-1.0)


class TestDerivatives:
    def test_by_eps_of_the_forward_pass_is_zero(self):
        """`x` comes out whatever eps is."""

        def loss(eps, x):
            return jnp.sum(jnp.sin(wcgc.standardize_error(x, "channel", eps)))

        by_eps, by_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(1e-3, ERROR)
        assert by_eps == 0
        expected = jax.grad(loss, argnums=1)(1e-3, ERROR)
        np.testing.assert_allclose(by_x, expected, atol=1e-6)

    def test_by_eps_of_the_backward_pass(self):
        """As one tunes eps through a step: the divisor is the root of variance and eps."""
        error = jnp.array([[-3.0], [3.0]])

        def first(eps):
            return backward(wcgc.standardize_error, error, "channel", eps)[1, 0]

        # 3 (9 + eps)**-0.5 has the derivative -1.5 (9 + eps)**-1.5.
        np.testing.assert_allclose(jax.grad(first)(16.0), -1.5 * 25**-1.5, rtol=1e-5)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
    def test_of_each_dtype(self, dtype):
        x = jnp.asarray(ERROR, dtype)

        def loss(eps):
            return jnp.sum(jnp.abs(wcgc.standardize_error(x, "sample", eps))).astype(jnp.float32)

        assert jax.grad(loss)(1e-3) == 0

    def test_a_whole_eps_is_the_same_number(self):
        error = jnp.array([[-3.0], [3.0]])
        # (9 + 16)**-0.5 is 1/5.
        expected = [[-0.6], [0.6]]
        for eps in 16, 16.0, np.int32(16):
            result = backward(wcgc.standardize_error, error, "channel", eps)
            np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [True, 1.0, None, "last"])
def test_what_is_no_axis(function, axis):
    with pytest.raises(TypeError, match=rf"channel_axis must be an integer, got {axis!r}"):
        function(ERROR, "channel", channel_axis=axis)
    with pytest.raises(TypeError, match=rf"sample_axis must be an integer, got {axis!r}"):
        function(ERROR, "channel", sample_axis=axis)


@pytest.mark.parametrize("area", [None, ["channel"], {"a": 1}, np.ones(2)], ids=repr)
def test_what_is_no_area(function, area):
    with pytest.raises(ValueError, match="area must be one of 'global', 'sample'"):
        function(ERROR, area)
