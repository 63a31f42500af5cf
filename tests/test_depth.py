"""A thousand layers, and predictions under transformations of JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop as sp

X = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
INITS = {"He": (nn.initializers.he_normal(), 2.0), "Glorot": (nn.initializers.glorot_normal(), 1.0),
         "N(0, 0.01^2)": (nn.initializers.normal(0.01), 64e-4)}


def deep(depth, init, activation=nn.relu):
    return nn.Sequential([layer for _ in range(depth) for layer in (nn.Dense(64, kernel_init=init), activation)])


@pytest.mark.parametrize("name", INITS)
def test_thousand_relu_layers_follow_the_geometric_law(name):
    """E[z^2] of layer L is that of the input times (n v)^L / 2^(L - 1), n v = 64 times the weight variance.

    The scale of an initializer is a float32 number: its square may be off by 2^-23 in each of the thousand layers.
    """
    init, gain = INITS[name]
    found = sp.propagate(sp.network(deep(1000, init), X), X).log10_second_moment.values[-2]
    expected = np.log10(np.mean(X.astype(float) ** 2) * gain) + 999 * np.log10(gain / 2)
    np.testing.assert_allclose(found, expected, atol=1000 * 2**-23 / np.log(10))


def test_chaos_does_not_amplify_rounding():
    """The variance of a chaotic tanh network stays at its fixed point, where correlations are unstable."""
    found = sp.propagate(sp.network(deep(600, nn.initializers.he_normal(), jnp.tanh), X), X)
    late = found.input_second_moment.values[200:]
    np.testing.assert_allclose(late[::2], np.broadcast_to(late[0], late[::2].shape), rtol=1e-7)


MODEL = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(64), jnp.tanh, nn.Dense(64), nn.LayerNorm(), nn.gelu, nn.Dense(8)])


@pytest.mark.parametrize("name", ["second_moment", "variance", "correlation", "quantile"])
def test_propagate_under_jit_equals_eager(name):
    net = sp.network(MODEL, X)
    eager, traced = sp.propagate(net, X), jax.jit(lambda x: sp.propagate(net, x))(X)
    np.testing.assert_allclose(np.asarray(traced[name].data), eager[name].values, rtol=2e-3 if name == "quantile" else 1e-5, atol=1e-5)


def test_kernel_maps_over_batches():
    kernel = sp.infinite_kernel(sp.network(MODEL, X))
    stacked = jnp.stack([jnp.asarray(X), 2 * jnp.asarray(X)])
    mapped = jax.vmap(lambda x: kernel(x).nngp)(stacked)
    np.testing.assert_allclose(mapped, np.stack([kernel(x).nngp for x in np.asarray(stacked)]), rtol=1e-5)


def test_measure_under_jit_equals_eager():
    net = sp.network(MODEL, X)
    eager, traced = sp.measure(net, X, seeds=16), jax.jit(lambda x: sp.measure(net, x, seeds=16))(X)
    np.testing.assert_allclose(np.asarray(traced.second_moment.data), eager.second_moment.values, rtol=1e-5)
