"""Scalar mean-field theory: published values, closed forms, an independent quadrature, and the interpreter on the same network."""

import importlib.util
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.datasets import load_digits

import sigprop as sp
from sigprop import meanfield as mf

TANH = {  # definitions of Poole et al. 2016 and Schoenholz et al. 2017: (weight variance, bias variance): q*, c*, chi_1, xi_c, xi_q
    (1.69, 0.09): (0.607047, 1, 0.939807, 16.108, 1.3377), (6.25, 0.09): (4.07912, 0.122104, 1.58522, 5.1089, 0.6883),
    (1.3, 0.05): (0.315316, 1, 0.880164, 7.8341, 1.7852), (1.7, 0.05): (0.533076, 1, 0.986741, 74.918, 1.5583),
    (2.5, 0.05): (1.06396, 0.446804, 1.13352, 11.796, 1.1799),
}


@pytest.mark.parametrize("variances", TANH, ids=str)
def test_tanh_as_published(variances):
    point, scales = mf.fixed_point("tanh", *variances), mf.depth_scales("tanh", *variances)
    found = (point.q, point.c, mf.chi1("tanh", *variances), scales.xi_c, scales.xi_q)
    np.testing.assert_allclose(found, TANH[variances], rtol=1e-4)
    assert point.converged and point.error < 1e-8


@pytest.mark.parametrize("variances", [(16.0, 0.09), (2.5, 0.05), (1.3, 0.05)], ids=str)
def test_tanh_by_adaptive_quadrature(variances):
    """Far from the origin tanh is a step: few nodes of Gauss and Hermite are not enough at a mean square of 12.6."""
    weight, bias = variances
    point, scales = mf.fixed_point("tanh", *variances), mf.depth_scales("tanh", *variances)

    def mean(f):
        return integrate.quad(lambda z: f(z) * stats.norm.pdf(z), -12, 12, points=[0], limit=500, epsabs=1e-13)[0]

    def slope(u):
        return 1 / np.cosh(u) ** 2

    root = point.q**0.5
    np.testing.assert_allclose(weight * mean(lambda z: np.tanh(root * z) ** 2) + bias, point.q, rtol=1e-9)
    np.testing.assert_allclose(weight * mean(lambda z: slope(root * z) ** 2), mf.chi1("tanh", *variances), rtol=1e-9)
    np.testing.assert_allclose(weight * mean(lambda z: np.tanh(root * z) * slope(root * z) * z) / root, np.exp(-1 / scales.xi_q), rtol=1e-9)
    rest = (1 - point.c**2) ** 0.5
    inner = integrate.dblquad(lambda y, z: np.tanh(root * z) * np.tanh(root * (point.c * z + rest * y)) * stats.norm.pdf(y) *
                              stats.norm.pdf(z), -7, 7, -7, 7, epsabs=1e-8)[0] if rest else mean(lambda z: np.tanh(root * z) ** 2)
    np.testing.assert_allclose((weight * inner + bias) / point.q, point.c, atol=1e-7)


@pytest.mark.parametrize(("bias", "weight"), [(0.05, 1.760955), (0.01, 1.424205), (1e-4, 1.086026), (2.01e-5, 1.049996)])
def test_edge_of_chaos_of_tanh(bias, weight):
    found = mf.critical_weight_variance("tanh", bias)
    np.testing.assert_allclose(found, weight, rtol=1e-6)
    np.testing.assert_allclose(mf.chi1("tanh", found, bias), 1, atol=1e-7)


LIMITS = {  # activation, weight and bias variance: q, c, xi_q, xi_gradient
    "ReLU, He": ("relu", 2.0, 0.0, 1.0, 1.0, np.inf, np.inf), "ReLU, Glorot": ("relu", 1.0, 0.0, 0.0, np.nan, 1 / np.log(2), 1 / np.log(2)),
    "ReLU, biases": ("relu", 1.0, 0.1, 0.2, 1.0, 1 / np.log(2), 1 / np.log(2)),
    "tanh, ordered": ("tanh", 0.5, 0.0, 0.0, np.nan, 1 / np.log(2), 1 / np.log(2)),
    "linear": ("identity", 0.5, 0.3, 0.6, 1.0, 1 / np.log(2), 1 / np.log(2)), "no weights": ("tanh", 0.0, 0.3, 0.3, 1.0, 0.0, 0.0),
}


@pytest.mark.parametrize("name", LIMITS)
def test_closed_forms(name):
    activation, weight, bias, *expected = LIMITS[name]
    point, scales = mf.fixed_point(activation, weight, bias), mf.depth_scales(activation, weight, bias)
    np.testing.assert_allclose((point.q, point.c, scales.xi_q, scales.xi_gradient), expected, rtol=1e-7, atol=1e-12)


def test_cosine_map_of_relu():
    """Correlations of two orthogonal inputs after L layers, sigma_w^2 = 2 (Cho & Saul 2009)."""
    maps, c, found = mf.Maps("relu", 2.0), 0.0, []
    for _ in range(100):
        c = float(maps.covariance(c, 1.0).value)
        found.append(c)
    expected = [0.318310, 0.493731, 0.604826, 0.871536, 0.987862, 0.996423]
    np.testing.assert_allclose(np.array(found)[[0, 1, 2, 9, 49, 99]], expected, atol=5e-7)


@pytest.mark.parametrize(("activation", "weight", "bias"), [
    ("tanh", 1.7, 0.05), ("tanh", 6.25, 0.09), ("gelu", 1.5, 0.1), ("sin", 3.0, 0.02), (jnp.arctan, 2.0, 0.1), ("relu", 1.5, 0.3)])
def test_the_interpreter_and_the_maps_agree(activation, weight, bias):
    """Mean square and correlation of two inputs of equal size after ten layers of a Flax model."""
    n, depth, f = 64, 10, sp.init.activations.function(activation)
    layers = [nn.Dense(n, kernel_init=nn.initializers.normal((weight / n) ** 0.5), bias_init=nn.initializers.normal(bias**0.5))
              for _ in range(depth)]
    x = np.random.default_rng(0).standard_normal((2, n))
    x = (x * (n / (x**2).sum(1, keepdims=True)) ** 0.5).astype(np.float32)
    model = nn.Sequential([layers[0], *(part for layer in layers[1:] for part in (f, layer))])
    found = sp.propagate(sp.network(model, x), x, backward=False)
    maps, q, k = mf.Maps(activation, weight, bias), weight + bias, weight * float(x[0] @ x[1]) / n + bias
    for _ in range(depth - 1):
        q, k = maps.variance(q).value, maps.covariance(k / q, q).value
    np.testing.assert_allclose(found.input_second_moment.values[-1], q, rtol=1e-6)
    np.testing.assert_allclose(found.correlation.values[-1][0, 1], k / q, atol=1e-6)


BAD = {
    "unknown name": (lambda: mf.fixed_point("tanhh", 1.0), "activation: 'tanhh' is none of"),
    "negative variance": (lambda: mf.fixed_point("tanh", -1.0), "weight_variance: -1.0 given"),
    "negative bias": (lambda: mf.chi1("tanh", 1.0, -0.1), "bias_variance: -0.1 given"),
    "start": (lambda: mf.fixed_point("tanh", 1.0, start=0.0), "start: 0.0 given"),
    "explodes": (lambda: mf.chi1("relu", 2.5), "signals explode"),
    "infinite moment": (lambda: mf.fixed_point(lambda x: jnp.exp(x**2), 1.0), "infinite or cannot be computed"),
    "jump": (lambda: mf.depth_scales(lambda x: jnp.where(x > 0.5, 1.0, -1.0), 1.0, 0.1), "jumps at 0.5, of which"),
    "no critical point": (lambda: mf.critical_weight_variance("relu", 0.1), "no critical point"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()


def test_explosion_is_reported_not_hidden():
    point = mf.fixed_point("relu", 2.5)
    assert point.q == np.inf and not point.converged


GRIDS = {"tanh": ([0.5, 1.69, 2.5, 6.25], [0.0, 0.05]), "relu": ([1.0, 2.0, 2.5], [0.0, 0.1]), "gelu": ([1.5, 2.2], [0.05])}


@pytest.mark.parametrize("activation", GRIDS)
def test_diagrams_are_the_single_points(activation):
    """Interpolated against integrated at each point; numbers of fixed points, directions and phases differ."""
    weights, biases = GRIDS[activation]
    found = mf.phase_diagram(activation, weights, biases)
    assert found.error < 1e-9
    for w in weights:
        for b in biases:
            here, point = found.sel(weight_variance=w, bias_variance=b), mf.fixed_point(activation, w, b)
            expected = {"q": point.q, "c": point.c}
            if point.converged:
                expected |= {"chi1": mf.chi1(activation, w, b), **mf.depth_scales(activation, w, b)._asdict()}
            got = [float(here[name]) for name in expected]
            np.testing.assert_allclose(got, [*expected.values()], rtol=1e-6, atol=1e-9, err_msg=f"{activation} {w} {b}")


def test_diagrams_close_to_the_edge_of_chaos():
    """Correlations near 1, where covariances of pairs differ little from mean squares."""
    weights = 1.760955 + np.array([0.001, 0.01, 0.1])
    found = mf.phase_diagram("tanh", weights, 0.05).isel(bias_variance=0)
    points, scales = ([f("tanh", w, 0.05) for w in weights] for f in (mf.fixed_point, mf.depth_scales))
    np.testing.assert_allclose(found.c, [p.c for p in points], atol=1e-9)
    np.testing.assert_allclose(found.xi_c, [s.xi_c for s in scales], rtol=1e-6)


@pytest.mark.slow
def test_depth_scales_predict_trainability():
    """Digits, 150 minibatches: networks of twice xi tell the images apart, of twenty times xi they do not (Schoenholz et al. 2017)."""
    spec = importlib.util.spec_from_file_location("trainability", Path(__file__).parents[1] / "scripts" / "trainability.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    images, labels = load_digits(return_X_y=True)
    images = ((images - images.mean(0)) / (images - images.mean(0)).std()).astype(np.float32)
    weights = np.array([1.0, 1.4, 4.0])  # ordered, near the edge of chaos, chaotic
    lengths = [mf.trainability_length("tanh", w, 0.05, multiple=1.0) for w in weights]
    for weight, length in zip(weights, lengths, strict=True):
        shallow, deep = (float(script.trained(jnp.array([weight], jnp.float32), int(np.ceil(m * length)), 150, images, labels)[0])
                         for m in (2, 20))
        assert shallow > 0.7 and deep < 0.4, (weight, shallow, deep)


COLUMNS = ("q", "c", "chi1", "xi_q", "xi_c", "xi_gradient")


def test_diagrams_under_jit_and_vmap_are_the_diagrams():
    weights, biases = jnp.array([0.5, 1.2, 2.5, 6.25]), jnp.array([0.05, 0.09])
    expected = mf.phase_diagram("erf", weights, biases)
    compiled = jax.jit(lambda w, b: mf.phase_diagram("erf", w, b))(weights, biases)
    mapped = jax.vmap(lambda b: mf.phase_diagram("erf", weights, b))(biases)
    for name in COLUMNS:
        assert compiled[name].dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(compiled[name].data), expected[name], rtol=2e-6)
        np.testing.assert_allclose(np.asarray(mapped[name].data)[:, :, 0].T, expected[name], rtol=2e-6)
    far = jax.jit(lambda w: mf.phase_diagram("relu", w, 0.0, [mf.Dropout(0.5)]))(jnp.array([1.0, 1.5]))  # signals rest, and explode
    np.testing.assert_array_equal(np.asarray(far["q"].data)[:, 0], [1, np.inf])


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("weight", [1.2, 2.5], ids=["ordered", "chaotic"])
def test_derivatives_of_diagrams(name, weight, step=1e-4):
    """By both variances, against central differences."""
    def column(w, b):
        return mf.phase_diagram("erf", w, b)[name].data.sum()

    found = jax.grad(column, (0, 1))(weight, 0.05)
    expected = [(column(weight + step * d, 0.05 + step / 10 * e) - column(weight - step * d, 0.05 - step / 10 * e)) / (2 * step) * f
                for d, e, f in ((1, 0, 1), (0, 1, 10))]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def unhashable():
    part = mf.Dropout(0.5)
    object.__setattr__(part, "keep", np.ones(1))
    return part


@pytest.mark.parametrize(("arguments", "message"), [
    (("tanh", [1.0, -1.0]), "weight_variances"), (("tanh", 1.0, [np.nan]), "bias_variances"), (("tanh", []), "weight_variances"),
    ((lambda x: 0.0 * x, 1.0), "zero"), ((lambda x: jnp.sign(x) + 0.5 * x, 3.0), "jumps"),
    (("tanh", 1.0, 0.0, [unhashable()]), "not hashable")])
def test_diagrams_name_bad_input(arguments, message):
    with pytest.raises(sp.InvalidInput, match=message):
        mf.phase_diagram(*arguments)
