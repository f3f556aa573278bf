"""Augmentation, loss and accuracy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import cifar_data
from examples.engine import tasks, voc


def marked(sizes):
    """Images whose pixels tell their row (red), column (green) and label (blue)."""
    count = len(sizes)
    images = np.zeros((count, 500, 500, 3), np.uint8)
    labels = np.full((count, 500, 500), voc.IGNORED, np.uint8)
    for i, (height, width) in enumerate(sizes):
        row, column = np.mgrid[:height, :width]
        label = (row + 3 * column) % 21
        images[i, :height, :width] = np.stack([row // 2, column // 2, label * 10], -1)
        labels[i, :height, :width] = label
    return voc.Masks(images, labels, np.array(sizes, np.int32))


@pytest.fixture
def no_offsets(monkeypatch):
    monkeypatch.setattr(tasks, "COLOR_OFFSETS", np.zeros((3, 3), np.float32))


def patches(batch, seed=0):
    images, labels = jax.jit(tasks.random_patches)(
        jax.random.key(seed), jax.tree.map(jnp.asarray, batch)
    )
    return np.round(np.asarray(images) * 256 + cifar_data.PIXEL_MEAN), np.asarray(labels)


def test_patches_lie_inside_and_labels_go_with_their_pixels(no_offsets):
    sizes = [(300, 500)] * 30 + [(227, 240)] * 10
    images, labels = patches(marked(sizes))
    assert images.shape == (40, 227, 227, 3)
    assert labels.shape == (40, 227, 227)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(images[..., 2], labels * 10)
    rows, columns = images[:, 0, 0, 0], images[:, 0, :, 1]
    mirrored = columns[:, 0] > columns[:, -1]
    assert 8 < mirrored.sum() < 32
    lefts = np.where(mirrored, columns[:, -1], columns[:, 0])
    assert len(set(rows[:30])) > 10  # halves of 0 to 73
    assert len(set(lefts[:30])) > 10  # halves of 0 to 273
    assert rows[:30].max() <= 36
    assert set(rows[30:]) == {0}
    assert lefts[30:].max() <= 6


def test_a_small_image_is_taken_whole(no_offsets):
    images, labels = patches(marked([(100, 500), (300, 150)]))
    assert (labels[0, :100] != voc.IGNORED).all()
    assert (labels[0, 100:] == voc.IGNORED).all()
    assert (images[0, 100:] == 0).all()
    assert ((labels[1] != voc.IGNORED).sum(1) == 150).all()


def test_color_offsets_are_alike_within_an_image_and_stay_in_range():
    sizes = [(227, 227)] * 80
    batch = marked(sizes)._replace(images=np.full((80, 500, 500, 3), 128, np.uint8))
    images, _ = patches(batch)
    assert (images == images[:, :1, :1]).all()
    offsets = images[:, 0, 0] - 128
    # Of a tenth of dlib's matrix and standard normal numbers; from 80 of them, to three errors.
    covariance = [[50.8, 44.1, 39.9], [44.1, 48.3, 45.7], [39.9, 45.7, 53.2]]
    np.testing.assert_allclose(np.cov(offsets.T), covariance, rtol=0.5)
    dark, _ = patches(batch._replace(images=np.zeros_like(batch.images)))
    assert dark.min() == 0


def test_augmentation_follows_the_key():
    batch = marked([(400, 400)] * 2)
    same, other = (patches(batch, seed)[0] for seed in (0, 1))
    np.testing.assert_array_equal(patches(batch)[0], same)
    assert (same != other).any()


def test_whole_images_are_padded_to_515():
    images, labels = tasks.padded_images(jax.tree.map(jnp.asarray, marked([(500, 500), (40, 30)])))
    assert images.shape == (2, 515, 515, 3)
    assert labels.shape == (2, 515, 515)
    inside = jnp.sum(labels != voc.IGNORED, axis=(1, 2))
    np.testing.assert_array_equal(inside, [500 * 500, 40 * 30])
    black = -cifar_data.PIXEL_MEAN / 256
    np.testing.assert_allclose(images[:, 500:], jnp.broadcast_to(black, (2, 15, 515, 3)), rtol=1e-6)


def test_cifar_crops_are_windows_of_the_padded_image():
    image = np.random.default_rng(0).integers(1, 256, (32, 32, 3), np.uint8)
    batch = cifar_data.Split(jnp.asarray(np.stack([image] * 64)), jnp.arange(64))
    images, labels = tasks.random_crops(jax.random.key(0), batch)
    np.testing.assert_array_equal(labels, np.arange(64))
    crops = np.round(np.asarray(images) * 256 + cifar_data.PIXEL_MEAN).astype(np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = {padded[y : y + 32, x : x + 32].tobytes() for y in range(9) for x in range(9)}
    assert {crop.tobytes() for crop in crops} <= windows
    assert len({crop.tobytes() for crop in crops}) > 20


def test_the_losss_divisor_counts_ignored_pixels():
    logits = jnp.zeros((2, 3, 4, 21)).at[0, 0, 0, 5].set(100.0)
    labels = np.full((2, 3, 4), voc.IGNORED)
    labels[0, 0, 0], labels[1, 2, 3] = 5, 20
    # One pixel is right for sure, one costs log 21, twenty-two are ignored.
    np.testing.assert_allclose(tasks.loss(logits, jnp.asarray(labels)), np.log(21) / 24, rtol=1e-6)
    correct, labelled = tasks.count_correct(logits, jnp.asarray(labels))
    assert (correct, labelled) == (1, 2)


def test_ignored_pixels_have_no_gradient():
    labels = jnp.array([3, voc.IGNORED])
    logits = jnp.zeros((2, 21)).at[1, 0].set(100.0)
    grads = jax.grad(functools.partial(tasks.loss, labels=labels))(logits)
    np.testing.assert_array_equal(grads[1], 0)
    np.testing.assert_allclose(grads[0, 3], (1 / 21 - 1) / 2, rtol=1e-6)
