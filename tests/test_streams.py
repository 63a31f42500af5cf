"""Singular values of Jacobians of residual networks: free probability where blocks are free, and real random networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import agree, sample

import sigprop as sp
from sigprop import meanfield as mf
from sigprop.meanfield.series import inverse, power

KINDS = ("gaussian", "orthogonal")


def product_of_free_blocks(slopes, depth, alpha, kind):
    """Moments by S-transforms (Tarnowski et al. 2019): determining series of skip and branch add, and S-transforms multiply.

    ``slopes`` are the moments of ``sigma_w^2 f'^2``; of an R-diagonal element ``g^(-1)(w) = w (1 + w) S(w)`` (Nica & Speicher 1997).
    """
    order = len(slopes)
    ones = np.array([1.0, 1.0])
    branch = np.convolve(inverse(np.array(slopes)), power(ones, 1 + (kind == "orthogonal"), order))[:order] / alpha**2
    skip = np.array([1.0, 1.0, *np.zeros(order)])[:order]
    block = inverse(inverse(branch) + inverse(skip))
    return inverse(np.convolve(power(block, depth, order), power(ones, -depth - 1, order))[:order])


LAWS = {"identity": [1.0, 1.0, 1.0], "relu": [1.0, 2.0, 4.0]}  # with weight variances of 1 and 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("activation", "depth"), [("identity", 1), ("identity", 5), ("relu", 1)])
def test_free_blocks(activation, depth, kind):
    """Linear networks, whose slopes know nothing of each other, and single blocks."""
    found = mf.ResidualJacobian(activation, 1.0 + (activation == "relu"), 0.0, depth, 0.6, weights=kind).moments(3)
    np.testing.assert_allclose(found.value, product_of_free_blocks(LAWS[activation], depth, 0.6, kind), rtol=1e-10)
    assert np.all(found.error < 1e-10)


def test_many_small_linear_blocks(t=1.0, depth=50):
    """The free multiplicative Brownian motion, S(m) = exp(-t (1 + 2 m)), in the limit (Tarnowski et al. 2019, section 3)."""
    found = [mf.ResidualJacobian("identity", t / n, 0.0, n).moments(2).value for n in (depth, 2 * depth)]
    np.testing.assert_allclose(2 * found[1] - found[0], [np.exp(t), np.exp(2 * t) * (1 + 2 * t)], rtol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_stream(kind):
    """A stream that is all but cut leaves the layers of a fully connected network."""
    layers = mf.Jacobian("tanh", 1.5, 0.05, 5, kind)
    blocks = mf.ResidualJacobian("tanh", 1.5, 0.05, 5, skip=1e-9, weights=kind, q=layers.q)
    np.testing.assert_allclose(blocks.mean, layers.mean, rtol=1e-9)
    found = blocks.moments(3)
    assert np.all(abs(found.value - layers.moments(3)) < 6 * found.error + 1e-6)


def test_density_of_a_rotation():
    """Of ``1 + alpha O`` the arcsine law of ``1 + alpha^2 + 2 alpha cos``."""
    found, x = mf.ResidualJacobian("identity", 1.0, 0.0, 1, 0.5, weights="orthogonal"), np.linspace(0.4, 2.1, 8)
    np.testing.assert_allclose(found.density(x), 1 / (np.pi * np.sqrt(1 - (x - 1.25) ** 2)), rtol=2e-4)
    assert np.all(found.density([0.2, 2.3]) < 1e-3)


@pytest.mark.parametrize(("activation", "variances", "kind"), [("tanh", (1.5, 0.05), "orthogonal"), ("relu", (2.0, 0.0), "gaussian")])
def test_densities_have_the_moments(activation, variances, kind):
    found, x = mf.ResidualJacobian(activation, *variances, 3, 0.5, weights=kind), np.exp(np.linspace(-7, 4, 120))
    density = found.density(x)
    expected = [1.0, *found.moments(2).value]
    np.testing.assert_allclose([np.trapezoid(x ** (k + 1) * density, np.log(x)) for k in range(3)], expected, rtol=0.01)
    np.testing.assert_allclose(expected[1], found.mean, rtol=1e-3)


def jacobian(f, weight, bias, depth, alpha, kind, n):
    """Of a real network as a function of a key, at a Gaussian input."""
    init = jax.nn.initializers.orthogonal(weight**0.5) if kind == "orthogonal" else jax.nn.initializers.normal((weight / n) ** 0.5)

    def one(key):
        z = jax.random.normal(jax.random.fold_in(key, depth), (n,))
        total = jnp.eye(n)
        for k in range(depth):
            keys = jax.random.split(jax.random.fold_in(key, k))
            w, b = init(keys[0], (n, n)), bias**0.5 * jax.random.normal(keys[1], (n,))

            def block(z, w=w, b=b):
                return z + alpha * (w @ f(z) + b)

            total, z = jax.jacobian(block)(z) @ total, block(z)
        return total

    return one


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("activation", "variances"), [("relu", (2.0, 0.0)), ("tanh", (1.5, 0.05))])
def test_moments_of_real_networks(activation, variances, kind, n=128, depth=6, groups=64, each=8):
    """``E[s^2]`` and ``E[s^4] / E[s^2]^2``; what free blocks of ReLU would have is a tenth lower, and excluded."""
    one = jacobian(sp.init.activations.function(activation), *variances, depth, depth**-0.5, kind, n)

    def moments(key):
        j = one(key)
        first, second = (j**2).sum() / n, ((j @ j.T) ** 2).sum() / n
        return jnp.stack([first, second / first**2])

    keys = jax.random.split(jax.random.key(0), groups * each)
    found = np.asarray(jax.jit(lambda keys: jax.lax.map(moments, keys))(keys), np.float64).reshape(groups, each, 2).mean(1)
    first, second = mf.ResidualJacobian(activation, *variances, depth, depth**-0.5, weights=kind).moments(2).value
    agree(np.array([first, second / first**2]), sample(found), detects=0.05, allowance=0.02)
    if activation == "relu":
        free = product_of_free_blocks(LAWS["relu"], depth, depth**-0.5, kind)
        assert free[1] / free[0] ** 2 < 0.93 * second / first**2


@pytest.mark.parametrize("kind", KINDS)
def test_singular_values_of_real_networks(kind, n=256, depth=4, seeds=4):
    """The distribution function at nine points within 0.02."""
    one = jax.jit(jacobian(jax.nn.relu, 2.0, 0.0, depth, 0.5, kind, n))
    squares = [np.linalg.svd(np.asarray(one(jax.random.key(seed)), np.float64), compute_uv=False) ** 2 for seed in range(seeds)]
    x = np.exp(np.linspace(-7, 4, 160))
    density = mf.ResidualJacobian("relu", 2.0, 0.0, depth, 0.5, weights=kind).density(x)
    shares = np.concatenate([[0], np.cumsum((x * density)[1:] * np.diff(np.log(x)))])
    for share in np.linspace(0.1, 0.9, 9):
        point = np.interp(share, shares, x)
        np.testing.assert_allclose(np.mean([(s < point).mean() for s in squares]), share, atol=0.02, err_msg=f"{point}")


BAD = {
    "skip": (lambda: mf.ResidualJacobian("tanh", 1.5, skip=0.0), "ask for Jacobian"),
    "alpha": (lambda: mf.ResidualJacobian("tanh", 1.5, alpha=np.nan), "alpha: nan"),
    "depth": (lambda: mf.ResidualJacobian("tanh", 1.5, depth=0), "depth: 0 given"),
    "weights": (lambda: mf.ResidualJacobian("tanh", 1.5, weights="uniform"), "weights: 'uniform'"),
    "start": (lambda: mf.ResidualJacobian("tanh", 1.5, q=0.0), "q: 0.0 given"),
    "overflow": (lambda: mf.ResidualJacobian("relu", 1e10, depth=100).mean, "overflow"),
    "points": (lambda: mf.ResidualJacobian("tanh", 1.5).density([0.0]), "squares"),
    "order": (lambda: mf.ResidualJacobian("tanh", 1.5).moments(0), "order: 0 given"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()
