"""A small transformer that learns to spell Shakespeare, and what trains many of them at once."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

WIDTH, HEADS, CONTEXT = 32, 4, 16
SEEDS, BATCH = (0, 1, 2), 8

_text = pathlib.Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
alphabet = sorted(set(_text))
_numbers = np.array([alphabet.index(character) for character in _text], np.int32)
training, held_out = np.split(_numbers, [9 * len(_numbers) // 10])
"""The numbers of the characters; the last tenth is held out."""

_, _counts = np.unique(training, return_counts=True)
FREQUENCIES_ALONE = -np.sum(_counts * np.log(_counts / len(training))) / len(training)
"""What is lost by who knows no more than the characters' frequencies, in nats a character."""


class Block(nnx.Module):
    """Causal attention and a perceptron, each behind a norm and beside a shortcut."""

    def __init__(self, norm: Callable, rngs: nnx.Rngs):
        self.norm1 = norm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.norm2 = norm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        causal = jnp.tril(jnp.ones((CONTEXT, CONTEXT), bool))
        x = x + self.attention(self.norm1(x), mask=causal)
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class LanguageModel(nnx.Module):
    """From characters (batch, time) to logits (batch, time, characters)."""

    def __init__(
        self,
        seed: int = 0,
        tied: bool = False,
        head_bias: bool = True,
        norm: Callable = nnx.LayerNorm,
    ):
        rngs = nnx.Rngs(seed)
        self.embed = nnx.Embed(len(alphabet), WIDTH, rngs=rngs)
        self.position = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.block = Block(norm, rngs)
        self.norm = norm(WIDTH, rngs=rngs)
        if not tied:
            self.head = nnx.Linear(WIDTH, len(alphabet), use_bias=head_bias, rngs=rngs)
        self.tied = tied

    def stream(self, characters: jax.Array) -> jax.Array:
        """The residual stream behind the block."""
        return self.block(self.embed(characters) + self.position(jnp.arange(CONTEXT)))

    def __call__(self, characters: jax.Array) -> jax.Array:
        x = self.norm(self.stream(characters))
        return self.embed.attend(x) if self.tied else self.head(x)


def sequences(text: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Random pieces of the text, (count, CONTEXT + 1)."""
    starts = np.random.default_rng(seed).integers(0, len(text) - CONTEXT - 1, count)
    return text[starts[:, None] + np.arange(CONTEXT + 1)]


TEST = sequences(held_out, 0, 256)


def params_of(seed: int, **options: Any) -> Any:
    """The parameters of a new model."""
    return nnx.state(LanguageModel(seed, **options), nnx.Param)


def apply_of(**options: Any) -> Callable:
    """The function from parameters and characters to logits."""
    graph, *states = nnx.split(LanguageModel(**options), nnx.Param, ...)
    return lambda params, characters: nnx.merge(graph, params, states[1])(characters)


def cross_entropy(logits: jax.Array, pieces: jax.Array) -> jax.Array:
    """The mean cross-entropy of the next characters in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, pieces[:, 1:]).mean()


def train(
    make_transform: Callable[[jax.Array], optax.GradientTransformation],
    values: Sequence[float] | np.ndarray,
    steps: int,
    look: Callable = lambda params, logits: (),
    **options: Any,
) -> Any:
    """Trains a model for each value (outer axis) and seed (inner axis), all at once.

    Args:
      make_transform: from a value, such as a learning rate, to the optimizer.
      values: what `make_transform` is given.
      steps: how many steps each model is trained.
      look: what is kept of parameters and logits at each step.
      **options: of `LanguageModel`.

    Returns:
      The last parameters, the loss on the held-out text, and at each step the training loss and
      what `look` makes of parameters and logits.
    """
    apply = apply_of(**options)

    def one(value: jax.Array, params: Any, batches: jax.Array) -> Any:
        transform = make_transform(value)

        def loss(params: Any, pieces: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = apply(params, pieces[:, :-1])
            return cross_entropy(logits, pieces), logits

        def step(carry: Any, pieces: jax.Array) -> Any:
            params, state = carry
            (value, logits), grads = jax.value_and_grad(loss, has_aux=True)(params, pieces)
            updates, state = transform.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (value, look(params, logits))

        (params, _), history = jax.lax.scan(step, (params, transform.init(params)), batches)
        return params, loss(params, jnp.asarray(TEST))[0], *history

    starts = [params_of(seed, **options) for seed in SEEDS]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    batches = np.stack([sequences(training, seed, steps * BATCH) for seed in SEEDS])
    batches = batches.reshape(len(SEEDS), steps, BATCH, CONTEXT + 1)
    over_seeds = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.jit(jax.vmap(over_seeds, in_axes=(0, None, None)))(
        jnp.asarray(values, jnp.float32), stacked, batches
    )
