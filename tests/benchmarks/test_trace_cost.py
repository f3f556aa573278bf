"""How long it takes to read the axes of big models off their computation.

    python -m pytest tests/benchmarks/test_trace_cost.py

Both models have 48 layers, one after another in Python, so that nothing of the program is shared.
Printed last are the seconds in all, those that JAX takes to trace the function, which come first
and are part of them, and the leaves.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wcgc

pytestmark = pytest.mark.usefixtures("standard_promotion")

LAYERS, WIDTH, ROUNDS = 48, 1024, 3


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(16, WIDTH, decode=False, rngs=rngs)
        self.widen = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.narrow = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.narrow(nnx.gelu(self.widen(self.norms[1](x))))


class Transformer(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(50_000, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.head = nnx.Linear(WIDTH, 50_000, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def transformer():
    """A transformer as people write it in NNX: 16 leaves in a layer."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Transformer(nnx.Rngs(0))))

    def apply(params, tokens):
        return nnx.merge(graphdef, params)(tokens)

    return apply, params, jax.ShapeDtypeStruct((2, 512), jnp.int32), 6 * LAYERS + 1


def experts():
    """Layers of 83 experts that have a kernel and a bias each: 8,016 leaves."""
    count = 83
    expert = {"kernel": array(WIDTH, WIDTH), "bias": array(WIDTH)}
    layer = {"router": array(WIDTH, count), "experts": [expert] * count}

    def apply(params, x):
        for layer in params:
            gates = jax.nn.softmax(x @ layer["router"])
            x += sum(
                gates[:, i, None] * jax.nn.gelu(x @ expert["kernel"] + expert["bias"])
                for i, expert in enumerate(layer["experts"])
            )
        return x

    return apply, [layer] * LAYERS, array(128, WIDTH), (count + 1) * LAYERS


@pytest.mark.parametrize("model", [transformer, experts])
def test_trace(benchmark, model):
    apply, params, inputs, kernels = model()
    jax_seconds = []

    for _ in range(ROUNDS):
        jax.clear_caches()
        start = time.perf_counter()
        jax.make_jaxpr(apply)(params, inputs)
        jax_seconds.append(time.perf_counter() - start)
    axes = benchmark.pedantic(
        wcgc.trace_axes, (apply, params, inputs), setup=jax.clear_caches, rounds=ROUNDS
    )
    found = [leaf for leaf in jax.tree.leaves(axes) if isinstance(leaf, wcgc.KernelAxes)]
    assert len(found) == kernels
    benchmark.extra_info.update(
        seconds=benchmark.stats.stats.median,
        of_which_jax_seconds=float(np.median(jax_seconds)),
        leaves=len(jax.tree.leaves(params)),
        kernels=kernels,
        jax=jax.__version__,
    )
