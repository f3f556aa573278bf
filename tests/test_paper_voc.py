"""VOC2012 from tiny files in the official layout: folder and archive, both splits, bad files."""

import hashlib
import io
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from examples.paper import data, voc

SIZES = {"2007_000001": (30, 40), "2007_000002": (500, 20), "2007_000003": (7, 500)}
LISTS = {
    "train": ["2007_000001", "2007_000002"],
    "val": ["2007_000003"],
    "custom_train": ["2007_000003"],
    "custom_val": ["2007_000001"],
}


def png(label):
    """A segmentation as the official ones are: a palette image."""
    image = Image.fromarray(label)
    image.putpalette([*range(256)] * 3)
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95)
    return file.getvalue()


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    classes = np.array([*range(21), 255], np.uint8)
    return {name: rng.choice(classes, size) for name, size in SIZES.items()}


@pytest.fixture
def files(labels):
    """What VOCdevkit/VOC2012 holds."""
    lists = {
        f"ImageSets/Segmentation/{name}.txt": "".join(f"{image}\n" for image in images).encode()
        for name, images in LISTS.items()
    }
    masks = {f"SegmentationClass/{name}.png": png(label) for name, label in labels.items()}
    images = {
        f"JPEGImages/{name}.jpg": jpeg(np.full((*size, 3), 40 * number, np.uint8))
        for number, (name, size) in enumerate(SIZES.items(), 1)
    }
    return lists | masks | images


@pytest.fixture
def write(tmp_path):
    def write(files):
        for name, raw in files.items():
            path = tmp_path / voc.FOLDER / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
        return tmp_path

    return write


@pytest.mark.parametrize("split", voc.LISTS)
def test_images_and_labels_are_padded(files, labels, write, split):
    for part, name in zip(voc.load(write(files), split), voc.LISTS[split], strict=True):
        assert part.images.shape == (len(LISTS[name]), 500, 500, 3)
        for i, image in enumerate(LISTS[name]):
            height, width = SIZES[image]
            assert tuple(part.sizes[i]) == (height, width)
            inside = np.zeros((500, 500), bool)
            inside[:height, :width] = True
            np.testing.assert_array_equal(part.labels[i, :height, :width], labels[image])
            assert (part.labels[i][~inside] == voc.IGNORED).all()
            grey = 40 * ([*SIZES].index(image) + 1)
            assert abs(part.images[i][inside].astype(int) - grey).max() <= 2
            assert (part.images[i][~inside] == 0).all()


def archive(files, path):
    with tarfile.open(path, "w") as tar:
        for name, raw in files.items():
            member = tarfile.TarInfo(f"{voc.FOLDER}/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_archive_and_folder_are_the_same(files, write, tmp_path, monkeypatch):
    expected = voc.load(write(files), "official")
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.setattr(voc, "MD5", archive(files, place / voc.ARCHIVE))
    for found in (voc.load(place, "official"), voc.load(place / voc.ARCHIVE, "official")):
        for ours, theirs in zip(found, expected, strict=True):
            for array, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(array, other)


def test_an_archive_with_another_digest_is_refused(files, tmp_path):
    digest = archive(files, tmp_path / voc.ARCHIVE)
    with pytest.raises(
        ValueError, match=f"{voc.ARCHIVE} has the MD5 digest {digest}, the official"
    ):
        voc.load(tmp_path, "official")


def test_an_archive_that_lacks_a_file_is_refused(files, tmp_path, monkeypatch):
    del files["JPEGImages/2007_000003.jpg"]
    monkeypatch.setattr(voc, "MD5", archive(files, tmp_path / voc.ARCHIVE))
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
        lambda raw: jpeg(np.zeros((30, 40, 3), np.uint8)),
        "SegmentationClass/2007_000001.png of VOC2012 must be P or L, it is RGB",
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
def test_bad_files_are_refused_by_name(files, write, case):
    name, change, message = BAD[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        voc.load(write(spoil(files, name, change)), "official")


def test_a_missing_file_is_refused_by_name(files, write):
    folder = write(files)
    (folder / voc.FOLDER / "SegmentationClass/2007_000003.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2007_000003\.png"):
        voc.load(folder, "official")


def test_nothing_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"holds neither {voc.ARCHIVE} nor"):
        voc.load(tmp_path, "official")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'official', 'custom', got 'mine'"):
        voc.load(tmp_path, "mine")


def test_larger_images_are_reduced_with_a_warning(files, write):
    name = "2007_000003"
    label = np.zeros((256, 1000), np.uint8)
    label[:, 500:] = 20
    files[f"JPEGImages/{name}.jpg"] = jpeg(np.full((256, 1000, 3), 90, np.uint8))
    files[f"SegmentationClass/{name}.png"] = png(label)
    with pytest.warns(UserWarning, match="1 of 1 images are larger than the official ones"):
        _, test = voc.load(write(files), "official")
    assert tuple(test.sizes[0]) == (128, 500)
    assert (test.labels[0, :128, :250] == 0).all()
    assert (test.labels[0, :128, 250:] == 20).all()


def test_limit_keeps_the_first_images(files, write):
    train, test = data.load("VOC2012", write(files), limit=1)
    assert [tuple(part.sizes[0]) for part in (train, test)] == [(30, 40), (7, 500)]
    assert len(train.labels) == len(test.labels) == 1
    with pytest.raises(ValueError, match="--limit must be at least 1, got 0"):
        data.load("VOC2012", write(files), limit=0)
