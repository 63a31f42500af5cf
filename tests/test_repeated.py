"""Errors of what is sampled in deep networks: what predictions by other points differ by, not what is added up along the way."""

import numpy as np
import pytest
from flax import nnx
from scipy.stats import t as student

import sigprop as sp
from sigprop.engine import RULES
from sigprop.predict import repeated
from sigprop.predict.signal import _second_moments

FALSE_ALARM = 1e-3  # of all rows together


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.one, self.two = nnx.RMSNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(width // 16, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attend(self.one(x))
        return x + self.down(nnx.silu(self.up(self.two(x))))


class Transformer(nnx.Module):
    def __init__(self, rngs, width=64, blocks=2):
        self.embed = nnx.Linear(8, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(blocks)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@pytest.fixture(scope="module")
def network():
    x = np.random.default_rng(0).standard_normal((1, 4, 8)).astype(np.float32)
    return sp.network(Transformer, x), x


@pytest.mark.parametrize("backward", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_errors_are_what_repetitions_differ_by(network, backward, monkeypatch):
    """Four more predictions lie around the first as its errors say, which are smaller than those that are added up; a norm has none."""
    net, x = network
    added = sp.propagate(net, x, backward=backward)
    monkeypatch.setattr(repeated, "LOOSE", 0.0)
    found = sp.propagate(net, x, backward=backward)
    np.testing.assert_array_equal(found.second_moment, added.second_moment)
    others = [_second_moments(net, (x,), RULES, backward, k) for k in range(4, 8)]
    rows = np.array([[float(r.plain()) for r in o.rows] for o in others])
    pairs = [(found.second_moment.values, found.error.values, rows, added.error.values)]
    if backward:
        nodes = [n for n in found.node.values if np.isfinite(found.grad_variance.sel(node=n))]
        grads = np.array([[float(o.row_gradients[n].plain()) for n in nodes] for o in others])
        some, plain = found.sel(node=nodes), added.sel(node=nodes)
        pairs.append((some.grad_variance.values, some.grad_error.values, grads, plain.grad_error.values))
    for first, error, again, sums in pairs:
        assert np.median(error[sums > 0] / sums[sums > 0]) < 0.5
        critical = student.isf(FALSE_ALARM / first.size / 2, 3)
        assert (abs(again.mean(0) - first) <= critical * error + 1e-9 * first).all()
    assert found.error[-1] < 1e-6 < 1e-3 < added.error[-1]


def test_traced_and_exact_predictions_are_not_repeated(network, monkeypatch):
    monkeypatch.setattr(repeated, "TIMES", None)  # would raise
    x = np.ones((2, 8), np.float32)
    net = sp.network(lambda rngs: nnx.Sequential(nnx.Linear(8, 64, rngs=rngs), nnx.relu, nnx.Linear(64, 4, rngs=rngs)), x)
    assert (sp.propagate(net, x).error < 1e-9).all()
