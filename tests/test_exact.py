"""Asking for closed forms and quadrature only."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop as sp

X = np.random.default_rng(0).standard_normal((2, 6, 64)).astype(np.float32)


NORMAL = nn.initializers.normal(0.125)  # Flax's truncated normal weights are only nearly Gaussian in sums


def model(*layers):
    return sp.network(nn.Sequential([nn.Dense(64, kernel_init=NORMAL), *layers, nn.Dense(4, kernel_init=NORMAL)]), X)


EXACT = {"relu": model(nn.relu), "gelu": model(nn.gelu), "norm": model(nn.LayerNorm(), nn.tanh)}
SAMPLED = {
    "attention": model(nn.MultiHeadDotProductAttention(4)), "largest token": model(lambda h: jnp.max(h, 1)),
    "truncated normal weights": sp.network(nn.Dense(4), X),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact(name):
    net = EXACT[name]
    assert sp.propagate(net, X, exact_only=True, backward=False).identical(sp.propagate(net, X, backward=False))
    np.testing.assert_array_equal(sp.infinite_kernel(net, exact_only=True)(X).ntk, sp.infinite_kernel(net)(X).ntk)


@pytest.mark.parametrize("name", SAMPLED)
def test_not_exact(name):
    net = SAMPLED[name]
    with pytest.raises(sp.Unsound, match="exact_only=True"):
        sp.propagate(net, X, exact_only=True)
    with pytest.raises(sp.Unsound, match="exact_only=True"):
        sp.infinite_kernel(net, ntk=False, exact_only=True)(X)
