"""Network (d): a residual U-Net for segmentation."""

import jax
import jax.numpy as jnp
from flax import nnx

from wcgc.models._blocks import DownBlock, UpBlock, residual_stage
from wcgc.models._layers import Dtype, Hook, Layers, Norm, check_images
from wcgc.models._pooling import max_pool

SMALLEST_SIDE = 67

WINDOW = 1000  # batches that running averages go back, as in dlib's segmentation example


class ResidualUNet(nnx.Module):
    """A residual network with U-connections for segmentation: network (d) of the paper.

    Assumed to be dlib's residual segmentation network with U-connections, layer by layer:

    | layers | joined behind | filters x side at 227 |
    |---|---|---|
    | `conv_stem` 7x7, stride 2 | | 64x111 |
    | max pool 3x3, stride 2; `stage1`, 3 residual blocks | | 64x55 |
    | `down2`; `stage2`, 2 residual blocks | | 128x27 |
    | `down3`; `stage3`, 2 residual blocks | | 256x13 |
    | `down4`; `stage4`, 2 residual blocks | | 512x6 |
    | `up4`; `up_stage4`, 2 residual blocks | `stage3` | 768x13 |
    | `up3`; `up_stage3`, 2 residual blocks | `stage2` | 384x27 |
    | `up2`; `up_stage2`, 2 residual blocks | `stage1` | 192x55 |
    | `up1`; `up_stage1`, 2 residual blocks | `conv_stem` | 128x111 |
    | `conv_out`, transposed 7x7, stride 2 | | 64x227 |
    | `head`, transposed 1x1 | | classes x 227 |

    The output has the height and width of the images. Sides of 67, 99, ..., 227, 259, ... (steps
    of 32) fit every connection exactly; at others each encoder tensor is resized (bilinear) to the
    decoder tensor that it is joined with, and at last the logits to the images.

    Args:
      classes: how many logits a pixel has; 21 for VOC2012 with its background.
      norm: `"batch"`, `"layer"`, `"instance"`, or None for no normalization.
      after_layer: applied to the output of each convolution, the head included.
      dtype: what the layers compute in, such as `jax.numpy.bfloat16`; None for the type that images
        and parameters promote to. Parameters stay float32.
      rngs: random keys for the initial kernels.

    Raises:
      ValueError: `norm` is not one of the above.

    Example:
      >>> import jax, wcgc.models
      >>> from flax import nnx
      >>> images = jax.ShapeDtypeStruct((10, 227, 227, 3), jax.numpy.float32)
      >>> model = nnx.eval_shape(lambda: wcgc.models.ResidualUNet(21, rngs=nnx.Rngs(0)))
      >>> nnx.eval_shape(lambda model, images: model(images), model, images).shape
      (10, 227, 227, 21)

    References:
      Figure 1 (d) of the paper.
    """

    def __init__(
        self,
        classes: int,
        *,
        norm: Norm | None = "batch",
        after_layer: Hook | None = None,
        dtype: Dtype | None = None,
        rngs: nnx.Rngs,
    ):
        layers = Layers(norm, after_layer, rngs, dtype, WINDOW)
        self.conv_stem = layers.conv(3, 64, 7, stride=2)
        self.norm_stem = layers.normalize(64)
        self.stage1 = residual_stage(64, 3, layers)
        self.down2 = DownBlock(64, 128, layers)
        self.stage2 = residual_stage(128, 2, layers)
        self.down3 = DownBlock(128, 256, layers)
        self.stage3 = residual_stage(256, 2, layers)
        self.down4 = DownBlock(256, 512, layers)
        self.stage4 = residual_stage(512, 2, layers)
        self.up4 = UpBlock(512, 512, layers)
        self.up_stage4 = residual_stage(512, 2, layers)
        self.up3 = UpBlock(256 + 512, 256, layers)
        self.up_stage3 = residual_stage(256, 2, layers)
        self.up2 = UpBlock(128 + 256, 128, layers)
        self.up_stage2 = residual_stage(128, 2, layers)
        self.up1 = UpBlock(64 + 128, 64, layers)
        self.up_stage1 = residual_stage(64, 2, layers)
        self.conv_out = layers.conv_transpose(64 + 64, 64, 7, stride=2)
        self.norm_out = layers.normalize(64)
        self.head = layers.conv_transpose(64, classes, 1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps normalized images (batch, height, width, 3) to logits, one per class and pixel."""
        check_images(
            images,
            f"sides of at least {SMALLEST_SIDE}",
            lambda *sides: all(side >= SMALLEST_SIDE for side in sides),
        )
        skip1 = nnx.relu(self.norm_stem(self.conv_stem(images)))
        skip2 = _run(self.stage1, max_pool(skip1, 3))
        skip3 = _run(self.stage2, self.down2(skip2))
        skip4 = _run(self.stage3, self.down3(skip3))
        x = _run(self.stage4, self.down4(skip4))
        x = _join(skip4, _run(self.up_stage4, self.up4(x)))
        x = _join(skip3, _run(self.up_stage3, self.up3(x)))
        x = _join(skip2, _run(self.up_stage2, self.up2(x)))
        x = _join(skip1, _run(self.up_stage1, self.up1(x)))
        logits = self.head(nnx.relu(self.norm_out(self.conv_out(x))))
        return _resize(logits, images)


def _run(blocks: nnx.List, x: jax.Array) -> jax.Array:
    for block in blocks:
        x = block(x)
    return x


def _join(encoder: jax.Array, decoder: jax.Array) -> jax.Array:
    return jnp.concatenate([_resize(encoder, decoder), decoder], axis=-1)


def _resize(x: jax.Array, like: jax.Array) -> jax.Array:
    if x.shape[1:3] == like.shape[1:3]:
        return x
    return jax.image.resize(x, (len(x), *like.shape[1:3], x.shape[-1]), "bilinear")
