"""The layers that the paper's networks are made of, with the conventions of its framework, dlib."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from wcgc._messages import written
from wcgc.models._conv_transpose import conv_transpose

Norm = Literal["batch", "layer", "instance"]
"""Batch, layer or instance normalization: Eqs. 5, 6 and 7 of the paper."""

NORMS: tuple[Norm, ...] = get_args(Norm)

Hook = Callable[[jax.Array], jax.Array]
"""What is done to the output of each convolution and dense layer."""

Dtype = jax.typing.DTypeLike
"""What layers compute in."""

EPSILON = 1e-4

WINDOW = 100
"""Batches that a running average of batch normalization goes back, where nothing else is said."""


def formula_16(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Draws a kernel from U(-b, b) with b = sqrt(6 / (inputs + filters)).

    `inputs` counts what one output unit sums over: height * width * input channels of a
    convolution. `filters` counts output channels, not times the kernel's area as in
    `jax.nn.initializers.glorot_uniform`, whose bound is smaller for every kernel above 1x1.
    Transposed convolutions count the same way.

    Args:
      key: a random key.
      shape: (..., in, out), of a convolution, a transposed convolution or a dense layer.
      dtype: of the result.

    Returns:
      An array of `shape`.

    Example:
      >>> import jax
      >>> kernel = formula_16(jax.random.key(0), (3, 3, 64, 64))
      >>> print(f"{abs(kernel).max():.4f}")  # sqrt(6 / (3 * 3 * 64 + 64))
      0.0968

    References:
      Glorot and Bengio (2010), formula 16, as dlib counts; named in Section 5 of the paper.
    """
    *inputs, filters = shape
    bound = math.sqrt(6 / (math.prod(inputs) + filters))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Conv(nnx.Conv):
    """A 2-D convolution followed by a hook.

    Stride 1 keeps height and width (padding k // 2 on each side, odd k); larger strides pad
    nothing.
    """

    def __init__(
        self, in_features: int, filters: int, size: int, stride: int, hook: Hook, **options: Any
    ):
        super().__init__(
            in_features,
            filters,
            (size, size),
            strides=stride,
            padding=size // 2 if stride == 1 else 0,
            kernel_init=formula_16,
            **options,
        )
        self.hook = hook

    def __call__(self, inputs):
        return self.hook(super().__call__(inputs))


class ConvTranspose(nnx.ConvTranspose):
    """A 2-D transposed convolution followed by a hook.

    n pixels become stride * (n - 1) + k - 2 * padding, with the padding of `Conv`. The kernel is
    (y, x, in, out), as a convolution's, so one rule for the axes fits both.
    """

    def __init__(
        self, in_features: int, filters: int, size: int, stride: int, hook: Hook, **options: Any
    ):
        super().__init__(
            in_features,
            filters,
            (size, size),
            strides=stride,
            # JAX pads the dilated input: with k - 1 zeros where nothing is cut off the output.
            padding=size - 1 - (size // 2 if stride == 1 else 0),
            transpose_kernel=False,
            kernel_init=formula_16,
            **options,
        )
        self.hook = hook

    def __call__(self, inputs):
        inputs, kernel, bias = self.promote_dtype(
            (inputs, self.kernel[...], self.bias[...]), dtype=self.dtype
        )
        return self.hook(conv_transpose(inputs, kernel, self.strides, self.padding) + bias)


class Dense(nnx.Linear):
    """A dense layer followed by a hook."""

    def __init__(self, in_features: int, out_features: int, hook: Hook, **options: Any):
        super().__init__(in_features, out_features, kernel_init=formula_16, **options)
        self.hook = hook

    def __call__(self, inputs, *args, **kwargs):
        return self.hook(super().__call__(inputs, *args, **kwargs))


class BatchNorm(nnx.BatchNorm):
    """Batch normalization whose running averages are right from the first batch on, as in dlib.

    Behind n batches the next one weighs 1 / (n + 1): a plain average. Behind `window` batches and
    more it weighs 1 / (window + 1): a moving average.
    """

    def __init__(self, features: int, window: int, **options: Any):
        # Without momentum, Flax stores each batch's own statistics, to be averaged here.
        super().__init__(features, momentum=0.0, **options)
        self.window = window
        self.count = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x, use_running_average: bool | None = None, **options: Any):
        mean, var = self.mean[...], self.var[...]
        y = super().__call__(x, use_running_average, **options)
        if use_running_average is None:
            use_running_average = self.use_running_average
        if not use_running_average:
            weight = 1 / (self.count[...] + 1)
            for average, before in ((self.mean, mean), (self.var, var)):
                average[...] = before + weight.astype(before.dtype) * (average[...] - before)
            self.count[...] = jnp.minimum(self.count[...] + 1, self.window)
        return y


@dataclasses.dataclass(frozen=True)
class Layers:
    """Makes the layers of one network, which share normalization, hook, type and random keys.

    Attributes:
      norm: which normalization follows the convolutions; None for none.
      after_layer: applied to the output of each convolution and dense layer; None for nothing.
      rngs: where the initial kernels' keys come from.
      dtype: what the layers compute in; None for what inputs and parameters promote to.
      window: batches that the running averages of batch normalization go back.
    """

    norm: Norm | None
    after_layer: Hook | None
    rngs: nnx.Rngs
    dtype: Dtype | None = None
    window: int = WINDOW

    def __post_init__(self):
        if self.norm is not None and self.norm not in NORMS:
            raise ValueError(
                f"norm must be one of {', '.join(map(repr, NORMS))} or None, "
                f"got {written(self.norm)}."
            )
        if self.after_layer is not None and not callable(self.after_layer):
            raise TypeError(
                "after_layer must be a function from an array to an array, or None, "
                f"got {written(self.after_layer)}."
            )
        if not isinstance(self.rngs, nnx.Rngs):
            raise TypeError(
                f"rngs must be an nnx.Rngs such as nnx.Rngs(0), got {written(self.rngs)}."
            )
        if self.dtype is not None:
            _check_dtype(self.dtype)

    @property
    def _hook(self) -> Hook:
        return _identity if self.after_layer is None else self.after_layer

    @property
    def _options(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "rngs": self.rngs}

    def conv(self, in_features: int, filters: int, size: int, stride: int = 1) -> Conv:
        return Conv(in_features, filters, size, stride, self._hook, **self._options)

    def conv_transpose(
        self, in_features: int, filters: int, size: int, stride: int = 1
    ) -> ConvTranspose:
        return ConvTranspose(in_features, filters, size, stride, self._hook, **self._options)

    def dense(self, in_features: int, out_features: int) -> Dense:
        return Dense(in_features, out_features, self._hook, **self._options)

    def normalize(self, features: int) -> Callable[[jax.Array], jax.Array]:
        options = {"epsilon": EPSILON, **self._options}
        if self.norm == "batch":
            return BatchNorm(features, self.window, **options)
        if self.norm == "layer":
            return nnx.LayerNorm(features, reduction_axes=(1, 2, 3), **options)
        if self.norm == "instance":
            return nnx.InstanceNorm(features, **options)
        return _identity


def check_images(images: jax.Array, sides: str, fits: Callable[[int, int], bool]) -> None:
    """Rejects images that are not floating (batch, height, width, 3) with sides that fit."""
    shape = jnp.shape(images)
    if len(shape) != 4 or shape[-1] != 3 or not fits(*shape[1:3]):
        raise ValueError(
            f"images must have the shape (batch, height, width, 3), {sides}, got {shape}."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images must be floating and normalized, got {images.dtype}. Convert them first, "
            "for example (images - mean) / 256."
        )


def _check_dtype(dtype: Dtype) -> None:
    wanted = (
        f"dtype must be a floating type such as jax.numpy.bfloat16, or None, got {written(dtype)}."
    )
    try:
        is_floating = jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        raise TypeError(wanted) from None
    if not is_floating:
        raise ValueError(wanted)


def _identity(x: jax.Array) -> jax.Array:
    return x
