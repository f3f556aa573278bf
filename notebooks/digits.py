"""Handwritten digits, a small network that reads them, and what trains it."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import wcgc

LAYERS = ("conv1", "conv2", "hidden", "head")

_digits = load_digits()
images, test_images, labels, test_labels = train_test_split(
    (_digits.images[..., None] / 8 - 1).astype(np.float32),
    _digits.target.astype(np.int32),
    test_size=597,
    stratify=_digits.target,
    random_state=0,
)
"""8x8 pixels from -1 to 1 and what digit they show: 1200 to train on, 597 to test."""


def identity(x: jax.Array) -> jax.Array:
    """Hands on what it is given."""
    return x


class Net(nnx.Module):
    """Two convolutions and two dense layers, with a hook on the inputs of all but the first."""

    def __init__(self, rngs: nnx.Rngs, hook: Callable = identity):
        self.hook = hook
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(2 * 2 * 32, 32, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def features(self, images: jax.Array) -> jax.Array:
        """The output of `hidden`, which is the input of `head`."""
        x = nnx.max_pool(nnx.relu(self.conv1(images)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(self.hook(x))), (2, 2), (2, 2))
        return nnx.relu(self.hidden(self.hook(x).reshape(len(x), -1)))

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(self.hook(self.features(images)))


GRAPH = nnx.graphdef(Net(nnx.Rngs(0)))


def initial(seed: int = 0, dtype: Any = jnp.float32) -> Any:
    """The parameters of a new network."""
    params = nnx.state(Net(nnx.Rngs(seed)), nnx.Param)
    return jax.tree.map(lambda param: param.astype(dtype), params)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy of a network in nats, in the precision of its parameters."""
    dtype = jax.tree.leaves(params)[0].dtype
    return cross_entropy(nnx.merge(GRAPH, params)(images.astype(dtype)), labels)


value_and_gradient = jax.jit(jax.value_and_grad(loss))


@jax.jit
def error_rate(params: Any, images: jax.Array = test_images) -> jax.Array:
    """The share of the test images that are classified wrong, in percent."""
    return 100 * (nnx.merge(GRAPH, params)(images).argmax(-1) != test_labels).mean()


def make_update(transform: optax.GradientTransformation) -> Callable:
    """Compiles what follows the gradient; compiled apart, the gradient serves all transforms."""

    @jax.jit
    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return update


def batches(steps: int, seed: int = 0, size: int = 32) -> Iterator[tuple[Any, Any]]:
    """Random batches of images and labels."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = rng.integers(0, len(images), size)
        yield images[chosen], labels[chosen]


def train(
    transform: optax.GradientTransformation,
    steps: int,
    seed: int = 0,
    *,
    params: Any = None,
    update: Callable | None = None,
    backward: Callable = value_and_gradient,
    size: int = 32,
) -> tuple[Any, Any, np.ndarray]:
    """Trains a network; returns its parameters, the optimizer's state and the loss of each step."""
    params = initial(seed) if params is None else params
    update = update or make_update(transform)
    state, losses = transform.init(params), []
    for batch in batches(steps, seed, size):
        value, grads = backward(params, *batch)
        params, state = update(grads, state, params)
        losses.append(value)
    return params, state, np.array(losses)


def variants(optimizer: optax.GradientTransformation) -> dict[str, Any]:
    """The optimizer plain, with GC, with WC and with both."""
    return {
        "plain": optimizer,
        "GC": wcgc.centralized(optimizer, params=None),
        "WC": wcgc.centralized(optimizer, gradients=None),
        "GC + WC": wcgc.centralized(optimizer),
    }
