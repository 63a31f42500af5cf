"""Entropies of attention rows: against measurement, independent Gaussian logits, limits, and bad input.

Measurements of shallow models with given tokens are unbiased at any width, since queries and keys are then Gaussian but for the tails
of truncated normal weights over 128 channels. Comparisons raise a false alarm with probability 1e-6 each.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from harness import Sample, agree

import sigprop as sp

RNG = np.random.default_rng(0)
HE, XAVIER, LECUN = nn.initializers.he_normal(), nn.initializers.xavier_normal(), nn.initializers.lecun_normal()


def tokens(length, width=128, batch=1):
    return RNG.standard_normal((batch, length, width)).astype(np.float32)


class Layer(nn.Module):
    """Linen's attention over given tokens."""

    size: int
    causal: bool = False
    kernel: Any = LECUN
    heads: int = 4

    @nn.compact
    def __call__(self, x):
        attend = nn.MultiHeadDotProductAttention(self.heads, qkv_features=self.heads * self.size, kernel_init=self.kernel)
        return attend(x, mask=nn.make_causal_mask(x[..., 0]) if self.causal else None)


class Fused(nn.Module):
    """Queries, keys and values of one kernel, whose Xavier variance counts all three as outputs."""

    size: int
    causal: bool = False
    heads: int = 4

    @nn.compact
    def __call__(self, x):
        qkv = nn.Dense(3 * self.heads * self.size, kernel_init=XAVIER)(x)
        q, k, v = jnp.split(qkv.reshape(*x.shape[:2], self.heads, 3 * self.size), 3, -1)
        mask = nn.make_causal_mask(x[..., 0]) if self.causal else None
        return nn.dot_product_attention(q, k, v, mask=mask)


def compared(net, x, seeds, detects, layer=0, allowance=0.004, scale=None):
    """Heads and seeds are independent draws with the same law; means of entropies are compared relative to ``ln T``."""
    found = sp.attention_entropy(net, x, seeds=seeds, key=jax.random.key(1))
    longest = np.exp(found.freezing_variance.values[layer] / 2)
    for name, visible in detects.items():
        measured, error = (found[f"measured_{name}{after}"].values[layer] for after in ("", "_stderr"))
        mean = Sample(measured.mean(0), np.sqrt((error**2).mean(0) / len(measured)), seeds // 4 - 1)
        relative_to = np.log(longest) if name == "entropy_mean" else None
        agree(found[name].values[layer][0], mean, detects=visible, allowance=allowance, scale=relative_to)
    return found


INITIALIZERS = {"he": HE, "xavier": XAVIER, "lecun": LECUN, "fused xavier": None}
SHALLOW = [(kind, size, length, causal) for kind in INITIALIZERS for size in (8, 32, 128) for length in (16, 128, 512)
           for causal in (False, True)]
FAST = {("he", 8, 16, False), ("he", 32, 128, True), ("xavier", 128, 16, False), ("fused xavier", 8, 128, True)}


def model(kind, size, causal, heads):
    return Fused(size, causal, heads) if INITIALIZERS[kind] is None else Layer(size, causal, INITIALIZERS[kind], heads)


@pytest.mark.parametrize(("kind", "size", "length", "causal"),
                         [pytest.param(*case, marks=[] if case in FAST else [pytest.mark.slow]) for case in SHALLOW])
def test_entropy_of_given_tokens(kind, size, length, causal):
    """1 % of ln T for the mean, 5 % for the standard deviation; the predictions' own sampling errors are a tenth of that."""
    x = tokens(length)
    net = sp.network(model(kind, size, causal, 4), x)
    seeds = 2048 if length < 100 else 256
    found = compared(net, x, seeds, {"entropy_mean": 0.01, "entropy_std": 0.05, "logit_variance": 0.05, "effective_keys": 0.05})
    assert (found.error / np.log(length) < 2e-3).all()


class Independent(nn.Module):
    """Learned queries that read one-hot tokens: independent Gaussian logits."""

    variance: float

    @nn.compact
    def __call__(self, x):
        queries = self.param("queries", nn.initializers.normal(self.variance**0.5), (x.shape[2], x.shape[2]))
        return nn.softmax(jnp.einsum("btd,dq->bqt", x, queries)) @ x


@pytest.mark.parametrize(("length", "variance", "entropy"), [(128, 0.25, 4.7284), (128, 1, 4.3667), (128, 4, 3.206), (128, 16, 1.529),
                                                             (16, 1, 2.356), (16, 4, 1.645)])
def test_independent_logits(length, variance, entropy):
    """Reference means of 4,000 rows, whose standard error is 0.7 in units of the last digit but one at most."""
    x = np.eye(length, dtype=np.float32)[None]
    found = sp.attention_entropy(sp.network(Independent(variance), x), x)
    np.testing.assert_allclose(found.entropy_mean.item(), entropy, atol=0.001 * np.sqrt(variance) + 0.006 * (variance > 1))
    np.testing.assert_allclose([found.logit_variance.item(), found.row_variance.item()], variance, rtol=0.01)
    if variance < 0.5:
        np.testing.assert_allclose(found.entropy_small_variance.item(), found.entropy_mean.item(), rtol=0.002)
    np.testing.assert_allclose(found.freezing_variance.item(), 2 * np.log(length), rtol=1e-12)


class Block(nn.Module):
    """Two causal pre-norm layers over embedded tokens."""

    width: int = 256

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, self.width, embedding_init=nn.initializers.normal(1.0))(tokens)
        for _ in range(2):
            attend = nn.MultiHeadDotProductAttention(self.width // 32, kernel_init=HE)
            x = x + attend(nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
        return nn.Dense(4)(nn.LayerNorm()(x).mean(1))


class Written(nn.Module):
    """One head, with a mask and a softmax as users write them."""

    how: str
    size: int = 16

    @nn.compact
    def __call__(self, x):
        q, k = (nn.Dense(self.size, kernel_init=HE)(x) for _ in range(2))
        if self.how == "library":
            one = (a[:, :, None] for a in (q, k, k))
            return jax.nn.dot_product_attention(*one, is_causal=True)
        logits = jnp.einsum("bqd,bkd->bqk", q, k) / self.size**0.5
        mask = jnp.tril(jnp.ones(logits.shape[1:], bool))
        if self.how == "where":
            weights = nn.softmax(logits, where=mask)
        elif self.how == "infinite":
            weights = nn.softmax(jnp.where(mask, logits, -jnp.inf))
        elif self.how == "added":
            weights = nn.softmax(logits + jnp.where(mask, 0.0, -1e9))
        else:
            terms = jnp.exp(jnp.where(mask, logits, -1e9))
            weights = terms / terms.sum(-1, keepdims=True)
        return weights @ x


def test_a_causal_mask_however_it_is_written():
    x = tokens(12, batch=2)
    rows = {}
    for how in ("library", "where", "infinite", "added", "by hand"):
        found = sp.attention_entropy(sp.network(Written(how), x), x)
        (layer,) = found.layer.values
        rows[how] = found[f"row_entropy_mean:{layer}"].values
        np.testing.assert_array_equal(found[f"open_keys:{layer}"], np.tile(np.arange(1, 13), (2, 1)))
        np.testing.assert_allclose(rows[how], rows["library"], atol=1e-5)
        np.testing.assert_allclose(rows[how][..., 0], 0, atol=1e-12)
