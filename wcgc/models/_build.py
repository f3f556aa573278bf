"""The four networks by their letter, and which of their kernels the paper normalizes."""

import operator
from collections.abc import Callable
from typing import Any

from flax import nnx

import wcgc
from wcgc._messages import written
from wcgc.models._layers import Dtype, Hook, Norm
from wcgc.models._resnet import ResNet34, Stem
from wcgc.models._small import SmallNet
from wcgc.models._unet import ResidualUNet

LETTERS = ("a", "b", "c", "d")


def build(
    letter: str,
    classes: int,
    *,
    batch_norm: bool | None = None,
    norm: Norm | None = None,
    stem: Stem | None = None,
    after_layer: Hook | None = None,
    dtype: Dtype | None = None,
    rngs: nnx.Rngs,
) -> SmallNet | ResNet34 | ResidualUNet:
    """Makes one of the paper's networks (a) to (d).

    Kernels start uniform by formula 16, biases at zero. Batch normalization has epsilon 1e-4; its
    running averages are plain averages over all batches so far, and moving ones behind the 100th,
    of (b) and (d) behind the 1000th. Images go in as floating (batch, height, width, 3), already
    normalized; logits come out.

    Args:
      letter: `"a"`, a small network; `"b"`, ResNet-34; `"c"`, a small network of the classical
        kind; `"d"`, a residual U-Net that labels pixels.
      classes: how many classes.
      batch_norm: whether batch normalization follows the convolutions; None for what Figure 1
        has, which is True for all but (c). (c) has no place for it.
      norm: the normalization instead of batch normalization: `"layer"` (Eq. 6) or `"instance"`
        (Eq. 7); `"batch"` means `batch_norm=True`.
      stem: the beginning of (b), see `ResNet34`; None for `"stride1"`.
      after_layer: a function applied to the output of each convolution and dense layer, for
        example `functools.partial(wcgc.centralize_error, area="sample")`.
      dtype: what the layers compute in, such as `jax.numpy.bfloat16`; None for the type that images
        and parameters promote to. Parameters stay float32.
      rngs: random keys for the initial kernels; the same seed gives the same kernels.

    Returns:
      The network, in training mode: `model.eval()` makes batch normalization use its running
      statistics.

    Raises:
      TypeError: an argument is of the wrong type.
      ValueError: there is no such network, or it has no such choice.

    Example:
      >>> import jax, wcgc.models
      >>> from flax import nnx
      >>> model = wcgc.models.build("a", 10, batch_norm=False, rngs=nnx.Rngs(0))
      >>> model(jax.numpy.zeros((2, 32, 32, 3))).shape
      (2, 10)

    References:
      Section 4 and Figure 1 of the paper. The widths of (a) and (c) and the stem of (b) are
      assumed: the figure does not tell them.
    """
    if letter not in LETTERS:
        raise ValueError(
            f"letter must be one of {', '.join(map(repr, LETTERS))}, got {written(letter)}."
        )
    if stem is not None and letter != "b":
        raise ValueError(
            f"stem={stem!r} is a choice of network 'b' only; leave it out for {letter!r}."
        )
    classes = _positive(classes)
    norm = _choose_norm(letter, batch_norm, norm)
    common: dict[str, Any] = {
        "norm": norm,
        "after_layer": after_layer,
        "dtype": dtype,
        "rngs": rngs,
    }
    if letter == "a":
        return SmallNet(classes, filters=(32, 32, 64), hidden=64, **common)
    if letter == "b":
        return ResNet34(classes, stem="stride1" if stem is None else stem, **common)
    if letter == "c":
        return SmallNet(classes, filters=(32, 64, 128), hidden=512, **common)
    return ResidualUNet(classes, **common)


def rules(fully: bool = False) -> Callable[[Any], Any]:
    """The kernels that the paper normalizes, as an `axes` argument for all of `wcgc`.

    These are the kernels of all convolutions, transposed ones too; with `fully` also that of the
    penultimate dense layer, which (a) and (c) have. Never the output layer, biases, or the scales
    of a normalization.

    Args:
      fully: whether to add the penultimate dense layer, the "fully" of Tables 3 and 4.

    Returns:
      A callable from parameters to their axes, made with `wcgc.by_path`. It goes by the layers'
      names, `conv*`, `hidden` and `head`, and so fits your own network if it has the same.

    Example:
      >>> import jax, optax, wcgc.models
      >>> from flax import nnx
      >>> model = wcgc.models.build("c", 10, rngs=nnx.Rngs(0))
      >>> tx = wcgc.centralized(optax.adam(1e-3), axes=wcgc.models.rules(fully=True))
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    References:
      Section 6 of the paper, on Tables 3 and 5.
    """
    layers = r"conv[^/]*|hidden" if fully else r"conv[^/]*"
    return wcgc.by_path((rf"(^|/)({layers})/kernel$", wcgc.KernelAxes(in_axis=-2, out_axis=-1)))


def _positive(classes: int) -> int:
    if isinstance(classes, bool):
        raise TypeError(f"classes must be an integer, got {written(classes)}.")
    try:
        count = operator.index(classes)
    except TypeError:
        raise TypeError(f"classes must be an integer, got {written(classes)}.") from None
    if count < 1:
        raise ValueError(f"classes must be at least 1, got {written(classes)}.")
    return count


def _choose_norm(letter: str, batch_norm: bool | None, norm: Norm | None) -> Norm | None:
    """Reads `batch_norm` and `norm` together."""
    if batch_norm not in (None, True, False):
        raise TypeError(f"batch_norm must be True, False or None, got {batch_norm!r}.")
    if letter == "c":
        if batch_norm or norm is not None:
            raise ValueError(
                "Network 'c' has no normalization by definition, got "
                f"batch_norm={batch_norm!r}, norm={norm!r}. Leave both out, or build 'a'."
            )
        return None
    if norm is None:
        return None if batch_norm is False else "batch"
    if batch_norm is not None and batch_norm != (norm == "batch"):
        raise ValueError(
            f"batch_norm={batch_norm!r} contradicts norm={norm!r}; leave one of them out."
        )
    return norm
