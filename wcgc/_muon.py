"""Axes as `optax.contrib.muon` wants them."""

from typing import Any

from optax.contrib import MuonDimensionNumbers

from wcgc._annotations import Axes, Mask
from wcgc._axes import FLAX
from wcgc._selection import Leaf, select


def muon_dimension_numbers(params: Any, *, axes: Axes = FLAX, mask: Mask = None) -> Any:
    """Tells `optax.contrib.muon` the axes of each kernel, so that one tree of axes serves both.

    What an output unit sums over, spatial axes included, becomes the rows of Muon's matrix. Batch
    axes stay out of it: the matrices of scanned layers and experts are orthogonalized each on their
    own. What is left alone goes to Muon's Adam. The other way, Muon's dimension numbers may stand
    in a tree of axes as they are.

    Args:
      params: arrays, or anything with a shape and a dtype, in any containers.
      axes: which axis is what; see `centralize`.
      mask: which leaves are kernels for Muon; see `centralize`.

    Returns:
      A tree of `optax.contrib.MuonDimensionNumbers | None` of the structure of `params`.

    Raises:
      TypeError: as `centralize`.
      ValueError: as `centralize`.

    Example:
      >>> import jax.numpy as jnp, optax, wcgc
      >>> params = {"conv": jnp.ones((3, 3, 8, 4)), "layers": jnp.ones((12, 8, 4))}
      >>> axes = {"conv": wcgc.FLAX, "layers": wcgc.KernelAxes(batch_axis=0)}
      >>> numbers = wcgc.muon_dimension_numbers(params, axes=axes)
      >>> numbers["conv"]
      MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=(3,))
      >>> numbers["layers"]
      MuonDimensionNumbers(reduction_axis=(1,), output_axis=(2,))
      >>> muon = optax.contrib.muon(0.1, muon_weight_dimension_numbers=numbers)
      >>> tx = wcgc.centralized(muon, axes=numbers)
    """
    leaves, treedef = select(params, "tensor", axes, mask)
    return treedef.unflatten(map(_numbers, leaves))


def _numbers(leaf: Leaf) -> MuonDimensionNumbers | None:
    # A leaf whose filters have one input each makes no matrix, and is left alone in this area.
    return None if leaf.kernel_axes is None else leaf.kernel_axes.to_muon(len(leaf.value.shape))
