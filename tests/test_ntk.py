"""The infinite-width NTK: exact facts, finite width, learning rates, contributions, transformations."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn import initializers

import sigprop as sp

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 8)).astype(np.float32)
F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}
MODEL = nn.Sequential([nn.Dense(32, bias_init=initializers.normal(0.3)), nn.LayerNorm(), nn.relu, nn.Dense(16), nn.gelu, nn.Dense(4)])


def ntk(model: Any, *x: Any, parameterization: str = "ntk", **options: Any) -> Any:
    return sp.infinite_kernel(sp.network(model, x[0]), parameterization, **options)(*x).ntk


def relu_net(depth: int, gain: float) -> nn.Sequential:
    """``depth`` hidden layers and an output, without biases, all weights of variance gain / fan-in."""
    options = {"use_bias": False, "kernel_init": initializers.variance_scaling(gain, "fan_in", "normal"), **F64}
    return nn.Sequential([layer for _ in range(depth) for layer in (nn.Dense(16, **options), nn.relu)] + [nn.Dense(1, **options)])


# Exact values. Inputs have unit norm; kernels are in units of the first layer's, gain |x|^2 / d (|x|^2 = 1).
UNIT = np.eye(2, 8)
OFF_DIAGONAL = {1: 0.318310, 2: 0.685709, 3: 1.060388, 10: 3.479377, 40: 11.975936}


@pytest.mark.parametrize("depth", OFF_DIAGONAL)
def test_relu_with_he_weights(depth):
    with jax.enable_x64(True):
        found = np.asarray(ntk(relu_net(depth, 2.0), UNIT)) / (2 / 8)
    np.testing.assert_allclose(np.diag(found), depth + 1, rtol=1e-7)  # gains are float32 numbers
    np.testing.assert_allclose(found[0, 1], OFF_DIAGONAL[depth], atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 10])
def test_relu_with_xavier_weights(depth):
    with jax.enable_x64(True):
        found = np.asarray(ntk(relu_net(depth, 1.0), UNIT)) / (1 / 8)
    np.testing.assert_allclose(np.diag(found), (depth + 1) / 2**depth, rtol=1e-7)


def test_fifty_layers_equal_the_recursion():
    """Jacot et al. 2018, theorem 1, with the arc-cosine kernels of Cho & Saul 2009, written independently."""
    x = RNG.standard_normal((5, 8))
    nngp = tangent = 2 * x @ x.T / 8
    for _ in range(50):
        root = np.sqrt(np.outer(np.diag(nngp), np.diag(nngp)))
        angle = np.arccos(np.clip(nngp / root, -1, 1))
        slope = (np.pi - angle) / np.pi
        nngp = root * np.sin(angle) / np.pi + nngp * slope
        tangent = nngp + tangent * slope
    with jax.enable_x64(True):
        found = np.asarray(ntk(relu_net(50, 2.0), x))
    np.testing.assert_allclose(found, tangent, rtol=1e-5)  # 50 gains of float32


@pytest.mark.parametrize("act", [nn.relu, jnp.abs, nn.leaky_relu, nn.elu, jnp.tanh, nn.silu, lambda x: jnp.clip(x, -1, 1),
                                 lambda x: nn.gelu(x, approximate=False), nn.softplus, lambda x: jnp.maximum(x, 0.1 * x)])
def test_correlation_one_and_minus_one(act):
    """A duplicate has the kernels of the original; with its negative the kernels are the limit of those near it."""
    model = nn.Sequential([nn.Dense(32, use_bias=False, **F64), act, nn.Dense(32, **F64), act, nn.Dense(1, **F64)])
    x = np.concatenate([X[:1], X[:1], -X[:1], X[:1] * (1 + 1e-7 * np.arange(8)), -X[:1] * (1 + 1e-7 * np.arange(8))]).astype(float)
    with jax.enable_x64(True):
        kernel = sp.infinite_kernel(sp.network(model, x), "standard")(x)
        alone = sp.infinite_kernel(sp.network(model, x), "standard", diagonal=True)(x)
    for found, diagonal in ((kernel.nngp, alone.nngp), (kernel.ntk, alone.ntk)):
        scale = np.abs(found).max()
        assert np.all(np.isfinite(found))
        np.testing.assert_allclose(np.diag(found), diagonal, rtol=1e-12)
        np.testing.assert_allclose(found[0, 1], found[0, 0], rtol=1e-10)
        np.testing.assert_allclose(found[0, 2], found[1, 2], rtol=1e-10)
        np.testing.assert_allclose(found[0, 3], found[0, 0], atol=1e-5 * scale)  # the NTK of a kink is as rough as arccos
        np.testing.assert_allclose(found[0, 4], found[0, 2], atol=1e-5 * scale)


# Finite width


class PreNorm(nn.Module):
    width: int
    act: Callable[..., Any]

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        x = x + nn.Dense(self.width)(self.act(nn.Dense(self.width)(nn.LayerNorm()(x))))
        return nn.Dense(1)(self.act(nn.LayerNorm()(x)))


def joined(w, x, n):
    x = jnp.tanh(w.dense(x, n))
    return w.dense(jnp.concatenate([x, jax.nn.relu(w.dense(x, n))], -1), 1)


def gated(w, x, n):
    x = w.dense(x, n)
    return w.dense(jax.nn.sigmoid(w.dense(x, n)) * jnp.tanh(w.dense(x, n)), 1)


def weight_normalised(w, x, n):
    x = jax.nn.relu(w.dense(x, n))
    direction, gain = w(n, n, std=1.0), 1 + w(n, std=0.3)
    return w.dense(jax.nn.relu(x @ (gain * direction / jnp.sqrt(jnp.sum(direction**2, 0)))), 1)


class Attention(nn.Module):
    """Self-attention of two tokens, heads of eight channels."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x.reshape(len(x), 2, -1))
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.width // 8)(nn.LayerNorm()(x))
        return nn.Dense(1)(nn.relu(x).mean(1))


FINITE = {
    "attention": lambda n: sp.network(Attention(n), X),
    "pre-norm tanh": lambda n: sp.network(PreNorm(n, jnp.tanh), X),
    "pre-norm gelu": lambda n: sp.network(PreNorm(n, nn.gelu), X),
    "concatenation": lambda n: harness.network(lambda w, x: joined(w, x, n), X),
    "gated product": lambda n: harness.network(lambda w, x: gated(w, x, n), X),
    "weight normalization": lambda n: harness.network(lambda w, x: weight_normalised(w, x, n), X),
}


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
@pytest.mark.parametrize("name", FINITE)
def test_mean_of_finite_kernels(name, parameterization):
    harness.check_limit(FINITE[name], 64, X, detects=0.05, limit=40, kernel=parameterization)


# Learning rates, contributions, shapes, transformations


def test_contributions_add_up_and_are_linear_in_the_learning_rates():
    net = sp.network(MODEL, X)
    parts = sp.infinite_kernel(net, per_leaf=True)(X).ntk
    names = ("0/bias", "0/kernel", "1/bias", "1/scale", "3/bias", "3/kernel", "5/bias", "5/kernel")
    assert list(parts) == [f"layers_{name}" for name in names]
    np.testing.assert_allclose(sum(parts.values()), sp.infinite_kernel(net)(X).ntk, rtol=1e-6)
    rates = {"layers_0/kernel": 2.5, "layers_1/scale": 0.0, "layers_5/bias": 7}
    expected = sum(rates.get(path, 1) * part for path, part in parts.items())
    np.testing.assert_allclose(sp.infinite_kernel(net, learning_rates=rates)(X).ntk, expected, rtol=1e-6)
    tree = jax.tree.map(lambda leaf: 3.0, net.abstract_params)
    np.testing.assert_allclose(sp.infinite_kernel(net, learning_rates=tree)(X).ntk, 3 * sum(parts.values()), rtol=1e-6)
    laws = jax.tree.map(lambda law: law.variance, net.laws)  # the ntk parameterization, spelt out
    np.testing.assert_allclose(sp.infinite_kernel(net, learning_rates=laws)(X).ntk, ntk(MODEL, X), rtol=1e-6)


def test_every_leaf_contributes_behind_many_normalizers():
    """Tangents of other variances scale the contributions of their leaves, whatever is dropped beside what."""
    blocks = [layer for _ in range(5) for layer in (nn.Dense(32, bias_init=initializers.normal(0.3)), nn.LayerNorm(), jnp.tanh)]
    net = sp.network(nn.Sequential([*blocks, nn.Dense(2)]), X)
    standard, scaled = (sp.infinite_kernel(net, p, per_leaf=True)(X).ntk for p in ("standard", "ntk"))
    for path, law in zip(standard, jax.tree.leaves(jax.tree.map(lambda law: law.variance, net.laws)), strict=True):
        np.testing.assert_allclose(scaled[path], law * standard[path], rtol=1e-5)
        assert np.all(np.diag(standard[path]) > 0)


def test_running_statistics_keys_and_constant_parameters():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.norm = nnx.Linear(8, 32, rngs=rngs), nnx.BatchNorm(32, rngs=rngs)
            self.drop, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(32, 1, rngs=rngs)

        def __call__(self, x):
            return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))

    parts = {p: sp.infinite_kernel(sp.network(Net, X), p, per_leaf=True)(X).ntk for p in ("standard", "ntk")}
    names = ["first/bias", "first/kernel", "last/bias", "last/kernel", "norm/bias", "norm/scale"]
    assert list(parts["standard"]) == list(parts["ntk"]) == names
    assert all(np.all(part[0, 0] > 0) for part in parts["standard"].values())
    assert [name for name, part in parts["ntk"].items() if np.any(part)] == ["first/kernel", "last/kernel"]


def test_variance_of_each_entry():
    """A masked weight moves where it is drawn; a law may have a variance for each entry."""
    mask = (np.arange(8) < 3) * 1.0
    law = sp.Law(0.0, np.broadcast_to(mask[:, None], (8, 32)) / 8)

    def apply(params, x):
        return x @ params["w"]

    net = sp.network(apply, X, params={"w": np.ones((8, 32), np.float32)}, laws={"w": law})
    found = sp.infinite_kernel(net, "ntk")(X)
    np.testing.assert_allclose(found.ntk, (X * mask) @ X.T / 8, rtol=1e-6)
    np.testing.assert_allclose(found.ntk, found.nngp, rtol=1e-6)


def test_sites_and_diagonals():
    images = RNG.standard_normal((2, 5, 3, 2)).astype(np.float32)
    net = sp.network(nn.Sequential([nn.Conv(16, (3, 3)), nn.relu, nn.Conv(4, (3, 3))]), images)
    full = sp.infinite_kernel(net)(images, images[::-1])
    for part in ("nngp", "ntk"):
        whole = np.asarray(getattr(full, part))
        assert whole.shape == (2, 2, 5, 3, 5, 3)
        for diagonal, spec in (("batch", "iiabcd->iabcd"), ("sites", "ijabab->ijab"), (True, "iiabab->iab")):
            found = getattr(sp.infinite_kernel(net, diagonal=diagonal)(images, images[::-1]), part)
            np.testing.assert_allclose(found, np.einsum(spec, whole), rtol=1e-6)


def test_transformations_and_precision():
    kernel = sp.infinite_kernel(sp.network(MODEL, X), "standard")
    eager = kernel(X).ntk
    assert eager.dtype == jnp.float32
    stacked = jnp.stack([X, 2 * X])
    mapped = jax.jit(jax.vmap(lambda x: kernel(x).ntk))(stacked)  # one compilation
    np.testing.assert_allclose(mapped, [kernel(x).ntk for x in np.asarray(stacked)], rtol=2e-4)
    with jax.enable_x64(True):
        exact = sp.infinite_kernel(sp.network(MODEL, X.astype(float)), "standard")(X.astype(float)).ntk
    assert exact.dtype == jnp.float64
    np.testing.assert_allclose(eager, exact, rtol=1e-5)


def test_nngp_does_not_depend_on_the_ntk():
    net = sp.network(MODEL, X)
    np.testing.assert_array_equal(sp.infinite_kernel(net)(X).nngp, sp.infinite_kernel(net, ntk=False)(X).nngp)
    assert sp.infinite_kernel(net, ntk=False)(X).ntk is None


NET = sp.network(MODEL, X)
BAD = {
    "parameterization": (lambda: sp.infinite_kernel(NET, "mup"), "parameterization: 'mup' is none of standard, ntk"),
    "diagonal": (lambda: sp.infinite_kernel(NET, diagonal="all"), "diagonal: 'all' is none of"),
    "unknown path": (lambda: sp.infinite_kernel(NET, learning_rates={"layers_9/kernel": 1.0}), "no parameter 'layers_9/kernel'"),
    "tree of another model": (lambda: sp.infinite_kernel(NET, learning_rates={"w": 1.0, "b": 1.0}), "learning_rates: there is no"),
    "negative": (lambda: sp.infinite_kernel(NET, learning_rates={"layers_0/kernel": -1.0}), "-1.0 is not a finite non-negative number"),
    "not finite": (lambda: sp.infinite_kernel(NET, learning_rates={"layers_0/kernel": np.nan}), "nan is not a finite non-negative number"),
    "not a number": (lambda: sp.infinite_kernel(NET, learning_rates={"layers_0/kernel": "fast"}), "'fast' is not a single number"),
    "array": (lambda: sp.infinite_kernel(NET, learning_rates={"layers_0/kernel": np.ones(2)}), "is not a single number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()
