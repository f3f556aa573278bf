"""Networks (a) and (c): three convolutions and two dense layers."""

from collections.abc import Sequence

import jax
from flax import nnx

from wcgc.models._layers import Dtype, Hook, Layers, Norm, check_images
from wcgc.models._pooling import max_pool

SIDE = 32


class SmallNet(nnx.Module):
    """A small classifier of 32x32 images: networks (a) and (c) of the paper.

    Three times convolution 5x5, normalization if there is one, ReLU, 2x2 max pooling; then the
    penultimate dense layer `hidden` with ReLU and the output layer `head`. The paper's text gives
    no more than this outline, so the widths that `build` uses are assumed.

    Args:
      classes: how many logits.
      filters: of each of the three convolutions.
      hidden: units of the penultimate dense layer.
      norm: `"batch"`, `"layer"`, `"instance"`, or None for no normalization.
      after_layer: applied to the output of each convolution and dense layer, the head included.
      dtype: what the layers compute in, such as `jax.numpy.bfloat16`; None for the type that images
        and parameters promote to. Parameters stay float32.
      rngs: random keys for the initial kernels.

    Example:
      >>> import jax, wcgc.models
      >>> from flax import nnx
      >>> model = wcgc.models.SmallNet(10, filters=(32, 32, 64), hidden=64, rngs=nnx.Rngs(0))
      >>> model(jax.numpy.zeros((2, 32, 32, 3))).shape
      (2, 10)

    References:
      Figure 1 (a) and (c) of the paper.
    """

    def __init__(
        self,
        classes: int,
        *,
        filters: Sequence[int],
        hidden: int,
        norm: Norm | None = None,
        after_layer: Hook | None = None,
        dtype: Dtype | None = None,
        rngs: nnx.Rngs,
    ):
        layers = Layers(norm, after_layer, rngs, dtype)
        first, second, third = filters
        self.conv1 = layers.conv(3, first, 5)
        self.norm1 = layers.normalize(first)
        self.conv2 = layers.conv(first, second, 5)
        self.norm2 = layers.normalize(second)
        self.conv3 = layers.conv(second, third, 5)
        self.norm3 = layers.normalize(third)
        self.hidden = layers.dense((SIDE // 8) ** 2 * third, hidden)
        self.head = layers.dense(hidden, classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps normalized images (batch, 32, 32, 3) to logits (batch, classes)."""
        check_images(images, f"{SIDE}x{SIDE}", lambda *sides: sides == (SIDE, SIDE))
        x = max_pool(nnx.relu(self.norm1(self.conv1(images))), 2)
        x = max_pool(nnx.relu(self.norm2(self.conv2(x))), 2)
        x = max_pool(nnx.relu(self.norm3(self.conv3(x))), 2)
        x = nnx.relu(self.hidden(x.reshape(len(x), -1)))
        return self.head(x)
