"""The engine on noise: what it computes, resumed runs, NaN, seeds side by side, several devices."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from examples import cifar_data
from examples.engine import tasks, training
from examples.engine.engine import Engine
from examples.paper import recipes, rows
from examples.paper.experiments import Options, experiment

from helpers.on_noise import noise_data

pytestmark = pytest.mark.usefixtures("standard_promotion")

ROW = rows.choose(3, "a", "WC, GC, BN, fully")[0]  # has all that a state can hold


@pytest.fixture(scope="module")
def data():
    return noise_data(120, 30)


@pytest.fixture(scope="module")
def engine(data):
    # Test images that do not fill the last batch.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tasks.TASKS, "CIFAR10", tasks.CLASSIFICATION._replace(test_batch=8))
        return Engine(experiment(ROW, Options(epochs=3)), data)


@pytest.fixture(scope="module")
def alone(engine, tmp_path_factory):
    """A run that was left alone."""
    with jax.numpy_dtype_promotion("standard"):
        (outcome,) = training.train(engine, [0], tmp_path_factory.mktemp("alone"))
    return outcome


def without_seconds(outcome):
    curves = {name: values for name, values in outcome.curves.items() if name != "seconds"}
    return dataclasses.replace(outcome, curves=curves)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_stopped_run_goes_on_to_the_same_bits(engine, alone, tmp_path, stop_after):
    def stop(epoch, text):
        if epoch == stop_after:
            raise StoppedError

    with pytest.raises(StoppedError):
        training.train(engine, [0], tmp_path, checkpoint_every=1, on_epoch=stop)
    told = []
    (outcome,) = training.train(
        engine, [0], tmp_path, checkpoint_every=1, on_epoch=lambda epoch, text: told.append(epoch)
    )
    # The epoch in which it stopped had no checkpoint yet.
    assert told == [*range(max(stop_after - 1, 1), 4)]
    assert without_seconds(outcome) == without_seconds(alone)


def test_an_outcome_holds_all_curves_and_the_last_accuracy(alone):
    assert alone.outcome == "finished"
    assert {name: len(curve) for name, curve in alone.curves.items()} == dict.fromkeys(
        training.CURVES, 3
    )
    assert alone.accuracy == pytest.approx(100 * alone.curves["test_accuracy"][-1], abs=1e-4)


def test_a_seed_is_a_run_of_its_own(engine, alone, tmp_path):
    (other,) = training.train(engine, [1], tmp_path)
    assert other.parameters != alone.parameters


def test_the_test_is_that_of_the_model_in_eval_mode(engine, data):
    state, _ = engine.train(engine.init([0]), [0], 1)
    params, statistics = jax.tree.map(lambda x: x[0], (state.params, state.statistics))
    model = nnx.merge(engine.graph, params, statistics)
    model.eval()
    logits = np.asarray(model(cifar_data.normalize(data.test.images)), np.float64)
    logits -= logits.max(1, keepdims=True)
    right = logits[range(30), data.test.labels]
    losses = np.log(np.exp(logits).sum(1)) - right
    tested = engine.test(state)
    np.testing.assert_allclose(tested.loss, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(tested.accuracy, np.mean(right == 0), rtol=1e-6)


def test_each_epoch_learns_other_batches_and_weights_stay_centred(engine):
    state = engine.init([0])
    before = jax.device_get(state.params)
    state, learned = engine.train(state, [0], 1)
    _, again = engine.train(engine.init([0]), [0], 2)
    assert learned.loss != again.loss
    after = jax.device_get(state.params)
    for name in ("conv1", "conv2", "conv3", "hidden"):
        kernel = after[name]["kernel"][0]
        assert not np.array_equal(kernel, before[name]["kernel"][0])
        np.testing.assert_allclose(kernel.mean((*range(kernel.ndim - 1),)), 0, atol=1e-7)


def test_nan_ends_a_run(tmp_path, monkeypatch):
    recipe = dataclasses.replace(recipes.RECIPES["CIFAR100"], learning_rate=1e30)
    monkeypatch.setitem(recipes.RECIPES, "CIFAR100", recipe)
    row = rows.choose(4, "a", "Baseline")[0]
    engine = Engine(experiment(row, Options(epochs=3)), noise_data(100, 10, "CIFAR100"))
    (outcome,) = training.train(engine, [0], tmp_path)
    assert (outcome.outcome, outcome.accuracy) == ("nan", None)
    assert len(outcome.curves["train_loss"]) == 1


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match=r"has 50 images, more than the 49 training .* --limit"):
        Engine(experiment(ROW, Options()), noise_data(49, 10))


@pytest.mark.slow
def test_seeds_side_by_side_are_the_runs_alone(engine, data):
    both = Engine(experiment(ROW, Options(epochs=3)), data, seeds=2)
    _, together = both.train(both.init([0, 1]), [0, 1], 1)
    apart = [engine.train(engine.init([seed]), [seed], 1)[1].loss[0] for seed in (0, 1)]
    # Two steps of Adam amplify what the other order of sums changes in the last bits.
    np.testing.assert_allclose(together.loss, apart, rtol=1e-4)


SEVERAL_DEVICES = """
import jax
from examples.engine import data
from examples.paper import estimate, rows
from examples.engine.engine import Engine
from examples.paper.experiments import Options, experiment
images = data.Data(estimate.noise("CIFAR10", 120), estimate.noise("CIFAR10", 30))
row, options = rows.choose(3, "a", "WC, GC, BN")[0], Options(epochs=3)
for devices in (jax.devices()[:1], jax.devices()):
    engine = Engine(experiment(row, options), images, devices=devices)
    state, learned = engine.train(engine.init([0]), [0], 1)
    print(engine.devices, learned.loss[0], engine.test(state).loss[0])
"""


@pytest.mark.slow
def test_batches_are_split_over_all_devices():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    run = subprocess.run(
        [sys.executable, "-c", SEVERAL_DEVICES], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    alone, together = (line.split() for line in run.stdout.splitlines())
    assert (alone[0], together[0]) == ("1", "4")  # 50 images do not divide by 4
    np.testing.assert_allclose(
        *([float(x) for x in line[1:]] for line in (alone, together)), rtol=1e-3
    )
