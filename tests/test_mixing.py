"""Weights that mix few tokens and are the same for all channels: what they leave random is in the declared error."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import sigprop as sp

FALSE_ALARM = 1e-6


class TokenMixer(nn.Module):
    """Wide channels of 4 tokens, mixed and normalized: the output is a sum of tokens."""

    act: str
    tokens: int = 32
    width: int = 512

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(self.width)(x).swapaxes(1, 2)
        h = nn.Dense(x.shape[1])(getattr(jnp, self.act)(nn.Dense(self.tokens)(h)))
        return nn.Dense(16)(nn.LayerNorm()(h.swapaxes(1, 2)).mean(1))


def tokens(similarity, seed=0):
    rng = np.random.default_rng(seed)
    common, own = rng.standard_normal((2, 1, 16)), rng.standard_normal((2, 4, 16))
    return (similarity**0.5 * common + (1 - similarity) ** 0.5 * own).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("act", "similarity"), [("tanh", 0.0), ("tanh", 0.5), ("abs", 0.5)])
def test_error_covers_what_stays_random(act, similarity, seeds=512):
    x = tokens(similarity)
    net = sp.network(TokenMixer(act), x)
    predicted, measured = sp.propagate(net, x, backward=False), sp.measure(net, x, seeds=seeds, backward=False)
    gap = abs(measured.second_moment - predicted.second_moment)
    noise = norm.isf(FALSE_ALARM / gap.size / 2) * measured.second_moment_stderr
    assert (gap < predicted.error + noise).all()
    assert 0 < predicted.error[-1] < 0.5 * predicted.second_moment[-1]
