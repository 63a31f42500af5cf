"""Derivatives of a network along its two inputs and residuals of differential equations, in every mode of differentiation."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import nn

import sigprop as sp

ACTIVATIONS = {"tanh": jnp.tanh, "sin": jnp.sin, "gelu": lambda z: nn.gelu(z, approximate=False), "softplus": nn.softplus}
POINTS = np.array([[0.3, -0.7], [-0.4, 0.1]])
C = 1.5
GAIN, SHIFT = 1.25, 0.5  # of weights and biases; exact in float32


def mlp(depth, act="sin", width=64, outputs=None):
    """``u(p, x)`` for one point ``x = (t, x)``, a number, or an array of several outputs; and ``init``."""
    def init(key):
        sizes = [2, *[width] * depth, outputs or 1]
        shapes = [*zip(sizes[:-1], sizes[1:], strict=True)]
        keys = iter(jax.random.split(key, 2 * len(shapes)))
        return [(GAIN / a**0.5 * jax.random.normal(next(keys), (a, b)), SHIFT * jax.random.normal(next(keys), (b,))) for a, b in shapes]

    def u(p, x):
        for w, b in p[:-1]:
            x = ACTIVATIONS[act](x @ w + b) if act in ACTIVATIONS else nn.relu(x @ w + b)
        y = x @ p[-1][0] + p[-1][1]
        return y if outputs else y[0]

    return u, init


def forward(u, i):
    def along(p, x):
        return jax.jvp(lambda y: u(p, y), (x,), (jnp.eye(2, dtype=x.dtype)[i],))[1]

    return along


def reverse(u, i):
    return lambda p, x: jax.grad(u, 1)(p, x)[i]


MODES = {
    "jvp of jvp": lambda u, i: forward(forward(u, i), i),
    "grad of grad": lambda u, i: reverse(reverse(u, i), i),
    "hessian": lambda u, i: lambda p, x: jax.hessian(u, 1)(p, x)[i, i],
    "jacrev of jacfwd": lambda u, i: lambda p, x: jax.jacrev(jax.jacfwd(u, 1), 1)(p, x)[i, i],
}


def wave(u, second):
    return lambda p, x: second(u, 0)(p, x) - C**2 * second(u, 1)(p, x)


def burgers(u, second):
    return lambda p, x: reverse(u, 0)(p, x) + u(p, x) * reverse(u, 1)(p, x) - 0.1 * second(u, 1)(p, x)


def helmholtz(u, second):
    return lambda p, x: second(u, 0)(p, x) + second(u, 1)(p, x) + 4 * u(p, x)


def field(residual, init, points=POINTS):
    """The network whose outputs are ``residual(p, x)`` at each of the points."""
    def apply(p, xs):
        return jax.vmap(lambda x: jnp.atleast_1d(residual(p, x)))(xs)

    return sp.network(apply, jnp.asarray(points, jnp.float32), init=init)


def second_moments(residual, init, points=POINTS):
    with jax.enable_x64(True):
        return np.asarray(sp.infinite_kernel(field(residual, init, points), ntk=False)(points).nngp)


@pytest.mark.parametrize(("depth", "act"), [(2, "sin"), (3, "sin"), pytest.param(6, "sin", marks=pytest.mark.slow),
                                            *[pytest.param(2, a, marks=pytest.mark.slow) for a in ACTIVATIONS if a != "sin"]])
def test_modes_agree(depth, act):
    u, init = mlp(depth, act)
    first = [second_moments(d(u, 0), init) for d in (forward, reverse)]
    np.testing.assert_allclose(*first, rtol=1e-10)
    found = [second_moments(wave(u, mode), init) for mode in MODES.values()]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-10)


def test_weights_and_biases_in_one_array_or_none():
    """Draws shared by weights and biases, and networks without biases: the transposed weights are still found."""
    u, plain = mlp(2)

    def joined(key):
        draws = [jax.random.normal(k, (a + 1, b)) for k, a, b in zip(jax.random.split(key, 3), (2, 64, 64), (64, 64, 1), strict=True)]
        return [(GAIN * d[:-1] / np.sqrt(len(d) - 1), SHIFT * d[-1]) for d in draws]

    def unbiased(key):
        return [(w, jnp.zeros_like(b)) for w, b in plain(key)]

    for init in (joined, unbiased):
        np.testing.assert_allclose(*(second_moments(d(u, 0), init) for d in (forward, reverse)), rtol=1e-10)
    np.testing.assert_allclose(*(second_moments(reverse(u, 0), i) for i in (plain, joined)), rtol=1e-6)


def test_sine_layer_has_a_closed_form():
    """``sin'' = -sin``: ``u_tt`` is ``sum_j v_j w_j^2 sin(z_j)``, whose square is a derivative of a characteristic function."""
    u, init = mlp(1)
    a, s = GAIN**2 / 2, SHIFT**2
    t, x = POINTS[0]
    var = a * (t * t + x * x) + s
    c = a * t  # E[w z]
    # E[w^4 (1 - cos 2z)] / 2, with w = c/var z + rest: d^4/dk^4 of the characteristic function of (w, 2z)
    moved = a**2 * 3 - 6 * a * (2 * c) ** 2 + (2 * c) ** 4
    expected = GAIN**2 * (3 * a**2 - np.exp(-2 * var) * moved) / 2
    for mode in MODES.values():
        np.testing.assert_allclose(second_moments(mode(u, 0), init)[0, 0], expected, rtol=1e-10)


@pytest.mark.parametrize("depth", [1, 2])
def test_wave_residual_is_made_of_its_terms(depth):
    u, init = mlp(depth)
    second = MODES["hessian"]
    tt, xx, both, residual = (np.diag(second_moments(r, init)) for r in (
        second(u, 0), second(u, 1), lambda p, x: second(u, 0)(p, x) + second(u, 1)(p, x), wave(u, second)))
    np.testing.assert_allclose(residual, tt + C**4 * xx - C**2 * (both - tt - xx), rtol=1e-10)


@pytest.mark.parametrize("act", ["sin", "tanh"])
def test_isotropic_weights_at_the_origin(act):
    """One hidden layer: ``E[w_t^2 w_x^2] = E[w_t^4] / 3``."""
    u, init = mlp(1, act)
    tt, xx, both = (second_moments(r, init, np.zeros((1, 2)))[0, 0] for r in (
        MODES["hessian"](u, 0), MODES["hessian"](u, 1), lambda p, x: jnp.trace(jax.hessian(u, 1)(p, x))))
    np.testing.assert_allclose((both - tt - xx) / 2, tt / 3, rtol=1e-10)


def slope(u, second):
    return forward(u, 1)


def curvature(u, second):
    return second(u, 1)


def nonlinear(u, second):
    return lambda p, x: forward(u, 0)(p, x) + u(p, x) * forward(u, 1)(p, x) - 0.1 * second(u, 1)(p, x)


SLOW = pytest.mark.slow
MONTE_CARLO = [  # residuals in forward mode; reverse mode is held equal to it above
    pytest.param(2, "sin", wave, marks=SLOW), pytest.param(3, "sin", wave, marks=SLOW), pytest.param(2, "sin", helmholtz, marks=SLOW),
    pytest.param(2, "sin", nonlinear, marks=SLOW), pytest.param(6, "sin", slope, marks=SLOW), pytest.param(6, "sin", curvature, marks=SLOW),
    *[pytest.param(2, act, curvature, marks=SLOW) for act in ("tanh", "gelu", "softplus")],
    *[pytest.param(3, act, slope, marks=SLOW) for act in ("tanh", "gelu", "softplus")],
    *[pytest.param(6, act, slope, marks=SLOW) for act in ("tanh", "gelu", "softplus")], pytest.param(2, "tanh", wave, marks=SLOW),
]


@pytest.mark.parametrize(("depth", "act", "equation"), MONTE_CARLO)
def test_monte_carlo(depth, act, equation):
    """False alarm 1e-6, detects 5 %. Averages over 64 outputs take off the noise of the last layer, which is exactly Gaussian."""
    def build(width):
        u, init = mlp(depth, act, width, outputs=64)
        return field(equation(u, MODES["jvp of jvp"]), init)

    harness.check_limit(build, 128, POINTS.astype(np.float32), detects=0.05)


def test_products_of_fields():
    """``u u_x`` has the second moment ``E u^2 E u_x^2 + 2 (E u u_x)^2`` of Gaussian fields."""
    u, init = mlp(2)
    one, two, both = (np.diag(second_moments(r, init)) for r in (u, reverse(u, 1), lambda p, x: u(p, x) + reverse(u, 1)(p, x)))
    found = np.diag(second_moments(lambda p, x: u(p, x) * reverse(u, 1)(p, x), init))
    np.testing.assert_allclose(found, one * two + (both - one - two) ** 2 / 2, rtol=1e-10)
    assert np.all(np.diag(second_moments(burgers(u, MODES["hessian"]), init)) > 0)


def test_relu_has_no_second_derivative():
    """It vanishes almost everywhere: an exact zero, or a refusal."""
    u, init = mlp(2, "relu")
    try:
        found = second_moments(MODES["hessian"](u, 0), init)
    except (sp.InvalidInput, sp.Unsound):
        return
    np.testing.assert_array_equal(found, 0.0)


def test_last_row_is_the_residual():
    u, init = mlp(2)
    residual = wave(u, MODES["hessian"])
    rows = sp.propagate(field(residual, init), POINTS.astype(np.float32), backward=False)
    expected = np.mean(np.diag(second_moments(residual, init)))
    np.testing.assert_allclose(rows["variance"].values[-1], expected, rtol=1e-5)
