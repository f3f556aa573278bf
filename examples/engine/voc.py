"""PASCAL VOC 2012 segmentation, from the official archive or folder to arrays."""

import contextlib
import hashlib
import io
import re
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

SplitName = Literal["official", "custom"]
LISTS: dict[SplitName, tuple[str, str]] = {
    "official": ("train", "val"),
    "custom": ("custom_train", "custom_val"),
}

ARCHIVE = "VOCtrainval_11-May-2012.tar"
MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
FOLDER = "VOCdevkit/VOC2012"
URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"

CLASSES = 21  # with the background
SIDE = 500  # no image is larger
IGNORED = 255
LARGEST = 16 << 20  # bytes, more than any file that is read has


class Masks(NamedTuple):
    """Images and the class of each of their pixels, all padded to the same size.

    Attributes:
      images: uint8 (n, 500, 500, 3), with zeros at the bottom and the right.
      labels: uint8 (n, 500, 500), 0 to 20; 255 at the borders of objects, and in the padding.
      sizes: int32 (n, 2), height and width without the padding.
    """

    images: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray


Read = Callable[[str], bytes]


def load(data_dir: Path, split: SplitName, limit: int | None = None) -> tuple[Masks, Masks]:
    """Reads the images that have a segmentation.

    Args:
      data_dir: a folder that holds the official archive or `VOCdevkit`; or one of these.
      split: `"official"`: the lists train and val. `"custom"`: the lists custom_train and
        custom_val, of yours, in the same folder `ImageSets/Segmentation`.
      limit: keep only so many of each, the first ones.

    Returns:
      Training and test images.

    Raises:
      ValueError: `split` is neither, or a file is not what it should be.
      FileNotFoundError: there is no archive and no folder, or a file is missing.
    """
    if split not in LISTS:
        raise ValueError(f"split must be one of {', '.join(map(repr, LISTS))}, got {split!r}.")
    with opened(data_dir) as read:
        train, test = (read_names(read, name) for name in LISTS[split])
        if shared := sorted(set(train) & set(test)):
            raise ValueError(
                f"{' and '.join(f'{name}.txt' for name in LISTS[split])} of VOC2012 must have no "
                f"image in common, both list {', '.join(shared[:3])}"
            )
        return read_masks(read, train[:limit]), read_masks(read, test[:limit])


@contextlib.contextmanager
def opened(data_dir: Path) -> Iterator[Read]:
    """Finds the set in a folder; gives what reads one of its files, by its name in VOC2012.

    The official archive is told by its digest; nothing is unpacked. The files of a folder are told
    by their contents alone, since there are copies with images of another size.
    """
    folders = data_dir / FOLDER, data_dir / "VOC2012", data_dir
    if folder := next((place for place in folders if (place / "ImageSets").is_dir()), None):

        def read_file(name: str) -> bytes:
            path = folder / name
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing or no regular file")
            if path.stat().st_size > LARGEST:
                raise ValueError(f"{path} has {path.stat().st_size:,} bytes, at most {LARGEST:,}")
            return path.read_bytes()

        yield read_file
        return
    archive = data_dir / ARCHIVE if data_dir.is_dir() else data_dir
    if not archive.is_file():
        raise FileNotFoundError(
            f"{data_dir} holds neither {ARCHIVE} nor {FOLDER}: get the archive from {URL}"
        )
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != MD5:
        raise ValueError(
            f"{archive} has the MD5 digest {digest}, the official one {MD5}: get it again from "
            f"{URL}"
        )
    with tarfile.open(archive) as tar:
        regular = [member for member in tar if member.isreg() and member.size <= LARGEST]
        members = {member.name: member for member in regular}

        def read(name: str) -> bytes:
            if f"{FOLDER}/{name}" not in members:
                raise FileNotFoundError(f"{archive} lacks {FOLDER}/{name}")
            file = tar.extractfile(members[f"{FOLDER}/{name}"])
            return file.read() if file else b""

        yield read


def read_names(read: Read, name: str) -> list[str]:
    """The images of one list."""
    path = f"ImageSets/Segmentation/{name}.txt"
    names = read(path).decode(errors="replace").split()
    if not names:
        raise ValueError(f"{path} of VOC2012 is empty")
    for image in names:
        if not re.fullmatch(r"\w+", image):
            raise ValueError(f"{path} of VOC2012 must list names of images, got {image!r}")
    if len(names) > len(set(names)):
        twice = next(image for image in names if names.count(image) > 1)
        raise ValueError(f"{path} of VOC2012 must list each image once, it has {twice} again")
    return names


def read_masks(read: Read, names: list[str]) -> Masks:
    """The images of these names and their labels.

    The official images fit into 500x500. Larger ones, of rescaled copies, are reduced to it, with a
    warning.
    """
    count, reduced = len(names), 0
    images = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    labels = np.full((count, SIDE, SIDE), IGNORED, np.uint8)
    sizes = np.zeros((count, 2), np.int32)
    for i, name in enumerate(names):
        image = decode(read, f"JPEGImages/{name}.jpg", "JPEG", ("RGB",))
        mask = decode(read, f"SegmentationClass/{name}.png", "PNG", ("P", "L"))
        if image.size != mask.size:
            raise ValueError(
                f"JPEGImages/{name}.jpg of VOC2012 has {image.size} pixels, its segmentation "
                f"{mask.size}: they must be the same"
            )
        if max(image.size) > SIDE:
            reduced += 1
            image.thumbnail((SIDE, SIDE))
            mask = mask.resize(image.size, Image.Resampling.NEAREST)
        label = np.asarray(mask)
        height, width = label.shape
        if wrong := set(np.unique(label)) - {*range(CLASSES), IGNORED}:
            raise ValueError(
                f"SegmentationClass/{name}.png of VOC2012 must hold classes 0 to {CLASSES - 1} and "
                f"{IGNORED}, got {sorted(map(int, wrong))}"
            )
        images[i, :height, :width] = np.asarray(image)
        labels[i, :height, :width] = label
        sizes[i] = height, width
    if reduced:
        warnings.warn(
            f"{reduced} of {count} images are larger than the official ones, {SIDE}x{SIDE}, and "
            "were reduced to this.",
            stacklevel=2,
        )
    return Masks(images, labels, sizes)


def decode(read: Read, name: str, kind: str, modes: tuple[str, ...]) -> Image.Image:
    """Reads one file to its end, with the checksums that its kind has: JPEG has none."""
    try:
        raw = io.BytesIO(read(name))
        Image.open(raw, formats=[kind]).verify()
        image = Image.open(raw, formats=[kind])  # a verified one cannot be loaded
        if max(image.size) > 20 * SIDE:
            raise ValueError(f"{image.size} pixels are too many")
        image.load()
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged image can raise any
        raise ValueError(f"{name} of VOC2012 cannot be read as an image: {error}") from error
    if image.mode not in modes:
        raise ValueError(f"{name} of VOC2012 must be {' or '.join(modes)}, it is {image.mode}")
    return image
