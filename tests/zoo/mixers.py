"""Networks that mix tokens by dense layers over positions: MLP-Mixer and gMLP."""

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx

from zoo.architecture import Architecture
from zoo.data import photo, text


class MlpBlock(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dense(x.shape[-1])(y)


class MixerBlock(nn.Module):
    tokens_dim: int
    channels_dim: int

    @nn.compact
    def __call__(self, x):
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        y = MlpBlock(self.tokens_dim, name="token_mixing")(y)
        x = x + jnp.swapaxes(y, 1, 2)
        return x + MlpBlock(self.channels_dim, name="channel_mixing")(nn.LayerNorm()(x))


class MlpMixer(nn.Module):
    width: int
    patch: int = 4
    num_blocks: int = 2

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (self.patch, self.patch), strides=(self.patch, self.patch), name="stem")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for _ in range(self.num_blocks):
            x = MixerBlock(self.width // 2, 4 * self.width)(x)
        x = nn.LayerNorm(name="pre_head_layer_norm")(x).mean(axis=1)
        return nn.Dense(10, name="head")(x)


class SpatialGatingUnit(nnx.Module):
    """Half of the channels, mixed over positions, gates the other half; starts near the identity."""

    def __init__(self, dim, length, *, rngs):
        self.norm = nnx.LayerNorm(dim // 2, rngs=rngs)
        self.proj = nnx.Linear(length, length, kernel_init=nnx.initializers.normal(1e-3), bias_init=nnx.initializers.ones, rngs=rngs)

    def __call__(self, x):
        u, v = jnp.split(x, 2, axis=-1)
        v = jnp.swapaxes(self.norm(v), -1, -2)
        return u * jnp.swapaxes(self.proj(v), -1, -2)


class GmlpBlock(nnx.Module):
    def __init__(self, dim, length, *, rngs):
        self.norm = nnx.LayerNorm(dim, rngs=rngs)
        self.proj_in = nnx.Linear(dim, 4 * dim, rngs=rngs)
        self.gate = SpatialGatingUnit(4 * dim, length, rngs=rngs)
        self.proj_out = nnx.Linear(2 * dim, dim, rngs=rngs)

    def __call__(self, x):
        return x + self.proj_out(self.gate(nnx.gelu(self.proj_in(self.norm(x)))))


class Gmlp(nnx.Module):
    """A character model of two gated blocks."""

    def __init__(self, dim, *, length=16, vocabulary=128, rngs):
        self.embed = nnx.Embed(vocabulary, dim, rngs=rngs)
        self.blocks = nnx.List([GmlpBlock(dim, length, rngs=rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(dim, rngs=rngs)
        self.head = nnx.Linear(dim, vocabulary, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


ARCHITECTURES = {
    "MLP-Mixer": Architecture("linen", MlpMixer, lambda: (photo(16),), averaged=1 / 2, sites=16),
    "gMLP": Architecture("nnx", lambda n: lambda rngs: Gmlp(n, rngs=rngs), lambda: (text(16),)),
}
