"""The paper's networks, small or as shapes alone, and what their tests ask of them."""

import jax
import jax.numpy as jnp
from flax import nnx

import wcgc.models
from wcgc.models._layers import Layers

LETTERS = ("a", "b", "c", "d")


def build(letter, classes=10, seed=0, **choices):
    return wcgc.models.build(letter, classes, rngs=nnx.Rngs(seed), **choices)


def abstract(letter, classes=10, **choices):
    """A network whose parameters are shapes only, so that the big ones cost nothing."""
    return nnx.eval_shape(lambda: build(letter, classes, **choices))


def layers(norm=None):
    return Layers(norm=norm, after_layer=None, rngs=nnx.Rngs(0))


def params(model):
    """The parameters of a model or a state by path."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def output_shape(module, *shape):
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nnx.eval_shape(lambda module, x: module(x), module, images).shape


def set_kernel(layer, kernel):
    layer.kernel[...] = jnp.asarray(kernel, jnp.float32).reshape(layer.kernel.shape)
