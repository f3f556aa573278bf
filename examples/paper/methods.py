"""From a row of a table to a network and its optimizer: where each method takes hold.

Algorithm 1 of the paper normalizes the weights before each forward pass, the gradient behind the
backward pass, and the error behind each layer. As projections of the stored weights, WN, WC and WS
are links of the optimizer's chain: the last one, and applied to the initial weights.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import optax
from flax import nnx

import wcgc
import wcgc.models
from examples.paper.rows import Row

Norm = Literal["batch", "layer", "instance"]
Stem = Literal["stride1", "cifar"]

PROJECTIONS: dict[
    str, tuple[Callable[..., Any], Callable[..., optax.GradientTransformationExtraArgs]]
] = {
    "WN": (wcgc.normalize, wcgc.normalize_params),
    "WC": (wcgc.centralize, wcgc.centralize_params),
    "WS": (wcgc.standardize, wcgc.standardize_params),
}
"""What is done to the initial weights, and to each update."""


def build(
    row: Row, classes: int, rngs: nnx.Rngs, norm: Norm = "batch", stem: Stem = "stride1"
) -> nnx.Module:
    """The network of a row.

    Args:
      row: of a table.
      classes: how many there are.
      rngs: random keys for the initial kernels.
      norm: what stands for batch normalization in the rows that have it: `"batch"`, `"layer"` (Eq.
        6) or `"instance"` (Eq. 7).
      stem: the beginning of (b), see `wcgc.models.ResNet34`; other networks have none.

    Returns:
      The network, in training mode, with weights as drawn.
    """
    if row.error_area is None:
        hook = None
    else:
        hook = functools.partial(wcgc.centralize_error, area=row.error_area)
    return wcgc.models.build(
        row.model,
        classes,
        batch_norm=None if row.batch_norm else False,
        norm=norm if row.batch_norm else None,
        stem=stem if row.model == "b" else None,
        after_layer=hook,
        rngs=rngs,
    )


def project(row: Row, params: Any) -> Any:
    """The weights that the first forward pass of a row sees."""
    if row.projection is None:
        return params
    projection, _ = PROJECTIONS[row.projection]
    return projection(params, row.weight_area, axes=wcgc.models.rules(row.fully))


def around(row: Row, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Puts a row's methods in front of and behind an optimizer.

    GC stands in front, so that the L2 penalty, which the optimizer adds, is not centralized; the
    projection of the weights stands last.

    Args:
      row: of a table.
      optimizer: the recipe's.

    Returns:
      The transform. Its `update` needs `params`.
    """
    axes = wcgc.models.rules(row.fully)
    links = [optimizer]
    if row.gradient_area is not None:
        links.insert(0, wcgc.centralize_gradients(row.gradient_area, axes=axes))
    if row.projection is not None:
        _, make = PROJECTIONS[row.projection]
        links.append(make(row.weight_area, axes=axes))
    return optax.chain(*links)
