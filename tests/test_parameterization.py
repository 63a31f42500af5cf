"""Parameterizations: what a few steps of Adam change in the features and the output does not depend on width and depth.

Adam's first updates are the signs of the gradient times the learning rate, which is what is taken here.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop as sp
from sigprop import init as I

X = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32) / 4  # of norm about 1, as rows of an embedding are chosen
Y = np.random.default_rng(1).standard_normal((8, 1)).astype(np.float32)


def perceptron(params, x):
    """Features and output of a network with one hidden weight."""
    h = jnp.tanh(jnp.tanh(x @ params["input"]) @ params["hidden"])
    return h, h @ params["output"]


def residual(multiplier, params, x):
    """The same with residual branches of two weights, each after a normalization."""
    def block(x, weights):
        h = x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
        return x + multiplier * jnp.maximum(h @ weights[0], 0) @ weights[1], None

    h = jax.lax.scan(block, x @ params["input"], params["hidden"])[0]
    return h, h @ params["output"]


def change(model, scales, shapes, rate, steps=3, seeds=4):
    """Root mean square change of features and output over ``steps``, averaged over ``seeds``; weights are scaled as ``scales`` says."""
    def effective(params):
        return {name: scales[name].multiplier * params[name] for name in params}

    def loss(params):
        return jnp.mean((model(effective(params), X)[1] - Y) ** 2)

    @jax.jit
    @jax.vmap
    def run(key):
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        params = {name: scales[name].initializer()(keys[name], shape) for name, shape in shapes.items()}

        def step(_, moved):
            slope = jax.grad(loss)(moved)
            return {name: moved[name] - rate * scales[name].learning_rate * jnp.sign(slope[name]) for name in moved}

        moved = jax.lax.fori_loop(0, steps, step, params)
        before, after = model(effective(params), X), model(effective(moved), X)
        return jnp.array([jnp.sqrt(jnp.mean((b - a) ** 2)) for b, a in zip(before, after, strict=True)])

    return np.asarray(run(jax.random.split(jax.random.key(0), seeds)).mean(0))


def wide(parameterization, width, rate):
    p = parameterization(width)
    scales = {"input": p.input(width if isinstance(p, I.UnitMuP) else 1), "hidden": p.hidden(width), "output": p.output(width)}
    return change(perceptron, scales, {"input": (16, width), "hidden": (width, width), "output": (width, 1)}, rate)


WIDTHS = {"mup": (lambda n: I.MuP(n, 64), 0.01), "u-mup": (lambda n: I.UnitMuP(), 0.1)}


@pytest.mark.parametrize("name", WIDTHS)
def test_updates_do_not_depend_on_the_width(name):
    parameterization, rate = WIDTHS[name]
    ratio = wide(parameterization, 256, rate) / wide(parameterization, 64, rate)
    assert np.all((ratio > 0.6) & (ratio < 1.4)), ratio


def test_updates_of_the_standard_parameterization_grow_with_the_width():
    ratio = wide(lambda n: I.MuP(n, n), 256, 0.001) / wide(lambda n: I.MuP(n, n), 64, 0.001)
    assert ratio[1] > 2.5, ratio


@cache
def deep(alpha, width, depth, base_depth, rate=0.001):
    p = I.CompleteP(width, 32, depth, base_depth, alpha, variance=1 / 32)
    shapes = {"input": (16, width), "hidden": (depth, 2, width, width), "output": (width, 1)}
    return change(partial(residual, p.residual), {"input": p.input(), "hidden": p.hidden(), "output": p.output()}, shapes, rate)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "width", "depth"), [(1.0, 32, 16), (1.0, 128, 4), (0.5, 32, 16)])
def test_updates_do_not_depend_on_the_depth(alpha, width, depth):
    ratio = deep(alpha, width, depth, 4) / deep(1.0, 32, 4, 4)
    assert np.all((ratio > 0.6) & (ratio < 1.4)), ratio


@pytest.mark.slow
def test_updates_without_a_parameterization_grow_with_the_depth():
    ratio = deep(1.0, 32, 16, 16) / deep(1.0, 32, 4, 4)
    assert np.all(ratio > 1.5), ratio


def test_at_the_base_all_is_standard():
    assert I.MuP(64, 64).hidden(256) == I.Scaling(1 / 256, 1.0) and I.MuP(64, 64).output(64) == I.Scaling(1 / 64, 1.0)
    p = I.CompleteP(64, 64, 4, 4, variance=0.01)
    assert p.input() == p.hidden() == p.output() == I.Scaling(0.01, 1.0) and p.residual == p.weight_decay == 1
    assert I.CompleteP(256, 64, 16, 4, 0.5).branch_learning_rate == 0.5 and I.UnitMuP(4).hidden(16) == I.Scaling(1.0, 0.125, 0.25)


BAD = {
    "width": (lambda: I.MuP(0, 64), "width: 0 given"), "base width": (lambda: I.MuP(64, 1.5), "base_width: 1.5 given"),
    "fan": (lambda: I.MuP(64, 64).hidden(0), "fan_in: 0 given"), "branches": (lambda: I.UnitMuP(0), "branches: 0 given"),
    "alpha": (lambda: I.CompleteP(64, 64, 4, 4, 0.3), "alpha: 0.3 given.*at least 0.5 and at most 1"),
    "variance": (lambda: I.CompleteP(64, 64, 4, 4, variance=0.0), "variance: 0.0 given"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()
