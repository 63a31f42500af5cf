"""Models, nnx and linen and plain functions, whose initializers count other fans than their operations have, and models that are right."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import initializers as I


class UNetDecoder(nnx.Module):
    def __init__(self, rngs, init=None):
        given = {} if init is None else {"kernel_init": init}
        self.down = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
        self.mid = nnx.Conv(16, 16, (3, 3), rngs=rngs)
        self.up = nnx.ConvTranspose(16, 8, (2, 2), strides=2, rngs=rngs, **given)
        self.out = nnx.Conv(11, 3, (3, 3), rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.mid(nnx.relu(self.down(x))))
        return self.out(jnp.concatenate([self.up(h), x], -1))


class LinenUNet(nn.Module):
    kernel: object = I.lecun_normal()
    rank: int = 2

    @nn.compact
    def __call__(self, x):
        k = (3,) * self.rank
        h = nn.relu(nn.Conv(8, k, strides=2)(x))
        return nn.Conv(1, k)(nn.relu(nn.ConvTranspose(8, (4,) * self.rank, strides=(2,) * self.rank, kernel_init=self.kernel)(h)))


class GemmaAttention(nnx.Module):
    """Query, key and value by einsum over heads, as in Gemma."""

    def __init__(self, rngs, heads=4):
        self.heads = heads
        self.q = nnx.Einsum("btd,ndh->btnh", (heads, 32, 8), rngs=rngs)
        self.kv = nnx.Einsum("bsd,ckdh->cbskh", (2, 1, 32, 8), rngs=rngs)
        self.o = nnx.Einsum("btnh,nhd->btd", (heads, 8, 32), rngs=rngs)

    def __call__(self, x):
        q = self.q(x)
        k, v = self.kv(x)
        logits = jnp.einsum("btnh,bskh->bnts", q, k) / 8**0.5
        mixed = jnp.einsum("bnts,bskh->btnh", jax.nn.softmax(logits), v)
        return self.o(mixed)


class FusedAttention(nn.Module):
    """One Dense for q, k and v."""

    kernel: object = I.xavier_uniform()
    split: str = "split"

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(96, kernel_init=self.kernel, name="qkv")(x)
        if self.split == "split":
            q, k, v = jnp.split(h, 3, -1)
        else:
            q, k, v = jnp.moveaxis(h.reshape(*h.shape[:-1], 3, 32), -2, 0)
        weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", q, k) / 32**0.5)
        return nn.Dense(32, name="out")(jnp.einsum("bts,bsd->btd", weights, v))


class Rotary(nn.Module):
    """Queries and keys of Xavier kernels, rotated by their position, half by half."""

    @nn.compact
    def __call__(self, x):
        angles = np.arange(x.shape[1])[:, None] / 100 ** (np.arange(8) / 8)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

        def rotated(h):
            one, two = jnp.split(h, 2, -1)
            return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1)

        q, k, v = (nn.Dense(16, kernel_init=I.xavier_uniform())(x) for _ in range(3))
        return jax.nn.softmax(jnp.einsum("btd,bsd->bts", rotated(q), rotated(k)) / 4) @ v


class SlicedAttention(nnx.Module):
    """One parameter for q, k and v, of which slices are used."""

    def __init__(self, rngs):
        self.w = nnx.Param(I.xavier_normal()(rngs.params(), (32, 96)))

    def __call__(self, x):
        q, k, v = (x @ self.w[...][:, 32 * i:32 * (i + 1)] for i in range(3))
        return jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2)) @ v


def experts(params, x):
    """Every token through every expert, whose kernels are drawn at once."""
    gates = jax.nn.softmax(x @ params["router"])
    h = jax.nn.relu(jnp.einsum("bd,edf->bef", x, params["up"]))
    return jnp.einsum("be,bef,efd->bd", gates, h, params["down"])


def experts_init(key):
    shapes = {"router": (32, 4), "up": (4, 32, 64), "down": (4, 64, 32)}
    return {name: I.lecun_normal()(k, s) for (name, s), k in zip(shapes.items(), jax.random.split(key, 3), strict=True)}


def torch_style(params, x):
    """Kernels stored as (out, in)."""
    for w in params[:-1]:
        x = jax.nn.relu(x @ w.T)
    return x @ params[-1].T


def torch_init(init):
    def make(key):
        widths = (24, 72, 12, 5)
        return [init(k, (m, n)) for k, n, m in zip(jax.random.split(key, 3), widths, widths[1:], strict=False)]
    return make


class Grouped(nnx.Module):
    def __init__(self, rngs, init):
        self.stem = nnx.Conv(3, 16, (1, 1), rngs=rngs)
        self.depthwise = nnx.Conv(16, 16, (3, 3), feature_group_count=16, kernel_init=init, rngs=rngs)
        self.grouped = nnx.Conv(16, 32, (3, 3), feature_group_count=4, kernel_init=init, rngs=rngs)

    def __call__(self, x):
        return self.grouped(nnx.relu(self.depthwise(self.stem(x))))


class GatedFFN(nn.Module):
    """A gated feed-forward layer between two RMS norms."""

    std: float = 0.01
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x):
        init = I.normal(self.std)
        h = nn.RMSNorm(name="before")(x)
        h = nn.silu(nn.Dense(64, kernel_init=init, name="gate")(h)) * nn.Dense(64, kernel_init=init, name="up")(h)
        return nn.RMSNorm(epsilon=self.epsilon, name="after")(nn.Dense(32, kernel_init=init, name="down")(h))


class Masked(nn.Module):
    """A kernel of which a fifth is kept."""

    keep: int = 5

    @nn.compact
    def __call__(self, x):
        w = self.param("w", I.he_normal(), (x.shape[-1], 40))
        return x @ (w * (jnp.arange(w.size).reshape(w.shape) % self.keep == 0))


class Sound(nnx.Module):
    """An image classifier with the layers of nnx at their defaults."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.depthwise = nnx.Conv(16, 16, (5, 5), feature_group_count=16, padding="VALID", use_bias=False, rngs=rngs)
        self.dilated = nnx.Conv(16, 16, (3, 3), kernel_dilation=2, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 16, rngs=rngs, decode=False)
        self.lora = nnx.LoRALinear(16, 16, lora_rank=2, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = self.dilated(self.depthwise(nnx.relu(self.norm(self.stem(x)))))
        x = x.reshape(x.shape[0], -1, 16)
        return self.head(self.lora(x + self.attention(x)).mean(1))


class SoundLinen(nn.Module):
    """A language model with tied embeddings, gated feed-forward layers and sandwich norms at their defaults."""

    kernel: object = I.lecun_normal()

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(20, 32)
        x = embed(tokens)
        for _ in range(2):
            attention = nn.MultiHeadDotProductAttention(4, kernel_init=self.kernel, out_kernel_init=self.kernel)
            x = x + nn.RMSNorm()(attention(nn.RMSNorm()(x)))
            h = nn.RMSNorm()(x)
            x = x + nn.RMSNorm()(nn.Dense(32)(nn.silu(nn.Dense(64)(h)) * nn.Dense(64)(h)))
        return embed.attend(nn.RMSNorm()(x))


class LowRank(nn.Module):
    """x (A B), a kernel made of two, each right for its own inputs; and a learned query."""

    @nn.compact
    def __call__(self, x):
        a, b = self.param("a", I.lecun_normal(), (32, 4)), self.param("b", I.lecun_normal(), (4, 32))
        h = x @ (a @ b)
        query = nn.Dense(32)(self.param("query", I.normal(1.0), (1, 32)))
        return jax.nn.softmax(jnp.einsum("qd,btd->bqt", query, h)) @ h
