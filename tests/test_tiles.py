"""Kernels of many examples, made tile by tile under jit: the same numbers, and only where examples do not meet."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import ZOO

import sigprop as sp
from sigprop.infinite import tiles
from sigprop.infinite.apart import apart


class PerExample(nn.Module):
    """What keeps examples apart: products, convolutions, norms, lookups by position, attention, windows, slices, sorts of channels."""

    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm()(nn.relu(nn.Conv(8, (3, 3))(x)))
        h = nn.avg_pool(h, (2, 2), (2, 2)).reshape(x.shape[0], -1, 8)
        h = h + nn.MultiHeadDotProductAttention(2)(h) + nn.Embed(4, 8)(jnp.arange(4))
        h = jnp.concatenate([h[:, :2].cumsum(1), jnp.sort(h, -1)[:, 2:]], 1).swapaxes(0, 1)
        return nn.Dense(3)(jnp.einsum("tbc,tbd->bcd", h, h).reshape(x.shape[0] * 8, 8)).reshape(x.shape[0], 8, 3).mean(1)


MEETING = {
    "mean": lambda h: h - h.mean(0), "largest": lambda h: h / h.max(0), "sum along them": lambda h: h.cumsum(0), "order": lambda h: h[::-1],
    "pairs": lambda h: h @ (h.T @ h), "sorted": lambda h: jnp.sort(h, 0), "shifted": lambda h: jnp.pad(h[1:], ((0, 1), (0, 0))),
    "rolled": lambda h: jax.lax.pad(h, jnp.zeros((), h.dtype), ((1, -1, 0), (0, 0, 0))),
    "turned": lambda h: h.T.reshape(h.shape), "one of them": lambda h: h + h[:1], "first": lambda h: h + h[0],
    "place": lambda h: h + jnp.arange(len(h))[:, None], "place, known": lambda h: h + np.arange(len(h), dtype=np.float32)[:, None],
}


class Meeting(nn.Module):
    how: str

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(MEETING[self.how](nn.Dense(4)(x)))


def test_examples_that_are_apart():
    x = np.zeros((2, 4, 4, 3), np.float32)
    assert apart(sp.network(PerExample(), x), x)


@pytest.mark.parametrize("name", MEETING)
def test_examples_that_meet(name):
    x = np.zeros((2, 3), np.float32)
    assert not apart(sp.network(Meeting(name), x), x)


QUICK = ("ConvNeXt", "Llama-like language model", "Zero-gamma ResNet", "Scanned, rematerialized blocks")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ZOO])
def test_real_architectures(name):
    """All of them but the one that is normalized by the statistics of its batch."""
    assert apart(ZOO[name].network(16), *ZOO[name].inputs()) is (name != "Zero-gamma ResNet")


SITES = nn.Sequential([nn.Conv(8, (3,)), nn.relu, nn.Conv(8, (3,))])


@pytest.mark.parametrize(("model", "shape", "options", "second"), [
    (nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(1)]), (5,), {}, False),
    (nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(1)]), (5,), {"per_leaf": True}, True),
    (SITES, (4, 2), {}, False), (SITES, (4, 2), {"ntk": False}, True),
])
def test_tiles_are_the_whole(monkeypatch, model, shape, options, second, n=37):
    """With a last tile that is not full, sites on both sides, and equal examples on the diagonal."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, *shape)).astype(np.float32), rng.standard_normal((n - 9, *shape)).astype(np.float32)
    kernel = sp.infinite_kernel(sp.network(model, x), "ntk", **options)
    arguments = (x, y) if second else (x,)
    whole = jax.jit(kernel)(*arguments)
    monkeypatch.setattr(tiles, "TILE", 8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), jax.jit(kernel)(*arguments), whole)
