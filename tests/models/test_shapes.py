"""Sides and channels of what each layer of a network makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wcgc.models._unet import _join

from helpers.networks import abstract, output_shape


def layer_outputs(letter, side, **choices):
    """(side, channels) of what each convolution and dense layer makes, in the order of calls."""
    shapes = []

    def record(x):
        shapes.append((x.shape[1], x.shape[-1]) if x.ndim == 4 else x.shape[1:])
        return x

    output_shape(abstract(letter, 21, after_layer=record, **choices), 2, side, side, 3)
    return shapes


def test_small_networks_halve_the_side_three_times():
    assert layer_outputs("a", 32) == [(32, 32), (16, 32), (8, 64), (64,), (21,)]
    assert layer_outputs("c", 32) == [(32, 32), (16, 64), (8, 128), (512,), (21,)]


@pytest.mark.parametrize(
    ("stem", "side", "stem_side", "sides"),
    [
        (None, 32, 32, (15, 7, 3, 1)),
        ("stride1", 31, 31, (15, 7, 3, 1)),
        ("cifar", 32, 32, (32, 16, 8, 4)),
        ("imagenet", 227, 111, (55, 27, 13, 6)),
    ],
)
def test_the_stem_of_the_resnet_decides_the_sides_of_its_stages(stem, side, stem_side, sides):
    found = layer_outputs("b", side, stem=stem)
    blocks = zip(sides, (64, 128, 256, 512), (3, 4, 6, 3), strict=True)
    expected = [(stem_side, 64)]
    for stage_side, filters, count in blocks:
        expected += [(stage_side, filters)] * 2 * count
    # The unpadded convolution of a down block can be one pixel short of the pooled shortcut.
    assert [channels for *_, channels in found] == [c for _, c in expected] + [21]
    assert all(0 <= e - f <= 1 for (f, _), (e, _) in zip(found[:-1], expected, strict=True))
    assert [found[n][0] for n in (0, 3, 9, 17, 29)] == [stem_side, *sides]


def test_the_unet_at_227_has_the_sides_and_channels_of_dlib_s():
    expected = [
        (111, 64),
        *[(55, 64)] * 6,
        *[(27, 128)] * 6,
        *[(13, 256)] * 6,
        *[(6, 512)] * 6,
        *[(13, 512), (13, 512), (12, 512)],
        *[(13, 512)] * 4,
        *[(27, 256), (27, 256), (26, 256)],
        *[(27, 256)] * 4,
        *[(55, 128), (55, 128), (54, 128)],
        *[(55, 128)] * 4,
        *[(111, 64), (111, 64), (110, 64)],
        *[(111, 64)] * 4,
        (227, 64),
        (227, 21),
    ]
    assert layer_outputs("d", 227) == expected


def test_the_unet_concatenates_encoder_and_decoder():
    model = abstract("d")
    joined = [model.up3.conv1, model.up2.conv1, model.up1.conv1, model.conv_out]
    assert [layer.in_features for layer in joined] == [768, 384, 192, 128]


@pytest.mark.parametrize("side", [67, 227, 259, 515])
def test_the_unet_resizes_nothing_at_227_plus_32_k(side, monkeypatch):
    monkeypatch.setattr(jax.image, "resize", lambda *_: pytest.fail("resized"))
    assert output_shape(abstract("d", 21), 1, side, side, 3) == (1, side, side, 21)


def test_the_unet_labels_each_pixel_of_other_sizes():
    assert output_shape(abstract("d", 21), 2, 375, 500, 3) == (2, 375, 500, 21)


def test_encoder_tensor_comes_first_and_is_resized():
    encoder = jnp.arange(3.0).reshape(1, 1, 3, 1) * jnp.ones((1, 3, 1, 1))
    joined = _join(encoder, 7 * jnp.ones((1, 2, 6, 1)))
    assert joined.shape == (1, 2, 6, 2)
    np.testing.assert_allclose(joined[0, 0, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2], atol=1e-6)
    np.testing.assert_array_equal(joined[..., 1], 7)
