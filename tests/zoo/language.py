"""Token models without attention: embeddings with pre-normalized MLP blocks, also with stacked parameters under scan and remat."""

import flax.linen as nn
import jax.numpy as jnp

from zoo.architecture import Architecture
from zoo.data import text


class PreNormBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        y = nn.gelu(nn.Dense(4 * x.shape[-1])(y))
        return x + nn.Dense(x.shape[-1])(y)


class LanguageModel(nn.Module):
    """Characters and learned positions; each position sees the running mean of those before it."""

    width: int
    vocabulary: int = 128
    num_layers: int = 3

    @nn.compact
    def __call__(self, tokens):
        length = tokens.shape[-1]
        x = nn.Embed(self.vocabulary, self.width, name="token_embed")(tokens)
        x = x + self.param("position_embed", nn.initializers.normal(0.02), (length, self.width))
        for _ in range(self.num_layers):
            past = jnp.cumsum(x, axis=1) / jnp.arange(1, length + 1)[:, None]
            x = x + nn.Dense(self.width)(nn.LayerNorm()(past))
            x = PreNormBlock()(x)
        return nn.Dense(self.vocabulary, use_bias=False, name="lm_head")(nn.LayerNorm()(x))


class ScanBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return PreNormBlock()(x), None


class ScannedModel(nn.Module):
    """The same blocks with stacked parameters: one rematerialized block under scan, an RMS norm at the end, tied embeddings."""

    width: int
    vocabulary: int = 128
    num_layers: int = 4

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(1.0))
        x = embed(tokens)
        stack = nn.scan(nn.remat(ScanBlock), variable_axes={"params": 0}, split_rngs={"params": True}, length=self.num_layers)
        x, _ = stack(name="layers")(x, None)
        return nn.Dense(self.vocabulary)(nn.RMSNorm()(x))


ARCHITECTURES = {
    "MLP language model": Architecture("linen", LanguageModel, lambda: (text(12),)),
    "Scanned, rematerialized blocks": Architecture("linen", ScannedModel, lambda: (text(6),)),
}
