"""Images of digits, CIFAR-10 and CIFAR-100: reads, checks and downloads them; crops, normalizes.

CIFAR comes as one of the four official archives or as what it unpacks to. Each file is told by its
digest. Nothing is unpacked, no link is followed, and pickles give arrays alone.
"""

import functools
import hashlib
import io
import pickle
import tarfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import sklearn.datasets
import sklearn.model_selection

Array = np.ndarray | jax.Array

CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
PIXEL_MEAN = np.array([122.782, 117.001, 104.298], np.float32)  # red, green, blue
PADDING = 4  # on each side: crops of 32x32 from 40x40


class Split(NamedTuple):
    """Images, uint8 (n, 32, 32, 3), and their labels, int32 (n,)."""

    images: Array
    labels: Array


def load(dataset: str, data_dir: Path) -> tuple[Split, Split]:
    """Returns the training and the test images of one of `CLASSES`."""
    return load_digits() if dataset == "digits" else load_cifar(dataset, data_dir)


def crop(images: Array, offsets: Array) -> jax.Array:
    """Pads images with zeros to 40x40 and cuts 32x32 from each at its (row, column), 0 to 8."""
    padded = jnp.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    cut = functools.partial(jax.lax.dynamic_slice, slice_sizes=images.shape[1:])
    return jax.vmap(lambda image, at: cut(image, (at[0], at[1], 0)))(padded, offsets)


def normalize(images: Array) -> jax.Array:
    """Subtracts the constant mean and divides by 256; the zeros of padding become -mean/256."""
    return (jnp.asarray(images, jnp.float32) - PIXEL_MEAN) / 256


def load_digits() -> tuple[Split, Split]:
    """Brings scikit-learn's 8x8 grey digits to 32x32x3 and splits them 4 to 1, always alike."""
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    grey = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    images, labels = np.kron(grey, np.ones((4, 4, 3), np.uint8)), labels.astype(np.int32)
    parts = sklearn.model_selection.train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0
    )
    training, test = (Split(images[part], labels[part]) for part in parts)
    return training, test


CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
ARCHIVES = {  # the official ones, each with its MD5 digest and the folder inside
    "cifar10": {
        "cifar-10-binary.tar.gz": ("c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin"),
        "cifar-10-python.tar.gz": ("c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
    },
    "cifar100": {
        "cifar-100-binary.tar.gz": ("03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary"),
        "cifar-100-python.tar.gz": ("eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"),
    },
}
FILES = {  # how many images each file holds; the last one holds the test images
    "cifar10": dict.fromkeys([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], 10_000),
    "cifar100": {"train": 50_000, "test": 10_000},
}
LABELS = {"cifar10": (1, b"labels"), "cifar100": (2, b"fine_labels")}  # bytes a record, key
MD5 = {  # of the unpacked files
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "train.bin": "6172c7755cfe09b2fe270c85cebc1b15",
    "test.bin": "4499cfba6c016c1be1438163640a0898",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}
LABELS_MD5 = {  # of the labels alone, for copies of CIFAR-10 whose pixels have been re-encoded
    "data_batch_1.bin": "30f55b79f7954f592721267e37ffcbcf",
    "data_batch_2.bin": "bdca50851f742064551c3fa947e975d6",
    "data_batch_3.bin": "23228d18cd9f4c032bb8cfa72996e3ef",
    "data_batch_4.bin": "61be7314d261d42101f429408af67a28",
    "data_batch_5.bin": "8ca6bc10f4bd0e81fba552f724423842",
    "test_batch.bin": "251f18ce75337ae9ca5d0dbd7ea62cf4",
}
LARGEST = 200 << 20  # bytes, more than any of the files has


def load_cifar(dataset: str, data_dir: Path) -> tuple[Split, Split]:
    """Reads an official archive or its unpacked folder, downloaded if neither is in `data_dir`."""
    files = find_files(dataset, data_dir) or read_archive(dataset, download(dataset, data_dir))
    *training, test = (decode(dataset, path, raw) for path, raw in files.items())
    return Split(*map(np.concatenate, zip(*training, strict=True))), test


def find_files(dataset: str, data_dir: Path) -> dict[Path, bytes]:
    """Reads what `data_dir` is or holds of the set, the binary version first; empty if nothing."""
    if data_dir.is_file():
        return read_archive(dataset, data_dir)
    if data_dir.suffix in (".gz", ".tgz") and not data_dir.exists():
        raise FileNotFoundError(f"There is no archive {data_dir}")
    for archive, (_, folder) in ARCHIVES[dataset].items():
        for place in (data_dir, data_dir / folder):
            paths = [place / name for name in file_names(dataset, archive)]
            if any(path.is_file() for path in paths):
                return {path: read_file(path) for path in paths}
        if (data_dir / archive).is_file():
            return read_archive(dataset, data_dir / archive)
    return {}


def file_names(dataset: str, archive: str) -> list[str]:
    """Names the files of one version, the test images last."""
    return [name + ".bin" * ("binary" in archive) for name in FILES[dataset]]


def read_file(path: Path) -> bytes:
    """Reads an official file, told by its digest, or one of CIFAR-10 that has other pixels."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing or no regular file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, more than any official file")
    raw, record = path.read_bytes(), 1 + 3 * 32 * 32
    digest, official = hashlib.md5(raw).hexdigest(), MD5[path.name]
    if digest != official:
        labels = hashlib.md5(raw[::record]).hexdigest()
        if len(raw) % record or labels != LABELS_MD5.get(path.name):
            raise ValueError(f"{path} has the MD5 digest {digest}, the official file {official}")
        warnings.warn(f"{path} has the official labels, but pixels of its own", stacklevel=2)
    return raw


def read_archive(dataset: str, path: Path) -> dict[Path, bytes]:
    """Reads an official archive, told by its digest; nothing is unpacked, no link is followed."""
    archive, folder = identify(dataset, path)
    names = [f"{folder}/{name}" for name in file_names(dataset, archive)]
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name not in names or not member.isreg() or member.size > LARGEST:
                continue
            if file := tar.extractfile(member):
                found[member.name] = file.read()
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path} lacks {', '.join(missing)} as regular files of usual size")
    return {path / name: found[name] for name in names}


def identify(dataset: str, path: Path) -> tuple[str, str]:
    """Returns which official archive a file is, and the folder inside."""
    digest = pooch.file_hash(str(path), alg="md5")
    for archive, (md5, folder) in ARCHIVES[dataset].items():
        if digest == md5:
            return archive, folder
    official = " or ".join(f"{md5} ({name})" for name, (md5, _) in ARCHIVES[dataset].items())
    raise ValueError(f"{path} has the MD5 digest {digest}, but {CIFAR_URL} has {official}")


def decode(dataset: str, path: Path, raw: bytes) -> Split:
    """Reads one file: records of label and pixels, or a dictionary that Python 2 pickled."""
    count, (label_bytes, label_key) = FILES[dataset][path.stem], LABELS[dataset]
    try:
        if path.suffix == ".bin":
            records = np.frombuffer(raw, np.uint8).reshape(count, label_bytes + 3 * 32 * 32)
            pixels, labels = records[:, label_bytes:], records[:, label_bytes - 1]
        else:
            batch = ArrayUnpickler(io.BytesIO(raw), encoding="bytes").load()
            pixels, labels = batch[b"data"], np.array(batch[label_key])
        images = pixels.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
    except Exception as error:  # a damaged pickle can raise any
        raise ValueError(f"{path} is not an official file of {dataset}: {error}") from error
    known = np.isin(labels, range(CLASSES[dataset]))
    if images.dtype != np.uint8 or labels.shape != (count,) or not known.all():
        raise ValueError(f"{path} must hold {count} labels, each from 0 to {CLASSES[dataset] - 1}")
    return Split(np.ascontiguousarray(images), labels.astype(np.int32))


class ArrayUnpickler(pickle.Unpickler):
    """Loads arrays and plain containers alone, for a pickle can run whatever it names."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Resolves the three names that the official files hold."""
        name = f"{module_name}.{global_name}"
        if name == "numpy.core.multiarray._reconstruct":
            return np.empty(0).__reduce__()[0]
        if name in ("numpy.ndarray", "numpy.dtype"):
            return getattr(np, global_name)
        raise pickle.UnpicklingError(f"it names {name}")


def download(dataset: str, data_dir: Path) -> Path:
    """Fetches the binary version; it appears in `data_dir` whole and verified, or not at all."""
    archive, (md5, _) = next(iter(ARCHIVES[dataset].items()))
    url = CIFAR_URL + archive
    fetch = pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 20, timeout=60)
    try:
        return Path(pooch.retrieve(url, f"md5:{md5}", archive, data_dir, downloader=fetch))
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"{dataset} is not in {data_dir} and cannot be downloaded ({error}): put {url} there, "
            "or use --dataset digits, which needs no download."
        ) from error
