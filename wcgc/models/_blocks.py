"""The residual blocks of networks (b) and (d)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from wcgc.models._layers import Layers


class ResidualBlock(nnx.Module):
    """relu(conv 3x3, norm, relu, conv 3x3, norm (x) + x)."""

    def __init__(self, features: int, layers: Layers):
        self.conv1 = layers.conv(features, features, 3)
        self.norm1 = layers.normalize(features)
        self.conv2 = layers.conv(features, features, 3)
        self.norm2 = layers.normalize(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(y + x)


class DownBlock(nnx.Module):
    """A residual block that halves height and width.

    The first convolution is 3x3 with stride 2 and no padding. The shortcut is 2x2 average pooling,
    with no projection: the sum is zero-padded where the two differ.
    """

    def __init__(self, in_features: int, features: int, layers: Layers):
        self.conv1 = layers.conv(in_features, features, 3, stride=2)
        self.norm1 = layers.normalize(features)
        self.conv2 = layers.conv(features, features, 3)
        self.norm2 = layers.normalize(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(padded_sum(y, nnx.pool(x, 0.0, lax.add, (2, 2), (2, 2), "VALID") / 4))


class UpBlock(nnx.Module):
    """A residual block that turns n pixels into 2 n + 1.

    The first transposed convolution is 3x3 with stride 2, the shortcut is a 2x2 one with stride 2
    that makes 2 n pixels: the sum is zero-padded by a row and a column.
    """

    def __init__(self, in_features: int, features: int, layers: Layers):
        self.conv1 = layers.conv_transpose(in_features, features, 3, stride=2)
        self.norm1 = layers.normalize(features)
        self.conv2 = layers.conv_transpose(features, features, 3)
        self.norm2 = layers.normalize(features)
        self.conv_shortcut = layers.conv_transpose(in_features, features, 2, stride=2)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(padded_sum(y, self.conv_shortcut(x)))


def padded_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """Adds two (batch, height, width, channels) arrays of different sizes.

    Both are first filled up with zeros at the bottom, the right and the high channels, to the
    larger of the two sizes.
    """
    larger = tuple(map(max, x.shape, y.shape))

    def fill_up(z: jax.Array) -> jax.Array:
        return jnp.pad(z, [(0, to - size) for to, size in zip(larger, z.shape, strict=True)])

    return fill_up(x) + fill_up(y)


def residual_stage(features: int, count: int, layers: Layers) -> nnx.List:
    """`count` residual blocks, one after the other."""
    return nnx.List([ResidualBlock(features, layers) for _ in range(count)])
