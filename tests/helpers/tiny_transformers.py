"""A small pre-norm language model in Flax NNX and in Linen, with the norm left open."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

VOCABULARY, CONTEXT, WIDTH, HEADS, BLOCKS = 11, 6, 8, 2, 2
EPSILON = 1e-5


def causal(tokens):
    return nn.make_causal_mask(tokens)


class Block(nnx.Module):
    def __init__(self, norm, rngs):
        self.norm1 = norm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.norm2 = norm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x, mask):
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Model(nnx.Module):
    """Logits (batch, time, vocabulary) from tokens (batch, time)."""

    def __init__(self, norm=nnx.LayerNorm, seed=0, **options):
        rngs = nnx.Rngs(seed)

        def make_norm(features, rngs):
            return norm(features, epsilon=EPSILON, rngs=rngs, **options)

        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.position = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(make_norm, rngs) for _ in range(BLOCKS)])
        self.norm = make_norm(WIDTH, rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        # Not by calling the modules, which compute in float32 whatever they hold.
        x = self.embed.embedding[...][tokens] + self.position.embedding[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, causal(tokens))
        return self.head(self.norm(x))


class LinenBlock(nn.Module):
    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x, mask):
        attention = nn.MultiHeadDotProductAttention(HEADS, name="attention")
        x = x + attention(self.norm(epsilon=EPSILON, name="norm1")(x), mask=mask)
        hidden = nn.Dense(4 * WIDTH, name="up")(self.norm(epsilon=EPSILON, name="norm2")(x))
        return x + nn.Dense(WIDTH, name="down")(nn.gelu(hidden))


class LinenModel(nn.Module):
    norm: type[nn.Module] = nn.LayerNorm

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH, name="embed")(tokens)
        x += nn.Embed(CONTEXT, WIDTH, name="position")(jnp.arange(tokens.shape[1]))
        for index in range(BLOCKS):
            x = LinenBlock(self.norm, name=f"block{index}")(x, causal(tokens))
        return nn.Dense(VOCABULARY, name="head")(self.norm(epsilon=EPSILON, name="norm")(x))


def nnx_apply(norm=nnx.LayerNorm, **options):
    """From pure parameters and tokens to logits."""

    def apply(params, tokens):
        # Abstract, since to compile what draws initial values takes longer than the rest.
        model = nnx.eval_shape(lambda: Model(norm, **options))
        nnx.update(model, params)
        return model(tokens)

    return jax.jit(apply)


def nnx_params(seed=0, norm=nnx.LayerNorm, **options):
    return nnx.to_pure_dict(nnx.state(Model(norm, seed, **options), nnx.Param))


def linen_apply(norm=nn.LayerNorm):
    return jax.jit(lambda params, tokens: LinenModel(norm).apply({"params": params}, tokens))


def linen_params(seed=0):
    tokens = jnp.zeros((1, CONTEXT), jnp.int32)
    return LinenModel().init(jax.random.key(seed), tokens)["params"]


def some_tokens(seed, sequences=4):
    return jax.random.randint(jax.random.key(seed), (sequences, CONTEXT), 0, VOCABULARY)


def loss(apply, params, tokens):
    """Mean cross-entropy of the next token, in nats."""
    logits = apply(params, tokens)[:, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()
