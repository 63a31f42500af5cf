"""Closed forms of pairs of functions against adaptive quadrature, and the shapes that they are recognised from."""

import numpy as np
import pytest
from scipy import integrate, special

from sigprop.gaussian import Function, angles, moment1, moment2, recognize

FUNCTIONS = {
    "relu6": (lambda u: np.clip(u, 0, 6), (0.0, 6.0)),
    "hard tanh": (lambda u: np.clip(u, -1, 1), (-1.0, 1.0)),
    "hard sigmoid": (lambda u: np.clip(u + 3, 0, 6) / 6, (-3.0, 3.0)),
    "soft shrink": (lambda u: u - np.clip(u, -0.5, 0.5), (-0.5, 0.5)),
    "floor at 1/2": (lambda u: np.maximum(u, 0.5), (0.5,)),
    "relu": (lambda u: np.maximum(u, 0.0), (0.0,)),
    "bell": (lambda u: 0.7 * np.exp(-0.9 * u * u), ()),
    "shifted erf": (lambda u: 0.3 + special.erf(0.8 * u), ()),
}
PAIRS = [("relu6", "relu6"), ("relu6", "hard tanh"), ("hard sigmoid", "soft shrink"), ("floor at 1/2", "relu"), ("relu", "hard sigmoid"),
         ("bell", "bell"), ("bell", "relu"), ("relu", "bell"), ("bell", "shifted erf")]
COVARIANCES = [(1.0, 1.0, 0.3), (9.0, 40.0, -15.0), (0.1, 4.0, 0.62), (2.0, 2.0, 1.99), (0.01, 0.04, -0.0199), (1.0, 3.0, 0.0)]


def function(name):
    return Function(FUNCTIONS[name][0], name)


def split(f, points):
    edges = [-9.0, *sorted(p for p in points if -9 < p < 9), 9.0]
    return sum(integrate.quad(f, a, b, epsabs=1e-14, epsrel=1e-13)[0] for a, b in zip(edges[:-1], edges[1:], strict=True))


def density(z):
    return np.exp(-z * z / 2) / np.sqrt(2 * np.pi)


def reference(one, two, k11, k22, k12):
    """E[f(u) g(v)] by iterated adaptive quadrature, split at the kinks and where one runs into the other."""
    (f, kinks), (g, others) = FUNCTIONS[one], FUNCTIONS[two]
    s, slope = np.sqrt(k11), k12 / np.sqrt(k11)
    rest = np.sqrt(k22 - slope**2)

    def inner(z):
        return split(lambda y: g(slope * z + rest * y) * density(y), [(k - slope * z) / rest for k in others])

    turns = [(k + side * rest) / slope for k in others for side in (-4, 0, 4)] if slope else []
    return split(lambda z: f(s * z) * inner(z) * density(z), [*(k / s for k in kinks), *turns])


@pytest.mark.parametrize("one, two", PAIRS)
def test_closed_forms_agree_with_adaptive_quadrature(one, two):
    found = moment2([function(one)], [function(two)], *np.array(COVARIANCES).T)
    expected = [reference(one, two, *c) for c in COVARIANCES]
    assert found.method == "closed form"
    np.testing.assert_allclose(found.value, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pair_of_one_variable_is_its_second_moment(name):
    """At correlation one, and at variance zero; moments of one variable have quadrature of their own."""
    variance = np.array([0.0, 1e-4, 1.0, 100.0])
    f = FUNCTIONS[name][0]
    expected = [float(f(0.0) ** 2), *(split(lambda z, s=s: f(s * z) ** 2 * density(z), [k / s for k in FUNCTIONS[name][1]])
                                      for s in np.sqrt(variance[1:]))]
    pair = moment2([function(name)], [function(name)], variance, variance, variance).value
    np.testing.assert_allclose(pair, expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(moment1([function(name)] * 2, 0.0, variance).value, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name, call", {
    "hard swish": lambda u: u * np.clip(u + 3, 0, 6) / 6,
    "jump": lambda u: np.where(u > 0.5, u, 0.0),
    "silu": lambda u: u / (1 + np.exp(-u)),
}.items())
def test_what_is_not_a_ramp_is_not_taken_for_one(name, call):
    assert recognize(Function(call, name)).family is None


@pytest.mark.parametrize("size", [1.0, 1e-6])
@pytest.mark.parametrize("jump", [0.7, 1 / 3, 1.960004, 1.6449 - 9e-6, 2.5758293])
def test_jumps_are_where_they_are(jump, size):
    """Also next to numbers of few digits, and of small functions: E[u² 1(|u| >= t)] = 2 Phi(-t) + 2 t phi(t)."""
    f = Function(lambda u: size * np.where(abs(u) >= jump, u, 0.0), ("beyond", jump, size))
    found = moment1([f, f], 0.0, np.ones(()))
    np.testing.assert_allclose(found.value, size**2 * 2 * (special.ndtr(-jump) + jump * density(jump)), rtol=1e-12)
    assert found.error < 1e-13 * size**2


@pytest.mark.parametrize("variance", [0.5, 1.0, 4.0, 9.0, 12.0])
def test_what_lies_beyond_the_nodes_is_in_the_error(variance):
    """Of exp, whose square has its weight around two standard deviations of ``2 u``; beyond what the nodes reach it is infinite."""
    exp = Function(np.exp, "exp")
    for share in (1.0, 0.5):
        found = moment2([exp], [exp], *np.array([variance, variance, share * variance]))
        assert abs(found.value - np.exp((1 + share) * variance)) <= found.error + 1e-12 * found.value
    single = moment1([exp], 0.0, np.array(4 * variance))
    assert abs(single.value - np.exp(2 * variance)) <= single.error + 1e-12 * single.value
    assert np.isinf(moment2([exp], [exp], *np.full(3, variance + 16)).error)
    assert np.isinf(moment1([exp], 0.0, np.array(4 * variance + 64)).error)


@pytest.mark.parametrize("call", [np.tanh, np.sin, lambda u: np.sin(4 * u), lambda u: u / (1 + np.exp(-u)), lambda u: u**3,
                                  lambda u: np.maximum(u - 8.4, 0), lambda u: np.maximum(u - 7.49, 0)])
def test_ordinary_functions_have_nothing_there(call):
    f = Function(call, ("ordinary", call))
    for variance in (0.01, 1.0):
        assert moment2([f], [f], *np.full(3, variance)).error < 1e-9


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_angles_are_exact_to_rounding(kind):
    t = np.linspace(0, np.pi / 2, 1001)[1:]
    gap = 2 * np.sin(t / 2) ** 2
    expected = {"angle": t, "obtuse": np.pi - t, "segment": (np.sin(t) - t * np.cos(t)) / gap, "arcsin": t}
    found = {"angle": angles.angle(gap.astype(kind), 1.0), "obtuse": angles.angle(gap.astype(kind), -1.0),
             "segment": angles.segment(gap.astype(kind)), "arcsin": angles.arcsin(np.sin(t).astype(kind))}
    here = (t > 0.5) & (t < 1.4)  # the expected segment cancels near 0, and the sine is flat near pi / 2
    for name, value in found.items():
        np.testing.assert_allclose(value[here], expected[name][here], rtol=64 * np.finfo(kind).eps)
