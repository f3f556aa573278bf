"""Any text as data to train on: windows of characters, each to be told from those before it."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from examples.engine.data import Data
from examples.engine.tasks import Task
from examples.engine.voc import IGNORED

WINDOW = 64
"""Characters that the model sees at once."""

TEST = 0.1
"""The share of a text, its end, that is tested on."""


class Text(NamedTuple):
    """Pieces of a text, each of twice as many characters as a window has, one window apart.

    Attributes:
      labels: uint8 (pieces, 2 * WINDOW), each character by its number in the alphabet.
    """

    labels: np.ndarray | jax.Array


def load(path: Path, held_out: bool = False) -> Data:
    """Reads a text and divides it: its end is for the test.

    Args:
      path: of a text in UTF-8.
      held_out: whether the end of the training part is tested on, in place of the test part.

    Returns:
      The pieces of both parts. The alphabet is that of the whole text.

    Raises:
      ValueError: it is no text in UTF-8, too short, or has too many different characters.
      OSError: it is missing or cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}") from error
    characters, numbers = np.unique(np.array([*text], np.str_), return_inverse=True)
    if len(characters) > IGNORED:
        raise ValueError(
            f"{path} has {len(characters)} different characters, the most is {IGNORED}: write rare "
            "ones otherwise."
        )
    end = round(len(numbers) * (1 - TEST))
    training, test = numbers[:end], numbers[end:]
    if held_out:
        end = round(len(training) * (1 - TEST))
        training, test = training[:end], training[end:]
    if len(test) < 2 * WINDOW:
        raise ValueError(
            f"{path} has {len(numbers)} characters: its end, to be tested on, is shorter than the "
            f"{2 * WINDOW} characters of one piece."
        )
    return Data(_pieces(training), _pieces(test))


def _pieces(numbers: np.ndarray) -> Text:
    count = len(numbers) // WINDOW - 1
    whole = numbers[: (count + 1) * WINDOW].astype(np.uint8).reshape(count + 1, WINDOW)
    return Text(np.concatenate([whole[:-1], whole[1:]], 1))


def alphabet_size(data: Data) -> int:
    """How many different characters there are."""
    return 1 + int(max(part.labels.max() for part in data))


def random_windows(key: jax.Array, batch: Text) -> tuple[jax.Array, jax.Array]:
    """From each piece a window at a random place, and the characters one place further on."""
    pieces = jnp.asarray(batch.labels, jnp.int32)
    starts = jax.random.randint(key, (len(pieces),), 0, WINDOW)
    cut = jax.vmap(lambda piece, at: jax.lax.dynamic_slice(piece, (at,), (WINDOW + 1,)))
    return _shifted(cut(pieces, starts))


def first_windows(batch: Text) -> tuple[jax.Array, jax.Array]:
    """The window at the beginning of each piece, and the characters one place further on."""
    return _shifted(jnp.asarray(batch.labels, jnp.int32)[:, : WINDOW + 1])


def _shifted(windows: jax.Array) -> tuple[jax.Array, jax.Array]:
    return windows[:, :-1], windows[:, 1:]


TASK = Task(random_windows, first_windows, test_batch=50)
