"""A transformer with LayerNorm in front of each part, for characters."""

import jax
import jax.numpy as jnp
from flax import nnx

WIDTH = 128
HEADS = 4
DEPTH = 2


class Block(nnx.Module):
    """Attention and two dense layers, each behind a LayerNorm and beside the residual stream.

    Args:
      rngs: for the weights.
    """

    def __init__(self, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.first = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.second = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, characters, width) to the same."""
        mask = nnx.make_causal_mask(x[..., 0])
        x += self.attention(self.norm1(x), mask=mask)
        return x + self.second(nnx.gelu(self.first(self.norm2(x))))


class Transformer(nnx.Module):
    """From characters to the logits of the next ones.

    Args:
      alphabet: how many characters there are.
      window: the most characters of an input.
      rngs: for the weights.
    """

    def __init__(self, alphabet: int, window: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(alphabet, WIDTH, rngs=rngs)
        self.places = nnx.Embed(window, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(DEPTH)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, alphabet, rngs=rngs)

    def __call__(self, characters: jax.Array) -> jax.Array:
        """Maps integers (batch, characters) to logits (batch, characters, alphabet)."""
        x = self.embed(characters) + self.places(jnp.arange(characters.shape[-1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
