"""The example: batches, the paper's recipes, the command line, and a whole run on a few digits."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from flax import nnx
from matplotlib import image

from examples import cifar, cifar_data

from helpers import finished

ROOT = pathlib.Path(__file__).parents[2]


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


# The paper's recipes


def rates_of(config, steps):
    """What Adam's updates show of the learning rate: for equal gradients, each is the rate."""
    tx = cifar.make_optimizer(config, steps)
    params = {"bias": jnp.zeros(())}

    def step(state, _):
        updates, state = tx.update({"bias": jnp.ones(())}, state, params)
        return state, -updates["bias"]

    return np.asarray(jax.lax.scan(step, tx.init(params), length=config.epochs * steps)[1])


@pytest.mark.parametrize(
    ("epochs", "drops"),
    [
        (1, []),
        (2, []),
        (5, [60, 120]),
        (7, [60, 120, 180]),
        (12, [60, 120, 180, 240, 300]),
        (20, [100, 200, 300, 400, 500]),
        (300, [1500, 3000, 4500, 6000, 7500]),
    ],
)
def test_the_learning_rate_drops_at_each_sixth_but_lasts_two_epochs(
    epochs, drops, standard_promotion
):
    config = cifar.Config(epochs=epochs, gradients="none", params="none")
    rates = rates_of(config, steps=30)
    starts = [0, *drops]
    np.testing.assert_allclose(rates[starts], 1e-3 * 0.1 ** np.arange(len(starts)), rtol=1e-4)
    for first, last in zip(starts, [*drops, 30 * epochs], strict=True):
        np.testing.assert_allclose(rates[first:last], rates[first], rtol=1e-4)


@pytest.fixture(scope="module")
def weights():
    return nnx.state(cifar.make_model(cifar.Config(params="none")), nnx.Param)


def first_update(weights, gradient, **choices):
    """The first update for the same gradient everywhere, as a dictionary."""
    areas = {"gradients": "none", "params": "none"}
    tx = cifar.make_optimizer(cifar.Config(**areas | choices), steps=1000)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), weights)
    return nnx.to_pure_dict(jax.jit(lambda: tx.update(grads, tx.init(weights), weights)[0])())


def test_only_kernels_decay(weights):
    updates = first_update(weights, 0.0, optimizer="sgd")
    weights = nnx.to_pure_dict(weights)
    for layer, leaves in updates.items():
        for name, update in leaves.items():
            expected = -0.1 * 5e-4 * weights[layer][name] if name == "kernel" else 0
            np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=f"{layer} {name}")
    assert set(updates["conv1"]) == {"kernel", "bias"}
    assert set(updates["norm1"]) == {"scale", "bias"}


def test_decay_is_added_to_the_centralized_gradient(weights):
    updates = first_update(weights, 1.0, optimizer="sgd", gradients="tensor")
    for layer, gradient in {"conv2": 0.0, "hidden": 1.0, "head": 1.0}.items():
        expected = -0.1 * (gradient + 5e-4 * weights[layer]["kernel"][...])
        np.testing.assert_allclose(updates[layer]["kernel"], expected, rtol=1e-6)


def test_weights_are_centralized_over_the_area_named(weights, standard_promotion):
    updates = first_update(weights, 1.0, params="channel")
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
    assert cifar.Config(dataset=dataset, optimizer=optimizer).recipe.optimizer == recipe


def test_centralized_weights_start_centralized(weights):
    centralized = nnx.state(cifar.make_model(cifar.Config()), nnx.Param)
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
    assert cifar.evaluate(FirstPixel(), cifar_data.Split(images, labels), size=10) == 1
    labels[[0, 12, 24]] ^= 1
    assert cifar.evaluate(FirstPixel(), cifar_data.Split(images, labels), size=10) == 22 / 25


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
    training, test = cifar_data.load_digits()
    few = (
        cifar_data.Split(*(array[:64] for array in training)),
        cifar_data.Split(*(array[:50] for array in test)),
    )
    monkeypatch.setattr(cifar_data, "load_digits", lambda: few)
    return few


def test_a_whole_run(few_digits, standard_promotion, monkeypatch, tmp_path, capsys):
    saved = {}
    save = cifar.save
    monkeypatch.setattr(cifar, "save", lambda *args: (saved.update(args[2]), save(*args)))
    out = tmp_path / "deep" / "out"
    config = cifar.Config(epochs=2, batch_size=16, out=out)
    cifar.main(config)
    assert sorted(os.listdir(out)) == finished.FILES
    metrics = finished.metrics(out)
    assert list(metrics["runs"]) == ["plain", "centralized"]
    printed = capsys.readouterr().out
    for name, run in metrics["runs"].items():
        assert 0 <= run["test_accuracy"] <= 1
        assert run["test_accuracy"] == run["curves"]["test_accuracy"][-1]
        assert {len(curve) for curve in run["curves"].values()} == {2}
        assert run["curves"]["train_loss"][1] < run["curves"]["train_loss"][0]
        assert f"{run['test_accuracy']:.2%}" in printed
        model = finished.restored(out, name)
        jax.tree.map(np.testing.assert_array_equal, nnx.state(model), saved[name])
        model.eval()
        assert cifar.evaluate(model, few_digits[1]) == run["test_accuracy"]
        means = jnp.mean(model.conv2.kernel[...], (0, 1, 2))
        assert (jnp.abs(means).max() < 1e-7) == (name == "centralized")
    assert metrics["config"]["batch_size"] == 16
    recipe = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 5e-5}
    assert recipe.items() <= metrics["recipe"].items()
    assert metrics["machine"]["jax"] == jax.__version__
    assert metrics["machine"]["device"] == jax.devices()[0].device_kind
    assert image.imread(out / "curves.png").shape[2] == 4


FIT_A_FEW = """
import json
from flax import nnx
from examples import cifar, cifar_data

config = cifar.Config(model="c", epochs=1, batch_size=16)
data = [cifar_data.Split(*(a[:48] for a in part)) for part in cifar_data.load_digits()]
order = cifar.draw_batches(48, config)
model = cifar.make_model(config)
transform = cifar.make_optimizer(config, steps=3)
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
    runs = finished.metrics(tmp_path)["runs"]
    assert runs["plain"]["curves"] == runs["centralized"]["curves"]
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_run_that_diverges_is_stopped(few_digits, monkeypatch, tmp_path):
    def diverge(graph, state, training, batch, key):
        return state, (jnp.float32("nan"), jnp.float32(0.1))

    monkeypatch.setattr(cifar, "train_step", diverge)
    with pytest.raises(SystemExit, match="the plain network diverged, its loss is nan"):
        cifar.main(cifar.Config(model="c", batch_size=16, out=tmp_path))
    assert not os.listdir(tmp_path)


def test_an_output_folder_that_cannot_be_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="file"):
        cifar.main(cifar.Config(out=tmp_path / "file"))
