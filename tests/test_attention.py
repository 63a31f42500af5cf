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
        own = {"entropy_mean": found.error, "entropy_std": found.std_error}.get(name, 0 * found.error).values[layer][0]
        sampled = 5 * own / (relative_to or found[name].values[layer][0])
        agree(found[name].values[layer][0], mean, detects=visible, allowance=allowance + sampled, scale=relative_to)
    return found


INITIALIZERS = {"he": HE, "xavier": XAVIER, "lecun": LECUN, "fused xavier": None}
SHALLOW = [(kind, size, length, causal) for kind in INITIALIZERS for size in (8, 32, 128) for length in (16, 128, 512)
           for causal in (False, True)]
FAST = {("he", 8, 16, False), ("he", 32, 128, True)}


def model(kind, size, causal, heads):
    return Fused(size, causal, heads) if INITIALIZERS[kind] is None else Layer(size, causal, INITIALIZERS[kind], heads)


@pytest.mark.parametrize(("kind", "size", "length", "causal"),
                         [pytest.param(*case, marks=[] if case in FAST else [pytest.mark.slow]) for case in SHALLOW])
def test_entropy_of_given_tokens(kind, size, length, causal):
    """1 % of ln T for the mean, 8 % for the standard deviation, 5 standard errors of the predictions' own sampling among them."""
    x = tokens(length)
    net = sp.network(model(kind, size, causal, 4), x)
    seeds = 2048 if length < 100 else 256 if size > 8 else 1024
    found = compared(net, x, seeds, {"entropy_mean": 0.01, "entropy_std": 0.08, "logit_variance": 0.05, "effective_keys": 0.05})
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
    """Reference means over 4,000 rows, rounded."""
    x = np.eye(length, dtype=np.float32)[None]
    found = sp.attention_entropy(sp.network(Independent(variance), x), x)
    assert abs(found.entropy_mean.item() - entropy) < 4 * (found.entropy_std.item() / 4000**0.5 + found.error.item()) + 5e-4
    np.testing.assert_allclose(found.logit_variance.item(), variance, rtol=0.005)
    np.testing.assert_allclose(found.row_variance.item(), variance * (1 - 1 / length), rtol=0.005)
    np.testing.assert_allclose(found.key_correlation.item(), 0, atol=0.002)
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


class Llama(nn.Module):
    """Grouped queries, normalised queries and keys, a sliding window."""

    width: int = 128

    @nn.compact
    def __call__(self, x):
        q = nn.RMSNorm()(nn.DenseGeneral((8, 16))(x))
        k, v = nn.RMSNorm()(nn.DenseGeneral((2, 16))(x)), nn.DenseGeneral((2, 16))(x)
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=(5, 0))


def test_a_language_model():
    """The second of two layers, for tokens that the first one has made; rows by their length."""
    words = RNG.integers(0, 20, (2, 12))
    net = sp.network(Block(), words)
    found = compared(net, words, 256, {"entropy_mean": 0.05, "entropy_std": 0.1, "key_correlation": 0.3}, 1, allowance=5 / 256)
    first, second = (found[f"row_entropy_mean:{layer}"].values for layer in found.layer.values)
    assert first.shape == (2, 8, 12)
    assert (np.diff(second[0, 0]) > 0).mean() > 0.8
    assert found.key_correlation.values[1, 0] > found.key_correlation.values[0, 0]


def test_grouped_and_normalised_queries():
    x = tokens(16)
    found = compared(sp.network(Llama(), x), x, 1024, {"entropy_mean": 0.02, "entropy_std": 0.1}, allowance=0.01)
    (layer,) = found.layer.values
    assert found[f"open_keys:{layer}"].values[0].tolist() == [1, 2, 3, 4, 5, *[6] * 11]


PADDED = np.ones((2, 1, 6, 6), bool)
PADDED[1, :, :, 4:] = PADDED[1, :, 5] = False


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(4, 128, kernel_init=HE, decode=False, rngs=rngs)

    def __call__(self, x):
        return self.attention(x, mask=jnp.asarray(PADDED))


def test_padding():
    """The last row sees no key at all: its weights are uniform, and it has no logits."""
    x = tokens(6, batch=2)
    found = sp.attention_entropy(sp.network(lambda rngs: Nnx(rngs), x), x)
    (layer,) = found.layer.values
    assert found[f"open_keys:{layer}"].values.tolist() == [[6] * 6, [4, 4, 4, 4, 4, 0]]
    np.testing.assert_allclose(found[f"row_entropy_mean:{layer}"].values[1, :, 5], np.log(6), rtol=1e-6)
    assert 3 < found.logit_variance.values[0, 0] < 5


def test_limits():
    one = tokens(1)
    found = sp.attention_entropy(sp.network(Layer(8), one), one)
    np.testing.assert_array_equal(found.entropy_mean, 0)
    assert np.isnan(found.key_correlation).all()
    x = tokens(6)
    flat = sp.attention_entropy(sp.network(Layer(8, kernel=nn.initializers.zeros), x), x)
    np.testing.assert_allclose(flat.entropy_mean, np.log(6), rtol=1e-6)
    np.testing.assert_array_equal(flat.logit_variance, 0)


def test_under_jit():
    """Either on the same points, or on those of another root of the same covariance, with eigenvectors of the other sign."""
    x = tokens(6)
    net = sp.network(Layer(8), x)
    one, other = sp.attention_entropy(net, x), jax.jit(lambda a: sp.attention_entropy(net, a))(x)
    np.testing.assert_allclose(one.entropy_mean, other.entropy_mean, atol=5 * float(one.error.max()))


class Classes(nn.Module):
    """A softmax over classes is no attention."""

    @nn.compact
    def __call__(self, x):
        return nn.softmax(nn.Dense(4)(x))


def test_bad_input():
    x = tokens(4)
    with pytest.raises(sp.InvalidInput, match="no softmax over tokens"):
        sp.attention_entropy(sp.network(Classes(), x), x)
    with pytest.raises(sp.InvalidInput, match="seeds: 4 given"):
        sp.attention_entropy(sp.network(Layer(8), x), x, seeds=4)
    with pytest.raises(sp.InvalidInput, match="NaN"):
        sp.attention_entropy(sp.network(Layer(8), x), np.full_like(x, np.nan))
