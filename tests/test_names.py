"""Rows are named as a user would name them: one for each module, activation and pooling, one for each step of a scan."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop as sp

ACTIVATIONS = ("relu", "elu", "celu", "selu", "silu", "gelu", "softplus", "leaky_relu", "relu6", "hard_silu", "log_sigmoid", "mish", "tanh")
IMAGE = np.ones((2, 8, 8, 3), np.float32)


def names(model, x=IMAGE):
    return [row.name for row in sp.network(model, x).rows(x)]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_one_row(name):
    found = names(nn.Sequential([nn.Conv(8, (3, 3)), getattr(nn, name, None) or getattr(jax.nn, name), nn.Conv(8, (3, 3))]))
    assert found == ["layers_0", name, "layers_2"]


def test_a_pooling_is_one_row():
    model = nn.Sequential([nn.Conv(8, (3, 3)), lambda x: nn.avg_pool(x, (2, 2), (2, 2)), nn.Conv(8, (3, 3)), nn.relu])
    assert names(model) == ["layers_0", "avg_pool", "layers_2", "relu"]


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(16)(jnp.tanh(nn.Dense(16)(x))), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        body = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(1, name="head")(body(name="layers")(nn.Dense(16, name="embed")(x), None)[0])


def test_steps_of_a_scan_are_numbered():
    found = names(Scanned(), np.ones((2, 5), np.float32))
    inner = [f"layers[{k}]/{what}" for k in range(3) for what in ("Dense_1", "tanh", "Dense_0", "add")]
    assert found == ["embed", *inner, "head"]
