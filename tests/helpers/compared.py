"""What the benchmarks compare: sets of parameters, optimizers, and forms of centralization."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import wcgc
import wcgc.models


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Shapes of a network's parameters and the axes of its kernels."""

    shapes: Any
    axes: Any

    def arrays(self, seed: int) -> Any:
        """Normal numbers of the size of usual weights."""
        rng = np.random.default_rng(seed)
        return jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(0, 0.05, leaf.shape), leaf.dtype), self.shapes
        )

    @property
    def bytes(self) -> int:
        """The size of one copy."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.shapes))


def network(letter: str) -> Parameters:
    """One of the paper's four."""
    classes = 21 if letter == "d" else 10
    model = nnx.eval_shape(lambda: wcgc.models.build(letter, classes, rngs=nnx.Rngs(0)))
    shapes = nnx.as_pure(nnx.state(model, nnx.Param))
    return Parameters(nnx.to_pure_dict(shapes), wcgc.models.rules())


def transformer(layers: int = 12, width: int = 768, heads: int = 12) -> Parameters:
    """A stack of attention and dense layers, 85 M parameters at its default size."""

    def kernel(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    layer = {
        "query": kernel(width, heads, width // heads),
        "key": kernel(width, heads, width // heads),
        "value": kernel(width, heads, width // heads),
        "out": kernel(heads, width // heads, width),
        "up": kernel(width, 4 * width),
        "down": kernel(4 * width, width),
        "scale": kernel(width),
    }
    axes = wcgc.by_path(
        ("query|key|value", wcgc.KernelAxes(in_axis=-3, out_axis=(-2, -1))),
        ("out", wcgc.KernelAxes(in_axis=(-3, -2), out_axis=-1)),
        ("up|down", wcgc.FLAX),
    )
    return Parameters({f"layer{i}": layer for i in range(layers)}, axes)


PARAMETERS: dict[str, Callable[[], Parameters]] = {
    "a": lambda: network("a"),
    "b": lambda: network("b"),
    "c": lambda: network("c"),
    "d": lambda: network("d"),
    "transformer": transformer,
}

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9)),
    "adam": lambda: optax.chain(optax.add_decayed_weights(5e-5), optax.adam(1e-3)),
    # A rate that XLA does not know when it compiles.
    "adam, schedule": lambda: optax.chain(
        optax.add_decayed_weights(5e-5), optax.adam(optax.cosine_decay_schedule(1e-3, 1000))
    ),
}

MEMORY_SCHEDULER = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
"""Compiler options for the CPU: one temporary array at a time."""

Form = Callable[[optax.GradientTransformation, Any], tuple[optax.GradientTransformation, Callable]]
"""From an optimizer and axes to the optimizer to use and what to do to the updated parameters."""


def _as_it_is(params):
    return params


def uncentralized(
    tx: optax.GradientTransformation, axes: Any = None
) -> tuple[optax.GradientTransformation, Callable]:
    """The form without any centralization."""
    del axes
    return tx, _as_it_is


FORMS: dict[str, Form] = {
    "GC": lambda tx, axes: (
        optax.chain(wcgc.centralize_gradients(axes=axes), tx),
        _as_it_is,
    ),
    "WC": lambda tx, axes: (optax.chain(tx, wcgc.centralize_params(axes=axes)), _as_it_is),
    "GC+WC": lambda tx, axes: (wcgc.centralized(tx, axes=axes), _as_it_is),
    "GC, centralize after apply": lambda tx, axes: (
        optax.chain(wcgc.centralize_gradients(axes=axes), tx),
        lambda params: wcgc.centralize(params, axes=axes),
    ),
}
