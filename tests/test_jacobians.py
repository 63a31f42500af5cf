"""Singular values of Jacobians and corrections of finite width: closed forms, and real random networks."""

from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import agree, sample

import sigprop as sp
from sigprop import meanfield as mf

CASES = {
    "linear": ("identity", 1.0, 0.0, 5), "tanh": ("tanh", 1.5, 0.05, 5), "ReLU": ("relu", 2.0, 0.0, 4),
    "tanh, orthogonal": ("tanh", 1.5, 0.05, 5, "orthogonal"), "ReLU, orthogonal": ("relu", 2.0, 0.0, 4, "orthogonal"),
    "hard tanh, orthogonal": ("hard_tanh", 1.3, 0.01, 10, "orthogonal"), "erf, deep": ("erf", 1.1, 0.001, 40, "orthogonal"),
}


def integral(jacobian, power):
    squares, density = (a[::-1] for a in jacobian.spectrum)
    return np.trapezoid(squares ** (power + 1) * density, np.log(squares))


@pytest.mark.parametrize("depth", [1, 2, 5, 20])
def test_gaussian_linear_products(depth):
    """Fuss and Catalan's numbers; variance L; edge (L+1)^(L+1) / L^L; the law of Marchenko and Pastur for one layer."""
    found = mf.Jacobian("identity", 1.0, 0.0, depth)
    np.testing.assert_allclose(found.moments(5), [comb((depth + 1) * k, k) / (depth * k + 1) for k in range(1, 6)], rtol=1e-10)
    np.testing.assert_allclose((found.mean, found.variance), (1, depth), rtol=1e-12)
    np.testing.assert_allclose(found.edge, (depth + 1) ** (depth + 1) / depth**depth, rtol=1e-10)
    if depth == 1:
        s = np.linspace(0.1, 3.9, 20)
        np.testing.assert_allclose(found.density(s), np.sqrt((4 - s) / s) / (2 * np.pi), rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_densities_have_the_moments(name):
    """The density, from the inverted S-transform, against the moments, from its power series; chi_1 and the formula for the variance."""
    activation, weight, bias, depth, *_ = CASES[name]
    found = mf.Jacobian(*CASES[name])
    for k, moment in enumerate(found.moments(3), 1):
        np.testing.assert_allclose(integral(found, k), moment, rtol=2e-5)
    np.testing.assert_allclose(found.mean, mf.chi1(activation, weight, bias) ** depth, rtol=1e-5)
    squares, weights = found._slopes
    spread = np.sum(weights * squares**2) / np.sum(weights * squares) ** 2 - (1 if found.weights == "orthogonal" else 0)
    np.testing.assert_allclose(found.variance, found.mean**2 * depth * spread, rtol=1e-9)


@pytest.mark.parametrize("depth", [4, 10])
def test_relu_has_no_isometry(depth):
    """Half of the singular values vanish, and the variance is L or 2 L (Pennington et al. 2017)."""
    one, other = (mf.Jacobian("relu", 2.0, 0.0, depth, kind) for kind in ("orthogonal", "gaussian"))
    np.testing.assert_allclose((one.variance, other.variance, one.zero), (depth, 2 * depth, 0.5), rtol=1e-9)


def test_largest_singular_value_of_hard_tanh():
    """With few saturated units some directions pass all layers unhindered: the largest value is that of linear layers."""
    found = mf.Jacobian("hard_tanh", 1.05, 0.001, 5, "orthogonal")
    np.testing.assert_allclose(found.edge, 1.05**5, rtol=1e-6)
    assert 5 * found.zero < 1


def test_dynamical_isometry():
    """Orthogonal weights and a critical sigmoid near 0: the spectrum keeps its width at any depth, with ReLU it does not."""
    found = []
    for depth in (16, 64):
        weight = mf.critical_weight_variance("tanh", 1e-4 / depth**3)
        found.append(mf.Jacobian("tanh", weight, 1e-4 / depth**3, depth, "orthogonal"))
    assert all(abs(j.mean - 1) < 1e-5 and j.variance < 0.6 for j in found)
    assert found[1].edge < 1.2 * found[0].edge < 6 and mf.Jacobian("relu", 2.0, 0.0, 64, "orthogonal").edge > 80


def singular_values(name, n, seed):
    """Squared singular values of the Jacobian of a real network, from an input at the fixed point."""
    activation, weight, bias, depth, *kind = CASES[name]
    f = sp.init.activations.function(activation)
    init = jax.nn.initializers.orthogonal(weight**0.5) if kind else jax.nn.initializers.normal((weight / n) ** 0.5)
    keys = jax.random.split(jax.random.key(seed), 2 * depth + 1)
    layers = [(init(keys[2 * k], (n, n)), bias**0.5 * jax.random.normal(keys[2 * k + 1], (n,))) for k in range(depth)]

    def model(z):
        for w, b in layers:
            z = f(z) @ w + b
        return z

    z = jax.random.normal(keys[-1], (n,))
    z = z * (n * mf.Jacobian(*CASES[name]).q / (z**2).sum()) ** 0.5
    return np.linalg.svd(np.asarray(jax.jacobian(model)(z), np.float64), compute_uv=False) ** 2


@pytest.mark.parametrize("name", ["linear", "tanh", "ReLU", "tanh, orthogonal", "ReLU, orthogonal"])
def test_jacobians_of_real_networks(name, n=256, seeds=4):
    """The distribution function at nine points within 0.02, and the edge within the Tracy-Widom scale n^(-2/3)."""
    found, predicted = [singular_values(name, n, seed) for seed in range(seeds)], mf.Jacobian(*CASES[name])
    squares, density = predicted.spectrum
    logs = np.log(squares)
    above = np.concatenate([[0], np.cumsum((squares * density)[:-1] * -np.diff(logs))])
    for share in np.linspace(0.05, 0.45, 9):
        point = np.exp(np.interp(share, above, logs))
        np.testing.assert_allclose(np.mean([(s > point).mean() for s in found]), share, atol=0.02, err_msg=f"{point}")
    np.testing.assert_allclose(np.mean([s.max() for s in found]), predicted.edge, rtol=0.15)
    if predicted.zero:  # the layer with the fewest active units decides: of order n^(-1/2)
        np.testing.assert_allclose(np.mean([(s < 1e-9).mean() for s in found]), predicted.zero, atol=0.06)


def test_hanin_and_rolnick():
    """prod(1 + 5/n) over the layers: 40 layers of 100 units, 7.04; exact for ReLU without biases."""
    found = mf.finite_width("relu", 2.0, widths=[100] * 40)
    np.testing.assert_allclose(1 + found.variance[-1], 1.05**40, rtol=1e-10)
    np.testing.assert_allclose(1 + mf.finite_width("relu", 2.0, widths=[8, 50, 3]).variance, np.cumprod([1, 1 + 5 / 8, 1.1, 1 + 5 / 3]))
    np.testing.assert_allclose(found.mean_shift, 0, atol=1e-9)


@pytest.mark.parametrize(("activation", "weight", "bias", "detects"), [("tanh", 1.7, 0.05, 0.25), ("relu", 2.0, 0.0, 0.35),
                                                                     ("gelu", 1.9, 0.1, 0.35)])
def test_fluctuations_of_real_networks(activation, weight, bias, detects, n=32, depth=4):
    """Variance over draws of the mean square given the weights before, and shift of its mean; what is left is of second order in 1/n."""
    f, x = sp.init.activations.function(activation), jnp.ones((n,))

    @jax.jit
    @jax.vmap
    def kernel(key):
        z, size = jax.random.normal(jax.random.fold_in(key, depth), (n,)) * x, 0.0
        for k in range(depth):
            size = weight * (f(z) ** 2).mean() + bias
            z = size**0.5 * jax.random.normal(jax.random.fold_in(key, k), (n,))  # given the layers before, all that matters
        return size

    expected = mf.finite_width(activation, weight, bias, [n] * depth).isel(layer=-1)
    sizes = np.asarray(kernel(jax.random.split(jax.random.key(0), 128 * 512)), np.float64).reshape(128, 512) / float(expected.q)
    second_order = (5 * depth / n) * float(expected.variance) / 2
    agree(expected.variance.values, sample(((sizes - sizes.mean()) ** 2).mean(1)), detects=detects, allowance=5 / n)
    agree(expected.mean_shift.values, sample(sizes.mean(1) - 1), scale=expected.variance.values, detects=0.5,
          allowance=second_order / float(expected.variance))


BAD = {
    "weights": (lambda: mf.Jacobian("tanh", 1.5, 0.05, 3, "uniform"), "weights: 'uniform'"),
    "depth": (lambda: mf.Jacobian("tanh", 1.5, 0.05, 0), "depth: 0 given"),
    "explodes": (lambda: mf.Jacobian("relu", 2.5), "explode"),
    "dies": (lambda: mf.Jacobian("tanh", 0.5), "die out"),
    "one orthogonal layer": (lambda: mf.Jacobian("tanh", 1.5, 0.05, 1, "orthogonal").spectrum, "give 2 or more"),
    "share at the edge": (lambda: mf.Jacobian("hard_tanh", 1.05, 0.001, 5, "orthogonal").spectrum, "no density"),
    "no widths": (lambda: mf.finite_width("tanh", 1.5), "number of widths"),
    "width": (lambda: mf.finite_width("tanh", 1.5, widths=[0]), "widths: 0 given"),
    "start": (lambda: mf.finite_width("tanh", 1.5, widths=[8], q=0.0), "q: 0.0 given"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()
