"""Control variates of the zoo's measurement: mean zero on every kind of program, and the same answer with far less noise.

False alarm of each statistical check: 10^-6 for all its comparisons together, by the normal quantile (at least 1024 draws behind each).
A control whose mean were a fifth of its standard deviation would be detected.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from zoo import ZOO
from zoo.control import CHARACTERISTIC, product, sampler
from zoo.regress import coefficients, corrected
from zoo.scaling import Gap, decay, decay_to_zero

FALSE_ALARM = 1e-6
CASES = {  # what is new in each
    "Tanh MLP": "drawn biases", "Masked MLP": "masks", "FiLM-conditioned net": "gates and shifts",
    "Weight-normalized MLP": "kernels over their norms", "SIREN": "uniform draws, few inputs",
    "Scanned, rematerialized blocks": "embeddings, slices of a leaf, residuals",
    "MLP language model": "running means over positions",
    "Flax documentation CNN": "convolutions, pooling, fixed norms",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_controls_have_mean_zero(name, width=16, seeds=1024):
    _, controls, _, _ = sampler(ZOO[name].network(width), ZOO[name].inputs())(seeds, key=0)
    error = controls.std(axis=0) / seeds**0.5
    random = controls.std(axis=0) > 1e-7 * abs(controls).max()
    assert random.mean() > 0.5
    assert (abs(controls.mean(axis=0))[random] < norm.isf(FALSE_ALARM / controls.shape[1] / 2) * error[random]).all()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in ("Pure-function MLP", "FiLM-conditioned net")])
def test_the_same_measurement_with_less_noise(name, width=256, seeds=256):
    net, x = ZOO[name].network(width), ZOO[name].inputs()
    draw, pilot = sampler(net, x), sampler(ZOO[name].network(64), x)
    values, controls, sizes, weights = draw(seeds, key=1)
    others = pilot(seeds, key=2)
    slopes = coefficients(others[1] / others[2], others[0] / others[0].mean(axis=0), weights)
    scale = draw(16, key=3)[0].mean(axis=0)
    mean, error = corrected(controls / sizes, values / scale, weights, slopes)
    plain, noise = (values / scale).mean(axis=0), (values / scale).std(axis=0) / seeds**0.5
    assert (abs(mean - plain) < norm.isf(FALSE_ALARM / mean.size / 2) * np.hypot(noise, error) + 1e-6).all()
    random = noise > 1e-4
    assert (noise > 10 * error)[random].all(), noise / error


@pytest.mark.slow
def test_exactly_explained_values_have_no_error():
    """A ReLU network without norm: second moments have no finite-width correction, and the controls explain every fluctuation."""
    net, x = ZOO["Masked MLP"].network(32), ZOO["Masked MLP"].inputs()
    values, controls, sizes, weights = sampler(net, x)(512, key=0)
    slopes = np.zeros((controls.shape[1], values.shape[1]))
    _, error = corrected(controls / sizes, values / values.mean(axis=0), weights, slopes)
    assert (error < 1e-4).all()


@pytest.mark.parametrize("family", CHARACTERISTIC)
@pytest.mark.parametrize("terms", [2, 64, 4096])
def test_products_of_characteristic_functions_keep_their_figures(family, terms):
    """Regressions multiply what float32 loses by tens; a plain product of 4096 loses 2e-5."""
    t = np.linspace(0.3, 1, terms) * np.array([[1.0], [3.0]]) / terms**0.5
    single = product(CHARACTERISTIC[family](jnp.asarray(t, jnp.float32)))
    with jax.enable_x64(True):
        double = jnp.prod(1 + CHARACTERISTIC[family](jnp.asarray(t)), axis=-1, keepdims=True)
    np.testing.assert_allclose(single, double, rtol=0, atol=2e-7)


def test_exponents_of_exact_gaps():
    """A limit drops out of three widths; what is declared, or within the noise, has no exponent."""
    widths = np.array([64.0, 256.0, 1024.0])
    gaps = [Gap(np.array([0.1 + 3 / w, 0.5 / w, 1e-6]), np.full(3, 1e-5)) for w in widths]
    np.testing.assert_allclose(decay(widths, gaps, 4).exponent, [-1, -1, np.nan], rtol=1e-6)
    np.testing.assert_allclose(decay_to_zero(widths[:2], gaps[:2], 4, np.array([0.2, 0, 0])).exponent, [np.nan, -1, np.nan], rtol=1e-6)
