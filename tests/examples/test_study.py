"""The study: settings as data, what each removes, comparisons of pairs, the report from records."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib import image

import wcgc.models
from examples.engine import results
from examples.engine.data import Data
from examples.engine.engine import Engine
from examples.paper import experiments, rows
from examples.paper.estimate import noise
from examples.study import (
    blocks,
    comparisons,
    controls,
    factors,
    report,
    sections,
    settings,
    trajectories,
)
from examples.study.settings import Setting

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def data():
    return Data(noise("CIFAR10", 100), noise("CIFAR10", 20))


def record(setting, seed, accuracy, weights="w", measured=()):
    finished = accuracy is not None
    return {
        "run": setting.identity(seed),
        "outcome": "finished" if finished else "nan",
        "accuracy": accuracy,
        "curves": {
            "test_accuracy": [0.4, (accuracy or 0) / 100],
            "test_loss": [2.0, 1.0],
            "seconds": [1800.0, 1800.0],
        },
        "measured": [*measured],
        "began": {"weights": f"{weights}{seed}", "batches": str(seed)},
        "images": {"train": 100},
        "compilation": "XLA",
        "machine": {"processor": "p", "cpus": 1, "python": "3", "jax": "1", "flax": "2"}
        | {"optax": "3", "wcgc": "4"},
        "command": "python -m examples.study run B",
    }


def write(out, block, records):
    results.append(out / factors.file_of(block), records)


# Settings


def test_a_factor_that_is_added_later_tells_no_older_run_apart():
    setting = Setting("B", "WC", learning_rate=1e-2)
    identity = setting.identity(3)
    assert identity["setting"] == {"block": "B", "arm": "WC", "learning_rate": 1e-2}
    assert blocks.setting_of({"run": json.loads(json.dumps(identity))}) == setting


def test_images_set_aside_are_training_images_that_are_not_trained_on(monkeypatch):
    monkeypatch.setattr(settings, "HELD_OUT", 30)
    whole = Data(noise("CIFAR10", 100), noise("CIFAR10", 20))
    divided = settings.hold_out(whole)
    np.testing.assert_array_equal(divided.train.images, whole.train.images[:70])
    np.testing.assert_array_equal(divided.test.images, whole.train.images[70:])
    np.testing.assert_array_equal(divided.test.labels, whole.train.labels[70:])


@pytest.mark.parametrize("arm", blocks.ARMS)
def test_arms_share_weights_and_batches_and_differ_in_means(arm, data):
    engine = Engine(Setting("B", arm, epochs=1).experiment(data), data)
    plain = Engine(Setting("B", "plain", epochs=1).experiment(data), data)
    assert engine.digests([5]) == plain.digests([5])
    state = engine.init([5])
    mean = np.abs(state.params["conv2"]["kernel"].mean((1, 2, 3))).max()
    assert (mean < 1e-7) == (arm in ("WC", "WC+GC"))
    measured = engine.measure(engine.train(state, [5], 1)[0])[0]["conv2"]
    assert (measured["momentum"] < 1e-9) == (arm in ("GC", "WC+GC"))
    assert (measured["weights"] < 1e-9) == (arm in ("WC", "WC+GC"))
    assert 0 < measured["gradient"] < 1


# What is removed


def model_of(setting):
    return settings.build(setting, nnx.Rngs(0))


def weights_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def test_removing_along_a_direction_leaves_nothing_along_it(data):
    model = model_of(Setting("F", "plain"))
    params = weights_of(model)
    for make in (controls.random_directions, controls.top_directions):
        directions = make(params, nnx.graphdef(model), data)
        transform = controls.along_in_params(lambda params, d=directions: d)
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, _ = transform.update(gradients, transform.init(params), params)
        for name, direction in directions.items():
            np.testing.assert_allclose((direction**2).sum((0, 1, 2)), 1, rtol=1e-4)
            after = params[name]["kernel"] + updates[name]["kernel"]
            np.testing.assert_allclose((after * direction).sum((0, 1, 2)), 0, atol=5e-5)
        np.testing.assert_allclose(updates["hidden"]["kernel"], 1, rtol=1e-6)


def test_the_direction_of_most_variance_is_that_of_the_patches(data):
    model = model_of(Setting("F", "plain"))
    directions = controls.top_directions(weights_of(model), nnx.graphdef(model), data)
    direction = np.asarray(directions["conv1"], np.float64)[..., 0]
    images = (np.asarray(data.train.images, np.float64) - [122.782, 117.001, 104.298]) / 256
    padded = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    moment = np.zeros((75, 75))
    for y in range(32):
        for x in range(32):
            rows = padded[:, y : y + 5, x : x + 5].reshape(len(images), -1)
            moment += rows.T @ rows
    vector = direction.ravel()
    value = vector @ moment @ vector
    np.testing.assert_allclose(moment @ vector, value * vector, atol=1e-3 * value)
    np.testing.assert_allclose(value, np.linalg.eigvalsh(moment)[-1], rtol=1e-5)


def test_centred_inputs_are_the_function_of_centred_filters():
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    plain = model_of(Setting("F", "plain"))
    centred = model_of(Setting("F", "plain", removed="input"))
    weights = wcgc.centralize(nnx.state(plain, nnx.Param), axes=wcgc.models.rules())
    nnx.update(plain, weights)
    np.testing.assert_allclose(centred(images), plain(images), rtol=1e-3, atol=1e-4)


def test_half_of_the_mean_stays():
    tree = {"conv1": {"kernel": jnp.arange(12.0).reshape(2, 2, 1, 3)}}
    found, _ = controls.half_of_gradients(wcgc.FLAX).update(tree, (), tree)
    expected = tree["conv1"]["kernel"] - tree["conv1"]["kernel"].mean((0, 1, 2)) / 2
    np.testing.assert_allclose(found["conv1"]["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize(("layers", "touched"), [("first", {1}), ("others", {2, 3})])
def test_only_the_layers_that_were_asked_for(layers, touched):
    setting = Setting("F", "WC", layers=layers)
    params = weights_of(model_of(setting))
    after = settings.project(setting, params)
    changed = {
        number
        for number in (1, 2, 3)
        if not np.array_equal(after[f"conv{number}"]["kernel"], params[f"conv{number}"]["kernel"])
    }
    assert changed == touched


@pytest.mark.parametrize("optimizer", ["sgd", "lion", "muon"])
def test_every_optimizer_learns(optimizer, data):
    rate = blocks.OPTIMIZER_RATES[optimizer][1]
    setting = Setting("C", "WC+GC", optimizer=optimizer, learning_rate=rate, epochs=12)
    engine = Engine(setting.experiment(data), data)
    state, first = engine.train(engine.init([0]), [0], 1)
    for epoch in range(2, 13):
        state, last = engine.train(state, [0], epoch)
    assert last.loss < first.loss
    assert engine.measure(state)[0]["conv1"]["weights"] < 1e-6


# Blocks


def fill(out, block, reached):
    """Records for all runs of a block, with the accuracy that a function of the setting gives."""
    chosen, seeds = blocks.BLOCKS[block].settings(out), range(blocks.BLOCKS[block].seeds)
    write(out, block, [record(each, seed, reached(each)) for each in chosen for seed in seeds])


def test_a_block_takes_the_best_rate_of_its_sweep(tmp_path):
    with pytest.raises(ValueError, match=r"plain, and A plain, adam 0\.0001 is not complete"):
        blocks.b_gains(tmp_path)
    best = {"plain": 1e-3, "GC": 1e-2, "WC": 1e-4, "WC+GC": blocks.RATES[1]}
    fill(tmp_path, "A", lambda s: None if s.learning_rate != best[s.arm] else 60.0)
    found = {setting.arm: setting.learning_rate for setting in blocks.b_gains(tmp_path)}
    assert found == best
    assert {setting.learning_rate for setting in blocks.f_controls(tmp_path)} == {best["WC+GC"]}


def test_under_sgd_the_largest_rate_that_trains_is_taken(tmp_path):
    fill(tmp_path, "E-rates", lambda s: 1.0 if s.learning_rate == 0.1 else 20.0)
    assert {s.learning_rate for s in blocks.e_equality(tmp_path)} == {blocks.SGD_RATES[1]}
    assert all(s.centred for s in blocks.e_equality(tmp_path))


def test_no_rate_that_trains_is_an_error(tmp_path):
    fill(tmp_path, "E-rates", lambda s: 1.0)
    with pytest.raises(ValueError, match="None of E's learning rates"):
        blocks.e_equality(tmp_path)


def test_blocks_have_the_runs_that_they_say(tmp_path):
    for sweep in ("A", "E-rates", "C-rates", "G-rates"):
        fill(tmp_path, sweep, lambda s: 50.0)
    counts = {
        name: len(set(block.settings(tmp_path))) * block.seeds
        for name, block in blocks.BLOCKS.items()
    }
    wanted = {"A": 60, "B": 64, "E-rates": 3, "E": 12, "F": 72, "C-rates": 72, "C": 144}
    assert counts == wanted | {"G-rates": 9, "G": 15}


# Comparisons and report


def arms(values):
    """Records of block B: for each arm its accuracies."""
    return [
        record(Setting("B", arm, epochs=8), seed, value)
        for arm, of_arm in values.items()
        for seed, value in enumerate(of_arm)
    ]


def test_comparisons_are_paired_and_corrected(tmp_path):
    plain = np.array([70.0, 71.0, 72.0])
    gains = {"GC": np.array([1.0, 1.2, 1.4]), "WC": np.array([0.5, -0.5, 0.0])}
    values = {"plain": plain, **{arm: plain + gain for arm, gain in gains.items()}}
    values["WC+GC"] = plain + gains["GC"] + gains["WC"] + np.array([2.0, 2.1, 2.2])
    write(tmp_path, "B", arms(values))
    runs = comparisons.runs_of(tmp_path, "B")
    wanted = comparisons.sums_and_parts(comparisons.by_arm(runs))
    found = {each.label: each for each in comparisons.compare(runs, wanted)}
    np.testing.assert_allclose(found["GC - plain"].differences, [1.0, 1.2, 1.4])
    np.testing.assert_allclose(found["more than the sum"].differences, [2.0, 2.1, 2.2])
    assert found["GC - plain"].interval.mean == pytest.approx(1.2)
    # Student's t with two degrees of freedom: 4.303 at 95 %, 10.886 at 1 - 0.05 / 6.
    assert found["GC - plain"].interval.margin == pytest.approx(4.3027 * 0.2 / 3**0.5, rel=1e-3)
    assert found["GC - plain"].corrected.margin == pytest.approx(10.886 * 0.2 / 3**0.5, rel=1e-3)
    assert found["GC - plain"].verdict == "not told apart"
    assert found["more than the sum"].verdict == "yes"
    assert found["WC - plain"].verdict == "not told apart"


def test_a_run_that_ended_in_nan_has_no_pair(tmp_path):
    values = {arm: [70.0, 71.0, 72.0] for arm in blocks.ARMS} | {"GC": [71.0, None, 73.0]}
    write(tmp_path, "B", arms(values))
    runs = comparisons.runs_of(tmp_path, "B")
    (found,) = comparisons.compare(
        runs, {"GC": comparisons.sums_and_parts(comparisons.by_arm(runs))["GC - plain"]}
    )
    assert found.differences == [1.0, 1.0]


def test_pairs_that_are_none_are_refused(tmp_path):
    write(tmp_path, "B", [record(Setting("B", "plain"), 0, 70.0)])
    write(tmp_path, "B", [record(Setting("B", "GC"), 0, 70.0, weights="other")])
    with pytest.raises(ValueError, match=r"Seed 0 of B GC, adam 0\.001 and of B plain"):
        comparisons.runs_of(tmp_path, "B")


def test_pairs_of_the_papers_table_are_checked_too(tmp_path):
    fill_all(tmp_path)
    path = tmp_path / experiments.file_of(2)
    *others, last = results.read(path)
    path.unlink()
    results.append(path, [*others, last | {"began": {"weights": "w1", "batches": "others"}}])
    method = rows.read_table(2)[-1].method
    with pytest.raises(ValueError, match=rf"Seed 1 of {method} and of Baseline began with other"):
        report.write(tmp_path)


def test_epochs_to_an_accuracy_are_read_between_two_epochs():
    run = {"curves": {"test_accuracy": [0.5, 0.6, 0.8]}}
    assert comparisons.epochs_to(70)(run) == pytest.approx(2.5)
    assert comparisons.epochs_to(25)(run) == pytest.approx(0.5)
    assert comparisons.epochs_to(90)(run) is None


def fill_all(out):
    """Records for all blocks, in which WC+GC gains a point, or a tenth of a nat of text.

    In block C it gains nothing behind a norm, where the gradient's mean has no share.
    """
    for sweep in ("A", "E-rates", "C-rates", "G-rates"):
        fill(out, sweep, lambda s: 50.0)
    for block in ("B", "C", "E", "F", "G"):
        chosen, seeds = blocks.BLOCKS[block].settings(out), range(blocks.BLOCKS[block].seeds)
        for setting in chosen:
            normed = block == "C" and setting.norm != "none"
            both = setting.arm == "WC+GC" and not normed
            course = [{"conv1": {"gradient": 0.0 if normed else share}} for share in (0.4, 0.2)]
            of_setting = [record(setting, seed, 70.0 + both, measured=course) for seed in seeds]
            for one in of_setting:
                one["curves"]["test_loss"] = [2.0, 1.5 - 0.1 * both - 0.01 * one["run"]["seed"]]
            write(out, block, of_setting)
    table = rows.read_table(2)
    of_table = [
        record(Setting("D", "plain"), seed, 60.0 + row.number + seed)
        | {"run": experiments.identity(row, seed, experiments.Options(epochs=2))}
        for row in table
        for seed in (0, 1)
    ]
    results.append(out / experiments.file_of(2), of_table)
    steps = record(Setting("E", "plain"), 0, None) | {"outcome": "finished"}
    steps["run"] = {"seed": 0, "steps": 10}
    steps["distances"] = {"WC": [1e-7] * 10, "plain": [0.1 * i for i in range(1, 11)]}
    results.append(out / trajectories.FILE, [steps])


def test_the_report_is_made_from_the_records_alone(tmp_path):
    fill_all(tmp_path)
    page, *figures = report.write(tmp_path)
    text = page.read_text()
    assert [figure.stem for figure in figures] == [*sections.SECTIONS]
    for figure in figures:
        assert image.imread(figure).shape[2] == 4
        assert f"]({figure.name})" in text
    assert "| WC+GC - plain | +1.00 | +1.00 to +1.00 | +1.00 to +1.00 | 16 | yes |" in text
    assert "| more than the sum | +1.00 |" in text
    assert "64 runs, seeds 0 to 15, 64.0 core hours" in text
    assert "| B. How much does each gain, and both together? | 64 | 64.0 |" in text
    assert "| C. With what does it gain? | 72 + 144 | 216.0 |" in text
    assert "216 runs, seeds 0 to 5, 216.0 core hours" in text
    assert "| D. Over which area? | 26 | 26.0 |" in text
    assert "| gradient, conv1 | 0.40 | 0.20 |" in text
    assert "| mean (WC+GC) | +1.00 | +1.00 to +1.00 | +1.00 to +1.00 | 8 | yes |" in text
    # All controls with WC+GC gain the same; that on the inputs trains plain, and gains nothing.
    assert "| half less the whole mean | +0.00 | +0.00 to +0.00 |" in text
    assert "| inputs' patches less mean | -1.00 |" in text
    assert "| WC+GC, all kernels | +0.1000 | +0.1000 to +0.1000 |" in text
    assert "| largest distance from GC, relative | step 1 | step 10 |" in text
    assert "| plain | 1.0e-01 | 1.0e+00 |" in text
    # Row 2 of the paper's Table 2 is one point above row 1, its baseline, with both seeds.
    assert f"| {rows.read_table(2)[1].method} | +1.00 | +1.00 to +1.00 |" in text
    assert "Spearman's rank correlation of share and gain over these 12: +1.00" in text
    # All rates are alike there, so that the first one is taken.
    assert "In 24 of 24 sweeps the best learning rate is the lowest or highest tried." in text
    assert "nan" not in text


def test_verdicts_come_first(tmp_path):
    fill_all(tmp_path)
    lines = report.write(tmp_path)[0].read_text().splitlines()
    start = lines.index("## Verdicts")
    table = [line.split(" | ") for line in lines[start + 4 : lines.index("", start + 4)]]
    assert start < lines.index("## A. Is it the learning rate?")
    assert sum(cells[0].startswith("| B network (a)") for cells in table) == 6
    assert sum(cells[0].startswith("| C ") for cells in table) == 12
    assert {cells[2].split()[1] for cells in table} == {"points", "nats"}


def test_blocks_without_records_are_left_out(tmp_path):
    write(tmp_path, "B", arms({arm: [70.0, 71.0] for arm in blocks.ARMS}))
    text = report.write(tmp_path)[0].read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Verdicts",
        "## Runs",
        "## B. How much does each gain, and both together?",
        "## B-shares. How large is the mean, and do the inputs lie along it?",
    ]


def test_a_block_without_all_its_arms_is_at_work(tmp_path):
    write(tmp_path, "B", arms({"plain": [70.0, 71.0], "GC": [71.0, 72.0]}))
    (page,) = report.write(tmp_path)
    text = page.read_text()
    assert text.count("At work: WC, WC+GC has no run yet.") == 2
    assert "Verdicts" not in text


def test_a_report_on_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no results"):
        report.write(tmp_path)


def test_every_factor_has_a_place_in_the_name():
    other = {"removed": "half", "layers": "first", "norm": "batch", "centred": True}
    plain = Setting("F", "plain")
    names = {dataclasses.replace(plain, **{name: value}).name for name, value in other.items()}
    assert len(names | {plain.name}) == 5


# Trajectories


def test_gc_and_wc_follow_one_path_under_sgd_and_plain_another(data):
    shared = {"network": "c", "optimizer": "sgd", "learning_rate": 1e-3, "centred": True}
    engines = {
        arm: Engine(Setting("E", arm, **shared).experiment(data), data)
        for arm in ("plain", "GC", "WC")
    }
    found = trajectories.distances(engines, seed=0, steps=2)
    assert found.keys() == {"plain", "WC"}
    assert max(found["WC"]) < 1e-3 < min(found["plain"])
    assert len(found["plain"]) == 2
