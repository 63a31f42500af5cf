"""The empirical NTK converges to the infinite one, which is predicted and not fitted, as 1/sqrt(width) (Jacot et al. 2018).

The slope of log |empirical - infinite| on log width must be -0.5 within 0.1, where || is the root mean square over seeds and over all
pairs of inputs, relative to the infinite kernel. Its standard error is bootstrapped over seeds and may be ``MARGIN / CRITICAL`` at most,
or the test fails as inconclusive. Where these widths have a true slope within ``TOLERANCE - MARGIN`` of -0.5 it raises a false alarm
with probability 1e-6 at most, and one beyond ``TOLERANCE + MARGIN`` passes no more often. Corrections of relative order 1/width make the
true slopes -0.51 (perceptron, CNN) and -0.53 (pre-norm residual network): in the fast cases, whose margin is 0.09, the false-alarm rate
is therefore up to 1e-4.
"""

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy import stats

import sigprop as sp

TOLERANCE = 0.1
CRITICAL = stats.norm.isf(1e-6 / 2)


def mlp(width):
    return nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(width), nn.relu, nn.Dense(8)])


class Cnn(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        return nn.Dense(8)(x.mean((1, 2)))


class PreNorm(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        for _ in range(2):
            x = x + nn.Dense(self.width)(nn.relu(nn.Dense(self.width)(nn.LayerNorm()(x))))
        return nn.Dense(8)(nn.LayerNorm()(x))


MODELS = {"mlp": (mlp, (6,)), "cnn": (Cnn, (4, 4, 3)), "pre-norm": (PreNorm, (6,))}
FAST, SLOW = 0.09, 0.05  # margins
CASES = [  # model, parameterization, widths, seeds, margin
    ("mlp", "ntk", (32, 256), 512, FAST), ("cnn", "ntk", (16, 64), 1536, FAST), ("pre-norm", "ntk", (64, 256), 896, FAST),
    ("mlp", "ntk", (32, 64, 128, 256, 512), 768, SLOW), ("cnn", "ntk", (16, 32, 64, 128), 4096, SLOW),
    ("pre-norm", "ntk", (64, 128, 256, 512), 1024, SLOW), ("pre-norm", "standard", (64, 128, 256, 512), 1024, SLOW),
]


def squared_errors(build, width, parameterization, x, seeds):
    """Of each seed's kernel: mean square over pairs, relative to that of the limit."""
    net = sp.network(build(width), x)
    limit = np.asarray(sp.infinite_kernel(net, parameterization)(x).ntk, float)
    kernel = sp.empirical_kernel(net, parameterization=parameterization)
    keys = jax.random.split(jax.random.key(width), seeds)
    run = jax.jit(lambda keys: jax.lax.map(lambda key: kernel(net.init(key), x).ntk, keys, batch_size=16))
    return np.mean((np.asarray(run(keys), float) - limit) ** 2, (1, 2)) / np.mean(limit**2)


def slope(widths, errors):
    return np.polyfit(np.log(widths), np.log(errors) / 2, 1)[0]


def bootstrapped(widths, errors, draws=400):
    """Standard error of the slope; widths are resampled independently, since they share no seed."""
    rng = np.random.default_rng(0)
    means = [[e[rng.integers(0, len(e), len(e))].mean() for e in errors] for _ in range(draws)]
    return np.std([slope(widths, row) for row in means], ddof=1)


@pytest.mark.parametrize(("model", "parameterization", "widths", "seeds", "margin"), [
    pytest.param(*case, marks=pytest.mark.slow if case[-1] == SLOW or case[0] != "mlp" else ()) for case in CASES])
def test_empirical_kernel_converges_as_one_over_root_width(model, parameterization, widths, seeds, margin):
    build, shape = MODELS[model]
    x = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)
    errors = [squared_errors(build, width, parameterization, x, seeds) for width in widths]
    found, stderr = slope(widths, [e.mean() for e in errors]), bootstrapped(widths, errors)
    assert stderr * CRITICAL <= margin, f"inconclusive: {found:.3f} +- {stderr:.3f}; use more seeds"
    assert abs(found + 0.5) <= TOLERANCE, f"{found:.3f} +- {stderr:.3f}"
