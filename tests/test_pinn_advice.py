"""Loss terms of physics-informed networks: closed forms, Monte Carlo over seeds, bad input.

With one hidden layer the outputs are sums of independent terms, so that second moments of linear operators, and tangent kernels, are
exact at any width: the measurement has no bias. Products (Burgers) have one of at most 5/width, as in ``harness.check_limit``.
"""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pinn import GAIN, MODES, SHIFT, forward, mlp

import sigprop as sp
from sigprop.pinn.terms import networks

WIDTH = 128
POINTS = np.random.default_rng(1).uniform(-1, 1, (4, 2)).astype(np.float32)
EDGE = POINTS * np.array([1, 0], np.float32)
TARGETS = np.sin(2 * POINTS[:, :1])
second = MODES["jvp of jvp"]


def wave(u, c=1.5):
    return lambda p, x: second(u, 0)(p, x) - c**2 * second(u, 1)(p, x)


def heat(u, k=0.3):
    return lambda p, x: forward(u, 0)(p, x) - k * second(u, 1)(p, x)


def burgers(u, nu=0.1):
    return lambda p, x: forward(u, 0)(p, x) + u(p, x) * forward(u, 1)(p, x) - nu * second(u, 1)(p, x)


def helmholtz(u, k=2.0):
    return lambda p, x: second(u, 0)(p, x) + second(u, 1)(p, x) + k**2 * u(p, x)


EQUATIONS = {"wave": wave, "heat": heat, "burgers": burgers, "helmholtz": helmholtz}


def at(function):
    return lambda p, xs: jax.vmap(lambda x: function(p, x))(xs)[:, None]


def scaled(u, s):
    return lambda p, x: u(p, s * x)


def problem(act, depth=1, width=WIDTH):
    u, init = mlp(depth, act, width)
    return u, sp.network(at(u), POINTS, init=init)


def terms(u, residual):
    return {"data": (at(u), POINTS, TARGETS), "boundary": (at(u), EDGE, None), "residual": (at(residual), POINTS, None)}


def losses(net, of, seeds):
    """Groups of the losses of all terms, ``[64, terms]``."""
    def one(key):
        params = net.init(key)
        return jnp.stack([jnp.mean((f(params, jnp.asarray(x)) - (0 if y is None else y)) ** 2) for f, x, y in of.values()])

    run = jax.jit(lambda keys: jax.lax.map(lambda some: jnp.mean(jax.vmap(one)(some), 0), keys))
    return harness.sample(run(jax.random.split(jax.random.key(7), (64, seeds // 64))))


SLOW = pytest.mark.slow
LOSSES = [("wave", "sin", 0.08), ("burgers", "tanh", 0.14), pytest.param("heat", "sin", 0.08, marks=SLOW),
          *[pytest.param(e, a, 0.14 if e == "burgers" else 0.1, marks=SLOW) for e, a in (
              ("wave", "tanh"), ("heat", "tanh"), ("burgers", "sin"), ("helmholtz", "sin"), ("helmholtz", "tanh"))]]


@pytest.mark.parametrize(("equation", "act", "detects"), LOSSES)
def test_losses_are_those_measured(equation, act, detects):
    """False alarm 1e-6."""
    u, net = problem(act)
    of = terms(u, EQUATIONS[equation](u))
    found = sp.pinn.loss_balance(net, of)
    assert found["share"].sum() == pytest.approx(1) and np.all(found["error"] < 1e-6 * found["loss"])
    allowance = np.array([0, 0, 5 / WIDTH if equation == "burgers" else 0])
    harness.agree(found["loss"].values, losses(net, of, 1 << 15), detects=detects, allowance=allowance)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["pinn", "siren"])
def test_losses_of_flax_models(model):
    """False alarm 1e-6, detects 15 %. Uniform weights from two inputs: sampled, with a standard error that is allowed for."""
    from flax import nnx

    def module(rngs):
        return sp.nn.PINN([2, 128, 1], rngs=rngs) if model == "pinn" else sp.nn.Siren([2, 128, 1], w0=3.0, rngs=rngs)

    net = sp.network(module, POINTS)
    assert isinstance(module(nnx.Rngs(0)), nnx.Module)
    u = lambda p, x: net.apply(p, x[None])[0, 0]  # noqa: E731
    of = terms(u, wave(u))
    found = sp.pinn.loss_balance(net, of)
    harness.agree(found["loss"].values, losses(net, of, 1 << 14), detects=0.15,
                  allowance=5 * (found["error"] / found["loss"]).values)


@pytest.mark.parametrize("act", ["sin", "tanh"])
def test_wave_loss_against_its_speed(act):
    """At the origin one hidden layer has ``E[u_tt u_xx] = E[u_tt²] / 3``, so that ``E[r²] = E[u_tt²] (1 + c⁴ - 2 c²/3)``."""
    u, net = problem(act)
    origin, speeds = np.zeros((1, 2), np.float32), np.array([0.0, 0.5, 1.0, 3.0])
    table = sp.pinn.balance_over(net, lambda c: {"residual": (at(wave(u, c)), origin, None)}, speeds, "c")
    found = table["loss"].sel(term="residual").values
    np.testing.assert_allclose(found, found[0] * (1 + speeds**4 - 2 * speeds**2 / 3), rtol=1e-6)
    if act == "sin":
        expected = GAIN**2 * 3 * (GAIN**2 / 2) ** 2 * (1 - np.exp(-2 * SHIFT**2)) / 2
        assert found[0] == pytest.approx(expected, rel=1e-6)


def test_scale_of_the_inputs_has_a_closed_form():
    """At the origin ``E[u_xx²](s) = s⁴ E[u_xx²]``; a sine layer gives both moments."""
    u, net = problem("sin")
    origin = np.zeros((1, 2), np.float32)

    def of(s):
        v = scaled(u, s)
        return {"data": (at(v), origin, None), "residual": (at(second(v, 1)), origin, None)}

    found = sp.pinn.balance_point(net, of, "data", "residual")
    half = GAIN**2 * (1 - np.exp(-2 * SHIFT**2)) / 2
    expected = ((half + SHIFT**2) / (half * 3 * (GAIN**2 / 2) ** 2)) ** 0.25
    assert found.value == pytest.approx(expected, rel=1e-5) and 0 <= found.error < 1e-5
    assert found.losses["data"] == pytest.approx(found.losses["residual"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("act", ["sin", "tanh"])
def test_terms_balance_at_the_scale(act):
    """Measured at the scale found: false alarm 1e-6, detects 10 %."""
    u, net = problem(act)

    def of(s):
        return terms(scaled(u, s), wave(scaled(u, s)))

    found = sp.pinn.balance_point(net, of, "data", "residual", 0.1, 3.0)
    measured = losses(net, of(found.value), 1 << 15)
    harness.agree(np.full(3, found.losses["data"])[[0, 2]], harness.Sample(measured.mean[[0, 2]], measured.stderr[[0, 2]], measured.dof),
                  detects=0.1)


def empirical(net, x):
    return harness.measure(net, x, chunks=(0, 1), observe=harness.tangent_kernel(net, "standard"))[0]


KERNELS = [("wave", "sin", 0.08), ("heat", "sin", 0.08), ("helmholtz", "sin", 0.08), ("burgers", "sin", 0.2), ("wave", "tanh", 0.08)]


@pytest.mark.slow
@pytest.mark.parametrize(("equation", "act", "detects"), KERNELS)
def test_tangent_kernels_are_those_measured(equation, act, detects):
    """False alarm 1e-6 for the kernels; weights follow from their traces within what that detects."""
    u, net = problem(act)
    of = terms(u, EQUATIONS[equation](u))
    found, weights = sp.pinn.ntk_spectra(net, of), sp.pinn.recommended_weights(net, of)
    traces = []
    for name, (one, points) in networks(net, of).items():
        measured = empirical(one, points)
        unit = harness.scales(np.asarray(found[name].kernel, float))
        harness.agree(found[name].kernel, measured, scale=unit, detects=detects,
                      allowance=5 / WIDTH if equation == "burgers" and name == "residual" else 0.0)
        assert found[name].eigenvalues.sum() == pytest.approx(found[name].trace, rel=1e-5)
        traces.append(np.trace(measured.mean))
    np.testing.assert_allclose([*weights.values()], sum(traces) / np.array(traces), rtol=2 * detects)
    assert sum(1 / w for w in weights.values()) == pytest.approx(1)


def test_weights_count_points_where_squares_are_averaged():
    u, net = problem("sin")
    of = {"few": (at(u), POINTS[:2], None), "many": (at(u), np.tile(POINTS[:2], (5, 1)), None)}
    mean, total = (sp.pinn.recommended_weights(net, of, r) for r in ("mean", "sum"))
    assert mean == pytest.approx({"few": 2, "many": 2}, rel=1e-5) and total == pytest.approx({"few": 6, "many": 1.2}, rel=1e-5)


U, NET = problem("tanh")
RELU, RELU_NET = problem("relu")
BAD = {
    "no network": (lambda: sp.pinn.loss_balance(U, terms(U, U)), "net: function is no network"),
    "no terms": (lambda: sp.pinn.loss_balance(NET, {}), "at least one term"),
    "no triple": (lambda: sp.pinn.loss_balance(NET, {"data": at(U)}), r"terms\['data'\]: not \(residual, points, targets\)"),
    "vector": (lambda: sp.pinn.loss_balance(NET, {"data": (lambda p, x: at(U)(p, x)[:, 0], POINTS, None)}), r"'data'.*it must be \[n, k\]"),
    "targets": (lambda: sp.pinn.loss_balance(NET, {"data": (at(U), POINTS, TARGETS[:, 0])}), r"'data'.*targets: shape \(4,\)"),
    "NaN targets": (lambda: sp.pinn.loss_balance(NET, {"data": (at(U), POINTS, np.nan * TARGETS)}), "'data'.*targets: has NaN"),
    "NaN points": (lambda: sp.pinn.loss_balance(NET, {"data": (at(U), np.nan * POINTS, None)}), "'data'.*NaN"),
    "wrong coordinates": (lambda: sp.pinn.ntk_spectra(NET, {"data": (at(U), POINTS[:, :1], None)}), "'data'.*it raised on points"),
    "relu": (lambda: sp.pinn.loss_balance(RELU_NET, terms(RELU, wave(RELU))), "'residual'"),
    "reduction": (lambda: sp.pinn.recommended_weights(NET, terms(U, U), "max"), "reduction"),
    "values": (lambda: sp.pinn.balance_over(NET, lambda c: terms(U, U), [np.inf]), "values"),
    "names change": (lambda: sp.pinn.balance_over(NET, lambda c: {f"t{c}": (at(U), POINTS, None)}, [1, 2]), "names of the terms change"),
    "no such term": (lambda: sp.pinn.balance_point(NET, lambda s: terms(U, U), "data", "wall"), "'wall': no such term"),
    "no balance": (lambda: sp.pinn.balance_point(NET, lambda s: {"a": (at(U), POINTS, None), "b": (
        at(lambda p, x: 3 * U(p, x)), POINTS, None)}, "a", "b"), "0.111 times.*no balance between"),
    "interval": (lambda: sp.pinn.balance_point(NET, lambda s: terms(U, U), "data", "boundary", 2.0, 1.0), "high"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()
