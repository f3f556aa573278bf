"""The example on tiny sets in the official layouts: reading, pipeline, recipes, and a whole run."""

import hashlib
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tyro
from flax import nnx
from matplotlib import image

import wcgc.models
from examples import cifar

from helpers import tiny_sets
from helpers.tiny_sets import BINARY, PYTHON, declare_official, python2_pickle

official, write_archive = tiny_sets.official, tiny_sets.write_archive
server = tiny_sets.server

ROOT = pathlib.Path(__file__).parents[2]


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
    folder = tmp_path / "data" / cifar.ARCHIVES[dataset][archive][1]
    write(dataset, archive, folder)
    assert_is(cifar.load_cifar(dataset, folder), truth[dataset])
    assert_is(cifar.load_cifar(dataset, folder.parent), truth[dataset])
    path = write_archive(dataset, archive, tmp_path / "archives")
    assert_is(cifar.load_cifar(dataset, path), truth[dataset])
    assert_is(cifar.load_cifar(dataset, path.parent), truth[dataset])
    assert os.listdir(path.parent) == [archive], "an archive is read in place"
    renamed = path.rename(tmp_path / "renamed.tgz")
    assert_is(cifar.load_cifar(dataset, renamed), truth[dataset])


def test_the_official_sets_have_60000_images():
    assert sum(cifar.FILES["cifar10"].values()) == sum(cifar.FILES["cifar100"].values()) == 60_000
    assert list(cifar.FILES["cifar10"].values())[-1] == 10_000


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
        cifar.load_cifar("cifar10", tmp_path / "set")


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
        patch.setitem(cifar.FILES["cifar10"], "test_batch", 3)
        with pytest.raises(ValueError, match="somewhere/test_batch"):
            cifar.decode("cifar10", path, python2_pickle(batch))
        whole = python2_pickle({b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 9]})
        assert cifar.decode("cifar10", path, whole).labels.tolist() == [0, 1, 9]
        with pytest.raises(ValueError, match="somewhere/test_batch"):
            cifar.decode("cifar10", path, whole[:-20])


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_runs_no_code(protocol, tmp_path):
    raw = pickle.dumps({"data": Payload(tmp_path / "ran")}, protocol)
    with pytest.raises(ValueError, match=rf"train .*names {os.mkdir.__module__}\.mkdir"):
        cifar.decode("cifar100", tmp_path / "train", raw)
    assert not (tmp_path / "ran").exists()


def test_refuses_an_incomplete_folder(official, tmp_path):
    official[1]("cifar10", PYTHON["cifar10"], tmp_path / "set")
    (tmp_path / "set" / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_4"):
        cifar.load_cifar("cifar10", tmp_path / "set")


def test_refuses_an_archive_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=BINARY["cifar10"]):
        cifar.load_cifar("cifar10", tmp_path / BINARY["cifar10"])
    assert not os.listdir(tmp_path)


def test_refuses_an_archive_with_another_digest(write_archive, tmp_path):
    path = write_archive("cifar10", BINARY["cifar10"], tmp_path / "data")
    md5 = cifar.ARCHIVES["cifar10"][path.name][0]
    path.write_bytes(path.read_bytes()[:-1])
    actual = hashlib.md5(path.read_bytes()).hexdigest()
    for place in (path, path.parent):
        with pytest.raises(ValueError, match=f"{path} has the MD5 digest {actual}.*{md5}"):
            cifar.load_cifar("cifar10", place)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_follows_no_link_and_writes_nothing_outside(kind, write_archive, tmp_path):
    def add_traps(tar):
        escape = tarfile.TarInfo("../../escaped")
        escape.size = 4
        tar.addfile(escape, io.BytesIO(b"evil"))

    path = write_archive("cifar100", BINARY["cifar100"], tmp_path / "data", add_traps)
    assert len(cifar.load_cifar("cifar100", path)[0].labels) == 15
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
            cifar.load_cifar("cifar100", path)


# Download


def test_downloads_once(server, write_archive, official, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "CIFAR_URL", server[0])
    path = write_archive("cifar10", BINARY["cifar10"], tmp_path / "www")
    data_dir = tmp_path / "new" / "data"
    assert_is(cifar.load_cifar("cifar10", data_dir), official[0]["cifar10"])
    assert os.listdir(data_dir) == [path.name]
    path.unlink()
    assert_is(cifar.load_cifar("cifar10", data_dir), official[0]["cifar10"])


def test_an_interrupted_download_leaves_nothing(server, write_archive, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "CIFAR_URL", server[0])
    write_archive("cifar10", BINARY["cifar10"], tmp_path / "www")
    monkeypatch.setattr(server[1], "cut", 100)
    with pytest.raises(ConnectionError, match="cannot be downloaded"):
        cifar.load_cifar("cifar10", tmp_path / "data")
    assert not os.listdir(tmp_path / "data")


def test_what_a_killed_download_leaves_is_not_taken_for_the_set(official, tmp_path):
    part = tmp_path / ".part-x" / BINARY["cifar10"]
    part.parent.mkdir()
    part.write_bytes(b"beginning")
    assert not cifar.find_files("cifar10", tmp_path)


def test_offline_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cifar, "CIFAR_URL", "http://127.0.0.1:9/")  # the discard port
    config = cifar.Config(dataset="cifar100", data_dir=tmp_path / "data", out=tmp_path / "out")
    with pytest.raises(SystemExit) as exit_info:
        cifar.main(config)
    message = str(exit_info.value)
    assert "\n" not in message
    assert "put http://127.0.0.1:9/cifar-100-binary.tar.gz there" in message
    assert str(tmp_path / "data") in message
    assert "--dataset digits" in message
    assert not os.listdir(tmp_path / "data")


def test_the_official_address():
    assert cifar.CIFAR_URL == "https://www.cs.toronto.edu/~kriz/"


# Digits and batches


def test_digits_are_scikit_learns(monkeypatch):
    training, test = cifar.load_digits()
    assert training.images.shape == (1437, 32, 32, 3)
    assert test.images.shape == (360, 32, 32, 3)
    assert training.images.dtype == np.uint8
    assert training.labels.dtype == np.int32
    assert (np.bincount(test.labels) >= 35).all()
    rows = np.concatenate([training.images, test.images])[:, ::4, ::4, 0].reshape(1797, 64)
    original = cifar.sklearn.datasets.load_digits()
    expected = np.rint(original.data * 255 / 16)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))
    np.testing.assert_array_equal(
        test.images, np.kron(test.images[:, ::4, ::4], np.ones((4, 4, 1)))
    )
    again = cifar.load_digits()[1]
    np.testing.assert_array_equal(again.images, test.images)


def test_batches_are_drawn_without_repetition():
    config = cifar.Config(epochs=3, batch_size=4, seed=7)
    order = cifar.draw_batches(10, config)
    assert order.shape == (3, 2, 4)
    assert order.dtype == np.int32
    for epoch in order:
        assert len(np.unique(epoch)) == 8
        assert epoch.min() >= 0
        assert epoch.max() < 10
    assert (order[0] != order[1]).any()
    np.testing.assert_array_equal(order, cifar.draw_batches(10, config))
    with pytest.raises(ValueError, match="--batch-size 4 exceeds the 3 training images"):
        cifar.draw_batches(3, config)


# The paper's pipeline and recipes


def test_crops(rng):
    images = rng.integers(1, 256, (5, 32, 32, 3), np.uint8)
    offsets = jnp.array([(4, 4), (0, 0), (8, 8), (0, 8), (7, 2)])
    padded = np.zeros((5, 40, 40, 3), np.uint8)
    padded[:, 4:36, 4:36] = images
    crops = np.asarray(cifar.crop(images, offsets))
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
    normalized = cifar.normalize(pixels)
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized[0, 0], expected, atol=3e-8)  # eps / 4: one rounding


@pytest.mark.parametrize("epochs", [300, 12, 20])
def test_learning_rate_drops_at_each_sixth(epochs):
    rate = cifar.schedule(1e-3, epochs, 1000)
    for sixth in range(6):
        # A sixth is rounded up to whole steps, so that the fifth drop is up to 5 steps late.
        first, last = (round(1000 * epochs * end / 6) for end in (sixth, sixth + 1))
        np.testing.assert_allclose(
            rate(np.array([first + 5, last - 1])), 1e-3 * 0.1**sixth, rtol=1e-5
        )


@pytest.mark.parametrize(("epochs", "drops"), [(1, []), (2, []), (5, [20, 40]), (7, [20, 40, 60])])
def test_in_short_runs_a_learning_rate_lasts_two_epochs(epochs, drops):
    rates = cifar.schedule(1.0, epochs, 10)(np.arange(10 * epochs))
    assert (np.flatnonzero(np.diff(rates)) + 1).tolist() == drops
    np.testing.assert_allclose(rates.min(), 0.1 ** len(drops), rtol=1e-5)


@pytest.fixture
def standard_promotion():
    """Optax's Adam multiplies integers and floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def weights():
    return nnx.state(cifar.make_model(cifar.Config(model="a"), "none"), nnx.Param)


def first_update(weights, gradient, *recipe):
    """The first update for the same gradient everywhere, as a dictionary."""
    tx = cifar.make_optimizer(*recipe)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), weights)
    return nnx.to_pure_dict(jax.jit(lambda: tx.update(grads, tx.init(weights), weights)[0])())


def test_only_kernels_decay(weights):
    updates = first_update(weights, 0.0, "sgd", 300, 1000, "none", "none")
    weights = nnx.to_pure_dict(weights)
    for layer, leaves in updates.items():
        for name, update in leaves.items():
            expected = -0.1 * 5e-4 * weights[layer][name] if name == "kernel" else 0
            np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=f"{layer} {name}")
    assert set(updates["conv1"]) == {"kernel", "bias"}
    assert set(updates["norm1"]) == {"scale", "bias"}


def test_decay_is_added_to_the_centralized_gradient(weights):
    updates = first_update(weights, 1.0, "sgd", 300, 1000, "tensor", "none")
    for layer, gradient in {"conv2": 0.0, "hidden": 1.0, "head": 1.0}.items():
        expected = -0.1 * (gradient + 5e-4 * weights[layer]["kernel"][...])
        np.testing.assert_allclose(updates[layer]["kernel"], expected, rtol=1e-6)


def test_weights_are_centralized_over_the_area_named(weights, standard_promotion):
    updates = first_update(weights, 1.0, "adam", 300, 1000, "none", "channel")
    for layer in ("conv1", "conv3"):
        kernel = weights[layer]["kernel"][...] + updates[layer]["kernel"]
        np.testing.assert_allclose(kernel.mean((0, 1, 3)), 0, atol=1e-7)
        assert abs(kernel.mean((0, 1, 2))).max() > 1e-4
    np.testing.assert_allclose(updates["hidden"]["kernel"], -1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("dataset", "optimizer", "recipe"),
    [
        ("digits", "paper", "adam"),
        ("cifar10", "paper", "adam"),
        ("cifar100", "paper", "sgd"),
        ("cifar100", "adam", "adam"),
        ("digits", "sgd", "sgd"),
    ],
)
def test_recipe(dataset, optimizer, recipe):
    assert cifar.Config(dataset=dataset, optimizer=optimizer).recipe == recipe


def test_centralized_weights_start_centralized(weights):
    centralized = nnx.state(cifar.make_model(cifar.Config(model="a"), "tensor"), nnx.Param)
    kernel = weights["conv2"]["kernel"][...]
    expected = kernel - kernel.mean((0, 1, 2))
    np.testing.assert_allclose(centralized["conv2"]["kernel"][...], expected, atol=1e-7)
    for layer in ("hidden", "head"):
        np.testing.assert_array_equal(centralized[layer]["kernel"], weights[layer]["kernel"])


class FirstPixel(nnx.Module):
    """Sees class 1 in images whose first pixel is bright, else class 0."""

    def __call__(self, images):
        bright = images[:, 0, 0, 0] > 0
        return jnp.stack([~bright, bright], -1).astype(jnp.float32)


def test_evaluate_counts_every_image(rng):
    labels = rng.integers(0, 2, 25, np.int32)
    images = np.zeros((25, 32, 32, 3), np.uint8)
    images[:, 0, 0] = 255 * labels[:, None]
    assert cifar.evaluate(FirstPixel(), cifar.Split(images, labels), size=10) == 1
    labels[[0, 12, 24]] ^= 1
    assert cifar.evaluate(FirstPixel(), cifar.Split(images, labels), size=10) == 22 / 25


# The command


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("dataset", ["digits", "cifar10", "cifar100"]),
        ("model", ["a", "c"]),
        ("gradients", ["tensor", "channel", "instance", "global", "none"]),
        ("params", ["tensor", "channel", "instance", "global", "none"]),
        ("optimizer", ["paper", "adam", "sgd"]),
    ],
)
def test_refuses_the_unknown_with_the_choices(option, choices, capsys):
    with pytest.raises(SystemExit) as exit_info:
        tyro.cli(cifar.Config, args=[f"--{option}", "mnist"])
    assert exit_info.value.code
    printed = capsys.readouterr().err
    assert "mnist" in printed
    for choice in choices:
        assert f"'{choice}'" in printed
        assert getattr(tyro.cli(cifar.Config, args=[f"--{option}", choice]), option) == choice


@pytest.mark.parametrize("args", [["--epochs", "0"], ["--batch-size", "0"], ["--seed", "-1"]])
def test_refuses_numbers_out_of_range(args, capsys):
    with pytest.raises(SystemExit):
        tyro.cli(cifar.Config, args=args)
    assert f"got {args[1]}" in capsys.readouterr().err


def test_refuses_an_unknown_option(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(cifar.Config, args=["--epoch", "3"])
    assert "--epochs" in capsys.readouterr().err


@pytest.fixture
def few_digits(monkeypatch):
    training, test = cifar.load_digits()
    few = (
        cifar.Split(training.images[:64], training.labels[:64]),
        cifar.Split(*(a[:50] for a in test)),
    )
    monkeypatch.setattr(cifar, "load_digits", lambda: few)
    return few


def test_a_whole_run(few_digits, standard_promotion, monkeypatch, tmp_path, capsys):
    saved = {}
    save = cifar.save
    monkeypatch.setattr(cifar, "save", lambda *args: (saved.update(args[2]), save(*args)))
    out = tmp_path / "deep" / "out"
    config = cifar.Config(epochs=2, batch_size=16, out=out)
    cifar.main(config)
    assert sorted(os.listdir(out)) == [
        ".lock",
        "centralized",
        "curves.png",
        "metrics.json",
        "plain",
    ]
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["runs"]) == ["plain", "centralized"]
    printed = capsys.readouterr().out
    for name, run in metrics["runs"].items():
        assert 0 <= run["test_accuracy"] <= 1
        assert run["test_accuracy"] == run["curves"]["test_accuracy"][-1]
        assert {len(curve) for curve in run["curves"].values()} == {2}
        assert run["curves"]["train_loss"][1] < run["curves"]["train_loss"][0]
        assert f"{run['test_accuracy']:.2%}" in printed
        # Restored as the head of the script says.
        model = wcgc.models.build("a", classes=10, rngs=nnx.Rngs(1))
        with ocp.StandardCheckpointer() as checkpointer:
            nnx.update(model, checkpointer.restore(out.absolute() / name, nnx.state(model)))
        jax.tree.map(np.testing.assert_array_equal, nnx.state(model), saved[name])
        model.eval()
        assert cifar.evaluate(model, few_digits[1]) == run["test_accuracy"]
        means = jnp.mean(model.conv2.kernel[...], (0, 1, 2))
        assert (jnp.abs(means).max() < 1e-7) == (name == "centralized")
    assert metrics["config"]["batch_size"] == 16
    recipe = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 5e-5}
    assert metrics["recipe"] == recipe
    assert metrics["versions"]["jax"] == jax.__version__
    assert metrics["device"]["kind"] == jax.devices()[0].device_kind
    assert image.imread(out / "curves.png").shape[2] == 4


FIT_A_FEW = """
import json, jax, numpy as np, optax
from flax import nnx
from examples import cifar

config = cifar.Config(model="c", epochs=1, batch_size=16)
data = tuple(cifar.Split(part.images[:48], part.labels[:48]) for part in cifar.load_digits())
order = cifar.draw_batches(48, config)
model = cifar.make_model(config, "tensor")
transform = cifar.make_optimizer("adam", 1, 3, "tensor", "tensor")
optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
curves = cifar.fit("few", model, optimizer, data, order, seed=0)
kernel = model.conv1.kernel[...]
print(json.dumps([len(kernel.sharding.device_set), curves["train_loss"]]))
"""


def test_the_batch_is_spread_over_all_local_devices():
    results = {}
    for devices in 1, 8:
        done = subprocess.run(
            [sys.executable, "-c", FIT_A_FEW],
            cwd=ROOT,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results[devices] = json.loads(done.stdout.splitlines()[-1])
    assert [results[1][0], results[8][0]] == [1, 8]
    # Float32 sums in another order: some tens of roundings of a loss of about 2.
    np.testing.assert_allclose(results[1][1], results[8][1], rtol=1e-5)


def test_runs_share_their_seed_and_replace_earlier_results(
    few_digits, standard_promotion, tmp_path
):
    (tmp_path / "plain").mkdir()
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "notes").write_text("mine")
    areas = {"gradients": "none", "params": "none"}
    cifar.main(cifar.Config(model="c", epochs=2, batch_size=16, out=tmp_path, **areas))
    runs = json.loads((tmp_path / "metrics.json").read_text())["runs"]
    assert runs["plain"]["curves"] == runs["centralized"]["curves"]
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_run_that_diverges_is_stopped(few_digits, monkeypatch, tmp_path):
    def diverge(graph, state, training, batch, key):
        return state, (jnp.float32("nan"), jnp.float32(0.1))

    monkeypatch.setattr(cifar, "train_step", diverge)
    with pytest.raises(SystemExit, match="the plain network diverged, its loss is nan"):
        cifar.main(cifar.Config(model="c", batch_size=16, out=tmp_path))
    assert os.listdir(tmp_path) == [".lock"]


def test_an_output_folder_that_cannot_be_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="file"):
        cifar.main(cifar.Config(out=tmp_path / "file"))
