"""Weight and gradient centralization for JAX: Optax transforms that know which axis is which."""

from wcgc._algorithms import algorithm_2, algorithm_3
from wcgc._annotations import Axes, Mask
from wcgc._axes import EQUINOX, FLAX, Area, KernelAxes, LeftAlone
from wcgc._axes_of import axes_of
from wcgc._by_path import by_path
from wcgc._error_signal import ErrorArea, centralize_error, standardize_error
from wcgc._explain import Explanation, LeafExplanation, explain
from wcgc._measure import LeafMeasurement, Measurement, measure
from wcgc._muon import muon_dimension_numbers
from wcgc._rms_norm import layer_norm_to_rms_norm
from wcgc._trace_axes import trace_axes
from wcgc._transforms import (
    centralize_gradients,
    centralize_params,
    centralized,
    normalize_params,
    standardize_params,
)
from wcgc._trees import centralize, normalize, standardize

__all__ = [
    "EQUINOX",
    "FLAX",
    "Area",
    "Axes",
    "ErrorArea",
    "Explanation",
    "KernelAxes",
    "LeafExplanation",
    "LeafMeasurement",
    "LeftAlone",
    "Mask",
    "Measurement",
    "algorithm_2",
    "algorithm_3",
    "axes_of",
    "by_path",
    "centralize",
    "centralize_error",
    "centralize_gradients",
    "centralize_params",
    "centralized",
    "explain",
    "layer_norm_to_rms_norm",
    "measure",
    "muon_dimension_numbers",
    "normalize",
    "normalize_params",
    "standardize",
    "standardize_error",
    "standardize_params",
    "trace_axes",
]

__version__ = "0.2.0"
