"""What one layout for several leaves cannot vouch for, and therefore leaves alone."""

import collections
import math
import re
import sys
from typing import Any

from wcgc._axes import KernelAxes, LeftAlone, Shape
from wcgc._lookup import Entry
from wcgc._paths import Key, is_array, nodes, parts_of, path_of

NO_KERNELS = (
    "bias",
    "biases",
    "bias_n",
    "b",
    "offset",
    "beta",
    "scale",
    "scales",
    "gamma",
    "alpha",
    "negative_slope",
    "embedding",
    "embeddings",
    "embed",
    "emb",
    "table",
    "wte",
    "wpe",
    "token",
    "cls",
    "mean",
    "var",
    "variance",
)
"""Names of what is no kernel: those that Flax, Haiku, Equinox and Keras give, and their like.

A parameter has such a name if the last part of its path is one of these, or ends with one after an
underscore, as `pos_embedding`, `cls_token` and `moving_mean` do. Haiku's `b` counts beside a `w`
alone: `lora_b` is a kernel, and so is the `b` of a pair.
"""

WORDS = frozenset(NO_KERNELS) - {"b"}
BIASES = ("bias", "b")
KERNELS_BESIDE_B = ("w", "w_i")
SCALES = ("scale", "gamma", "offset", "beta")
TABLES = frozenset({"embedding", "embeddings", "embed", "emb", "wte", "wpe", "bias"})

WIDEST = 11
"""The longest window that a kernel is taken to have of which no bias tells."""

TRANSPOSED = re.compile(r"conv\w*d_transpose(_\d+)?")
"""How Haiku and Keras name the layers of transposed convolutions, whose kernels are (..., out, in).
In Flax, these are (..., in, out) by default, and the names are others."""

DEPTHWISE = re.compile(r"depthwise_conv[123]d(_\d+)?")
"""How Keras names depthwise layers, whose kernels are (..., channel, multiplier). Haiku's, which
are (..., 1, out), it names `depthwise_conv2_d`."""

OF_EQUINOX = "Equinox's layout is (out, in, ...)"


def vouched(
    tree: Any, leaves: list[tuple[Key, Any]], entries: dict[Key, Entry]
) -> dict[Key, Entry]:
    """The entries, with a `LeftAlone` for each leaf that its layout cannot vouch for.

    What the layout takes though its shape fits another one as well is marked as guessed.
    """
    layouts = {
        key: entry.value
        for key, entry in entries.items()
        if entry.is_layout and isinstance(entry.value, KernelAxes)
    }
    if not layouts:
        return entries
    shapes = {key: tuple(leaf.shape) for key, leaf in leaves if is_array(leaf)}
    places = {parts_of(key) for key in shapes}
    layers, equinox_kernels = _equinox_parameters(tree)
    alone: dict[Key, Entry] = {}
    guessed: dict[Key, Entry] = {}
    for key, axes in layouts.items():
        if key in layers:
            alone[key] = _alone(f"{key[-1]} of {type(layers[key]).__name__}")
        elif _names_no_kernel(parts_of(key), places):
            alone[key] = _alone(f"named {parts_of(key)[-1]!r}")
        elif key not in equinox_kernels and _is_table(parts_of(key), shapes.get(key, ()), places):
            alone[key] = _alone(f"weight of {parts_of(key)[-2]!r}")
        elif (axes.in_axis, axes.out_axis) != (-2, -1):
            continue
        elif key in equinox_kernels:
            alone[key] = _alone(OF_EQUINOX, doubted=True)
        elif layout := _layout_by_name(parts_of(key)):
            alone[key] = _alone(layout, doubted=True)
    kernels = [
        key for key in layouts if key not in alone and key in shapes and len(shapes[key]) > 1
    ]
    # A dictionary may have whole paths for keys, as Keras's variables give them.
    of_layer = collections.Counter(parts_of(key)[:-1] for key in kernels)
    biases = {
        parts_of(key)[:-1]: shape for key, shape in shapes.items() if parts_of(key)[-1] in BIASES
    }
    stacks = _stacks(shapes, layers)
    for key in kernels:
        try:
            in_axes, out_axes, batch_axes, spatial_axes = layouts[key].resolve(len(shapes[key]))
        except ValueError:
            continue  # These axes are refused where they are used.
        layer = parts_of(key)[:-1]
        bias = biases.get(layer) if of_layer[layer] == 1 else None
        if bias is not None and not _fits(bias, shapes[key], out_axes + batch_axes):
            alone[key] = _alone(f"its bias {bias} fits other axes", doubted=True)
        elif norm := _norm_of_stack(key, shapes[key], batch_axes, stacks):
            alone[key] = _alone(f"stacked as {path_of(norm)!r} is", doubted=True)
        elif key and bias is None and key not in equinox_kernels:
            window, inputs, outputs = (
                [shapes[key][axis] for axis in axes] for axes in (spatial_axes, in_axes, out_axes)
            )
            is_guess = not _is_convolution(window, inputs, outputs)
            guessed[key] = entries[key]._replace(guessed=is_guess)
    return entries | alone | guessed


def _alone(reason: str, doubted: bool = False) -> Entry:
    return Entry(LeftAlone(reason), doubted=doubted)


def _equinox_parameters(tree: Any) -> tuple[dict[Key, Any], set[Key]]:
    """The parameters of Equinox's layers that are no kernels, with their layers; and its kernels.

    Their names do not tell: the scale of a norm and an embedding are called `weight` as well.
    """
    eqx = sys.modules.get("equinox")
    if eqx is None:
        return {}, set()
    nn = eqx.nn
    others = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm, nn.Embedding)
    linear = (nn.Linear, nn.Conv, nn.ConvTranspose, nn.GRUCell, nn.LSTMCell)
    layers: dict[Key, Any] = {}
    kernels: set[Key] = set()
    for key, layer in nodes(tree, others + linear):
        if isinstance(layer, others):
            layers |= {(*key, name): layer for name in ("weight", "bias")}
        else:
            kernels |= {(*key, name) for name in ("weight", "weight_ih", "weight_hh")}
    return layers, kernels


def _names_no_kernel(parts: Key, places: set[Key]) -> bool:
    name = parts[-1]
    if name == "b":
        return any((*parts[:-1], kernel) in places for kernel in KERNELS_BESIDE_B)
    return name in NO_KERNELS or name.rpartition("_")[2] in WORDS


def _is_table(parts: Key, shape: Shape, places: set[Key]) -> bool:
    """Whether it is the table of an embedding, by the name of its layer: `weight` tells nothing.

    A layer with a bias is none.
    """
    if len(shape) != 2 or len(parts) < 2 or parts[-1] != "weight":
        return False
    if (*parts[:-1], "bias") in places:
        return False
    return not TABLES.isdisjoint(parts[-2].lower().split("_"))


def _layout_by_name(parts: Key) -> str:
    """The layout of a layer whose name tells that it is not (..., in, out); nothing for others."""
    layer = parts[-2] if len(parts) > 1 else ""
    if TRANSPOSED.fullmatch(layer):
        return "transposed convolutions of Haiku and Keras are (..., out, in)"
    if DEPTHWISE.fullmatch(layer) or parts[-1] == "depthwise_kernel":
        return "depthwise kernels of Keras are (..., channel, multiplier)"
    return ""


def _is_convolution(window: list[int], inputs: list[int], outputs: list[int]) -> bool:
    """Whether these are likely the lengths of a convolution's axes, and not of stacked layers.

    One length alone may be that of anything, and one output for several inputs is that of Keras's
    depthwise kernels. Without a window there is nothing to mistake.
    """
    if all(size == 1 for size in window):
        return True
    if math.prod(outputs) == 1 < math.prod(inputs):
        return False
    if len(window) == 1 or max(window) > WIDEST:
        return False
    return len(set(window)) == 1 or all(size % 2 for size in window)


def _fits(bias: Shape, kernel: Shape, out_axes: tuple[int, ...]) -> bool:
    """Whether a layer of this kernel has such a bias: one number per output, of all batches."""
    if len(bias) >= len(kernel):
        longer = tuple(size for size in bias if size > 1)
        if len(longer) > 1:
            # Keras's GRU has two biases in one array. They tell nothing of a kernel that has all
            # other axes for outputs or batches.
            return len(kernel) == len(out_axes) + 1
        bias = longer or (1,)
    wanted = tuple(kernel[axis] for axis in sorted(out_axes))
    if len(kernel) == 2:  # There is nothing to mistake but the order.
        return bias == wanted or bias not in ((kernel[0],), (kernel[1],))
    # Equinox keeps the bias of a convolution as (out, 1, 1).
    same = [size for size in bias if size != 1] == [size for size in wanted if size != 1]
    return same or bias == (math.prod(wanted),)


def _stacks(shapes: dict[Key, Shape], layers: dict[Key, Any]) -> dict[tuple[str, Shape], Key]:
    """The axes of stacked layers that lead in the parameters of norms.

    By the part of the model and the lengths of these axes, with the first norm that shows them.
    """
    stacks: dict[tuple[str, Shape], Key] = {}
    for key, shape in shapes.items():
        if key in layers:
            of_one_layer = max(1, len(getattr(layers[key], "shape", ())))
        elif parts_of(key)[-1] in SCALES:
            of_one_layer = 1
        else:
            continue
        if len(shape) > of_one_layer:
            stacks.setdefault((_part_of_model(key), shape[: len(shape) - of_one_layer]), key)
    return stacks


def _norm_of_stack(
    key: Key, shape: Shape, batch_axes: tuple[int, ...], stacks: dict[tuple[str, Shape], Key]
) -> Key | None:
    """The norm that shows this kernel's leading axes to be stacked, if its axes do not say so."""
    for count in range(1, len(shape) - 1):
        norm = stacks.get((_part_of_model(key), shape[:count]))
        if norm is not None and not set(range(count)) <= set(batch_axes):
            return norm
    return None


def _part_of_model(key: Key) -> str:
    """The first part of the path, less Linen's `params`; empty for a leaf that has no other."""
    above = parts_of(key)[:-1]
    return next((part for part in above if part != "params"), "")
