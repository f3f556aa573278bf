"""Network (b): ResNet-34."""

from typing import Literal, get_args

import jax
from flax import nnx

from wcgc._messages import written
from wcgc.models._blocks import DownBlock, residual_stage
from wcgc.models._layers import Dtype, Hook, Layers, Norm, check_images
from wcgc.models._pooling import max_pool

Stem = Literal["stride1", "cifar", "imagenet"]
"""What comes before the first residual block."""

STEMS: tuple[Stem, ...] = get_args(Stem)

WINDOW = 1000  # batches that running averages go back, as in dlib's ResNet example

SMALLEST_SIDE: dict[Stem, int] = {"stride1": 31, "cifar": 12, "imagenet": 67}


class ResNet34(nnx.Module):
    """ResNet-34, with dlib's blocks: network (b) of the paper.

    A stem; 3 residual blocks of 64 filters; then three times a block that halves the sides,
    followed by 3 blocks of 128, 5 of 256 and 2 of 512; global average pooling; `head`.

    The blocks follow dlib's ResNet-34. Its stem, `"imagenet"`, needs sides of 67 or more and so
    does not run on the paper's 32x32 images; which stem the paper used is not known, and the
    default is assumed:

    | stem | first convolution | then | sides of the stages at 32x32 |
    |---|---|---|---|
    | `"stride1"` | 7x7, stride 1 | max pool 3x3, stride 2 | 15, 7, 3, 1 |
    | `"cifar"` | 3x3, stride 1 | | 32, 16, 8, 4 |
    | `"imagenet"` | 7x7, stride 2 | max pool 3x3, stride 2 | |

    Args:
      classes: how many logits.
      stem: one of the above.
      norm: `"batch"`, `"layer"`, `"instance"`, or None for no normalization.
      after_layer: applied to the output of each convolution and dense layer, the head included.
      dtype: what the layers compute in, such as `jax.numpy.bfloat16`; None for the type that images
        and parameters promote to. Parameters stay float32.
      rngs: random keys for the initial kernels.

    Raises:
      ValueError: `stem` or `norm` is not one of the above.

    Example:
      >>> import jax, wcgc.models
      >>> from flax import nnx
      >>> model = nnx.eval_shape(lambda: wcgc.models.ResNet34(10, rngs=nnx.Rngs(0)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
      21123594

    References:
      Figure 1 (b) of the paper.
    """

    def __init__(
        self,
        classes: int,
        *,
        stem: Stem = "stride1",
        norm: Norm | None = "batch",
        after_layer: Hook | None = None,
        dtype: Dtype | None = None,
        rngs: nnx.Rngs,
    ):
        if stem not in STEMS:
            raise ValueError(
                f"stem must be one of {', '.join(map(repr, STEMS))}, got {written(stem)}."
            )
        layers = Layers(norm, after_layer, rngs, dtype, WINDOW)
        self.stem: Stem = stem
        if stem == "cifar":
            self.conv_stem = layers.conv(3, 64, 3)
        else:
            self.conv_stem = layers.conv(3, 64, 7, stride=2 if stem == "imagenet" else 1)
        self.norm_stem = layers.normalize(64)
        self.stage1 = residual_stage(64, 3, layers)
        self.down2 = DownBlock(64, 128, layers)
        self.stage2 = residual_stage(128, 3, layers)
        self.down3 = DownBlock(128, 256, layers)
        self.stage3 = residual_stage(256, 5, layers)
        self.down4 = DownBlock(256, 512, layers)
        self.stage4 = residual_stage(512, 2, layers)
        self.head = layers.dense(512, classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps normalized images (batch, height, width, 3) to logits (batch, classes)."""
        least = SMALLEST_SIDE[self.stem]
        check_images(
            images, f"sides of at least {least}", lambda *sides: all(n >= least for n in sides)
        )
        x = nnx.relu(self.norm_stem(self.conv_stem(images)))
        if self.stem != "cifar":
            x = max_pool(x, 3)
        blocks = [
            *self.stage1,
            *(self.down2, *self.stage2),
            *(self.down3, *self.stage3),
            *(self.down4, *self.stage4),
        ]
        for block in blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))
