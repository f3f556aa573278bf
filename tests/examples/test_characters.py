"""The study's transformer: its text, and what is removed from its kernels."""

import jax
import numpy as np
import pytest
from flax import nnx

import wcgc
from examples.engine.engine import Engine
from examples.study import characters, text
from examples.study.characters import Setting
from examples.study.transformer import Transformer

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def file(tmp_path):
    """4,000 characters, the alphabet again and again."""
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(ord("a") + i % 26) for i in range(4000)))
    return path


def test_the_end_of_the_text_is_for_the_test(file):
    data = text.load(file)
    assert data.train.labels.shape == (55, 128)  # 3,600 characters are 56 windows
    assert data.test.labels.shape == (5, 128)
    np.testing.assert_array_equal(data.train.labels[1], (64 + np.arange(128)) % 26)
    np.testing.assert_array_equal(data.test.labels[0], (3600 + np.arange(128)) % 26)
    assert text.alphabet_size(data) == 26


def test_what_is_held_out_is_the_end_of_the_training_part(file):
    data = text.load(file, held_out=True)
    np.testing.assert_array_equal(data.test.labels[0], (3240 + np.arange(128)) % 26)
    assert data.train.labels[-1, -1] == (50 * 64 - 1) % 26


def test_each_character_is_followed_by_the_next(file):
    pieces = text.load(file).train
    for windows, following in (
        text.first_windows(pieces),
        text.random_windows(jax.random.key(0), pieces),
    ):
        assert windows.shape == following.shape == (55, text.WINDOW)
        np.testing.assert_array_equal((windows + 1) % 26, following)


def test_windows_begin_anywhere_in_a_piece():
    pieces = text.Text(np.tile(np.arange(128, dtype=np.uint8), (2000, 1)))
    windows, _ = text.random_windows(jax.random.key(0), pieces)
    assert set(np.asarray(windows)[:, 0].tolist()) == set(range(64))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is not a text in UTF-8"),
        (b"too short", "has 9 characters"),
        ("".join(map(chr, range(256, 600))).encode(), "has 344 different characters"),
    ],
)
def test_what_is_no_text_to_train_on_is_refused(tmp_path, content, message):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        text.load(path)


def test_the_transformer_sees_nothing_of_what_follows():
    model = Transformer(26, text.WINDOW, nnx.Rngs(0))
    characters = jax.random.randint(jax.random.key(0), (1, 20), 0, 26)
    changed = characters.at[0, 12].set((characters[0, 12] + 1) % 26)
    same = np.isclose(model(characters), model(changed), atol=1e-6).all(-1)[0]
    np.testing.assert_array_equal(same, np.arange(20) < 12)


@pytest.mark.parametrize(
    ("factors", "centred"),
    [
        ({"arm": "plain"}, {}),
        ({"arm": "WC+GC"}, {"first", "second", "out", "query", "key", "value", "head"}),
        ({"arm": "WC+GC", "kernels": "second"}, {"second"}),
    ],
    ids=["plain", "all", "second"],
)
def test_arms_differ_in_the_kernels_that_are_centred(file, factors, centred):
    data = text.load(file)
    setting = Setting("G", **factors)
    engine = Engine(setting.experiment(data), data)
    plain = Engine(Setting("G", "plain").experiment(data), data)
    assert engine.digests([3]) == plain.digests([3])
    state, _ = engine.train(engine.init([3]), [3], 1, slice(0, 1))
    found = set()
    for path, measured in engine.measure(state)[0].items():
        assert 0 < measured["gradient"] < 1
        if measured["weights"] < 1e-10:
            found.add(path.rpartition("/")[2])
    assert found == set(centred)


def test_it_learns_the_alphabet(file):
    data = text.load(file)
    setting = Setting("G", "WC+GC", learning_rate=10**-2.5, epochs=20)
    engine = Engine(setting.experiment(data), data)
    state = engine.init([0])
    for epoch in range(1, 21):
        state, learned = engine.train(state, [0], epoch)
    assert learned.loss < 2.5 < np.log(26)
    tested = engine.test(state)
    assert tested.accuracy.shape == (1,)


def test_means_are_those_of_the_layout_of_the_layers():
    axes = characters.axes_of(Setting("G", "WC+GC"), lambda rngs: Transformer(6, text.WINDOW, rngs))
    params = nnx.state(Transformer(6, text.WINDOW, nnx.Rngs(0)), nnx.Param)
    after = wcgc.centralize(params, axes=axes)
    attention = after["blocks"][0]["attention"]
    np.testing.assert_allclose(attention["query"]["kernel"][...].mean(0), 0, atol=1e-7)
    np.testing.assert_allclose(attention["out"]["kernel"][...].mean((0, 1)), 0, atol=1e-7)
