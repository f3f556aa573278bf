"""Crops of two photographs, and a small network that learns from which quarter one comes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_sample_images

SIDE, HEIGHT, WIDTH = 24, 213, 320
LAYERS = ("conv1", "conv2", "hidden", "head")

_full = np.stack(load_sample_images().images)[:, : 2 * HEIGHT].astype(np.float32) / 255
photos = _full.reshape(2, HEIGHT, 2, WIDTH, 2, 3).mean((2, 4))
"""Two photographs at half their size, (2, y, x, RGB), with values from 0 to 1."""

GREY = photos.mean()


def crops(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random crops (count, 24, 24, 3) around zero, and the quarters that their corners lie in."""
    photo = rng.integers(0, 2, count)
    top, left = rng.integers(0, HEIGHT - SIDE, count), rng.integers(0, WIDTH - SIDE, count)
    images = np.stack(
        [photos[p, y : y + SIDE, x : x + SIDE] for p, y, x in zip(photo, top, left, strict=True)]
    )
    quarter = 2 * (top >= (HEIGHT - SIDE) / 2) + (left >= (WIDTH - SIDE) / 2)
    return images - GREY, (4 * photo + quarter).astype(np.int32)


class Net(nnx.Module):
    """Two convolutions and two dense layers: crops to logits of the eight quarters."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(3, 8, (5, 5), strides=2, rngs=rngs)
        self.conv2 = nnx.Conv(8, 24, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(3 * 3 * 24, 32, rngs=rngs)
        self.head = nnx.Linear(32, 8, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.conv1(images)), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = nnx.relu(self.hidden(x.reshape(len(x), -1)))
        return self.head(x)


@nnx.jit
def step(model: Net, optimizer: nnx.Optimizer, images: Any, labels: Any) -> jax.Array:
    """One training step; returns the loss in nats."""

    def loss(model: Net) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value


def train(transform: optax.GradientTransformation, steps: int) -> tuple[Net, np.ndarray]:
    """Trains a network from seed 0; returns it and its losses."""
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    rng = np.random.default_rng(0)
    losses = [step(model, optimizer, *crops(rng, 64)) for _ in range(steps)]
    return model, np.array(losses)


def accuracy(model: Net) -> float:
    """The share of 1000 fresh crops whose quarter is told right."""
    images, labels = crops(np.random.default_rng(1), 1000)
    return float((model(jnp.asarray(images)).argmax(-1) == labels).mean())


def respond(weights: jax.Array) -> jax.Array:
    """The response of a filter (y, x, in) at each pixel of both photographs, (2, y, x)."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        jnp.asarray(photos - GREY), weights[..., None], (1, 1), "VALID", dimension_numbers=layout
    )[..., 0]
