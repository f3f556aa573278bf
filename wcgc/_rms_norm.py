"""From a pre-LayerNorm network's parameters to those of the same network with RMSNorm."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from wcgc._annotations import Axes
from wcgc._arrays import centralized_array, widened
from wcgc._axes import FLAX, KernelAxes, Shape
from wcgc._messages import listed, quoted
from wcgc._paths import Key, flatten, is_array, path_of, shown
from wcgc._roles import Norm, Rules, assign
from wcgc._selection import as_array, select

SCALES = ("scale", "weight", "gamma")
BIASES = ("bias", "offset", "beta", "b")
"""What Flax, Haiku, Equinox and Keras call the parameters of LayerNorm and of what reads it."""


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One parameter, and the axes that `axes` gives it, None if it is no kernel."""

    path: str
    value: jax.Array
    axes: KernelAxes | None

    @property
    def shape(self) -> Shape:
        return self.value.shape

    @property
    def feature_axes(self) -> tuple[int, ...]:
        """The outputs of a kernel, the last axis of what is none: a bias or an embedding."""
        last = (self.value.ndim - 1,)
        return last if self.axes is None else self.axes.resolve(self.value.ndim)[1]


Leaves = Mapping[Key, _Leaf]


def layer_norm_to_rms_norm(
    params: Any,
    writers: Rules,
    norms: Mapping[str, str],
    others: Rules = (),
    *,
    axes: Axes = FLAX,
) -> Any:
    r"""Changes a pre-LayerNorm network's parameters so that RMSNorm does what LayerNorm did.

    In a pre-LayerNorm network each layer adds its output to the residual stream, :math:`x
    \leftarrow x + f(LayerNorm(x))`, and only LayerNorms read the stream. They do not see the mean
    of x over its features. So what writes to the stream may write with mean zero: each such
    kernel, bias and embedding is centred over its output features. Then x has mean zero, where
    LayerNorm with the scale :math:`\gamma` and bias :math:`\beta` is RMSNorm with the scale
    :math:`\gamma`, plus :math:`\beta`. The latter goes into the biases b of the kernels W that
    read the norm: :math:`b \leftarrow b + \beta W`.

    The result computes the same function up to rounding in two networks: the one it comes from,
    and that with RMSNorm in place of each LayerNorm, with the same epsilon. It does so at any time
    in training, but the two networks train differently from there on.

    Rules say which parameter does what. They are regular expressions, searched for in the leaf's
    path, written `blocks/0/norm1/scale` as in `by_path`. Each leaf must have one role.

    .. warning::
      Parameters do not tell a post-LayerNorm network, :math:`x \leftarrow LayerNorm(x + f(x))`,
      from a pre-LayerNorm one. Compare the logits of both networks on one batch.

    Args:
      params: the parameters, in any containers. What is not a floating array is left alone.
      writers: the rule or rules for all that adds to the residual stream: embeddings, also of
        positions, and the kernels and biases of each block's last layers.
      norms: from a rule for the scale and bias of LayerNorms to one for the kernels and biases that
        read their output. The latter is matched from the start of the path and may hold the
        former's groups: `{r"(.*)/norm2": r"\1/mlp/up"}`.
      others: the rule or rules for leaves that neither write to the stream nor read a norm that is
        named, such as those of layers in the middle of a block.
      axes: which axis is what in kernels; see `centralize`. A leaf that is given none has its
        features on its last axis.

    Returns:
      A tree of the same structure, shapes and dtypes. The biases of the norms are zero, since
      RMSNorm has none.

    Raises:
      TypeError: a rule is not a string, or as `centralize`.
      ValueError: naming the leaves: one has no role or several; one both writes and reads, as a
        tied output embedding does; a norm's bias has no bias to go to; a norm is not as wide as the
        stream, and so does not read it; a kernel reads a norm through spatial axes. Or a rule
        matches nothing or is no regular expression.

    Example:
      >>> import jax.numpy as jnp, wcgc
      >>> params = {
      ...     "embed": jnp.array([[1., 3.], [0., 4.]]),
      ...     "norm": {"scale": jnp.ones(2), "bias": jnp.array([1., 2.])},
      ...     "head": {"kernel": jnp.array([[5.], [6.]]), "bias": jnp.zeros(1)},
      ... }
      >>> rms_params = wcgc.layer_norm_to_rms_norm(params, "embed", {"norm/": "head/"})
      >>> rms_params["embed"]
      Array([[-1.,  1.],
             [-2.,  2.]], dtype=float32)
      >>> rms_params["norm"]["bias"], rms_params["head"]["bias"]
      (Array([0., 0.], dtype=float32), Array([17.], dtype=float32))

    References:
      Jiang et al., `Pre-RMSNorm and Pre-CRMSNorm Transformers
      <https://arxiv.org/abs/2305.14858>`_, 2023.
    """
    chosen, treedef = select(params, "global", axes)
    leaves = {
        leaf.key: _Leaf(shown(path_of(leaf.key)), as_array(leaf.key, leaf.value), leaf.kernel_axes)
        for leaf in chosen
        if is_array(leaf.value) and jnp.issubdtype(leaf.value.dtype, jnp.inexact)
    }
    written, found = assign(leaves, writers, norms, others)
    width = _width([leaves[key] for key in written])
    new = {key: _centred(leaves[key]) for key in written}
    for norm in found:
        new |= _folded(norm, leaves, width)
    return treedef.unflatten([new.get(key, value) for key, value in flatten(params)[0]])


def _width(writers: list[_Leaf]) -> int:
    """How many features the stream has."""
    for leaf in writers:
        if leaf.value.ndim == 0:
            raise ValueError(f"{leaf.path!r} is a scalar, which cannot write to the stream.")
    if not writers:
        raise ValueError("writers must name what adds to the residual stream, got no rule.")
    first, *rest = writers
    width = _length(first.shape, first.feature_axes)
    for leaf in rest:
        other = _length(leaf.shape, leaf.feature_axes)
        if other != width:
            raise ValueError(
                f"{leaf.path!r} of shape {leaf.shape} writes {other} features, but {first.path!r} "
                f"of shape {first.shape} writes {width}. Mend writers or axes."
            )
    return width


def _centred(leaf: _Leaf) -> jax.Array:
    return centralized_array(widened(leaf.value), leaf.feature_axes).astype(leaf.value.dtype)


def _folded(norm: Norm, leaves: Leaves, width: int) -> dict[Key, jax.Array]:
    """The new values of the norm's bias and of its readers' biases."""
    for key in norm.leaves:
        leaf = leaves[key]
        if key[-1] not in (*SCALES, *BIASES):
            raise ValueError(f"{leaf.path!r} is neither the scale nor the bias of a LayerNorm.")
        if leaf.shape[-1:] != (width,):
            raise ValueError(
                f"{leaf.path!r} has shape {leaf.shape}, but the stream has {width} features: the "
                "norm does not read it. Norms inside of a block, as of queries, belong to others."
            )
    readers: dict[Key, list[Key]] = {}
    for key in norm.readers:
        readers.setdefault(key[:-1], []).append(key)
    shifts = [key for key in norm.leaves if key[-1] in BIASES]
    new = {key: jnp.zeros_like(leaves[key].value) for key in shifts}
    for module, keys in readers.items():
        kernels = [key for key in keys if key[-1] not in BIASES]
        biases = [key for key in keys if key[-1] in BIASES]
        if len(kernels) != 1:
            raise ValueError(
                f"{quoted(module)}, which reads {quoted(norm.key)}, must hold one kernel, "
                f"but its rule matches {_listed(kernels)}."
            )
        rows = _rows(leaves[kernels[0]], width)
        for shift in shifts:
            if len(biases) != 1:
                raise ValueError(
                    f"{quoted(shift)} must go into one bias of {quoted(module)}, but the "
                    f"rule for what reads it matches {_listed(biases)}. Give {_listed(kernels)} a "
                    "bias of zeros if it has none."
                )
            new[biases[0]] = _shifted(leaves[biases[0]], leaves[shift], rows)
    return new


def _listed(keys: Iterable[Key]) -> str:
    return listed(map(quoted, keys), none="no leaf")


def _rows(kernel: _Leaf, width: int) -> jax.Array:
    """The kernel as (batch, inputs, outputs)."""
    shape = kernel.shape
    inputs, outputs, batch, spatial = (
        ((), (), (), ()) if kernel.axes is None else kernel.axes.resolve(len(shape))
    )
    if _length(shape, inputs) != width or _length(shape, spatial) != 1:
        raise ValueError(
            f"{kernel.path!r} of shape {shape} must read the {width} features of a norm and "
            f"nothing beside, but its axes are {kernel.axes}. Mend norms or axes; a convolution "
            "with spatial axes is not covered, since padding hides the norm's bias from it."
        )
    rows = widened(kernel.value).transpose(*batch, *spatial, *inputs, *outputs)
    return rows.reshape(_length(shape, batch), width, _length(shape, outputs))


def _shifted(bias: _Leaf, shift: _Leaf, rows: jax.Array) -> jax.Array:
    """`bias` and what the kernel `rows` makes of `shift`."""
    batch, width, outputs = rows.shape
    if bias.value.size != batch * outputs or shift.value.size != batch * width:
        raise ValueError(
            f"{bias.path!r} of shape {bias.shape} cannot take {shift.path!r} of shape "
            f"{shift.shape} through {batch} kernels of {width} inputs and {outputs} outputs. Mend "
            "axes."
        )
    moved = jnp.einsum(
        "bi,bio->bo",
        widened(shift.value).reshape(batch, width).astype(rows.dtype),
        rows,
        precision=jax.lax.Precision.HIGHEST,
    )
    wide = widened(bias.value)
    return (wide + moved.astype(wide.dtype).reshape(wide.shape)).astype(bias.value.dtype)


def _length(shape: Shape, axes: Iterable[int]) -> int:
    return math.prod(shape[axis] for axis in axes)
