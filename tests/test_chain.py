"""Finite width in reports: what a plain chain is, how much its draws vary, and that this tells a narrow network from a wrong prediction."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import sigprop as sp
from sigprop.report.build import compared
from sigprop.report.chain import log_variances
from sigprop.report.compare import compare
from sigprop.report.facts import Facts
from sigprop.tracing import evaluate

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 12)).astype(np.float32)
relu = jax.nn.relu


def chain(widths, activation=relu, scale=2.0, between=lambda h, k: h, sample=jax.random.normal):
    """Layers of the given hidden widths and ten outputs, weights of variance ``scale / fan-in``; ``between`` changes what a layer gives."""
    sizes = [12, *widths, 10]

    def apply(params, x):
        for k, w in enumerate(params):
            x = x @ w
            x = activation(between(x, k)) if k < len(widths) else x
        return x

    def init(key):
        return [(scale / m) ** 0.5 * sample(k, (m, n)) for k, m, n in zip(jax.random.split(key, len(sizes) - 1), sizes, sizes[1:],
                                                                         strict=False)]
    return sp.network(apply, X, init=init)


def found(net, x=X):
    return log_variances(Facts.of(net, sp.propagate(net, x, backward=False), x), [row.value for row in net.rows(x)])


def product(*layers):
    """Of hidden layers ``(kurtosis, units)``, and of the last average."""
    return sum(np.log1p(kurtosis / units) for kurtosis, units in layers)


LEAK = 6 * (1 + 0.1**4) / (1 + 0.1**2) ** 2 - 1
PLAIN = {  # E f^4 / (E f^2)^2 - 1 of a standard normal variable
    "ReLU": (relu, 5.0), "leaky ReLU": (partial(jax.nn.leaky_relu, negative_slope=0.1), LEAK), "absolute value": (jnp.abs, 2.0),
    "linear": (lambda z: 3.0 * z, 2.0), "ReLU of a gain": (lambda z: np.sqrt(2.0) * relu(z), 5.0),
    "maximum": (lambda z: jnp.maximum(-z, 0), 5.0),
}


@pytest.mark.parametrize("case", PLAIN)
def test_plain_chains(case):
    activation, kurtosis = PLAIN[case]
    values = found(chain((20, 30, 40), activation))
    assert values[0] == pytest.approx(np.log1p(2 / 20)) and values[-1] == pytest.approx(
        product((kurtosis, 20), (kurtosis, 30), (kurtosis, 40), (2, 10)))
    assert not np.isnan(values).any()


def random_bias(widths):
    def apply(params, x):
        for w, b in params:
            x = relu(x @ w + b)
        return x

    def init(key):
        return [(jax.random.normal(k, (m, n)), jax.random.normal(k, (n,))) for k, m, n in zip(
            jax.random.split(key, len(widths)), [12, *widths], widths, strict=False)]
    return sp.network(apply, X, init=init)


def tied(params, x):
    for _ in range(3):
        x = relu(x @ params)
    return x


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.relu(nn.Conv(8, (3,))(x[..., None]).mean(-1))
        return nn.Dense(4)(x)


HE = nn.initializers.he_normal()
DENSE = nn.Sequential([nn.Dense(16, kernel_init=HE), nn.relu, nn.Dense(16, kernel_init=HE), nn.relu, nn.Dense(4)])
CASES = {  # name: (network, input, how many of the rows are known)
    "Flax, truncated normal, biases of zero": (sp.network(DENSE, X), X, 5),
    "tokens": (sp.network(DENSE, np.tile(X[:, None], (1, 4, 1))), np.tile(X[:, None], (1, 4, 1)), 5),
    "uniform": (chain((16, 16), sample=partial(jax.random.uniform, minval=-1.0)), X, 5),
    "tanh": (chain((16, 16), jnp.tanh), X, 1), "gelu": (chain((16, 16), jax.nn.gelu), X, 1),
    "two activations": (chain((16, 16), between=lambda h, k: h if k else jnp.abs(h)), X, 6),
    "a norm": (chain((16, 16), between=lambda h, k: h / jnp.sqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-6)), X, 1),
    "a constant added": (chain((16, 16), between=lambda h, k: h + 1.0), X, 1),
    "a residual": (sp.network(lambda p, x: (lambda h: h + relu(h @ p[1]))(x @ p[0]), X, init=lambda key: [
        jax.random.normal(k, (n, 16)) for k, n in zip(jax.random.split(key), (12, 16), strict=True)]), X, None),
    "random biases": (random_bias((16, 16)), X, 1),
    "tied weights": (sp.network(tied, X, init=lambda key: jax.random.normal(key, (12, 12))), X, 0),
    "a mean that is not zero": (chain((16, 16), sample=lambda k, shape: 1 + jax.random.normal(k, shape)), X, 0),
    "orthogonal": (chain((16, 16), sample=lambda k, shape: jax.nn.initializers.orthogonal()(k, shape)), X, 0),
    "convolutions": (sp.network(Convolutions(), X), X, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_plain_chain_is_left_out(case):
    net, x, count = CASES[case]
    values = found(net, x)
    if count is None:  # of the sum at the end
        assert np.isnan(values[-1])
    else:
        assert np.sum(~np.isnan(values)) == count, values


def test_variance_of_draws():
    """Of 4000 networks of four layers of 64 units, before and behind activations, in standard errors of eight groups; false alarm 1e-4."""
    net = chain((64,) * 4)
    def squares(key):
        leaves = [*jax.tree.leaves(net.init(key)), jnp.asarray(X)]
        return jnp.stack([jnp.mean(a[0] ** 2) for a in evaluate(net.graph(X), leaves, [r.value for r in net.rows(X)])[1]])

    drawn = np.asarray(jax.jit(jax.vmap(squares))(jax.random.split(jax.random.key(0), 4000)), np.float64).reshape(8, 500, -1)
    spread = drawn.var(1, ddof=1) / drawn.mean((0, 1)) ** 2
    error = spread.std(0, ddof=1) / 8**0.5
    expected = np.expm1(found(net))
    assert np.max(np.abs(spread.mean(0) - expected) / error) < stats.t.isf(1e-4 / len(expected) / 2, 7)
    assert np.max(error / expected) < 0.1


@pytest.mark.parametrize(("width", "depth"), [(16, 40), pytest.param(24, 30, marks=pytest.mark.slow), (32, 40)])
def test_narrow_is_not_wrong_and_wrong_is(width, depth):
    """ReLU networks under He measured with 64 draws: no row is flagged. Where the weights are a tenth larger, or smaller, than the declared
    laws say, the output is; at width 16 the general allowance would pass over larger ones."""
    he, *wrong = (chain((width,) * depth, scale=2 * factor**2) for factor in (1.0, 1.1, 0.9))
    declared = sp.network(he.apply, X, init=he.init, laws=[sp.Law(0.0, 2 / m) for m in (12, *[width] * depth)])
    known = Facts.of(declared, sp.propagate(declared, X, backward=False), X)
    right = compared(known, sp.measure(declared, X, backward=False))
    assert right.width_known.all() and not right.flag.any(), right
    order = np.array([known.trail.crowding[row.value] for row in known.trail.rows])
    raised, lowered = (sp.measure(net, X, backward=False) for net in wrong)
    assert compared(known, raised).flag.values[-1] and compared(known, lowered).flag.values[-1]
    assert width > 16 or not compare(known.predicted, raised, order, [np.float32] * len(order)).flag.any()


def test_report_says_where_finite_width_is_known():
    text = " ".join(str(sp.report(chain((16,) * 3), X, seeds=8, backward=False)).split())
    assert "Finite width is that of a plain chain at 7 rows" in text
    assert "plain chain" not in " ".join(str(sp.report(chain((16, 16), sample=lambda k, shape: 1 + jax.random.normal(k, shape)), X, seeds=8,
                                                       backward=False)).split())
