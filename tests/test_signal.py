"""Prediction against measurement on real Flax models, and bad input.

A row agrees when prediction and measurement differ by less than 5.5 standard errors (over groups of seeds) plus a finite-width
allowance of 8/width, for the width of the layers (leading corrections are of order depth/width).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sigprop as sp

WIDTH = 256


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(3, WIDTH, (3, 3), rngs=rngs)
        self.second = nnx.Conv(WIDTH, WIDTH, (3, 3), strides=2, rngs=rngs)
        self.hidden = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first(x))
        x = nnx.avg_pool(nnx.gelu(self.second(x)), (2, 2), (2, 2))
        return self.head(jnp.tanh(self.norm(self.hidden(x.reshape(x.shape[0], -1)))))


class LanguageModel(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(50, WIDTH)(tokens)
        for _ in range(2):
            x = x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(WIDTH)(nn.LayerNorm()(x))))
        return nn.Dense(7)(nn.LayerNorm()(x))


IMAGES = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
TOKENS = np.random.default_rng(0).integers(0, 50, (2, 5))


@pytest.mark.parametrize(("model", "x"), [
    pytest.param(CNN, IMAGES, marks=pytest.mark.slow, id="cnn"), pytest.param(LanguageModel(), TOKENS, id="language model")])
def test_prediction_agrees_with_measurement(model, x):
    net = sp.network(model, x)
    predicted, measured = sp.propagate(net, x, backward=True), sp.measure(net, x, seeds=64, backward=True)
    assert list(predicted.node.values) == list(measured.node.values)
    for name in ("second_moment", "grad_variance"):
        allowed = 5.5 * measured[f"{name}_stderr"] + 8 / WIDTH * predicted[name]
        gap = abs(predicted[name] - measured[name])
        assert bool((gap < allowed).all()), (name, (gap / predicted[name]).values)


@pytest.mark.parametrize(("scale", "per_layer"), [(2.0, 1.0), (1.0, 0.5)], ids=["He", "square Glorot"])
def test_relu_layer_multiplies_the_variance(scale, per_layer):
    init = nn.initializers.variance_scaling(scale, "fan_avg", "normal")
    net_of = nn.Sequential([layer for _ in range(40) for layer in (nn.Dense(64, kernel_init=init), nn.relu)])
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    predicted = sp.propagate(sp.network(net_of, x), x).second_moment.values[1::2]
    np.testing.assert_allclose(predicted[1:] / predicted[:-1], per_layer, rtol=1e-5)


def test_laws_are_traced():
    laws = sp.network(CNN, IMAGES).laws
    assert laws["second/kernel"].source == "traced"
    assert laws["second/kernel"].variance == pytest.approx(1 / (9 * WIDTH), rel=1e-5)


@pytest.mark.parametrize(("x", "message"), [
    (np.full((2, 8, 8, 3), np.nan, np.float32), "NaN"), (np.zeros((0, 8, 8, 3), np.float32), "empty"),
    (np.float32(1.0), "scalar"), (np.zeros((2, 5), np.float32), "raised on inputs"),
])
def test_bad_input_is_named(x, message):
    with pytest.raises(sp.InvalidInput, match=message):
        sp.propagate(sp.network(CNN), x)


def test_missing_rule_says_where():
    class Sorted(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(4, 64, rngs=rngs)

        def __call__(self, x):
            return jnp.sort(self.layer(x), axis=-1)

    with pytest.raises(sp.MissingRule, match="'sort'.*test_signal.py"):
        sp.propagate(sp.network(Sorted), np.ones((2, 4), np.float32))


def test_import_leaves_jax_alone():
    assert not jax.config.jax_enable_x64
    assert set(sp.__all__) <= set(dir(sp))
