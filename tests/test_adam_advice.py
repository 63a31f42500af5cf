"""Advice for Adam and the coordinate check, against optax and measured first steps."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sigprop as sp
from sigprop.empirical.gradients import loss_gradients

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((4, 16)).astype(np.float32), RNG.standard_normal((4, 1)).astype(np.float32)
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "linear": lambda z: z}


def mse(y, t):
    return jnp.mean((y - t) ** 2)


def build(act="tanh", base=None):
    """A network of three kernels at a width, in the standard parameterization or in muP."""
    def of(width):
        mup = sp.init.MuP(width, base or width)
        scalings = {"first": mup.input(16), "hidden": mup.hidden(width), "last": mup.output(width)}
        shapes = {"first": (16, width), "hidden": (width, width), "last": (width, 1)}

        def init(key):
            keys = jax.random.split(key, 3)
            return {k: jnp.float32(s.variance**0.5) * jax.random.normal(q, shapes[k])
                    for q, (k, s) in zip(keys, scalings.items(), strict=True)}

        def apply(p, x):
            f = ACTIVATIONS[act]
            return f(f(x @ p["first"]) @ p["hidden"]) @ p["last"]

        return sp.network(apply, X, init=init), {k: s.learning_rate for k, s in scalings.items()}

    return of


def shrinks(net, advice, x, y, batch_size, seeds=512):
    """Groups ``[32, leaves]`` of the mean square of the first update, over the entries that have a gradient: 1 without epsilon."""
    x, y = jnp.asarray(x), jnp.asarray(y)

    def one(key):
        chosen = jax.random.choice(jax.random.fold_in(key, 2), len(x), (batch_size,), replace=False)
        grads = loss_gradients(net, mse, net.init(key), (x[chosen],), (y[chosen],))
        return jnp.stack([jnp.sum((g / (jnp.abs(g) + advice[k].epsilon)) ** 2) / jnp.sum(g != 0) for k, g in grads.items()])

    run = jax.jit(lambda keys: jax.lax.map(lambda some: jnp.mean(jax.vmap(one)(some), 0), keys))
    return harness.sample(run(jax.random.split(jax.random.key(3), (32, seeds // 32))))


@pytest.mark.slow
def test_epsilon_where_gradients_are_products():
    """One example, one output, a linear network: the hidden kernel's gradient is a product of three normal numbers in the limit. 5 %
    and 20 % are asked for; false alarm 1e-6, detects 15 % of the shrinkage; moments at width 256 are off by at most 5/256."""
    net, _ = build("linear")(256)
    x, y = np.sqrt(16) * X[:1] / np.linalg.norm(X[:1]), 0 * Y[:1]
    moments = sp.adam_second_moment(net, mse, (x, y))
    for shrink in (0.05, 0.2):
        advice = sp.adam_advice(moments, shrink=shrink)
        measured = shrinks(net, advice, x, y, 1, 8192)
        hidden = [*advice].index("hidden")
        gap = harness.Sample(1 - np.sqrt(measured.mean[hidden]), measured.stderr[hidden] / 2, measured.dof)
        harness.agree(np.float64(shrink), gap, detects=0.15, allowance=5 / 256)


@pytest.mark.parametrize(("act", "batch_size"), [("tanh", 2), *[pytest.param(*c, marks=pytest.mark.slow) for c in (
    ("tanh", 4), ("relu", 2), ("relu", 4))]])
def test_epsilon_keeps_the_first_update(act, batch_size):
    """No leaf loses more than the share that was asked for, beyond 5 standard errors."""
    net, _ = build(act)(128)
    advice = sp.adam_advice(sp.adam_second_moment(net, mse, (X, Y), batch_size=batch_size), shrink=0.05)
    measured = shrinks(net, advice, X, Y, batch_size)
    assert np.all(measured.mean + 5 * measured.stderr >= 0.95**2), 1 - np.sqrt(measured.mean)
    assert np.all(measured.mean < 1) and advice.epsilon == min(leaf.epsilon for leaf in advice.values())


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_learning_rate_makes_the_update_ratio(optimizer):
    net, _ = build()(128)
    advice = sp.adam_advice(sp.adam_second_moment(net, mse, (X, Y), optimizer=optimizer), update_ratio=3e-3)
    params = net.init(jax.random.key(1))
    grads = loss_gradients(net, mse, params, (jnp.asarray(X),), (jnp.asarray(Y),))
    for path, leaf in advice.items():
        rule = getattr(optax, optimizer)(leaf.learning_rate)
        update, _ = rule.update(grads, rule.init(params), params)
        ratio = jnp.linalg.norm(update[path]) / jnp.linalg.norm(params[path])
        assert ratio == pytest.approx(3e-3, rel=5 / np.sqrt(2 * params[path].size))  # of the norm of normal weights, 5 s.d.
    assert advice.learning_rate == min(leaf.learning_rate for leaf in advice.values())


@pytest.mark.parametrize(("share", "b2"), [(1.0, 0.9), (0.3, 0.9), (1.0, 0.98), (0.05, 0.98)])
def test_spread_of_the_denominator(share, b2):
    """Normal gradients through optax: pairs of runs differ by their noise alone. False alarm 1e-6, detects 5 %."""
    from sigprop.predict.advice import _warmup

    spread = np.sqrt(2 * share * (2 - share) * (1 - b2) / (1 + b2)) * 1.3
    steps = int(_warmup(2 * share * (2 - share), b2, spread))
    x = b2 ** np.array([steps, max(steps - 1, 1)])
    variances = 2 * share * (2 - share) * (1 - b2) / (1 + b2) * (1 + x) / (1 - x)
    assert variances[0] <= spread**2 < variances[1] or steps == 1
    rule = optax.scale_by_adam(b2=b2)

    def one(key):
        keys = jax.random.split(key, 3)
        mean = jnp.sqrt(1 - share) * jax.random.normal(keys[0], (4096,))

        def run(key):
            def step(state, k):
                return rule.update(mean + jnp.sqrt(share) * jax.random.normal(k, mean.shape), state)[1], None

            return jax.lax.scan(step, rule.init(mean), jax.random.split(key, steps))[0].nu / (1 - b2**steps)

        a, b = run(keys[1]), run(keys[2])
        return jnp.mean((a - b) ** 2) / 2

    found = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(5), 64))
    harness.agree(variances[0], harness.sample(found), detects=0.05)


def test_warmup_follows_the_noise():
    net, _ = build()(128)
    whole, part = (sp.adam_advice(sp.adam_second_moment(net, mse, (X, Y), batch_size=b)) for b in (None, 1))
    assert whole.warmup == 1 and 1 < part.warmup < np.inf and whole.untuned_warmup == pytest.approx(2000)
    fleeting = sp.adam_advice(sp.adam_second_moment(net, mse, (X, Y), batch_size=1, b2=0.5))
    assert fleeting.warmup == np.inf
    assert "warm-up" in str(part) and all(path in str(part) for path in part)


WIDTHS = [64, 128, 256]


@pytest.mark.parametrize(("act", "base", "widths"), [("tanh", 64, [64, 128]), *[pytest.param(*c, WIDTHS, marks=pytest.mark.slow) for c in (
    ("tanh", None), ("tanh", 64), ("relu", 64), ("relu", None))]])
def test_coordinates(act, base, widths):
    """The change of outputs keeps its size in muP and grows in the standard parameterization, as predicted; and stays below its bound."""
    found = sp.coordinate_check(build(act, base), widths, mse, (X, Y), lr=1e-5, eps=1e-12, seeds=64)
    assert float(found["measured_slope"]) == pytest.approx(float(found["slope"]), abs=0.05)
    assert float(found["slope"]) == pytest.approx(0, abs=1e-6) if base else float(found["slope"]) > 1
    ratio = (found["measured_output_change"] / found["output_change_bound"]).values
    assert np.all(ratio < 1) and np.all(ratio > (2 / np.pi) ** 1.5 / 2)
    rates = found["measured_first_update"] / found["first_update"]
    np.testing.assert_allclose(rates, 1, rtol=0.02 if act == "tanh" else 0.2)
    np.testing.assert_allclose(found["update_slope"], [0, -1, -1] if base else 0, atol=1e-3)


def test_linear_layer_has_a_closed_form():
    """One example, one layer: the output moves by exactly ``lr |x|_1``; the bound is ``lr sqrt(N) |x|_2``."""
    def of(width):
        return sp.network(lambda p, x: x @ p, X, init=lambda key: jax.random.normal(key, (16, 1)) / 4), {}

    found = sp.coordinate_check(of, [1, 2], mse, (X[:1], Y[:1]), lr=1e-2, eps=0.0, seeds=4)
    np.testing.assert_allclose(found["measured_output_change"], 1e-2 * np.abs(X[0]).sum(), rtol=1e-4)
    np.testing.assert_allclose(found["output_change_bound"], 1e-2 * 4 * np.linalg.norm(X[0]), rtol=1e-5)


NET = build()(16)[0]
MOMENTS = sp.adam_second_moment(NET, mse, (X, Y))
BAD = {
    "moments": (lambda: sp.adam_advice({}), "moments: dict given"),
    "optimizer": (lambda: sp.adam_advice(sp.adam_second_moment(NET, mse, (X, Y), optimizer="rmsprop")), "moments: those of rmsprop"),
    "update_ratio": (lambda: sp.adam_advice(MOMENTS, update_ratio=0.0), "update_ratio"),
    "shrink": (lambda: sp.adam_advice(MOMENTS, shrink=1.0), "shrink"),
    "spread": (lambda: sp.adam_advice(MOMENTS, spread=np.nan), "spread"),
    "one width": (lambda: sp.coordinate_check(build(), [64], mse, (X, Y)), "widths"),
    "width": (lambda: sp.coordinate_check(build(), [64, 0], mse, (X, Y)), "widths"),
    "lr": (lambda: sp.coordinate_check(build(), WIDTHS, mse, (X, Y), lr=0.0), "lr"),
    "seeds": (lambda: sp.coordinate_check(build(), WIDTHS, mse, (X, Y), seeds=1), "seeds"),
    "no pair": (lambda: sp.coordinate_check(lambda n: NET, WIDTHS, mse, (X, Y)), "build: it must return"),
    "path": (lambda: sp.coordinate_check(lambda n: (NET, {"head": 1.0}), WIDTHS, mse, (X, Y)), "'head'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()
