"""Train a small network twice on real images, plain and centralized, and compare.

    python -m examples.cifar                                  # handwritten digits, no download
    python -m examples.cifar --dataset cifar10 --epochs 5     # downloads, or takes --data-dir DIR
    python -m examples.cifar --help

Both runs start from the same seed and see the same batches. The centralized one takes the mean of
each convolution filter off its gradient before the optimizer (GC) and off its weights behind it
(WC): `wcgc.centralized(...)` in `make_optimizer`. Networks, pipeline and recipes are those of
"Weight and Gradient Centralization in Deep Neural Networks" (arXiv 2010.00866, Section 5), its 300
epochs and their learning-rate steps scaled to `--epochs`.

    command    images              plain     centralized    time
    the first  360 test digits     98.89 %   99.17 %        31 s
    the second 10,000 of CIFAR-10  71.23 %   72.67 %        6 min 33 s

These are single runs, seed 0, on an AMD EPYC: the first on two cores, the second on one (Linux,
Python 3.11, JAX 0.10.2, Flax 0.12.8, Optax 0.2.8; 93 of the 60,000 CIFAR-10 images were decoded
from JPEG). On CIFAR-100 the recipe's SGD leaves the plain network (a) at chance with seeds 0 and 1
of 0 to 2, from the first 250 steps on; take `--model c` or `--optimizer adam` there.

`--out` receives curves.png, metrics.json and the trained networks, which come back by

    model = wcgc.models.build("a", classes=10, rngs=nnx.Rngs(0))
    saved = ocp.StandardCheckpointer().restore(out.absolute() / "centralized", nnx.state(model))
    nnx.update(model, saved)
"""

import functools
import hashlib
import http.client
import io
import json
import math
import os
import pickle
import platform
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.request
import warnings
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import rich.progress
import rich.table
import sklearn.datasets
import sklearn.model_selection
import tyro
from flax import nnx
from matplotlib.figure import Figure

import wcgc
import wcgc.models
from examples.engine import compiling

Array = np.ndarray | jax.Array
Area = Literal["tensor", "channel", "instance", "global", "none"]


@dataclass(frozen=True)
class Config:
    """Train a plain and a centralized network from the same seed and compare them."""

    dataset: Literal["digits", "cifar10", "cifar100"] = "digits"
    """Images to learn. The digits come with scikit-learn and are brought to 32x32x3."""
    data_dir: Path = Path.home() / ".cache" / "wcgc"
    """Official CIFAR archive, its unpacked folder, or the folder that holds (or shall hold) one."""
    model: Literal["a", "c"] = "a"
    """Small network of the paper: (a) with batch normalization, (c) without."""
    gradients: Area = "tensor"
    """Area of GC in the centralized run, none for no GC."""
    params: Area = "tensor"
    """Area of WC in the centralized run, none for no WC."""
    optimizer: Literal["paper", "adam", "sgd"] = "paper"
    """Recipe of the paper's Section 5: for cifar100 that is SGD, for the others Adam."""
    epochs: int = 18
    """Passes over the images. After each sixth, at least 2, the learning rate drops tenfold."""
    batch_size: int = 50
    """Images a step, spread over as many local devices as divide it."""
    seed: int = 0
    """Of the initial weights, the batches and the crops."""
    out: Path = Path("runs") / "cifar"
    """Folder for the results; those of an earlier run are replaced once this run is complete."""

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def recipe(self) -> str:
        """The optimizer to take."""
        paper = "sgd" if self.dataset == "cifar100" else "adam"
        return paper if self.optimizer == "paper" else self.optimizer


RECIPES = {  # learning rate, weight decay, optimizer
    "adam": (1e-3, 5e-5, functools.partial(optax.adam, b1=0.9, b2=0.999)),
    "sgd": (1e-1, 5e-4, functools.partial(optax.sgd, momentum=0.9)),
}
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
PIXEL_MEAN = np.array([122.782, 117.001, 104.298], np.float32)  # red, green, blue
PADDING = 4  # on each side: crops of 32x32 from 40x40
COLORS = {"plain": "tab:gray", "centralized": "tab:red"}


class Split(NamedTuple):
    """Images, uint8 (n, 32, 32, 3), and their labels, int32 (n,)."""

    images: Array
    labels: Array


def main(config: Config) -> None:
    """Keeps other runs away from the folder for the results, and trains."""
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(config.out / ".lock", blocking=False):
            compare(config)
    except filelock.Timeout as error:
        message = f"another run is at work for {config.out}: wait for it or give another --out"
        raise SystemExit(f"cifar.py: {message}") from error
    except OSError as error:
        raise SystemExit(f"cifar.py: {error}") from error


def compare(config: Config) -> None:
    """Trains both networks, one after the other, prints and saves what came out."""
    digits = config.dataset == "digits"
    try:
        data = load_digits() if digits else load_cifar(config.dataset, config.data_dir)
        order = draw_batches(len(data[0].labels), config)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cifar.py: {error}") from error
    compilation = compiling.choose()
    if compilation.note:
        print(compilation.note)
    areas: dict[str, tuple[Area, Area]]
    areas = {"plain": ("none", "none"), "centralized": (config.gradients, config.params)}
    table = rich.table.Table("network", "gradients", "params", "test accuracy", "seconds")
    runs, states = {}, {}
    for name, (gradients, params) in areas.items():
        start = time.perf_counter()
        model = make_model(config, params)
        transform = make_optimizer(config.recipe, config.epochs, order.shape[1], gradients, params)
        optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
        curves = fit(name, model, optimizer, data, order, config.seed)
        accuracy, seconds = curves["test_accuracy"][-1], time.perf_counter() - start
        table.add_row(name, gradients, params, f"{accuracy:.2%}", f"{seconds:.0f}")
        runs[name] = {"test_accuracy": accuracy, "curves": curves, "seconds": seconds}
        states[name] = nnx.state(model)
    rich.print(table)
    try:
        save(config, runs, states)
    except (OSError, ValueError) as error:  # of a full disk, Orbax raises the latter
        raise SystemExit(f"cifar.py: nothing could be saved in {config.out}: {error}") from error
    print(f"Learning curves, metrics and checkpoints are in {config.out}")


def make_model(config: Config, params: Area) -> nnx.Module:
    """Builds the network; centralized weights are so from the first forward pass (Algorithm 1)."""
    model = wcgc.models.build(config.model, CLASSES[config.dataset], rngs=nnx.Rngs(config.seed))
    if params != "none":
        weights = nnx.state(model, nnx.Param)
        nnx.update(model, wcgc.centralize(weights, params, axes=wcgc.models.rules()))
    return model


def make_optimizer(
    recipe: str, epochs: int, steps: int, gradients: Area, params: Area
) -> optax.GradientTransformation:
    """Puts GC in front of the recipe's optimizer and WC behind it; decay joins what GC leaves."""
    learning_rate, weight_decay, optimizer = RECIPES[recipe]
    return wcgc.centralized(
        optax.chain(
            optax.add_decayed_weights(weight_decay, mask=kernels),
            optimizer(schedule(learning_rate, epochs, steps)),
        ),
        gradients=None if gradients == "none" else gradients,
        params=None if params == "none" else params,
        axes=wcgc.models.rules(),
    )


def schedule(learning_rate: float, epochs: int, steps: int) -> optax.Schedule:
    """Divides the learning rate by 10 after each sixth of the epochs, of `steps` steps each.

    The paper does so after each 50 of 300 epochs. In runs of less than 12 each learning rate lasts
    for two epochs: a sixth would end the first one before it has taught the network much.
    """
    plateau = math.ceil(steps * max(epochs / 6, 2))
    return optax.exponential_decay(learning_rate, plateau, 0.1, staircase=True)


def kernels(params: Any) -> Any:
    """Marks what decays: neither biases nor batch normalization's scales and shifts do."""
    return jax.tree.map_with_path(lambda path, _: "kernel" in jax.tree_util.keystr(path), params)


def draw_batches(images: int, config: Config) -> np.ndarray:
    """Draws the images of all batches, int32 (epochs, steps, batch), without incomplete ones."""
    if config.batch_size > images:
        raise ValueError(f"--batch-size {config.batch_size} exceeds the {images} training images")
    rng = np.random.default_rng(config.seed)
    order = np.stack([rng.permutation(images) for _ in range(config.epochs)]).astype(np.int32)
    whole = images - images % config.batch_size
    return order[:, :whole].reshape(config.epochs, -1, config.batch_size)


def fit(
    name: str, model, optimizer, data: tuple[Split, Split], order: np.ndarray, seed: int
) -> dict[str, list[float]]:
    """Trains the model in place on the batches of `order`; returns curves, one value an epoch."""
    everywhere, split = spread(order.shape[-1])
    training, test = jax.device_put(data, everywhere)
    graph, state = nnx.split((model, optimizer))
    state, key = jax.device_put((state, jax.random.key(seed)), everywhere)
    compiled = compiling.choose().jit(train_step, static_argnums=0, donate_argnums=1)
    curves: dict[str, list[float]]
    curves = {"train_loss": [], "train_accuracy": [], "test_accuracy": []}
    columns = rich.progress.Progress.get_default_columns()
    with rich.progress.Progress(*columns, "{task.fields[latest]}") as progress:
        bar = progress.add_task(name, total=order[..., 0].size, latest="")
        for epoch in order:
            learned = []
            for batch in epoch:
                batch = jax.device_put(batch, split)
                state, result = compiled(graph, state, training, batch, key)
                learned.append(result)
                progress.advance(bar)
            nnx.update((model, optimizer), state)
            loss, train_accuracy = np.mean(jax.device_get(learned), axis=0)
            if not np.isfinite(loss):
                raise SystemExit(f"cifar.py: the {name} network diverged, its loss is {loss}")
            values = (float(loss), float(train_accuracy), evaluate(model, test))
            for curve, value in zip(curves.values(), values, strict=True):
                curve.append(value)
            progress.update(bar, latest=f"loss {loss:.3f}, test accuracy {values[-1]:.2%}")
    return curves


def spread(batch_size: int) -> tuple[jax.NamedSharding, jax.NamedSharding]:
    """Places a copy, or a share of the batch, on each of as many local devices as divide it."""
    devices = jax.local_devices()[: math.gcd(batch_size, jax.local_device_count())]
    axes = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((len(devices),), ("batch",), axes, devices=devices)
    return jax.NamedSharding(mesh, jax.P()), jax.NamedSharding(mesh, jax.P("batch"))


def train_step(graph, state, training: Split, batch: Array, key: jax.Array):
    """Learns from random crops of the images that `batch` lists.

    Returns:
      The state of model and optimizer behind the step; mean loss and accuracy.
    """
    model, optimizer = nnx.merge(graph, state)
    images, labels = jax.tree.map(lambda array: array[batch], training)
    key = jax.random.fold_in(key, optimizer.step[...])
    offsets = jax.random.randint(key, (len(batch), 2), 0, 2 * PADDING + 1)
    images = normalize(crop(images, offsets))

    def loss_fn(model):
        logits = model(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model)
    optimizer.update(model, grads)
    return nnx.state((model, optimizer)), (loss, jnp.mean(logits.argmax(-1) == labels))


def crop(images: Array, offsets: Array) -> jax.Array:
    """Pads images with zeros to 40x40 and cuts 32x32 from each at its (row, column), 0 to 8."""
    edges = (PADDING, PADDING)
    padded = jnp.pad(images, ((0, 0), edges, edges, (0, 0)))
    cut = functools.partial(jax.lax.dynamic_slice, slice_sizes=images.shape[1:])
    return jax.vmap(lambda image, at: cut(image, (at[0], at[1], 0)))(padded, offsets)


def normalize(images: Array) -> jax.Array:
    """Subtracts the constant mean and divides by 256; the zeros of padding become -mean/256."""
    return (jnp.asarray(images, jnp.float32) - PIXEL_MEAN) / 256


def evaluate(model: nnx.Module, test: Split, size: int = 1000) -> float:
    """Returns the accuracy on the whole images, a fraction."""
    graph, state = nnx.split(model)
    compiled = compiling.choose().jit(count_correct, static_argnums=0)
    starts = range(0, len(test.labels), size)
    parts = [Split(*(array[start : start + size] for array in test)) for start in starts]
    return sum(int(compiled(graph, state, part)) for part in parts) / len(test.labels)


def count_correct(graph, state, part: Split) -> jax.Array:
    """Counts the images whose largest logit is their label's."""
    model = nnx.merge(graph, state)
    model.eval()
    return jnp.sum(model(normalize(part.images)).argmax(-1) == part.labels)


def save(config: Config, runs: dict[str, Any], states: dict[str, Any]) -> None:
    """Replaces checkpoints, plot and metrics once all are written; without metrics, it was not."""
    rate, decay, _ = RECIPES[config.recipe]
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")
    versions = {package: metadata.version(package) for package in packages}
    metrics = {
        "runs": runs,
        "config": asdict(config),
        "recipe": {"optimizer": config.recipe, "learning_rate": rate, "weight_decay": decay},
        "versions": {"wcgc": wcgc.__version__, "python": platform.python_version()} | versions,
        "device": {"kind": jax.devices()[0].device_kind, "machine": platform.platform()}
        | {"devices": jax.device_count(), "cpus": os.cpu_count()},
        "compilation": compiling.choose().name,
        "command": sys.argv,
    }
    scratch = config.out.absolute() / ".part"
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir(parents=True)
        old.mkdir()
        with ocp.StandardCheckpointer() as checkpointer:
            for name, state in states.items():
                checkpointer.save(new / name, state)
        plot(runs, config).savefig(new / "curves.png", dpi=150)
        (new / "metrics.json").write_text(json.dumps(metrics, indent=2, default=str) + "\n")
        parts = sorted(new.iterdir(), key=lambda part: part.name == "metrics.json")
        for part in reversed(parts):
            if (config.out / part.name).exists():
                (config.out / part.name).rename(old / part.name)
        for part in parts:
            part.rename(config.out / part.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def plot(runs: dict[str, Any], config: Config) -> Figure:
    """Draws training loss and test accuracy over the epochs, both runs in one picture."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = range(1, config.epochs + 1)
    for name, run in runs.items():
        style = {"color": COLORS[name], "marker": "."}
        percent = [100 * value for value in run["curves"]["test_accuracy"]]
        loss.plot(epochs, run["curves"]["train_loss"], label=name, **style)
        accuracy.plot(epochs, percent, label=f"{name}: {percent[-1]:.2f} %", **style)
    loss.set(ylabel="training loss [nats]", ylim=(0, None))
    accuracy.set(ylabel="test accuracy [%]")
    for axes in (loss, accuracy):
        axes.set(xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(f"Network ({config.model}) on {config.dataset}, seed {config.seed}")
    return figure


# What follows gets the images.


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
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
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
    archive = next(iter(ARCHIVES[dataset]))
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".part-") as scratch:
        part = Path(scratch) / archive
        try:
            with urllib.request.urlopen(CIFAR_URL + archive, timeout=60) as response:
                size = int(response.headers.get("Content-Length", 0))
                bar = rich.progress.wrap_file(response, size, description=archive)
                with bar as source, part.open("wb") as file:
                    shutil.copyfileobj(source, file)
            identify(dataset, part)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ConnectionError(
                f"{dataset} is not in {data_dir} and cannot be downloaded ({error}): put "
                f"{CIFAR_URL}{archive} there, or use --dataset digits, which needs no download."
            ) from error
        return part.replace(data_dir / archive)


if __name__ == "__main__":
    main(tyro.cli(Config))
