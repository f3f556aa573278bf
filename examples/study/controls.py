"""What is removed in place of the mean, to see whether it is the mean that matters.

All of it is about the kernels of `conv1`, `conv2` and `conv3` of networks (a) and (c). A direction
of a kernel (y, x, in, out) is an array of the same shape, or with one filter for all, whose filters
have the norm 1.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import wcgc
from examples.engine import tasks
from examples.engine.data import Data

LAYERS = ("conv1", "conv2", "conv3")

IMAGES = 100
"""Training images whose patches give the direction of most variance."""

Directions = Callable[[Any], dict[str, jax.Array]]
"""From parameters to a direction for each layer."""


class DirectionsState(NamedTuple):
    """The directions along which nothing is left, by layer."""

    directions: dict[str, jax.Array]


def random_directions(params: Any, graph: Any = None, data: Data | None = None) -> dict[str, Any]:
    """A direction for each filter, drawn evenly from all; the same ones in every run."""
    del graph, data
    found = {}
    for name in LAYERS:
        key = jax.random.key(zlib.crc32(name.encode()))
        drawn = jax.random.normal(key, params[name]["kernel"].shape)
        found[name] = drawn / jnp.sqrt(jnp.sum(drawn**2, (0, 1, 2), keepdims=True))
    return found


def top_directions(params: Any, graph: Any, data: Data) -> dict[str, jax.Array]:
    """For each layer, the first eigenvector of the second moment of its inputs' patches.

    The inputs are those of the first training images, in a network without normalization.

    Args:
      params: of the network.
      graph: its graph.
      data: with the images.
    """
    first = jax.tree.map(lambda array: jnp.asarray(array[:IMAGES]), data.train)
    images, _ = tasks.whole_images(first)
    found = {}
    for name, x in layer_inputs(nnx.merge(graph, params), images):
        kernel = params[name]["kernel"]
        _, vectors = jnp.linalg.eigh(second_moment(x, kernel.shape[0]))
        found[name] = as_kernel(vectors[:, -1], kernel)
    return found


def layer_inputs(model: Any, images: jax.Array) -> Iterator[tuple[str, jax.Array]]:
    """What each convolution of network (a) or (c) is given."""
    x = images
    for number, name in enumerate(LAYERS, 1):
        yield name, x
        x = nnx.relu(getattr(model, f"norm{number}")(getattr(model, name)(x)))
        x = nnx.max_pool(x, (2, 2), (2, 2))


def second_moment(x: jax.Array, size: int) -> jax.Array:
    """The mean of p p^T over all patches p of size x size pixels, zeros around the image included.

    Args:
      x: (batch, height, width, in).
      size: of the patches, odd.

    Returns:
      A matrix of side in * size * size, in the order (in, y, x).
    """
    patches = jax.lax.conv_general_dilated_patches(
        x, (size, size), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    rows = patches.reshape(-1, patches.shape[-1])
    return rows.T @ rows / len(rows)


def as_kernel(vector: jax.Array, kernel: jax.Array) -> jax.Array:
    """A vector in the order (in, y, x) as a kernel with one filter."""
    height, width, inputs, _ = kernel.shape
    return vector.reshape(inputs, height, width, 1).transpose(1, 2, 0, 3)


def without(tree: Any, directions: dict[str, jax.Array]) -> Any:
    """Subtracts from each filter its component along the direction of its layer."""

    def change(path, leaf):
        *_, layer, kind = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if kind != "kernel" or layer not in directions:
            return leaf
        direction = directions[layer]
        return leaf - jnp.sum(leaf * direction, (0, 1, 2), keepdims=True) * direction

    return jax.tree.map_with_path(change, tree)


def along_in_gradients(directions: Directions) -> optax.GradientTransformation:
    """Removes from gradients what lies along directions, which are taken at the start."""

    def update(updates, state, params=None):
        del params
        return without(updates, state.directions), state

    return optax.GradientTransformation(lambda params: DirectionsState(directions(params)), update)


def along_in_params(directions: Directions) -> optax.GradientTransformation:
    """Makes parameters have nothing along directions, which are taken at the start."""

    def update(updates, state, params):
        after = without(optax.tree.add(params, updates), state.directions)
        return optax.tree.sub(after, params), state

    return optax.GradientTransformation(lambda params: DirectionsState(directions(params)), update)


def half_of_gradients(axes: Any) -> optax.GradientTransformation:
    """Removes half of each filter's mean from gradients."""
    return optax.stateless(lambda updates, params: _half(updates, axes))


def half_of_params(axes: Any) -> optax.GradientTransformation:
    """Removes half of each filter's mean from parameters at each step."""

    def update(updates, params):
        return optax.tree.sub(_half(optax.tree.add(params, updates), axes), params)

    return optax.stateless(update)


def _half(tree: Any, axes: Any) -> Any:
    centred = wcgc.centralize(tree, axes=axes)
    return jax.tree.map(lambda x, y: (x + y) / 2, tree, centred)


class CentredInput(nnx.Module):
    """A convolution that each patch of its input meets without the patch's mean.

    As w . (p - mean(p)) = (w - mean(w)) . p, the function is that of centred filters, whatever
    mean the stored ones have.
    """

    def __init__(self, conv: nnx.Conv):
        self.conv = conv

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, height, width, in) to (batch, height, width, out)."""
        kernel = self.conv.kernel[...]
        height, width, inputs, _ = kernel.shape
        ones = jnp.full((height, width, inputs, 1), 1 / (height * width * inputs), kernel.dtype)
        layout = ("NHWC", "HWIO", "NHWC")
        means = jax.lax.conv_general_dilated(x, ones, (1, 1), "SAME", dimension_numbers=layout)
        return self.conv(x) - means * kernel.sum((0, 1, 2))


def centre_inputs(model: Any) -> None:
    """Lets all convolutions of network (a) or (c) take the mean out of their inputs' patches."""
    for name in LAYERS:
        setattr(model, name, CentredInput(getattr(model, name)))
