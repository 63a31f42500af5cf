"""Gains of activations and critical points, against adaptive quadrature of functions written here."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

import sigprop as sp
from sigprop import init as I


def tanh_gelu(x):
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


# activation: the function, its derivative, their kinks
WRITTEN = {
    "relu": (lambda x: max(x, 0.0), lambda x: float(x > 0), (0.0,)),
    "gelu": (lambda x: x * special.ndtr(x), lambda x: special.ndtr(x) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi), ()),
    "gelu_tanh": (tanh_gelu, None, ()),
    "silu": (lambda x: x * special.expit(x), lambda x: special.expit(x) * (1 + x * special.expit(-x)), ()),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2, ()),
    "sigmoid": (special.expit, lambda x: special.expit(x) * special.expit(-x), ()),
    "erf": (special.erf, lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x), ()),
    "sin": (np.sin, np.cos, ()),
    "elu": (lambda x: x if x > 0 else math.expm1(x), lambda x: 1.0 if x > 0 else math.exp(x), (0.0,)),
    "softplus": (lambda x: np.logaddexp(x, 0), special.expit, ()),
    "hard_tanh": (lambda x: min(max(x, -1.0), 1.0), lambda x: float(-1 < x < 1), (-1.0, 1.0)),
    "relu6": (lambda x: min(max(x, 0.0), 6.0), lambda x: float(0 < x < 6), (0.0, 6.0)),
    "leaky_relu": (lambda x: x if x > 0 else 0.01 * x, lambda x: 1.0 if x > 0 else 0.01, (0.0,)),
    "identity": (lambda x: x, lambda x: 1.0, ()),
}


def expectation(f, variance, kinks=()):
    scale = math.sqrt(variance)
    edges = [-10.0, *(k / scale for k in kinks if abs(k) < 10 * scale), 10.0]
    density = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    parts = [integrate.quad(lambda z: f(scale * z) * density(z), a, b, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
             for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return sum(parts)


@pytest.mark.parametrize("name", WRITTEN)
def test_gains_of_named_activations(name):
    f, _, kinks = WRITTEN[name]
    for variance in (1.0, 0.3):
        second = expectation(lambda x: f(x) ** 2, variance, kinks)
        assert I.gain(name, variance) == pytest.approx(math.sqrt(variance / second), rel=1e-9)
    mean, second = expectation(f, 1.0, kinks), expectation(lambda x: f(x) ** 2, 1.0, kinks)
    assert I.nfnet_gain(name) == pytest.approx(1 / math.sqrt(second - mean**2), rel=1e-9)


# computed independently to seven digits; the constants of Brock et al. (2021) are off by at most 1e-3
GAINS = {"relu": (1.712859, 1.7139588594436646), "gelu": (1.700926, 1.7015043497085571), "silu": (1.787187, 1.7881293296813965),
         "tanh": (1.592537, 1.5939117670059204), "sigmoid": (4.801313, 4.803835391998291)}


@pytest.mark.parametrize("name", GAINS)
def test_gains_of_normalizer_free_networks(name):
    exact, published = GAINS[name]
    assert I.nfnet_gain(name) == pytest.approx(exact, abs=6e-7)
    assert 2e-4 < published / exact - 1 < 1e-3


def test_a_function_has_the_gain_of_its_name():
    """Also a NumPy one, and while JAX traces; GELU of JAX is by default its tanh approximation."""
    for f, name in ((nn.relu, "relu"), (np.tanh, "tanh"), (jax.nn.gelu, "gelu_tanh"), (lambda x: jnp.where(x > 0, x, 0.0), "relu")):
        assert I.gain(f) == pytest.approx(I.gain(name), rel=1e-12)
    assert I.gain("gelu_tanh") != pytest.approx(I.gain("gelu"), rel=1e-5)
    assert float(jax.jit(lambda x: x * I.gain("relu"))(1.0)) == pytest.approx(math.sqrt(2))


# activation, bias variance, weight variance to seven digits
CRITICAL = [
    ("tanh", 0.05, 1.760955), ("tanh", 0.01, 1.424205), ("tanh", 1e-4, 1.086026), ("tanh", 2.01e-5, 1.049996), ("tanh", 0.0, 1.0),
    ("erf", 0.05, None), ("erf", 0.0, math.pi / 4), ("relu", 0.0, 2.0), ("leaky_relu", 0.0, 2 / 1.0001), ("identity", 0.0, 1.0),
    ("hard_tanh", 0.01, None), ("elu", 0.3, None), ("sin", 0.1, None), ("sigmoid", 0.0, None), ("gelu", 0.0, 4.0), ("gelu", 0.3, None),
    ("silu", 1.0, None), ("gelu", 0.05, None),
]


@pytest.mark.parametrize(("name", "bias", "weight"), CRITICAL)
def test_critical_points(name, bias, weight):
    """chi_1 = 1 at a fixed point of the mean square, and its slope, by quadrature and a difference quotient."""
    point = I.critical_point(name, bias)
    if weight is not None:
        assert point.weight_variance == pytest.approx(weight, abs=6e-7)
    q = point.fixed_point
    if q > 0:
        f, slope, kinks = WRITTEN[name]
        image = lambda q: point.weight_variance * expectation(lambda x: f(x) ** 2, q, kinks) + bias  # noqa: E731
        assert point.weight_variance * expectation(lambda x: slope(x) ** 2, q, kinks) == pytest.approx(1, rel=1e-8)
        assert image(q) == pytest.approx(q, rel=1e-8)
        assert point.slope == pytest.approx((image(1.001 * q) - image(0.999 * q)) / (0.002 * q), rel=1e-4)
        assert point.stable is (image(1.01 * q) < 1.01 * q)
    else:
        f, _, kinks = WRITTEN[name]
        assert point.stable is (point.weight_variance * expectation(lambda x: f(x) ** 2, 0.01, kinks) < 0.01 * (1 + 1e-9))


def test_a_critical_network_converges_to_its_fixed_point():
    """Slope 0.518 for tanh with bias variance 0.05: 40 layers bring any mean square within 1e-10 of the fixed point."""
    start, bias = I.critical("tanh", 0.05, distribution="uniform"), I.Normal(0.05)
    layers = [layer for _ in range(40) for layer in (nn.Dense(64, kernel_init=start, bias_init=bias), nn.tanh)][:-1]
    x = 3 * np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    found = sp.propagate(sp.network(nn.Sequential(layers), x), x, backward=False).second_moment.values[-1]
    assert found == pytest.approx(I.critical_point("tanh", 0.05).fixed_point, rel=1e-6)


BAD = {
    "unknown name": (lambda: I.gain("rleu"), "activation: 'rleu' is none of celu, elu"),
    "no function": (lambda: I.gain(3), "activation: 3 is neither a hashable function nor one of"),
    "infinite moment": (lambda: I.gain(lambda x: jnp.exp(x**2)), "activation: .*infinite"),
    "just infinite": (lambda: I.nfnet_gain(lambda x: jnp.exp(x**2 / 4)), "activation: .*infinite.*slower than exp"),
    "pole": (lambda: I.gain(lambda x: 1 / x), "activation: .*infinite"),
    "not elementwise": (lambda: I.gain(jnp.sum), "activation: .*must act on each entry by itself"),
    "raises": (lambda: I.gain(lambda x: x.foo), "activation: .*not a function of one array"),
    "vanishes": (lambda: I.gain(jnp.zeros_like), "activation: .*does not vary"),
    "constant": (lambda: I.nfnet_gain(jnp.ones_like), "activation: .*does not vary"),
    "variance": (lambda: I.gain("relu", 0.0), "variance: 0.0 given.*above 0"),
    "negative bias variance": (lambda: I.critical("tanh", -0.1), "bias_variance: -0.1 given.*at least 0"),
    "no critical point": (lambda: I.critical("relu", 0.1), "bias_variance: 0.1 has no critical point with 'relu'"),
    "unstable": (lambda: I.critical("gelu", 0.05), "bias_variance: .*leave the fixed point.*slope 1.085"),
    "not differentiable": (lambda: I.critical(np.tanh, 0.1), "activation: JAX cannot differentiate"),
    "unstable without bias": (lambda: I.critical("silu"), "bias_variance: .*leave the fixed point q = 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()
