"""Weights shared across time: signals, tangent kernels and gradients of recurrences, against measurement and each other.

Comparisons with measurement raise a false alarm with probability 1e-6 each.
"""

import flax.linen as nn
import harness
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sigprop as sp

SEQUENCES = np.random.default_rng(1).standard_normal((2, 4, 32)).astype(np.float32)


class Loop(nn.Module):
    """Elman's network, as a loop over time."""

    width: int
    activation: object = nn.relu

    @nn.compact
    def __call__(self, x):
        read, again = nn.Dense(self.width), nn.Dense(self.width, use_bias=False)
        h = jnp.zeros((x.shape[0], self.width))
        for t in range(x.shape[1]):
            h = self.activation(read(x[:, t]) + again(h))
        return nn.Dense(4)(h)


class Linen(nn.Module):
    width: int
    cell: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.RNN(self.cell(self.width))(x)[:, -1])


class Nnx(nnx.Module):
    def __init__(self, cell, width, rngs):
        self.rnn = nnx.RNN(cell(SEQUENCES.shape[2], width, rngs=rngs))
        self.out = nnx.Linear(width, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(self.rnn(x)[:, -1])


class Stacked(nn.Module):
    """Residual layers under a scan, each with weights of its own."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x[:, 0])
        layer = nn.scan(nn.remat(Residual), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(4)(layer(self.width)(x, None)[0])


class Residual(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(self.width)(jnp.tanh(nn.Dense(self.width)(x))), None


class Unrolled(nn.Module):
    """The same layers, written out."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x[:, 0])
        for _ in range(3):
            x, _ = Residual(self.width)(x, None)
        return nn.Dense(4)(x)


def of_nnx(cell):
    return lambda n: lambda rngs: Nnx(cell, n, rngs)


def of_linen(cell):
    return lambda n: Linen(n, cell)


MODELS = {
    "relu loop": Loop, "tanh loop": lambda n: Loop(n, jnp.tanh), "gelu loop": lambda n: Loop(n, nn.gelu), "stacked": Stacked,
    "simple": of_linen(nn.SimpleCell), "gru": of_linen(nn.GRUCell), "lstm": of_linen(nn.LSTMCell),
    "optimized lstm": of_linen(nn.OptimizedLSTMCell), "mgu": of_linen(nn.MGUCell), "nnx simple": of_nnx(nnx.SimpleCell),
    "nnx lstm": of_nnx(nnx.LSTMCell), "nnx gru": of_nnx(nnx.GRUCell), "nnx optimized lstm": of_nnx(nnx.OptimizedLSTMCell),
}
FAST = ("tanh loop",)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
def test_outputs(name):
    x = SEQUENCES if "loop" in name or name == "stacked" else SEQUENCES[:, :3]
    harness.check_limit(lambda n: sp.network(MODELS[name](n), x), 64, x, detects=0.1, limit=300)
