"""Damaged, exchanged and hostile data: refused by name before anything is trained, or noticed."""

import io
import itertools
import os
import pathlib
import pickle
import tarfile

import numpy as np
import pytest

from examples import cifar, cifar_data
from examples.engine import voc

from helpers import tiny_sets
from helpers.tiny_sets import BINARY, PYTHON, Payload, archive_voc, declare_official

official, write_archive = tiny_sets.official, tiny_sets.write_archive
server = tiny_sets.server
masks, voc_files, write_voc = tiny_sets.masks, tiny_sets.voc_files, tiny_sets.write_voc

POSITIONS = 200
VERSIONS = [
    *((dataset, archive) for dataset, archive in BINARY.items()),
    *((dataset, archive) for dataset, archive in PYTHON.items()),
]


def damages(raw, positions=POSITIONS):
    """With a bit flipped, and cut off, at positions drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    for position in rng.choice(len(raw), min(positions, len(raw)), replace=False):
        flipped = bytearray(raw)
        flipped[position] ^= 1 << rng.integers(8)
        yield bytes(flipped)
        yield raw[:position]


# Archives


@pytest.mark.parametrize(("dataset", "archive"), VERSIONS, ids=[name for _, name in VERSIONS])
def test_a_damaged_archive_is_refused_unopened(
    dataset, archive, write_archive, tmp_path, monkeypatch
):
    path = write_archive(dataset, archive, tmp_path / "data")
    cifar_data.load_cifar(dataset, path.parent)
    monkeypatch.setattr(tarfile, "open", None)
    for damaged in damages(path.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} has the MD5 digest"):
            cifar_data.load_cifar(dataset, path.parent)


def test_a_damaged_archive_of_voc_is_refused_unopened(voc_files, tmp_path, monkeypatch):
    path = tmp_path / voc.ARCHIVE
    monkeypatch.setattr(voc, "MD5", archive_voc(voc_files, path))
    voc.load(tmp_path, "official")
    monkeypatch.setattr(tarfile, "open", None)
    for damaged in damages(path.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} has the MD5 digest"):
            voc.load(tmp_path, "official")


def test_exchanged_archives_are_refused(write_archive, tmp_path):
    ten, hundred = (write_archive(name, BINARY[name], tmp_path / name) for name in BINARY)
    exchange(ten, hundred)
    for dataset, path in ("cifar10", ten), ("cifar100", hundred):
        with pytest.raises(ValueError, match=f"{path} has the MD5 digest"):
            cifar_data.load_cifar(dataset, path)


def exchange(path, other):
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


def member(name, size=0, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def traps(wanted, outside):
    """Members that would do harm if a tar archive were unpacked or its links followed."""
    yield "climbs", member("../" * 9 + str(outside)[1:], 4), b"evil"
    yield "absolute", member(str(outside), 4), b"evil"
    yield "climbs inside", member(f"{wanted}/../../{outside.name}", 4), b"evil"
    yield "symlink", member(wanted, kind=tarfile.SYMTYPE, link=str(outside.parent / "secret")), b""
    yield (
        "hard link",
        member(wanted, kind=tarfile.LNKTYPE, link=str(outside.parent / "secret")),
        b"",
    )
    yield "device", member(wanted, kind=tarfile.CHRTYPE), b""
    yield "pipe", member(wanted, kind=tarfile.FIFOTYPE), b""
    yield "folder", member(wanted, kind=tarfile.DIRTYPE), b""
    yield "bomb", member(wanted, 1 << 40), bytes(1 << 20)  # says 1 TiB


KINDS = [kind for kind, *_ in traps("wanted", pathlib.Path("/x"))]


def tree(folder):
    return {path: os.lstat(path).st_mtime_ns for path in folder.rglob("*")}


def spring(path, kind, wanted, mode, monkeypatch, tmp_path):
    """Puts a trap into an archive that otherwise is what was there, but for the file wanted."""
    (tmp_path / "secret").write_bytes(bytes(4 * 3074))
    info, raw = next(trap[1:] for trap in traps(wanted, tmp_path / "escaped") if trap[0] == kind)
    with tarfile.open(path) as tar:
        kept = [
            (each, tar.extractfile(each)) for each in tar if each.isreg() and each.name != wanted
        ]
        kept = [(each, file.read()) for each, file in kept]
    with tarfile.open(path, mode) as tar:
        for each, content in [*kept, (info, raw)]:
            tar.fileobj.write(each.tobuf(tar.format, tar.encoding, tar.errors))
            tar.fileobj.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_archive_of_cifar_does_no_harm(kind, write_archive, tmp_path, monkeypatch):
    path = write_archive("cifar100", BINARY["cifar100"], tmp_path / "data")
    spring(path, kind, "cifar-100-binary/test.bin", "w:gz", monkeypatch, tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=f"{path} has the MD5 digest"):
        cifar_data.load_cifar("cifar100", path)
    # Even if it had the official digest:
    declare_official(monkeypatch, "cifar100", path)
    with pytest.raises((ValueError, tarfile.ReadError), match=r"test\.bin|unexpected end of data"):
        cifar_data.load_cifar("cifar100", path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_archive_of_voc_does_no_harm(kind, voc_files, tmp_path, monkeypatch):
    path = tmp_path / "data" / voc.ARCHIVE
    path.parent.mkdir()
    archive_voc(voc_files, path)
    wanted = f"{voc.FOLDER}/JPEGImages/2007_000002.jpg"
    spring(path, kind, wanted, "w", monkeypatch, tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=f"{path} has the MD5 digest"):
        voc.load(path, "official")
    monkeypatch.setattr(voc, "MD5", tiny_sets.md5(path.read_bytes()))
    with pytest.raises((FileNotFoundError, tarfile.ReadError), match=r"2007_000002|end of data"):
        voc.load(path, "official")
    assert tree(tmp_path) == before


def test_a_member_of_absurd_size_is_not_read(write_archive, voc_files, tmp_path, monkeypatch):
    path = write_archive("cifar100", BINARY["cifar100"], tmp_path / "data")
    monkeypatch.setattr(cifar_data, "LARGEST", 15 * 3074 - 1)
    with pytest.raises(ValueError, match=r"lacks cifar-100-binary/train\.bin as .* usual size"):
        cifar_data.load_cifar("cifar100", path)
    monkeypatch.setattr(voc, "MD5", archive_voc(voc_files, tmp_path / voc.ARCHIVE))
    monkeypatch.setattr(voc, "LARGEST", 600)
    with pytest.raises(FileNotFoundError, match=r"lacks VOCdevkit/VOC2012/JPEGImages/"):
        voc.load(tmp_path / voc.ARCHIVE, "official")


# Unpacked files


@pytest.mark.parametrize(("dataset", "archive"), VERSIONS, ids=[name for _, name in VERSIONS])
def test_a_damaged_file_of_cifar_is_refused(dataset, archive, official, tmp_path):
    official[1](dataset, archive, tmp_path / "set")
    paths = sorted((tmp_path / "set").iterdir())
    for path in paths:
        whole = path.read_bytes()
        for damaged in damages(whole, POSITIONS // len(paths)):
            path.write_bytes(damaged)
            other_labels = len(damaged) != len(whole) or damaged[::3073] != whole[::3073]
            if path.name in cifar_data.LABELS_MD5 and not other_labels:
                with pytest.warns(UserWarning, match=f"{path} has the official labels, but pixels"):
                    cifar_data.load_cifar(dataset, path.parent)
            else:
                with pytest.raises(ValueError, match=str(path)):
                    cifar_data.load_cifar(dataset, path.parent)
        path.write_bytes(whole)
    cifar_data.load_cifar(dataset, path.parent)


def test_a_label_of_another_class_is_refused(official, tmp_path):
    official[1]("cifar10", BINARY["cifar10"], tmp_path / "set")
    path = tmp_path / "set" / "test_batch.bin"
    raw = bytearray(path.read_bytes())
    raw[3073] = (raw[3073] + 1) % 10
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"{path} has the MD5 digest"):
        cifar_data.load_cifar("cifar10", tmp_path / "set")


@pytest.mark.filterwarnings("ignore:.*pixels of its own")
@pytest.mark.parametrize("re_encoded", [False, True], ids=["official", "re-encoded"])
@pytest.mark.parametrize(("dataset", "archive"), VERSIONS, ids=[name for _, name in VERSIONS])
def test_exchanged_files_are_refused(dataset, archive, re_encoded, official, tmp_path):
    official[1](dataset, archive, tmp_path / "set")
    paths = sorted((tmp_path / "set").iterdir())
    if re_encoded:
        for path in paths:
            raw = bytearray(path.read_bytes())
            raw[2000] ^= 1
            path.write_bytes(raw)
    for pair in itertools.combinations(paths, 2):
        exchange(*pair)
        with pytest.raises(ValueError, match="has the MD5 digest") as error:
            cifar_data.load_cifar(dataset, tmp_path / "set")
        assert re_encoded or any(str(error.value).startswith(f"{path} ") for path in pair)
        exchange(*pair)


def test_files_of_the_other_set_are_refused(official, tmp_path):
    for dataset, archive in BINARY.items():
        official[1](dataset, archive, tmp_path / dataset)
    path = tmp_path / "cifar100" / "train.bin"
    path.write_bytes((tmp_path / "cifar10" / "data_batch_1.bin").read_bytes())
    with pytest.raises(ValueError, match=f"{path} has the MD5 digest"):
        cifar_data.load_cifar("cifar100", path.parent)


@pytest.mark.parametrize("name", ["data_batch_1.bin", "train.bin"])
def test_a_file_of_absurd_size_is_not_read(name, official, tmp_path):
    dataset = "cifar10" if "batch" in name else "cifar100"
    official[1](dataset, BINARY[dataset], tmp_path / "set")
    os.truncate(tmp_path / "set" / name, 1 << 40)
    with pytest.raises(ValueError, match=rf"{name} has 1,099,511,627,776 bytes, more than any"):
        cifar_data.load_cifar(dataset, tmp_path / "set")


def test_a_pipe_is_not_waited_for(official, tmp_path):
    official[1]("cifar10", BINARY["cifar10"], tmp_path / "set")
    path = tmp_path / "set" / "data_batch_3.bin"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FileNotFoundError, match=f"{path} is missing or no regular file"):
        cifar_data.load_cifar("cifar10", tmp_path / "set")


def attempt(load, *args):
    """What came of it, or the error."""
    try:
        return load(*args), None
    except (ValueError, FileNotFoundError) as error:
        return None, str(error)


def test_damaged_files_of_voc_are_refused_or_differ_in_pixels_alone(voc_files, write_voc):
    folder = write_voc(voc_files)
    truth = voc.load(folder, "official")
    read = [name for name in voc_files if "custom" not in name]
    unnoticed = set()
    for name in read:
        path = folder / voc.FOLDER / name
        for damaged in damages(voc_files[name], POSITIONS // len(read)):
            path.write_bytes(damaged)
            loaded, error = attempt(voc.load, folder, "official")
            if error is not None:
                # A damaged name in a list is the name of an image that is not there.
                assert path.name in error or (path.suffix == ".txt" and "is missing" in error)
            else:
                unnoticed.add((path.suffix, len(damaged) == len(voc_files[name])))
                if path.suffix != ".txt":
                    for part, true in zip(loaded, truth, strict=True):
                        np.testing.assert_array_equal(part.labels, true.labels)
                        np.testing.assert_array_equal(part.sizes, true.sizes)
        path.write_bytes(voc_files[name])
    # JPEG has no checksum, and a list that ends early is a list.
    assert unnoticed <= {(".jpg", True), (".txt", True), (".txt", False)}


def test_exchanged_labels_of_voc_are_refused(voc_files, write_voc):
    names = [f"SegmentationClass/{name}.png" for name in tiny_sets.SIZES]
    for first, second in itertools.combinations(names, 2):
        exchanged = {first: voc_files[second], second: voc_files[first]}
        with pytest.raises(ValueError, match="they must be the same"):
            voc.load(write_voc(voc_files | exchanged), "official")


# The whole command


@pytest.mark.parametrize("damage", ["truncated", "flipped", "exchanged"])
@pytest.mark.parametrize("packed", [True, False], ids=["archive", "folder"])
def test_nothing_is_trained_on_damaged_data(
    packed, damage, official, write_archive, monkeypatch, tmp_path
):
    path = write_archive("cifar100", BINARY["cifar100"], tmp_path / "data")
    folder = tmp_path / "unpacked" / "cifar-100-binary"
    path = path if packed else folder / "train.bin"
    if damage == "exchanged":
        exchange(path, folder / "test.bin")
    else:
        raw = path.read_bytes()
        path.write_bytes(raw[:-1] if damage == "truncated" else bytes([raw[0] ^ 1]) + raw[1:])
    for name in "make_model", "fit", "save":
        monkeypatch.setattr(cifar, name, None)
    config = cifar.Config(dataset="cifar100", data_dir=path.parent, out=tmp_path / "out")
    with pytest.raises(SystemExit, match=f"^cifar.py: {path} has the MD5 digest"):
        cifar.main(config)
    assert not os.listdir(tmp_path / "out")


# Pickles


@pytest.mark.parametrize("packed", [True, False], ids=["archive", "folder"])
def test_a_pickle_that_writes_a_file_is_refused(
    packed, official, write_archive, monkeypatch, tmp_path
):
    written = tmp_path / "written"
    archive = PYTHON["cifar10"]
    evil = pickle.dumps({b"data": Payload(written), b"labels": [0, 1, 2]}, 3)
    pickle.loads(evil)
    assert written.exists(), "the pickle is harmless, and the test says nothing"
    written.unlink()

    if packed:
        path = write_archive("cifar10", archive, tmp_path / "data")
        with tarfile.open(path, "w:gz") as tar:
            for name in cifar_data.FILES["cifar10"]:
                tar.addfile(member(f"cifar-10-batches-py/{name}", len(evil)), io.BytesIO(evil))
    else:
        official[1]("cifar10", archive, tmp_path / "data" / "cifar-10-batches-py")
        path = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1"
        path.write_bytes(evil)
    with pytest.raises(ValueError, match=f"{path} has the MD5 digest"):
        cifar_data.load_cifar("cifar10", tmp_path / "data")
    # Even if it had the official digest:
    if packed:
        declare_official(monkeypatch, "cifar10", path)
    else:
        monkeypatch.setitem(cifar_data.MD5, path.name, tiny_sets.md5(evil))
    with pytest.raises(ValueError, match=r"data_batch_1 is not an official file .*names .*\.exec"):
        cifar_data.load_cifar("cifar10", tmp_path / "data")
    assert not written.exists()


# Downloads


def test_a_bad_download_leaves_nothing(server, write_archive, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar_data, "CIFAR_URL", server[0])
    path = write_archive("cifar100", BINARY["cifar100"], tmp_path / "www")
    whole = path.read_bytes()
    answers = {
        "other bytes": whole[:-1] + bytes([whole[-1] ^ 1]),
        "shorter": whole[:-1],
        "longer": whole + b"\0",
        "empty": b"",
        "a page": b"<html>503</html>",
    }
    for answer in answers.values():
        path.write_bytes(answer)
        with pytest.raises(ConnectionError, match=r"cannot be downloaded .*MD5 hash"):
            cifar_data.load_cifar("cifar100", tmp_path / "data")
        assert not os.listdir(tmp_path / "data")
    path.write_bytes(whole)
    for cut in np.random.default_rng(0).integers(1, len(whole), 10):
        monkeypatch.setattr(server[1], "cut", int(cut))
        with pytest.raises(ConnectionError, match="cannot be downloaded"):
            cifar_data.load_cifar("cifar100", tmp_path / "data")
        assert not os.listdir(tmp_path / "data")
    monkeypatch.setattr(server[1], "cut", 0)
    cifar_data.load_cifar("cifar100", tmp_path / "data")
