"""The images of the example: tiny sets in the official layouts, bad ones, downloads, crops."""

import hashlib
import io
import os
import pathlib
import pickle
import tarfile

import jax.numpy as jnp
import numpy as np
import pytest

from examples import cifar_data

from helpers import tiny_sets
from helpers.tiny_sets import BINARY, PYTHON, Payload, declare_official, python2_pickle

official, write_archive = tiny_sets.official, tiny_sets.write_archive
server = tiny_sets.server


def assert_is(loaded, truth):
    *training, test = truth.values()
    for split, parts in zip(loaded, (training, [test]), strict=True):
        for array, expected in zip(
            split, map(np.concatenate, zip(*parts, strict=True)), strict=True
        ):
            np.testing.assert_array_equal(array, expected, strict=True)


@pytest.mark.parametrize("versions", [BINARY, PYTHON], ids=["binary", "python"])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_reads_every_layout(dataset, versions, official, write_archive, tmp_path):
    truth, write = official
    archive = versions[dataset]
    folder = tmp_path / "data" / cifar_data.ARCHIVES[dataset][archive][1]
    write(dataset, archive, folder)
    assert_is(cifar_data.load_cifar(dataset, folder), truth[dataset])
    assert_is(cifar_data.load_cifar(dataset, folder.parent), truth[dataset])
    path = write_archive(dataset, archive, tmp_path / "archives")
    assert_is(cifar_data.load_cifar(dataset, path), truth[dataset])
    assert_is(cifar_data.load_cifar(dataset, path.parent), truth[dataset])
    assert os.listdir(path.parent) == [archive], "an archive is read in place"
    renamed = path.rename(tmp_path / "renamed.tgz")
    assert_is(cifar_data.load_cifar(dataset, renamed), truth[dataset])


# What is not an official file


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: raw[:3073],
        lambda raw: b"",
        lambda raw: b"\x0a" + raw[1:],
    ],
    ids=["truncated", "longer", "one image", "empty", "label 10"],
)
def test_refuses_damaged_records(damage, official, tmp_path):
    _, write = official
    write("cifar10", BINARY["cifar10"], tmp_path / "set")
    path = tmp_path / "set" / "data_batch_2.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"data_batch_2\.bin"):
        cifar_data.load_cifar("cifar10", tmp_path / "set")


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 10]},
        {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, -1]},
        {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((3, 3072), np.float32), b"labels": [0, 1, 2]},
        {b"data": np.zeros((3, 3072), np.uint8), b"fine_labels": [0, 1, 2]},
        [b"data"],
    ],
    ids=["label 10", "label -1", "two labels", "two images", "floats", "no labels", "a list"],
)
def test_refuses_damaged_batches(batch):
    path = pathlib.Path("somewhere/test_batch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cifar_data.FILES["cifar10"], "test_batch", 3)
        with pytest.raises(ValueError, match="somewhere/test_batch"):
            cifar_data.decode("cifar10", path, python2_pickle(batch))
        whole = python2_pickle({b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 9]})
        assert cifar_data.decode("cifar10", path, whole).labels.tolist() == [0, 1, 9]
        with pytest.raises(ValueError, match="somewhere/test_batch"):
            cifar_data.decode("cifar10", path, whole[:-20])


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_runs_no_code(protocol, tmp_path):
    raw = pickle.dumps({"data": Payload(tmp_path / "ran")}, protocol)
    with pytest.raises(ValueError, match=r"train .*names .*\.exec"):
        cifar_data.decode("cifar100", tmp_path / "train", raw)
    assert not (tmp_path / "ran").exists()


def test_refuses_an_incomplete_folder(official, tmp_path):
    official[1]("cifar10", PYTHON["cifar10"], tmp_path / "set")
    (tmp_path / "set" / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_4"):
        cifar_data.load_cifar("cifar10", tmp_path / "set")


def test_refuses_an_archive_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=BINARY["cifar10"]):
        cifar_data.load_cifar("cifar10", tmp_path / BINARY["cifar10"])
    assert not os.listdir(tmp_path)


def test_refuses_an_archive_with_another_digest(write_archive, tmp_path):
    path = write_archive("cifar10", BINARY["cifar10"], tmp_path / "data")
    md5 = cifar_data.ARCHIVES["cifar10"][path.name][0]
    path.write_bytes(path.read_bytes()[:-1])
    actual = hashlib.md5(path.read_bytes()).hexdigest()
    for place in (path, path.parent):
        with pytest.raises(ValueError, match=f"{path} has the MD5 digest {actual}.*{md5}"):
            cifar_data.load_cifar("cifar10", place)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_follows_no_link_and_writes_nothing_outside(kind, write_archive, tmp_path):
    def add_traps(tar):
        escape = tarfile.TarInfo("../../escaped")
        escape.size = 4
        tar.addfile(escape, io.BytesIO(b"evil"))

    path = write_archive("cifar100", BINARY["cifar100"], tmp_path / "data", add_traps)
    assert len(cifar_data.load_cifar("cifar100", path)[0].labels) == 15
    assert not list(tmp_path.glob("**/escaped"))
    assert not (tmp_path.parent / "escaped").exists()

    secret = tmp_path / "test.bin"
    secret.write_bytes(bytes(4 * 3074))
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "unpacked/cifar-100-binary/train.bin", "cifar-100-binary/train.bin")
        link = tarfile.TarInfo("cifar-100-binary/test.bin")
        link.type, link.linkname = kind, str(secret)
        tar.addfile(link)
    with pytest.MonkeyPatch.context() as patch:
        declare_official(patch, "cifar100", path)
        with pytest.raises(ValueError, match=r"lacks cifar-100-binary/test\.bin as regular file"):
            cifar_data.load_cifar("cifar100", path)


# Download


def test_downloads_once(server, write_archive, official, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar_data, "CIFAR_URL", server[0])
    path = write_archive("cifar10", BINARY["cifar10"], tmp_path / "www")
    data_dir = tmp_path / "new" / "data"
    assert_is(cifar_data.load_cifar("cifar10", data_dir), official[0]["cifar10"])
    assert os.listdir(data_dir) == [path.name]
    path.unlink()
    assert_is(cifar_data.load_cifar("cifar10", data_dir), official[0]["cifar10"])


def test_an_interrupted_download_leaves_nothing(server, write_archive, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar_data, "CIFAR_URL", server[0])
    write_archive("cifar10", BINARY["cifar10"], tmp_path / "www")
    monkeypatch.setattr(server[1], "cut", 100)
    with pytest.raises(ConnectionError, match="cannot be downloaded"):
        cifar_data.load_cifar("cifar10", tmp_path / "data")
    assert not os.listdir(tmp_path / "data")


def test_offline_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar_data, "CIFAR_URL", "http://127.0.0.1:9/")  # the discard port
    with pytest.raises(ConnectionError) as error:
        cifar_data.load("cifar100", tmp_path / "data")
    message = str(error.value)
    assert "\n" not in message
    assert f"cifar100 is not in {tmp_path / 'data'} and cannot be downloaded" in message
    assert "put http://127.0.0.1:9/cifar-100-binary.tar.gz there" in message
    assert "--dataset digits" in message
    assert not os.listdir(tmp_path / "data")


# Digits, crops and colours


def test_digits_are_scikit_learns(monkeypatch):
    training, test = cifar_data.load_digits()
    assert training.images.shape == (1437, 32, 32, 3)
    assert test.images.shape == (360, 32, 32, 3)
    assert training.images.dtype == np.uint8
    assert training.labels.dtype == np.int32
    assert (np.bincount(test.labels) >= 35).all()
    rows = np.concatenate([training.images, test.images])[:, ::4, ::4, 0].reshape(1797, 64)
    original = cifar_data.sklearn.datasets.load_digits()
    expected = np.rint(original.data * 255 / 16)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))
    np.testing.assert_array_equal(
        test.images, np.kron(test.images[:, ::4, ::4], np.ones((4, 4, 1)))
    )
    again = cifar_data.load_digits()[1]
    np.testing.assert_array_equal(again.images, test.images)


def test_crops(rng):
    images = rng.integers(1, 256, (5, 32, 32, 3), np.uint8)
    offsets = jnp.array([(4, 4), (0, 0), (8, 8), (0, 8), (7, 2)])
    padded = np.zeros((5, 40, 40, 3), np.uint8)
    padded[:, 4:36, 4:36] = images
    crops = np.asarray(cifar_data.crop(images, offsets))
    np.testing.assert_array_equal(crops[0], images[0])
    np.testing.assert_array_equal(crops[1, 4:, 4:], images[1, :28, :28])
    assert not crops[1, :4].any()
    assert not crops[1, :, :4].any()
    for crop, image_, (row, column) in zip(crops, padded, offsets, strict=True):
        np.testing.assert_array_equal(crop, image_[row : row + 32, column : column + 32])
    assert crops.dtype == np.uint8


def test_normalization():
    pixels = np.array([[[[0, 0, 0], [255, 255, 255], [123, 117, 104]]]], np.uint8)
    expected = [
        [-0.47961719, -0.45703516, -0.40741406],
        [0.51647656, 0.53905859, 0.58867969],
        [0.00085156, -0.00000391, -0.00116406],
    ]
    normalized = cifar_data.normalize(pixels)
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized[0, 0], expected, atol=3e-8)  # eps / 4: one rounding
