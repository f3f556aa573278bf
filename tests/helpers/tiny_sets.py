"""CIFAR and VOC2012 with a few images in the official layouts, and a server of them."""

import functools
import hashlib
import http.server
import io
import pickle
import struct
import tarfile
import threading
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from examples import cifar_data
from examples.engine import voc

BINARY = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}
PYTHON = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def md5(raw):
    return hashlib.md5(raw).hexdigest()


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2's `str`."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = save_bytes
    dispatch[str] = lambda self, value: self.save_bytes(value.encode())


def python2_pickle(value):
    """What Python 2 with the NumPy of its time would write."""
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    raw = file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    return raw.replace(b"u1\x89\x88\x87", b"u1K\0K\1\x87")  # dtype("u1", 0, 1), no bools


class Payload:
    """What, unpickled by `pickle.loads`, makes a file."""

    def __init__(self, path):
        self.code = f"import pathlib; pathlib.Path({str(path)!r}).touch()"

    def __reduce__(self):
        return exec, (self.code,)


def encode(dataset, archive, images, labels):
    """One official file: binary records, or a pickled batch."""
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    coarse = labels // 5
    if "python" in archive:
        names = {b"filenames": [b"x.png"] * len(labels), b"batch_label": b"batch", b"data": pixels}
        if dataset == "cifar100":
            names |= {b"coarse_labels": coarse.tolist(), b"fine_labels": labels.tolist()}
        else:
            names |= {b"labels": labels.tolist()}
        return python2_pickle(names)
    columns = [coarse, labels] if dataset == "cifar100" else [labels]
    return np.column_stack([*columns, pixels]).astype(np.uint8).tobytes()


@pytest.fixture
def official(monkeypatch, rng):
    """The true images and labels of two sets with few images, and a function that writes them."""
    few = {
        "cifar10": dict.fromkeys(cifar_data.FILES["cifar10"], 3),
        "cifar100": {"train": 15, "test": 4},
    }
    monkeypatch.setattr(cifar_data, "FILES", few)
    truth = {
        dataset: {
            name: cifar_data.Split(
                rng.integers(0, 256, (count, 32, 32, 3), np.uint8),
                rng.integers(0, cifar_data.CLASSES[dataset], count, np.int32),
            )
            for name, count in few[dataset].items()
        }
        for dataset in few
    }

    def write(dataset, archive, folder):
        folder.mkdir(parents=True)
        suffix = ".bin" if "binary" in archive else ""
        for name, split in truth[dataset].items():
            raw = encode(dataset, archive, *split)
            (folder / (name + suffix)).write_bytes(raw)
            monkeypatch.setitem(cifar_data.MD5, name + suffix, md5(raw))
            if name + suffix in cifar_data.LABELS_MD5:
                labels = split.labels.astype(np.uint8).tobytes()
                monkeypatch.setitem(cifar_data.LABELS_MD5, name + suffix, md5(labels))

    return truth, write


@pytest.fixture
def write_archive(official, monkeypatch, tmp_path):
    """Writes an archive in `folder` and makes its digest the official one."""

    def write(dataset, archive, folder, change=lambda tar: None):
        inner = cifar_data.ARCHIVES[dataset][archive][1]
        official[1](dataset, archive, tmp_path / "unpacked" / inner)
        folder.mkdir(exist_ok=True)
        with tarfile.open(folder / archive, "w:gz") as tar:
            change(tar)
            tar.add(tmp_path / "unpacked" / inner, inner)
        declare_official(monkeypatch, dataset, folder / archive)
        return folder / archive

    return write


def declare_official(monkeypatch, dataset, path):
    """Makes the digest of an archive the official one."""
    folder = cifar_data.ARCHIVES[dataset][path.name][1]
    monkeypatch.setitem(cifar_data.ARCHIVES[dataset], path.name, (md5(path.read_bytes()), folder))


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
    if image.mode == "L":
        image.putpalette([*range(256)] * 3)
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95)
    return file.getvalue()


@pytest.fixture
def masks():
    """The true classes of three images."""
    rng = np.random.default_rng(0)
    classes = np.array([*range(21), 255], np.uint8)
    return {name: rng.choice(classes, size) for name, size in SIZES.items()}


@pytest.fixture
def voc_files(masks):
    """What VOCdevkit/VOC2012 holds."""
    lists = {
        f"ImageSets/Segmentation/{name}.txt": "".join(f"{image}\n" for image in images).encode()
        for name, images in LISTS.items()
    }
    segmentations = {f"SegmentationClass/{name}.png": png(label) for name, label in masks.items()}
    images = {
        f"JPEGImages/{name}.jpg": jpeg(np.full((*size, 3), 40 * number, np.uint8))
        for number, (name, size) in enumerate(SIZES.items(), 1)
    }
    return lists | segmentations | images


@pytest.fixture
def write_voc(tmp_path):
    """Writes the files as a folder."""

    def write(files):
        for name, raw in files.items():
            path = tmp_path / voc.FOLDER / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
        return tmp_path

    return write


def archive_voc(files, path):
    """Writes the files as an archive; returns its digest."""
    with tarfile.open(path, "w") as tar:
        for name, raw in files.items():
            member = tarfile.TarInfo(f"{voc.FOLDER}/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return md5(path.read_bytes())


@pytest.fixture
def server(tmp_path):
    """A loopback server of `tmp_path/www`; `cut` bytes are missing at the end of each answer."""
    (tmp_path / "www").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        cut = 0

        def copyfile(self, source, outputfile):
            raw = source.read()
            outputfile.write(raw[: len(raw) - Handler.cut])

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/", Handler
        running.shutdown()
        thread.join()
