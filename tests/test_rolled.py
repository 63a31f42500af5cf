"""Repeated steps as loops: the same values, and programs that do not grow with the number of steps."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop as sp
from sigprop.tracing import rolled

X = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((5, 5)).astype(np.float32) / 4


def chain(x, n):
    for _ in range(n):
        x = jnp.sin(x @ W) + x[:1] / 2
    return x


def two_before(x, n):
    y = x + 1
    for _ in range(n):
        x, y = y, jnp.tanh(x - 0.5 * y)
    return x, y


def all_of_them(x, n):
    found = []
    for _ in range(n):
        x = jnp.cos(x) * 1.1
        found.append(x.sum())
    return found, x


def every_third(x, n):
    total = 0.0
    for k in range(n):
        x = jnp.cos(x @ W)
        total = total + (x.max() if k % 3 == 0 else 0.0)
    return total


def not_alike(x, n):
    for k in range(n):
        x = jnp.sin(x * (1 + k))
    return x


def two_loops(x, n):
    for _ in range(n):
        x = jnp.sin(x) + x.mean()
    x = x @ W
    for _ in range(n):
        x = jnp.tanh(x @ W)
    return x


def first_is_kept(x, n):
    first = jnp.exp(-x)
    x = first
    for _ in range(n):
        x = jnp.sin(x + first)
    return x * first


def derivative(x, n):
    return jax.grad(lambda a: chain(a, n).sum())(x)


def constants_of_calls(x, n):
    for k in range(n):
        x = inner(k)(x) + jax.jit(inner(k + 0.5))(x)
    return x


def inner(k):
    c = k * np.arange(5, dtype=np.float32)
    return jax.jit(lambda x: jax.jit(lambda x: jnp.cos(x + c))(x))


def of_nothing(x, n):
    return np.float32(n), x


LOOPS = {chain: 1, two_before: 1, all_of_them: 2, every_third: 1, not_alike: 0, two_loops: 2, first_is_kept: 1, derivative: 2,
         constants_of_calls: 0, of_nothing: 0}


@pytest.mark.parametrize("function", LOOPS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("transform", [lambda f: f, lambda f: lambda x: jax.vmap(f)(jnp.stack([x, -x])), lambda f: jax.jacfwd(f)],
                         ids=["plain", "vmap", "jacfwd"])
def test_loops_are_found_and_change_nothing(function, transform):
    one, two = (partial(function, n=n) for n in (40, 56))
    found = jax.jit(transform(rolled(one)))(X)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, jax.jit(transform(one))(X))
    program = jax.make_jaxpr(rolled(one))(X).jaxpr
    assert sum(e.primitive.name == "scan" for e in program.eqns) == LOOPS[function]
    if LOOPS[function] and function is not all_of_them:  # whose outputs grow
        assert abs(len(program.eqns) - len(jax.make_jaxpr(rolled(two))(X).jaxpr.eqns)) <= 12


NORMAL = nn.initializers.variance_scaling(1.5, "fan_in", "normal")
Dense, Conv = partial(nn.Dense, kernel_init=NORMAL), partial(nn.Conv, kernel_init=NORMAL)


def perceptron(depth):
    layers = (layer for _ in range(depth) for layer in (Dense(64, bias_init=nn.initializers.normal(0.3)), nn.relu))
    return nn.Sequential([*layers, Dense(1)])


class PreNorm(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        x = Dense(64)(x)
        for _ in range(self.depth):
            x = x + Dense(64)(nn.relu(Dense(64)(nn.LayerNorm()(x))))
        return Dense(2)(x)


def convolutions(depth):
    return nn.Sequential([*(layer for _ in range(depth) for layer in (Conv(32, (3,)), nn.relu)), lambda x: Dense(1)(x.mean(1))])


DEEP = {perceptron: (5,), PreNorm: (5,), convolutions: (6, 8)}


@pytest.mark.parametrize("model", [perceptron, *(pytest.param(model, marks=pytest.mark.slow) for model in (PreNorm, convolutions))],
                         ids=lambda m: m.__name__)
def test_kernels_of_deep_networks_compile_as_shallow_ones(model):
    """float64, on the host without loops, against float32 with them; the programs are equal in length."""
    x = np.random.default_rng(0).standard_normal((4, *DEEP[model])).astype(np.float32)
    lengths = []
    for depth in (13, 20):
        kernel = sp.infinite_kernel(sp.network(model(depth), x))
        exact, found = kernel(x), jax.jit(kernel)(x)
        np.testing.assert_allclose(found.nngp, exact.nngp, rtol=2e-5)
        np.testing.assert_allclose(found.ntk, exact.ntk, rtol=2e-4)
        lengths.append(len(jax.make_jaxpr(kernel)(x).jaxpr.eqns))
    assert lengths[1] < 1.1 * lengths[0]


@pytest.mark.slow
def test_contributions_of_all_layers():
    kernel = sp.infinite_kernel(sp.network(perceptron(12), X), per_leaf=True)
    exact, found = kernel(X), jax.jit(kernel)(X)
    for path, share in exact.ntk.items():
        np.testing.assert_allclose(found.ntk[path], share, rtol=2e-4, err_msg=path)
