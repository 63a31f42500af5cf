"""Every way to make a network, and what importing sigprop costs."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sigprop as sp

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 8)).astype(np.float32)
TOKENS = RNG.integers(0, 11, (4, 5))


class Mlp(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(8, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))

    def encode(self, x, scale=1.0):
        return scale * self.hidden(x)


class ByName(Mlp):
    def __init__(self, *, rngs):
        super().__init__(rngs)


class LinenMlp(nn.Module):
    def setup(self):
        self.hidden, self.norm, self.dropout, self.head = nn.Dense(64), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(3)

    def __call__(self, x, train: bool = False):
        x = self.norm(self.hidden(x), use_running_average=not train)
        return self.head(self.dropout(nn.relu(x), deterministic=not train))

    def encode(self, x, scale=1.0):
        return scale * self.hidden(x)


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool):
        return nn.Dropout(0.5)(nn.Dense(64)(x), deterministic=deterministic)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(64)(x) + jax.random.normal(self.make_rng("noise"), (64,))


class TwoInputs(nn.Module):
    @nn.compact
    def __call__(self, batch, tokens):
        context = nn.Embed(11, 64)(tokens).mean(axis=1)
        return nn.Dense(3)(nn.relu(nn.Dense(64)(batch["image"]) + context))


class TwoInputsNnx(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.image, self.head = nnx.Embed(11, 64, rngs=rngs), nnx.Linear(8, 64, rngs=rngs), nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, batch, tokens):
        return self.head(nnx.relu(self.image(batch["image"]) + self.embed(tokens).mean(axis=1)))


def init(key):
    return {"w": jax.random.normal(key, (8, 64)) / 8**0.5, "b": jnp.zeros(64)}


def apply(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])


PARAMS = {"w": jnp.full((8, 64), 0.5), "b": jnp.zeros(64)}
W_LAW = sp.Law(0.0, 1 / 8)
PAIR = ({"image": X}, TOKENS)
# model, inputs, options
WAYS = {
    "nnx class": (Mlp, (X,), {}), "nnx class, rngs by name": (ByName, (X,), {}), "nnx factory": (lambda rngs: Mlp(rngs), (X,), {}),
    "nnx instance": (Mlp(nnx.Rngs(0)), (X,), {}), "nnx method": (Mlp, (X,), {"method": "encode", "scale": 2.0}),
    "nnx training": (lambda rngs: nnx.Sequential(nnx.Linear(8, 64, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)), (X,), {"train": True}),
    "nnx several inputs": (TwoInputsNnx, PAIR, {}),
    "linen": (LinenMlp(), (X,), {}), "linen, train=False": (LinenMlp(), (X,), {"train": False}),
    "linen method": (LinenMlp(), (X,), {"method": "encode", "scale": 2.0}),
    "linen, train=True understood as deterministic=False": (Deterministic(), (X,), {"train": True}),
    "linen, other random streams": (Noisy(), (X,), {}), "linen several inputs": (TwoInputs(), PAIR, {}),
    "function with init": (apply, (X,), {"init": init}),
    "function with laws": (apply, (X,), {"params": PARAMS, "laws": {"w": W_LAW, "b": sp.Law(0.0, 0.0)}}),
    "function with some laws": (apply, (X,), {"params": PARAMS, "laws": {"w": W_LAW}}),
    "function with init and some laws": (apply, (X,), {"init": init, "laws": {"b": sp.Law(0.0, 0.1)}}),
    "function with params": (apply, (X,), {"params": init(jax.random.key(3))}),
}


@pytest.mark.parametrize("name", WAYS)
def test_network_samples_applies_and_predicts(name):
    model, x, options = WAYS[name]
    net = sp.network(model, *x, **options)
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.jit(jax.vmap(net.init))(keys)
    assert jax.tree.structure(params) == jax.tree.structure(net.abstract_params)
    out = jax.jit(jax.vmap(net.apply, (0, *(None for _ in x))))(params, *x)
    assert out.shape[:2] == (3, 4) and bool(jnp.isfinite(out).all())
    assert float(jnp.max(jnp.abs(out[0] - out[1]))) > 0  # the seeds differ
    assert net.laws
    predicted = sp.propagate(net, *x)
    assert np.isfinite(predicted.second_moment.values).all() and predicted.second_moment.values[-1] > 0


def test_inputs_may_come_later():
    net = sp.network(Mlp)
    assert net.laws["hidden/kernel"].variance == pytest.approx(1 / 8, rel=1e-5)
    assert net.laws.fan_in == {}
    np.testing.assert_allclose(sp.propagate(net, X).second_moment, sp.propagate(sp.network(Mlp, X), X).second_moment)


def test_instance_is_measured_and_left_alone():
    module = Mlp(nnx.Rngs(0))
    module.head.bias[...] = jnp.arange(3.0)
    module.norm.scale[...] = jnp.full(64, 2.0)
    before = jax.tree.map(np.asarray, nnx.state(module, nnx.Param))
    net = sp.network(module, X)
    laws = net.laws
    kernel = np.asarray(module.hidden.kernel[...], np.float64)
    assert {law.source for law in laws.values()} == {"measured"}
    assert laws["hidden/kernel"].mean == 0.0
    assert laws["hidden/kernel"].variance == pytest.approx(np.mean(kernel**2))
    assert laws["head/bias"].mean == pytest.approx(1.0) or laws["head/bias"].mean == 0.0
    assert (laws["norm/scale"].mean, laws["norm/scale"].variance, laws["norm/scale"].family) == (2.0, 0.0, "constant")
    redrawn = net.init(jax.random.key(1))
    np.testing.assert_array_equal(redrawn.norm.scale[...], 2.0)
    assert np.var(redrawn.hidden.kernel[...]) == pytest.approx(np.var(kernel), rel=0.3)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(module, nnx.Param)))
    assert module.dropout.deterministic is False  # the network runs a copy in evaluation mode


def test_declared_laws_come_first_and_missing_ones_are_measured():
    params = {"w": jnp.full((8, 64), 0.5), "b": jax.random.normal(jax.random.key(0), (64,)), "count": jnp.arange(3)}
    net = sp.network(lambda p, x: x @ p["w"] + p["b"], X, params=params, laws={"w": sp.Law(0.5, 0.25, "uniform")})
    assert net.laws["w"] == sp.Law(0.5, 0.25, "uniform", "declared")
    assert net.laws["b"].source == "measured"
    assert net.laws["b"].variance == pytest.approx(float(jnp.mean(params["b"] ** 2)), rel=1e-5)
    drawn = net.init(jax.random.key(2))
    np.testing.assert_array_equal(drawn["count"], params["count"])
    assert float(jnp.min(drawn["w"])) >= 0.5 - 0.5 * 3**0.5 and float(jnp.max(drawn["w"])) <= 0.5 + 0.5 * 3**0.5


@pytest.mark.parametrize("family", ["normal", "truncated normal", "uniform", "laplace", "rademacher", "orthogonal"])
def test_declared_family_is_drawn_with_its_law(family):
    """Six standard errors of 3 x 10,000 entries: 0.1 for the mean, 8 % (Laplace, kurtosis 6) for the variance."""
    net = sp.network(lambda p, x: x @ p, params=jnp.zeros((100, 100)), laws=sp.Law(0.2, 2.0, family))
    draws = np.asarray(jax.vmap(net.init)(jax.random.split(jax.random.key(0), 3)))
    assert draws.mean() == pytest.approx(0.2, abs=0.1)
    assert draws.var() == pytest.approx(2.0, rel=0.08)


def test_law_per_entry():
    variance = np.where(np.arange(8) % 2, 1.0, 0.0)[:, None]
    net = sp.network(lambda w, x: x @ w, X, params=jnp.zeros((8, 64)), laws=sp.Law(0.0, variance))
    expected = np.mean((X**2)[:, 1::2].sum(axis=1))
    assert sp.propagate(net, X).second_moment.values[-1] == pytest.approx(expected, rel=1e-5)
    assert not np.asarray(net.init(jax.random.key(0)))[::2].any()


@pytest.mark.parametrize("draw", [jax.random.normal, jax.random.exponential], ids=["traced", "measured"])
def test_laws_are_read_inside_jit(draw):
    def made():
        return sp.network(lambda w, x: x @ w, init=lambda key: draw(key, (8, 64)))

    inside = jax.jit(lambda scale: scale * made().laws["params"].variance)(1.0)
    assert inside == pytest.approx(made().laws["params"].variance, rel=1e-6)
    np.testing.assert_allclose(jax.jit(lambda x: sp.infinite_kernel(made())(x).nngp)(X), sp.infinite_kernel(made())(X).nngp, rtol=1e-5,
                               atol=1e-5)


def test_laws_of_one_network_serve_another():
    net = sp.network(apply, X, init=init)
    again = sp.network(apply, X, params=PARAMS, laws=net.laws)
    assert again.laws["w"].variance == net.laws["w"].variance
    np.testing.assert_allclose(sp.propagate(again, X).second_moment, sp.propagate(net, X).second_moment, rtol=1e-6)


IMPORT = """
import time
start = time.perf_counter()
import jax, flax
others = time.perf_counter() - start
before = dict(jax.config.values)
start = time.perf_counter()
import sigprop
own = time.perf_counter() - start
assert before == dict(jax.config.values)
print(own, others)
"""


def test_import_is_fast_and_leaves_jax_alone():
    """Under 1.5 s beyond JAX and Flax, where those take a second; best of three, since the machine may be busy."""
    runs = [subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True).stdout for _ in range(3)]
    own, others = min(tuple(map(float, run.split())) for run in runs)
    assert own < 1.5 * max(1.0, others), runs


def test_training_mode_reaches_modules_that_take_any_keyword():
    """``nnx.Sequential`` takes ``train`` among others and ignores it."""
    x = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    net = sp.network(lambda rngs: nnx.Sequential(nnx.Linear(8, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)), x, train=True)
    np.testing.assert_allclose(net.apply(net.init(jax.random.key(0)), x).mean(0), 0, atol=1e-5)
