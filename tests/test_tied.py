"""Weights that are used again, transposed: tied autoencoders, power iteration, spectral normalization."""

from functools import partial

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sigprop as sp

X = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
relu = jax.nn.relu


def stack(w, x, n, acts, tied=lambda weight: weight.T):
    """A first layer of its own, then one weight forward and backward by turns, an activation before each use."""
    x, weight = w.dense(x, n), w(n, 2 * n)
    for k, act in enumerate(acts):
        x = act(x) @ (tied(weight) if k % 2 else weight)
    return x


def autoencoder(w, x, n):
    """Two layers and their transposes in reverse order, with biases."""
    x, (one, two) = w.dense(x, n), (w(n, 2 * n), w(2 * n, n))
    codes = jnp.tanh(relu(relu(x) @ one) @ two + w(n, std=0.5))
    return jnp.tanh(codes @ two.T) @ one.T


def power(w, x, n, steps):
    """Divided by the singular value that power iteration finds."""
    x, weight, u = w.dense(x, 2 * n), w(n, 2 * n), w(2 * n, std=1.0)
    for _ in range(steps):
        v = weight @ u
        v = v / jnp.linalg.norm(v)
        u = v @ weight
        u = u / jnp.linalg.norm(u)
    return x @ weight.T / (v @ weight @ u)


CASES = {
    "linear": partial(stack, acts=[lambda z: z] * 2), "relu": partial(stack, acts=[jnp.tanh, relu]),
    "three times": partial(stack, acts=[relu, relu, relu]),
    "scaled": partial(stack, acts=[relu, jnp.tanh], tied=lambda v: 0.7 * v.T),
    "gated": lambda w, x, n: stack(w, x, n, [relu, lambda z: jax.nn.sigmoid(w.dense(x, 2 * n)) * jnp.tanh(z)]),
    "autoencoder": autoencoder,
    "power iteration": partial(power, steps=1), "power iteration, three steps": partial(power, steps=3),
}


EXACT = {  # times that of the input, of x W f' W^T with twice as many units: the copies' sum, and the square of 2 E[f']
    "identity": (lambda z: z, 2 + 4), "relu": (relu, 2 / 2 + 1), "leaky relu": (lambda z: jax.nn.leaky_relu(z, 0.5), 2 * 0.625 + 2.25),
    "sine": (jnp.sin, 1 - np.exp(-2) + 4 * np.exp(-1)), "absolute value": (jnp.abs, 2),
}


@pytest.mark.parametrize("name", EXACT)
def test_closed_forms(name):
    """For inputs of mean square 1."""
    act, expected = EXACT[name]
    x = np.ones((1, 64), np.float32)
    net = harness.network(lambda w, x: act(x @ (v := w(64, 128))) @ v.T, x)
    assert float(sp.infinite_kernel(net, ntk=False)(x).nngp[0, 0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_moments(name):
    harness.check_limit(lambda n: harness.network(lambda w, x: CASES[name](w, x, n), X), 64, X, detects=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "three times", "autoencoder"])
def test_mean_of_finite_kernels(name):
    harness.check_limit(lambda n: harness.network(lambda w, x: CASES[name](w, x, n), X), 64, X, detects=0.05, limit=40, kernel="standard")


def test_one_step_of_power_iteration():
    """From a random start the estimate of the norm is s sqrt(n + m), by the second moment of Marchenko and Pastur's law."""
    for n, m in ((64, 64), (256, 64)):
        net = sp.network(lambda rngs, n=n, m=m: nnx.SpectralNorm(nnx.Linear(n, m, use_bias=False, rngs=rngs), rngs=rngs),
                         np.ones((1, n), np.float32), train=True)
        found = float(sp.infinite_kernel(net, ntk=False)(np.ones((1, n), np.float32)).nngp[0, 0])
        assert found == pytest.approx(n / (n + m), rel=1e-5)


REFUSED = {
    "a sum with its transpose": (lambda w, x: jnp.tanh(x @ (w + w.T)) @ (w + w.T), "its own transpose"),
    "a jump": (lambda w, x: (x @ w > 0) @ w.T, "not entry by entry"),
    "sites mixed in between": (lambda w, x: nn.softmax(x @ w, axis=0) @ w.T, "not entry by entry"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    function, message = REFUSED[name]
    net = harness.network(lambda w, x: function(w(64, 64), jnp.tanh(w.dense(x, 64))), X)
    with pytest.raises(sp.Unsound, match=message):
        sp.infinite_kernel(net, ntk=False)(X)
