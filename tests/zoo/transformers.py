"""Attention models: a causal language model, a vision transformer with a class token, a block in the manner of Llama, recurrent cells."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from zoo.architecture import Architecture
from zoo.data import photo, scanlines, text

HEAD = 16  # channels: heads do not widen, they become more


class Decoder(nn.Module):
    """Characters to logits: two causal pre-norm blocks."""

    width: int
    vocabulary: int = 128

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(1.0))(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.5), (tokens.shape[1], self.width))
        for _ in range(2):
            attend = nn.MultiHeadDotProductAttention(self.width // HEAD)
            x = x + attend(nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))


def rotary(x):
    """Rotate pairs of channels of ``[batch, time, heads, channels]`` by angles that grow with time (Su et al. 2021)."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * 10000.0 ** (-jnp.arange(half) / half)
    sin, cos = jnp.sin(angles)[:, None], jnp.cos(angles)[:, None]
    one, two = jnp.split(x, 2, -1)
    return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1)


class Llama(nn.Module):
    """RMS norms, rotary positions, grouped queries and a SwiGLU, without biases."""

    width: int
    vocabulary: int = 128

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(1.0))(tokens)
        h, heads = nn.RMSNorm()(x), self.width // HEAD
        q = nn.DenseGeneral((heads, HEAD), use_bias=False)(h)
        k, v = (nn.DenseGeneral((max(heads // 2, 1), HEAD), use_bias=False)(h) for _ in range(2))
        y = jax.nn.dot_product_attention(rotary(q), rotary(k), v, is_causal=True)
        x = x + nn.DenseGeneral(self.width, axis=(-2, -1), use_bias=False)(y)
        h = nn.RMSNorm()(x)
        gate, up = (nn.Dense(2 * self.width, use_bias=False)(h) for _ in range(2))
        x = x + nn.Dense(self.width, use_bias=False)(nn.silu(gate) * up)
        return nn.Dense(self.vocabulary, use_bias=False)(nn.RMSNorm()(x))


class ViT(nnx.Module):
    """Patches and a class token through pre-norm blocks; a learned query pools them (Zhai et al. 2022)."""

    def __init__(self, width, rngs, patch=4, blocks=2):
        self.embed = nnx.Conv(3, width, (patch, patch), strides=(patch, patch), rngs=rngs)
        self.token = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(nnx.initializers.normal(0.5)(rngs.params(), (1, 5, width)))
        self.blocks = nnx.List([Block(width, rngs) for _ in range(blocks)])
        self.query = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (1, 1, width)))
        self.pool = nnx.MultiHeadAttention(width // HEAD, width, decode=False, rngs=rngs)
        self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x).reshape(x.shape[0], -1, self.embed.out_features)
        x = jnp.concatenate([jnp.broadcast_to(self.token[...], (len(x), 1, x.shape[2])), x], 1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        pooled = self.pool(jnp.broadcast_to(self.query[...], (len(x), 1, x.shape[2])), self.norm(x))
        return self.head(pooled[:, 0])


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.first, self.second = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(width // HEAD, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attend(self.first(x))
        return x + self.down(nnx.gelu(self.up(self.second(x))))


class Recurrent(nn.Module):
    """A classifier that reads a signal step by step."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        return nn.Dense(10)(nn.RNN(nn.LSTMCell(self.width))(x)[:, -1])


ARCHITECTURES = {
    "Causal language model": Architecture("linen", Decoder, lambda: (text(8),)),
    "Llama-like language model": Architecture("linen", Llama, lambda: (text(8),)),
    "ViT": Architecture("nnx", lambda width: lambda rngs: ViT(width, rngs), lambda: (photo(8),)),
    "LSTM classifier": Architecture("linen", Recurrent, lambda: (scanlines(5),)),
}
