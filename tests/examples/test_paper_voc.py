"""VOC2012 from tiny files in the official layout: folder and archive, both splits, bad files."""

import re

import numpy as np
import pytest

from examples.engine import data, voc

from helpers.tiny_sets import LISTS, SIZES, archive_voc, jpeg, png


@pytest.mark.parametrize("split", voc.LISTS)
def test_images_and_labels_are_padded_and_the_rest_is_ignored(voc_files, masks, write_voc, split):
    for part, name in zip(voc.load(write_voc(voc_files), split), voc.LISTS[split], strict=True):
        assert part.images.shape == (len(LISTS[name]), 500, 500, 3)
        for i, image in enumerate(LISTS[name]):
            height, width = SIZES[image]
            assert tuple(part.sizes[i]) == (height, width)
            inside = np.zeros((500, 500), bool)
            inside[:height, :width] = True
            np.testing.assert_array_equal(part.labels[i, :height, :width], masks[image])
            assert (part.labels[i][~inside] == voc.IGNORED).all()
            grey = 40 * ([*SIZES].index(image) + 1)
            assert abs(part.images[i][inside].astype(int) - grey).max() <= 2
            assert (part.images[i][~inside] == 0).all()


def test_archive_and_folder_give_the_same_images(voc_files, write_voc, tmp_path, monkeypatch):
    expected = voc.load(write_voc(voc_files), "official")
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.setattr(voc, "MD5", archive_voc(voc_files, place / voc.ARCHIVE))
    for found in (voc.load(place, "official"), voc.load(place / voc.ARCHIVE, "official")):
        for ours, theirs in zip(found, expected, strict=True):
            for array, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(array, other)


def test_an_archive_with_another_digest_is_refused(voc_files, tmp_path):
    digest = archive_voc(voc_files, tmp_path / voc.ARCHIVE)
    with pytest.raises(
        ValueError, match=f"{voc.ARCHIVE} has the MD5 digest {digest}, the official"
    ):
        voc.load(tmp_path, "official")


def test_an_archive_that_lacks_a_file_is_refused(voc_files, tmp_path, monkeypatch):
    del voc_files["JPEGImages/2007_000003.jpg"]
    monkeypatch.setattr(voc, "MD5", archive_voc(voc_files, tmp_path / voc.ARCHIVE))
    with pytest.raises(FileNotFoundError, match=r"lacks VOCdevkit/VOC2012/JPEGImages/2007_000003"):
        voc.load(tmp_path, "official")


def spoil(files, name, change):
    return files | {name: change(files[name])}


BAD = {
    "truncated image": (
        "JPEGImages/2007_000002.jpg",
        lambda raw: raw[: len(raw) // 2],
        "JPEGImages/2007_000002.jpg of VOC2012 cannot be read as an image",
    ),
    "truncated labels": (
        "SegmentationClass/2007_000001.png",
        lambda raw: raw[:-40],
        "SegmentationClass/2007_000001.png of VOC2012 cannot be read as an image",
    ),
    "no such class": (
        "SegmentationClass/2007_000001.png",
        lambda raw: png(np.full((30, 40), 21, np.uint8)),
        "SegmentationClass/2007_000001.png of VOC2012 must hold classes 0 to 20 and 255, got [21]",
    ),
    "other size": (
        "SegmentationClass/2007_000001.png",
        lambda raw: png(np.zeros((40, 30), np.uint8)),
        "JPEGImages/2007_000001.jpg of VOC2012 has (40, 30) pixels, its segmentation (30, 40)",
    ),
    "labels in colour": (
        "SegmentationClass/2007_000001.png",
        lambda raw: png(np.zeros((30, 40, 3), np.uint8)),
        "SegmentationClass/2007_000001.png of VOC2012 must be P or L, it is RGB",
    ),
    "a photograph for labels": (
        "SegmentationClass/2007_000001.png",
        lambda raw: jpeg(np.zeros((30, 40, 3), np.uint8)),
        "SegmentationClass/2007_000001.png of VOC2012 cannot be read as an image",
    ),
    "labels for a photograph": (
        "JPEGImages/2007_000001.jpg",
        lambda raw: png(np.zeros((30, 40), np.uint8)),
        "JPEGImages/2007_000001.jpg of VOC2012 cannot be read as an image",
    ),
    "far too many pixels": (
        "SegmentationClass/2007_000001.png",
        lambda raw: png(np.zeros((1, 10_001), np.uint8)),
        "2007_000001.png of VOC2012 cannot be read as an image: (10001, 1) pixels are too many",
    ),
    "far too many bytes": (
        "JPEGImages/2007_000001.jpg",
        lambda raw: raw + bytes(voc.LARGEST + 1 - len(raw)),
        f"2007_000001.jpg has {voc.LARGEST + 1:,} bytes, at most {voc.LARGEST:,}",
    ),
    "tested on what it trains on": (
        "ImageSets/Segmentation/val.txt",
        lambda raw: raw + b"2007_000002\n",
        "train.txt and val.txt of VOC2012 must have no image in common, both list 2007_000002",
    ),
    "an image twice": (
        "ImageSets/Segmentation/train.txt",
        lambda raw: raw + b"2007_000001\n",
        "train.txt of VOC2012 must list each image once, it has 2007_000001 again",
    ),
    "empty list": (
        "ImageSets/Segmentation/train.txt",
        lambda raw: b"\n",
        "ImageSets/Segmentation/train.txt of VOC2012 is empty",
    ),
    "no list of names": (
        "ImageSets/Segmentation/train.txt",
        lambda raw: b"../../secret\n",
        "train.txt of VOC2012 must list names of images, got '../../secret'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name(voc_files, write_voc, case):
    name, change, message = BAD[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        voc.load(write_voc(spoil(voc_files, name, change)), "official")


def test_a_missing_file_is_refused_by_name(voc_files, write_voc):
    folder = write_voc(voc_files)
    (folder / voc.FOLDER / "SegmentationClass/2007_000003.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2007_000003\.png"):
        voc.load(folder, "official")


def test_nothing_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"holds neither {voc.ARCHIVE} nor"):
        voc.load(tmp_path, "official")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'official', 'custom', got 'mine'"):
        voc.load(tmp_path, "mine")


def test_larger_images_are_reduced_with_a_warning(voc_files, write_voc):
    name = "2007_000003"
    label = np.zeros((256, 1000), np.uint8)
    label[:, 500:] = 20
    voc_files[f"JPEGImages/{name}.jpg"] = jpeg(np.full((256, 1000, 3), 90, np.uint8))
    voc_files[f"SegmentationClass/{name}.png"] = png(label)
    with pytest.warns(UserWarning, match="1 of 1 images are larger than the official ones"):
        _, test = voc.load(write_voc(voc_files), "official")
    assert tuple(test.sizes[0]) == (128, 500)
    assert (test.labels[0, :128, :250] == 0).all()
    assert (test.labels[0, :128, 250:] == 20).all()


def test_limit_keeps_the_first_images(voc_files, write_voc):
    train, test = data.load("VOC2012", write_voc(voc_files), limit=1)
    assert [tuple(part.sizes[0]) for part in (train, test)] == [(30, 40), (7, 500)]
    assert len(train.labels) == len(test.labels) == 1
    with pytest.raises(ValueError, match="--limit must be at least 1, got 0"):
        data.load("VOC2012", write_voc(voc_files), limit=0)
