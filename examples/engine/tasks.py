"""Classification and segmentation: augmentation on the device, whole images, loss and accuracy."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples import cifar_data
from examples.engine.voc import IGNORED, SIDE, Masks

CROP = 227
WHOLE = 515  # the smallest of 227 + 32 k, which the network's connections fit, to hold 500

COLOR_OFFSETS = 0.1 * np.array(
    [[-66.379, 25.094, 6.79698], [-68.0492, -0.302309, -13.9539], [-68.4907, -24.0199, 7.27653]],
    np.float32,
)
"""From three standard normal numbers to offsets of red, green and blue: dlib's
`apply_random_color_offset`, whose matrix has the covariance of the colours of photographs."""


class Task(NamedTuple):
    """What images of one kind go through.

    Attributes:
      augment: from a random key and a batch as stored to normalized images and labels to learn.
      whole: from a batch as stored to normalized images and labels to be tested on.
      test_batch: images a step of the test.
    """

    augment: Callable
    whole: Callable
    test_batch: int


def random_crops(key: jax.Array, batch: cifar_data.Split) -> tuple[jax.Array, jax.Array]:
    """Crops of 32x32 from the images with zeros around them, 40x40."""
    offsets = jax.random.randint(key, (len(batch.labels), 2), 0, 2 * cifar_data.PADDING + 1)
    return cifar_data.normalize(cifar_data.crop(batch.images, offsets)), jnp.asarray(batch.labels)


def whole_images(batch: cifar_data.Split) -> tuple[jax.Array, jax.Array]:
    """The images as they are."""
    return cifar_data.normalize(batch.images), jnp.asarray(batch.labels)


def random_patches(key: jax.Array, batch: Masks) -> tuple[jax.Array, jax.Array]:
    """Crops of 227x227 with their labels, half of them mirrored, with a random colour offset.

    Crops lie inside their image. One whose image is smaller takes in all of that side, and zeros
    with ignored labels after it.
    """
    place, mirror, color = jax.random.split(key, 3)
    count = len(batch.images)
    last = jnp.maximum(batch.sizes - CROP, 0)
    offsets = jax.random.randint(place, (count, 2), 0, last + 1)
    mirrored = jax.random.bernoulli(mirror, shape=(count,))
    shifts = jnp.round(jax.random.normal(color, (count, 3)) @ COLOR_OFFSETS.T)

    def patch(image, label, offset, is_mirrored, shift):
        image = jax.lax.dynamic_slice(image, (*offset, 0), (CROP, CROP, 3))
        label = jax.lax.dynamic_slice(label, offset, (CROP, CROP))
        image = jnp.where(is_mirrored, image[:, ::-1], image)
        label = jnp.where(is_mirrored, label[:, ::-1], label)
        return jnp.clip(image.astype(jnp.float32) + shift, 0, 255), label

    images, labels = jax.vmap(patch)(batch.images, batch.labels, offsets, mirrored, shifts)
    return cifar_data.normalize(images), labels.astype(jnp.int32)


def padded_images(batch: Masks) -> tuple[jax.Array, jax.Array]:
    """The whole images with zeros at the bottom and the right, the labels there ignored."""
    edge = (0, WHOLE - SIDE)
    images = jnp.pad(batch.images, ((0, 0), edge, edge, (0, 0)))
    labels = jnp.pad(batch.labels, ((0, 0), edge, edge), constant_values=IGNORED)
    return cifar_data.normalize(images), labels.astype(jnp.int32)


CLASSIFICATION = Task(random_crops, whole_images, test_batch=200)
SEGMENTATION = Task(random_patches, padded_images, test_batch=4)
TASKS = {"CIFAR10": CLASSIFICATION, "CIFAR100": CLASSIFICATION, "VOC2012": SEGMENTATION}


def total_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The sum of -log softmax(logits)[label] over all labels that are not ignored."""
    labelled = labels != IGNORED
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(labelled, labels, 0))
    return jnp.sum(jnp.where(labelled, losses, 0))


def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The cross-entropy to be minimized: the sum over the number of labels, ignored ones included.

    Args:
      logits: (batch, classes), or (batch, height, width, classes) for segmentation.
      labels: (batch,) or (batch, height, width), of integers; 255 is ignored.

    Returns:
      A number. As in dlib, an image of which much is ignored counts less.
    """
    return total_cross_entropy(logits, labels) / labels.size


def count_correct(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many labels are the largest logit's, and how many are not ignored."""
    labelled = labels != IGNORED
    return jnp.sum((logits.argmax(-1) == labels) & labelled), jnp.sum(labelled)
