"""Properties that hold for kernels of any shape, layout, dtype and magnitude.

Each is tried on the same 100 examples; `--hypothesis-profile=nightly` draws 2,000 others.
"""

import dataclasses
import functools
import itertools
import math
import random

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import wcgc

from helpers import reference

DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


@pytest.fixture(autouse=True)
def all_dtypes(x64):
    pass


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What an example is compiled for.

    Attributes:
      shape: of the kernel.
      roles: of each axis: (i)n, (o)ut, (b)atch or (s)patial; of activations: (n), (c) or other.
      area: what a slice is.
      dtype: of the kernel.
      axes: the arguments that say which axis is what.
      one_per: by area, the roles of the axes for each of whose indices there is one slice.
    """

    shape: tuple[int, ...]
    roles: str
    area: str
    dtype: str
    axes: tuple[tuple[str, object], ...]
    one_per: tuple[tuple[str, str], ...] = tuple(reference.ONE_PER.items())

    @property
    def spanned(self):
        kept = dict(self.one_per)[self.area]
        return tuple(axis for axis, role in enumerate(self.roles) if role not in kept)

    @property
    def slice_size(self):
        return math.prod(self.shape[axis] for axis in self.spanned)

    @property
    def limits(self):
        return jnp.finfo(self.dtype)

    @property
    def accumulated(self):
        """The limits of the dtype that sums are taken in."""
        return jnp.finfo(jnp.float32) if self.limits.bits < 32 else self.limits

    def each_slice(self, function, x):
        return reference.each_slice(function, x, self.roles, self.area, dict(self.one_per))

    def largest(self, x):
        """The largest modulus of each slice."""
        return np.max(np.abs(x), axis=self.spanned, keepdims=True)


def layout(random, roles):
    """Names the axes by their roles, from the front or the back, in any order."""
    axes = {}
    for role, name in ("i", "in_axis"), ("o", "out_axis"), ("b", "batch_axis"):
        named = [axis - random.choice((0, len(roles))) for axis, r in enumerate(roles) if r == role]
        random.shuffle(named)
        axes[name] = named[0] if len(named) == 1 else tuple(named)
    return wcgc.KernelAxes(**axes)


def some_kernels(count):
    """Kernels of ranks 2 to 6, with their roles at random places.

    There are fewer of them than examples, since what takes long is to compile for each.
    """
    generator = random.Random(0)
    kinds = itertools.cycle(itertools.product(reference.AREAS, DTYPES))
    kernels = []
    while len(kernels) < count:
        area, dtype = next(kinds)
        kernel = None
        while kernel is None or kernel.slice_size == 1 or math.prod(kernel.shape) > 200:
            roles = ["i", "o", *generator.choices("iobss", k=generator.randint(0, 4))]
            generator.shuffle(roles)
            shape = tuple(generator.choice((1, 2, 3, 5, 8)) for _ in roles)
            axes = ("axes", layout(generator, roles))
            kernel = Kernel(shape, "".join(roles), area, dtype, (axes,))
        kernels.append(kernel)
    return kernels


def some_activations(count):
    generator = random.Random(0)
    kinds = itertools.cycle(itertools.product(reference.ERROR_ONE_PER, DTYPES))
    activations = []
    while len(activations) < count:
        area, dtype = next(kinds)
        activation = None
        while activation is None or activation.slice_size == 1:
            roles = ["n", "c", *"xyz"[: generator.randint(0, 3)]]
            generator.shuffle(roles)
            axes = (
                ("sample_axis", roles.index("n") - generator.choice((0, len(roles)))),
                ("channel_axis", roles.index("c") - generator.choice((0, len(roles)))),
            )
            shape = tuple(generator.choice((1, 2, 3)) for _ in roles)
            one_per = tuple(reference.ERROR_ONE_PER.items())
            activation = Kernel(shape, "".join(roles), area, dtype, axes, one_per)
        activations.append(activation)
    return activations


COUNT = hypothesis.settings.default.max_examples // 4
KERNELS = st.sampled_from(some_kernels(COUNT))
ACTIVATIONS = st.sampled_from(some_activations(COUNT))


def of_one_sign(rng, shape):
    return rng.uniform(0.5, 1.0, shape)


def far_from_zero(rng, shape):
    """With a mean far above the spread."""
    return 1 - rng.uniform(0, 2.0 ** -rng.integers(1, 30), shape)


def of_any_magnitude(rng, shape):
    return rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(-40, 0, shape)


def one_above_all(rng, shape):
    x = rng.uniform(-1e-4, 1e-4, shape)
    x.flat[rng.integers(x.size)] = 1.0
    return x


def mostly_zero(rng, shape):
    return rng.uniform(-1, 1, shape) * rng.integers(0, 2, shape)


def signs(rng, shape):
    return rng.choice([-1.0, 1.0], shape)


PATTERNS = (
    lambda rng, shape: rng.uniform(-1, 1, shape),
    of_one_sign,
    far_from_zero,
    of_any_magnitude,
    one_above_all,
    mostly_zero,
    signs,
    lambda rng, shape: np.ones(shape),
)


@st.composite
def values(draw, kernel):
    """An array for `kernel` with entries of up to 1e-38 to 1e38, or what its dtype holds."""
    largest = float(kernel.limits.max)
    least = max(-38.0, math.log10(kernel.limits.tiny))
    exponent = draw(st.floats(least, 38.6) | st.floats(-2, 2) | st.floats(37.5, 38.6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = draw(st.sampled_from(PATTERNS))(rng, kernel.shape) * min(10.0**exponent, largest)
    if kernel.dtype.startswith("complex"):
        x = x * np.exp(1j * rng.choice([0, 1, np.pi / 2, 3.5], kernel.shape))
    return x.astype(kernel.dtype)


@st.composite
def kernels(draw, arrays=1, layouts=KERNELS):
    """A kernel and so many arrays for it."""
    kernel = draw(layouts)
    return kernel, *(draw(values(kernel)) for _ in range(arrays))


def wide(x):
    """`x` in the widest precision that NumPy has."""
    if np.iscomplexobj(x):
        return np.asarray(x, np.clongdouble)
    return np.asarray(np.asarray(x, np.float64), np.longdouble)


def projection(function):
    def project(kernel, x, **options):
        return function(x, kernel.area, **dict(kernel.axes), **options)

    return project


def on_gradients(kernel, x, **options):
    tx = wcgc.centralize_gradients(kernel.area, **dict(kernel.axes), **options)
    return tx.update(x, tx.init(x))[0]


def on_params(make):
    def step(kernel, updates, params, **options):
        tx = make(kernel.area, **dict(kernel.axes), **options)
        return tx.update(updates, tx.init(params), params)[0]

    return step


def on_error(function):
    def backward(kernel, error, **options):
        def forward(x):
            return function(x, kernel.area, **dict(kernel.axes), **options)

        return jax.vjp(forward, jnp.zeros_like(error))[1](error)[0]

    return backward


FUNCTIONS = {
    "centralize": projection(wcgc.centralize),
    "standardize": projection(wcgc.standardize),
    "normalize": projection(wcgc.normalize),
    "centralize_gradients": on_gradients,
    "centralize_params": on_params(wcgc.centralize_params),
    "standardize_params": on_params(wcgc.standardize_params),
    "normalize_params": on_params(wcgc.normalize_params),
    "keep_norms_of_params": on_params(functools.partial(wcgc.normalize_params, norm="keep")),
    "centralize_error": on_error(wcgc.centralize_error),
    "standardize_error": on_error(wcgc.standardize_error),
}


@functools.cache
def compiled(name, kernel):
    return jax.jit(functools.partial(FUNCTIONS[name], kernel))


def run(name, kernel, *arrays, **options):
    """The result in wide precision; shape and dtype are checked on the way."""
    result = run_in_dtype(name, kernel, *arrays, **options)
    assert (result.shape, result.dtype) == (arrays[0].shape, arrays[0].dtype)
    return wide(result)


def run_in_dtype(name, kernel, *arrays, **options):
    # Traced, since to compile for each number would take long.
    options = {key: jnp.float32(value) for key, value in options.items()}
    return np.asarray(compiled(name, kernel)(*arrays, **options))


def assert_within(result, expected, bound, where=True):
    """Checks what is finite, and that all is finite for which `where` holds."""
    finite = np.isfinite(result)
    assert np.all(finite | ~np.broadcast_to(where, finite.shape))
    error = np.abs(np.where(finite, result, expected) - expected)
    assert np.all(error <= bound), f"off by up to {np.max(error / bound)} of what is allowed"


def mean_bound(kernel, m, eps_factor=1):
    """What the docstring of `centralize` allows for slices of magnitude `m`."""
    n = kernel.slice_size
    relative = eps_factor * kernel.limits.eps + 2 * n * wide(kernel.accumulated.eps)
    return relative * m + 2 * n * wide(kernel.limits.tiny)


def centring_bound(kernel, m, expected):
    """By how much rounding may change the centred slices `expected` of magnitude `m`."""
    n, least = kernel.slice_size, max(kernel.limits.smallest_subnormal, kernel.accumulated.tiny)
    bound = 2 * n * wide(kernel.accumulated.eps) * m + wide(kernel.limits.eps) * np.abs(expected)
    return bound + 2 * n * wide(least)


def finite_slices(kernel, x):
    """Where all of a slice is finite."""
    return np.all(np.isfinite(x), axis=kernel.spanned, keepdims=True)


def assert_means_within(kernel, x, bound):
    """Checks the means of the slices that are in the dtype's range."""
    means = np.mean(np.where(finite_slices(kernel, x), x, 0), axis=kernel.spanned, keepdims=True)
    assert np.all(np.abs(means) <= bound)


def fits(kernel, x):
    """Where `x` is in the range of the kernel's dtype, rounding included."""
    limit = float(kernel.limits.max) * (1 - float(kernel.limits.eps))
    return (np.abs(x.real) < limit) & (np.abs(x.imag) < limit)


def in_range(kernel, m):
    return m < 0.999 * wide(kernel.accumulated.max)


CENTRALIZING = {
    "centralize": KERNELS,
    "centralize_gradients": KERNELS,
    "centralize_error": ACTIVATIONS,
}


@pytest.mark.parametrize("name", CENTRALIZING)
class TestCentralize:
    @hypothesis.given(data=st.data())
    def test_agrees_with_the_definition(self, name, data):
        """Wherever the sum is in range; beyond it, nothing that is finite is wrong."""
        kernel, x = data.draw(kernels(layouts=CENTRALIZING[name]))
        result = run(name, kernel, x)
        x = wide(x)
        m = kernel.largest(x)
        expected = kernel.each_slice(reference.centralize, x)
        bound = centring_bound(kernel, m, expected)
        summable = in_range(kernel, kernel.slice_size * m)
        assert_within(result, expected, bound, where=summable & fits(kernel, expected))
        assert_means_within(kernel, result, mean_bound(kernel, m))

    @hypothesis.given(data=st.data())
    def test_twice_is_once(self, name, data):
        kernel, x = data.draw(kernels(layouts=CENTRALIZING[name]))
        once = run(name, kernel, x)
        once = np.where(finite_slices(kernel, once), once, 0)
        twice = run(name, kernel, once.astype(x.dtype))
        m = kernel.largest(once)
        bound = mean_bound(kernel, kernel.largest(wide(x))) + mean_bound(kernel, m)
        assert_within(twice, once, bound, where=in_range(kernel, kernel.slice_size * m))


STRENGTH = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)


class TestStrength:
    @pytest.mark.parametrize("name", ["centralize", "centralize_gradients"])
    @hypothesis.given(example=kernels(), strength=STRENGTH)
    def test_agrees_with_the_definition(self, name, example, strength):
        strength = float(np.float32(strength))
        kernel, x = example
        result = run(name, kernel, x, strength=strength)
        self.check(kernel, result, strength, wide(x), kernel.largest(wide(x)), 0)

    @hypothesis.given(example=kernels(arrays=2), strength=STRENGTH)
    def test_of_params_agrees_with_the_definition(self, example, strength):
        strength = float(np.float32(strength))
        kernel, updates, params = example
        result = run("centralize_params", kernel, updates, params, strength=strength)
        updates, params = wide(updates), wide(params)
        m = kernel.largest(updates) + kernel.largest(params)
        self.check(kernel, result, strength, params + updates, m, params)

    def check(self, kernel, result, strength, x, m, params):
        removed = functools.partial(reference.centralize, strength=wide(strength))
        expected = kernel.each_slice(removed, x) - params
        # The product with the strength is rounded, and with the params their sum and difference.
        bound = centring_bound(kernel, m, expected) + 4 * wide(kernel.accumulated.eps) * m
        # Nothing is summed for a share of nothing.
        summable = in_range(kernel, m * (kernel.slice_size if strength else 1))
        assert_within(result, expected, bound, where=summable & fits(kernel, expected))

    @pytest.mark.parametrize("name", ["centralize", "centralize_gradients"])
    @hypothesis.given(example=kernels())
    def test_0_is_the_identity(self, name, example):
        """But for what XLA takes for zero."""
        kernel, x = example
        result = run(name, kernel, x, strength=0.0)
        assert_within(result, wide(x), np.sqrt(2) * wide(kernel.accumulated.tiny))


def standardizing_bound(kernel, x, y, eps):
    """By how much rounding may change the standardized slices `y` of `x`."""
    n, u = kernel.slice_size, wide(kernel.accumulated.eps)
    spread = kernel.largest(x - np.mean(x, axis=kernel.spanned, keepdims=True))
    tiny = wide(kernel.accumulated.tiny)
    centring = 2 * (n + 4) * u * spread + (2 + kernel.largest(x)) * tiny
    # The definition is rounded too, which shows where the mean is far above the spread in float64.
    centring += n * np.finfo(np.longdouble).eps * kernel.largest(x)
    deviation = np.sqrt(np.var(x, axis=kernel.spanned, keepdims=True) + wide(eps))
    relative = np.where(deviation > 0, centring / np.where(deviation > 0, deviation, 1), np.inf)
    bound = (1 + np.abs(y)) * relative + rounding_bound(kernel, y)
    return np.where(relative < 0.1, bound, np.inf)


def rounding_bound(kernel, y):
    """For results `y` of a few operations and a sum."""
    relative = wide(kernel.limits.eps) + (kernel.slice_size + 8) * wide(kernel.accumulated.eps)
    return relative * np.abs(y) + wide(kernel.limits.tiny)


def standardized(kernel, x, eps):
    with np.errstate(invalid="ignore"):  # 0 / 0 for constant slices without eps, which are zero.
        y = kernel.each_slice(functools.partial(reference.standardize, eps=wide(eps)), x)
    return np.where(np.isnan(y), 0, y)


EPS = st.just(0.0) | st.just(1e-10) | st.floats(-20, 20).map(lambda e: 10.0**e)


@pytest.mark.parametrize("name", ["standardize", "standardize_error"])
class TestStandardize:
    @hypothesis.given(data=st.data(), eps=EPS)
    def test_agrees_with_the_definition(self, name, data, eps):
        eps = float(np.float32(eps))
        layouts = KERNELS if name == "standardize" else ACTIVATIONS
        kernel, x = data.draw(kernels(layouts=layouts))
        result = run(name, kernel, x, eps=eps)
        x = wide(x)
        y = standardized(kernel, x, eps)
        assert_within(result, y, standardizing_bound(kernel, x, y, eps))
        # Whatever rounding does to a slice that is all but constant, it is not blown up.
        assert np.all(np.abs(result) <= 1.01 * np.sqrt(kernel.slice_size))

    @hypothesis.given(data=st.data())
    def test_twice_is_once(self, name, data):
        layouts = KERNELS if name == "standardize" else ACTIVATIONS
        kernel, x = data.draw(kernels(layouts=layouts))
        once = run(name, kernel, x, eps=0.0)
        twice = run(name, kernel, once.astype(x.dtype), eps=0.0)
        bound = 2 * standardizing_bound(kernel, wide(x), once, 0.0)
        bound += standardizing_bound(kernel, once, once, 0.0)
        # The second time removes the mean and the deviation that rounding to the dtype has left.
        bound += (1 + np.abs(once)) * wide(kernel.limits.eps)
        assert_within(twice, once, bound)

    @hypothesis.given(data=st.data(), eps=EPS)
    def test_constant_slices_become_zero(self, name, data, eps):
        layouts = KERNELS if name == "standardize" else ACTIVATIONS
        kernel, x = data.draw(kernels(layouts=layouts))
        first = x[
            tuple(slice(1) if axis in kernel.spanned else slice(None) for axis in range(x.ndim))
        ]
        result = run(name, kernel, np.broadcast_to(first, x.shape), eps=eps)
        assert not np.any(result)


NORM = st.floats(-3, 3).map(lambda e: 10.0**e)


def normalized(kernel, x, norm):
    with np.errstate(invalid="ignore"):  # 0 / 0 for slices of zeros, which stay zero.
        y = kernel.each_slice(functools.partial(reference.normalize, norm=wide(norm)), x)
    return np.where(np.isnan(y), 0, y)


def normalizing_bound(kernel, x, y, norm):
    """By how much rounding may change the normalized slices `y` of `x`."""
    tiny, m = wide(kernel.accumulated.tiny), kernel.largest(x)
    # Numbers below the smallest normal one count as zero, before and after they are scaled.
    flushed = np.where(m >= tiny, norm * tiny * (1 + 2 / np.where(m > 0, m, 1)), np.inf)
    return np.where(m == 0, 0, rounding_bound(kernel, y) + kernel.slice_size * flushed)


class TestNormalize:
    @hypothesis.given(kernels(), NORM)
    def test_agrees_with_the_definition(self, example, norm):
        norm = float(np.float32(norm))
        kernel, x = example
        result = run("normalize", kernel, x, norm=norm)
        y = normalized(kernel, wide(x), norm)
        assert_within(result, y, normalizing_bound(kernel, wide(x), y, norm))
        assert np.all(np.abs(result) <= norm * (1 + 2 * float(kernel.limits.eps)) + 1e-6)

    @hypothesis.given(kernels(), NORM)
    def test_twice_is_once(self, example, norm):
        norm = float(np.float32(norm))
        kernel, x = example
        once = run("normalize", kernel, x, norm=norm)
        twice = run("normalize", kernel, once.astype(x.dtype), norm=norm)
        bound = normalizing_bound(kernel, wide(x), once, norm)
        bound += normalizing_bound(kernel, once, once, norm)
        # A slice that is all but out of range, such as 1e-3 in float16, is rounded coarsely.
        coarse = np.sqrt(kernel.slice_size) * wide(kernel.limits.tiny) / norm
        assert_within(twice, once, bound + coarse * np.abs(once))


class TestParams:
    """The updates that the transforms on params make."""

    @hypothesis.given(kernels(arrays=2))
    def test_of_centralize_params(self, example):
        kernel, updates, params = example
        result = run("centralize_params", kernel, updates, params)
        stepped = wide(optax.apply_updates(params, jnp.asarray(result.astype(updates.dtype))))
        updates, params = wide(updates), wide(params)
        m = kernel.largest(updates) + kernel.largest(params)
        expected = kernel.each_slice(reference.centralize, params + updates) - params
        # Adding the update and subtracting the params is rounded, too.
        bound = centring_bound(kernel, m, expected) + 2 * wide(kernel.accumulated.eps) * m
        summable = in_range(kernel, kernel.slice_size * m)
        assert_within(result, expected, bound, where=summable & fits(kernel, expected))
        assert_means_within(kernel, stepped, mean_bound(kernel, m, eps_factor=4))

    @hypothesis.given(kernels(arrays=2), EPS)
    def test_of_standardize_params(self, example, eps):
        eps = float(np.float32(eps))
        kernel, updates, params = example
        result = run("standardize_params", kernel, updates, params, eps=eps)
        self.check(
            kernel,
            result,
            updates,
            params,
            functools.partial(standardized, eps=eps),
            functools.partial(standardizing_bound, eps=eps),
        )

    @hypothesis.given(kernels(arrays=2), NORM)
    def test_of_normalize_params(self, example, norm):
        norm = float(np.float32(norm))
        kernel, updates, params = example
        result = run("normalize_params", kernel, updates, params, norm=norm)
        self.check(
            kernel,
            result,
            updates,
            params,
            functools.partial(normalized, norm=norm),
            functools.partial(normalizing_bound, norm=norm),
        )

    @hypothesis.given(kernels(arrays=2))
    def test_of_kept_norms(self, example):
        kernel, updates, params = example
        result = run("keep_norms_of_params", kernel, updates, params)
        largest = kernel.largest(wide(params))
        norm = np.sqrt(np.sum(np.abs(wide(params)) ** 2, axis=kernel.spanned, keepdims=True))
        # Slices whose norm the dtype cannot hold have none to be kept.
        in_reach = (largest == 0) | (largest >= 2 * wide(kernel.accumulated.tiny))
        in_reach &= norm < 0.999 * wide(kernel.accumulated.max)
        self.check(
            kernel,
            result,
            updates,
            params,
            lambda kernel, x: norm * normalized(kernel, x, 1.0),
            # Twice, since the norm to be kept is rounded like the one that it replaces.
            lambda kernel, x, y: (
                np.where(in_reach, normalizing_bound(kernel, x, y, norm), np.inf)
                + rounding_bound(kernel, y)
            ),
            where=in_reach,
        )

    def check(self, kernel, result, updates, params, definition, bound_on, where=True):
        accumulated = np.result_type(params.dtype, np.float32)
        with np.errstate(over="ignore"):
            stepped = wide(params.astype(accumulated) + updates.astype(accumulated))
        whole = finite_slices(kernel, stepped)
        stepped = np.where(whole, stepped, 0)
        y = definition(kernel, stepped)
        expected = y - wide(params)
        bound = bound_on(kernel, stepped, y) + rounding_bound(kernel, expected)
        bound = np.where(whole, bound, np.inf)
        assert_within(result, expected, bound, where=where & whole & fits(kernel, expected))


@dataclasses.dataclass(frozen=True)
class Stream:
    """Sizes of a network whose embeddings a norm hands on to one kernel, and where its axes lie."""

    width: int
    outputs: int
    batch: int | None
    swapped: bool
    dtype: str

    @property
    def axes(self):
        batch = () if self.batch is None else 0
        return wcgc.KernelAxes(-1, -2, batch) if self.swapped else wcgc.KernelAxes(-2, -1, batch)

    def shape(self, *sizes):
        return sizes if self.batch is None else (self.batch, *sizes)


STREAMS = st.sampled_from(
    [
        Stream(width, outputs, batch, swapped, dtype)
        for width, outputs in ((1, 3), (2, 1), (5, 4))
        for batch, swapped in ((None, False), (None, True), (2, False), (3, True))
        for dtype in ("float32", "float64", "bfloat16")
    ]
)


def stream_outputs(params, stream, centre):
    """The kernel's outputs behind LayerNorm, or behind RMSNorm, in NumPy's widest precision."""
    x = wide(params["embed"])
    x = x - x.mean(-1, keepdims=True) if centre else x
    normed = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + wide(0.1))

    def between(leaf):
        return np.expand_dims(wide(leaf), -2)

    normed = normed * between(params["norm"]["scale"]) + between(params["norm"]["bias"])
    kernel = wide(params["head"]["kernel"])
    kernel = np.swapaxes(kernel, -1, -2) if stream.swapped else kernel
    return normed @ kernel + between(params["head"]["bias"])


@hypothesis.given(STREAMS, st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_rms_norm_does_what_layer_norm_did(stream, seed, exponent):
    rng = np.random.default_rng(seed)
    kernel_shape = (stream.width, stream.outputs)
    shapes = {
        "embed": stream.shape(7, stream.width),
        "norm": {"scale": stream.shape(stream.width), "bias": stream.shape(stream.width)},
        "head": {
            "kernel": stream.shape(*(kernel_shape[::-1] if stream.swapped else kernel_shape)),
            "bias": stream.shape(stream.outputs),
        },
    }
    params = jax.tree.map(
        lambda shape: (10.0**exponent * rng.normal(1, 1, shape)).astype(stream.dtype),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    axes = {"embed": None, "norm": None, "head": {"kernel": stream.axes, "bias": None}}
    result = wcgc.layer_norm_to_rms_norm(params, "embed", {"norm": "head"}, axes=axes)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), result) == (
        jax.tree.map(lambda x: (x.shape, x.dtype), params)
    )
    expected = stream_outputs(params, stream, centre=True)
    largest = jax.tree.map(lambda x: np.max(np.abs(wide(x))), params)
    # Rounding moves an embedding by eps times its size, its root mean square being at least the
    # root of 0.1, and the bias by eps times the sum that it takes part in.
    gain = largest["norm"]["scale"] * largest["head"]["kernel"] * stream.width
    shift = largest["norm"]["bias"] * largest["head"]["kernel"] * stream.width
    size = gain * largest["embed"] / np.sqrt(0.1) + shift + largest["head"]["bias"]
    bound = 4 * stream.width * wide(jnp.finfo(stream.dtype).eps) * size
    np.testing.assert_array_less(
        np.abs(stream_outputs(result, stream, centre=False) - expected), bound
    )


NOT_FINITE = st.sampled_from([np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("name", FUNCTIONS)
@hypothesis.given(data=st.data(), bad=NOT_FINITE)
def test_what_is_not_finite_stays_in_its_slice(name, data, bad):
    """The others do not change by a bit."""
    layouts = ACTIVATIONS if "error" in name else KERNELS
    arrays = 2 if "params" in name else 1
    kernel, *arrays = data.draw(kernels(arrays, layouts))
    place = tuple(data.draw(st.integers(0, length - 1)) for length in kernel.shape)
    spoilt = [array.copy() for array in arrays]
    data.draw(st.sampled_from(spoilt))[place] = bad
    kind, _, _ = name.partition("_")
    options = {"standardize": {"eps": 1e-10}, "normalize": {"norm": 1.0}}.get(kind, {})
    before = run_in_dtype(name, kernel, *arrays, **options)
    after = run_in_dtype(name, kernel, *spoilt, **options)
    in_slice = np.ones(kernel.shape, bool)
    for axis in set(range(len(kernel.shape))) - set(kernel.spanned):
        in_slice &= np.indices(kernel.shape)[axis] == place[axis]
    assert before[~in_slice].tobytes() == after[~in_slice].tobytes()
    assert not np.any(np.isfinite(wide(after)[in_slice]))


@st.composite
def leaves(draw):
    """Any leaf, the axes given for it, and whether it is a kernel of more than one element."""
    roles = "".join(draw(st.lists(st.sampled_from("iobs"), max_size=6)))
    shape = tuple(draw(st.sampled_from((0, 1, 2, 3))) for _ in roles)
    dtype = draw(st.sampled_from((*DTYPES, "int32", "uint8", "bool")))
    area = draw(st.sampled_from(reference.AREAS))
    if "i" in roles and "o" in roles:
        axes = layout(random.Random(draw(st.integers(0, 9))), roles)
    else:
        one_beside = wcgc.KernelAxes(batch_axis=tuple(range(len(roles) - 1)))
        axes = draw(st.sampled_from((None, one_beside)))
    mask = draw(st.booleans() | st.just(True))
    chosen = mask and dtype in DTYPES and math.prod(shape) > 0 and {"i", "o"} <= set(roles)
    if chosen:
        chosen = Kernel(shape, roles, area, dtype, ()).slice_size > 1
    return jax.ShapeDtypeStruct(shape, dtype), axes, mask, area, chosen


ON_TREES = [name for name in FUNCTIONS if "error" not in name]


@pytest.mark.parametrize("name", ON_TREES)
@hypothesis.given(leaf=leaves())
def test_a_leaf_keeps_shape_and_dtype_and_is_returned_itself_unless_chosen(name, leaf):
    spec, axes, mask, area, chosen = leaf
    tree = {"layer": [spec, None]}
    options = (("axes", {"layer": [axes, None]}), ("mask", {"layer": [mask, True]}))
    kernel = Kernel(spec.shape, "", area, str(spec.dtype), options)

    def traced(*trees):
        result = FUNCTIONS[name](kernel, *trees)
        assert (result["layer"][0] is trees[0]["layer"][0]) == (not chosen)
        return result

    assert jax.eval_shape(traced, *[tree] * (2 if "params" in name else 1)) == tree
