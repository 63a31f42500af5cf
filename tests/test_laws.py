"""Laws of parameters: traced ones against closed forms, measured ones within six standard errors of the exact moments."""

import math

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn import initializers as I
from stacked import Stacked

import sigprop as sp
from sigprop.network import Laws

F32 = jnp.float32


def law_of(init, shape):
    return sp.network(lambda p, x: x * jnp.mean(p), init=lambda key: init(key, shape, F32)).laws["params"]


def truncated(low, high):
    """Mean and variance of a standard normal between two bounds (Johnson, Kotz & Balakrishnan 1994, section 13.10)."""
    density = [math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi) for t in (low, high)]
    mass = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
    mean = (density[0] - density[1]) / mass
    return mean, 1 + (low * density[0] - high * density[1]) / mass - mean**2


CUT = truncated(-1.0, 1.5)
# initializer, shape, mean, variance, family
STANDARD = {
    "zeros": (I.zeros, (7,), 0, 0, "constant"),
    "ones": (I.ones, (7,), 1, 0, "constant"),
    "constant": (I.constant(0.3), (4, 5), 0.3, 0, "constant"),
    "normal": (I.normal(0.3), (6, 8), 0, 0.09, "normal"),
    "truncated_normal": (I.truncated_normal(0.3), (6, 8), 0, 0.09 * truncated(-2, 2)[1], "truncated normal"),
    "truncated_normal off centre": (I.truncated_normal(0.3, lower=-1.0, upper=1.5), (6, 8), 0.3 * CUT[0], 0.09 * CUT[1],
                                    "truncated normal"),
    "uniform": (I.uniform(0.4), (6, 8), 0.2, 0.16 / 12, "uniform"),
    "orthogonal wide": (I.orthogonal(1.5), (6, 8), 0, 2.25 / 8, "orthogonal"),
    "orthogonal tall": (I.orthogonal(), (3, 6, 8), 0, 1 / 18, "orthogonal"),
    "orthogonal along axis 0": (I.orthogonal(column_axis=0), (3, 6, 8), 0, 1 / 48, "orthogonal"),
    "delta_orthogonal 1-D": (I.delta_orthogonal(), (4, 4, 6), 0, 1 / 6 / 4, "orthogonal"),
    "delta_orthogonal 2-D": (I.delta_orthogonal(1.5), (3, 3, 4, 6), 0, 2.25 / 6 / 9, "orthogonal"),
    "delta_orthogonal 3-D": (I.delta_orthogonal(), (2, 3, 1, 4, 6), 0, 1 / 6 / 6, "orthogonal"),
}
FANS = {"fan_in": 3 * 3 * 4, "fan_out": 3 * 3 * 6, "fan_avg": 45, "fan_geo_avg": 9 * math.sqrt(24)}
FAMILY = {"normal": "normal", "truncated_normal": "truncated normal", "uniform": "uniform"}
for _mode, _fan in FANS.items():
    for _kind, _family in FAMILY.items():
        STANDARD[f"variance_scaling {_mode} {_kind}"] = (I.variance_scaling(1.7, _mode, _kind), (3, 3, 4, 6), 0, 1.7 / _fan, _family)
for _name, _gain, _fan in [("lecun", 1, 36), ("he", 2, 36), ("kaiming", 2, 36), ("glorot", 1, 45), ("xavier", 1, 45)]:
    for _kind, _family in [("normal", "truncated normal"), ("uniform", "uniform")]:
        STANDARD[f"{_name}_{_kind}"] = (getattr(I, f"{_name}_{_kind}")(), (3, 3, 4, 6), 0, _gain / _fan, _family)
FLAX = ["zeros", "ones", "normal", "truncated_normal", "uniform", "lecun_normal", "he_uniform", "glorot_normal", "xavier_uniform",
        "kaiming_normal", "orthogonal"]


def two(key):
    return jax.random.split(key)


COMPOSED = {
    "scaled and shifted": (lambda k, s, d: 0.1 - 2 * I.he_normal()(k, s, d), (6, 8), 0.1, 4 / 3, "truncated normal"),
    "product of two draws": (lambda k, s, d: I.normal(0.5)(two(k)[0], s, d) * I.normal(2.0)(two(k)[1], s, d), (6, 8), 0, 1, "derived"),
    "sum of two draws": (lambda k, s, d: I.normal(0.5)(two(k)[0], s, d) + I.uniform(1.0)(two(k)[1], s, d), (6, 8), 0.5, 1 / 4 + 1 / 12,
                         "derived"),
    "twice the same key": (lambda k, s, d: I.normal(1.0)(k, s, d) + I.normal(1.0)(k, s, d), (6, 8), 0, 4, "normal"),
    "folded key": (lambda k, s, d: I.normal(1.0)(jax.random.fold_in(k, 3), s, d), (6, 8), 0, 1, "normal"),
    "raw key": (lambda k, s, d: I.normal(1.0)(jax.random.wrap_key_data(jax.random.key_data(k)), s, d), (6, 8), 0, 1, "normal"),
    "sparse": (lambda k, s, d: jax.random.bernoulli(two(k)[0], 0.3, s) * I.normal(1.0)(two(k)[1], s, d), (6, 8), 0, 0.3, "derived"),
    "rademacher": (lambda k, s, d: 0.1 * jax.random.rademacher(k, s, d), (6, 8), 0, 0.01, "bernoulli"),
    "laplace": (lambda k, s, d: jax.random.laplace(k, s, d), (6, 8), 0, 2, "laplace"),
    "gamma": (lambda k, s, d: jax.random.gamma(k, 3.0, s, d), (6, 8), 3, 3, "gamma"),
    "integers": (lambda k, s, d: 0.5 * jax.random.randint(k, s, -2, 3).astype(d), (6, 8), 0, 0.5, "randint"),
    "lognormal": (lambda k, s, d: jnp.exp(0.5 * I.normal(1.0)(k, s, d)), (6, 8), math.exp(1 / 8), math.exp(1 / 4) * (math.exp(1 / 4) - 1),
                  "derived"),
    "lower triangle": (lambda k, s, d: jnp.tril(I.normal(1.0)(k, s, d)), (6, 6), 0, 21 / 36, "normal"),
    "rows set to zero": (lambda k, s, d: I.normal(1.0)(k, s, d).at[:2].set(0.0), (6, 6), 0, 4 / 6, "normal"),
    "identity plus noise": (lambda k, s, d: jnp.eye(8) + I.normal(0.1)(k, s, d), (8, 8), 1 / 8, 0.01 + 7 / 64, "normal"),
    "low rank": (lambda k, s, d: I.normal(1.0)(two(k)[0], (60, 5), d) @ I.normal(1.0)(two(k)[1], (5, 80), d), (60, 80), 0, 5, "derived"),
    "vmap over keys": (lambda k, s, d: jax.vmap(lambda q: I.orthogonal()(q, (6, 8), d))(jax.random.split(k, 5)), (5, 6, 8), 0, 1 / 8,
                       "orthogonal"),
    "scan over keys": (lambda k, s, d: jax.lax.scan(lambda c, q: (c, I.he_uniform()(q, (6, 8), d)), 0, jax.random.split(k, 5))[1],
                       (5, 6, 8), 0, 1 / 3, "uniform"),
}


@pytest.mark.parametrize("name", [*STANDARD, *COMPOSED])
def test_traced_law_is_exact(name):
    init, shape, mean, variance, family = {**STANDARD, **COMPOSED}[name]
    law = law_of(init, shape)
    assert (law.source, law.family) == ("traced", family)
    assert law.mean == pytest.approx(mean, rel=5e-7, abs=1e-9)
    assert law.variance == pytest.approx(variance, rel=5e-7, abs=1e-12)


def test_flax_initializers_are_those_of_jax():
    for name in FLAX:
        ours = [law_of(getattr(module, name) if name in ("zeros", "ones") else getattr(module, name)(), (6, 8))
                for module in (I, nn.initializers, nnx.initializers)]
        assert ours[0] == ours[1] == ours[2], name


def _normal(key, shape):
    return 3 * jax.random.normal(key, shape)


# initializer, mean, variance, fourth central moment over the squared variance
MEASURED = {
    "exponential": (lambda k, s, d: jax.random.exponential(k, s, d), 1, 1, 9),
    "square of a uniform": (lambda k, s, d: jax.random.uniform(k, s, d) ** 2, 1 / 3, 4 / 45, 2.2),
    "random bits": (lambda k, s, d: jax.random.bits(k, s).astype(d) / 2.0**32, 1 / 2, 1 / 12, 1.8),
    "product of a draw with itself": (lambda k, s, d: jax.random.bernoulli(k, 0.5, s).astype(d) * jax.random.bernoulli(k, 0.5, s), 0.5,
                                      0.25, 1),
    "choice": (lambda k, s, d: jax.random.choice(k, jnp.array([-1.0, 0.0, 1.0]), s), 0, 2 / 3, 1.5),
    "own function named like one of jax.random": (lambda k, s, d: jax.jit(_normal, static_argnums=1)(k, s), 0, 9, 3),
}


@pytest.mark.parametrize("name", MEASURED)
def test_law_that_cannot_be_traced_is_measured(name):
    init, mean, variance, kurtosis = MEASURED[name]
    shape = (40, 50)
    law = law_of(init, shape)
    count = 6 * 16 * 2000
    assert law.source == "measured"
    assert law.mean == pytest.approx(mean, abs=6 * math.sqrt(variance / count))
    assert law.variance == pytest.approx(variance, rel=6 * math.sqrt(max(kurtosis - 1, 0.01) / count))


def test_measured_law_keeps_entries_that_never_vary():
    """Only the corner of the first row varies; 2 is the second moment of its exponential, measured to 3 % at six standard errors."""
    net = sp.network(lambda w, x: jnp.tanh(x[:, :1] @ w[:1]), init=lambda key: jnp.tril(jax.random.exponential(key, (64, 64))))
    predicted = sp.propagate(net, np.ones((2, 3), np.float32)).second_moment.values[0]
    assert predicted == pytest.approx(2 / 64, rel=0.03)


DRAWS = {  # a draw and its mean and variance
    "normal": (lambda k, s: jax.random.normal(k, s), 0.0, 1.0), "uniform": (lambda k, s: jax.random.uniform(k, s), 0.5, 1 / 12),
    "bernoulli": (lambda k, s: jax.random.bernoulli(k, 0.25, s).astype(F32), 0.25, 3 / 16),
    "laplace": (lambda k, s: jax.random.laplace(k, s), 0.0, 2.0), "truncated": (I.truncated_normal(1.0, lower=-1.0, upper=1.5), *CUT),
}
NUMBERS = st.sampled_from([-2.0, -0.5, 0.25, 1.0, 3.0])
TERMS = st.lists(st.tuples(NUMBERS, NUMBERS, st.lists(st.sampled_from(sorted(DRAWS)), min_size=1, max_size=2)), min_size=1, max_size=3)


@hypothesis.given(TERMS)
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_sums_of_products_of_draws(terms):
    """``sum of a + b * draw * draw'`` with independent draws; moments of products of independent numbers multiply."""
    def init(key, shape, dtype):
        keys = iter(jax.random.split(key, 6))
        return sum(a + b * math.prod(DRAWS[name][0](next(keys), shape) for name in names) for a, b, names in terms)

    mean = variance = 0.0
    for a, b, names in terms:
        first = math.prod(DRAWS[name][1] for name in names)
        mean += a + b * first
        variance += b**2 * (math.prod(DRAWS[name][1] ** 2 + DRAWS[name][2] for name in names) - first**2)
    law = law_of(init, (6, 8))
    assert law.source == "traced"
    assert law.mean == pytest.approx(mean, rel=1e-6, abs=1e-6)
    assert law.variance == pytest.approx(variance, rel=2e-6)


class Factorised(nn.Module):
    """w = mask * g * v, with masks and gains that are parameters or constants."""

    @nn.compact
    def __call__(self, x):
        v = self.param("v", I.normal(1.0), (64, 64))
        g = self.param("g", I.constant(0.5), (64,))
        u = self.param("u", I.normal(2.0), (64, 64))
        return x @ (v * g * u * (np.arange(64)[:, None] % 2))


def vmapped(rngs):
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def stack(rngs):
        return nnx.Linear(4, 6, rngs=rngs)

    class Model(nnx.Module):
        def __init__(self):
            self.stack = stack(rngs)

        def __call__(self, x):
            return nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(self.stack, x)

    return Model()


class Scanned(nnx.Module):
    """Layers made in one vmap over keys and called in one scan."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=4)
        @nnx.vmap
        def stack(rngs):
            return nnx.Linear(16, 16, rngs=rngs, kernel_init=I.he_normal())

        self.layers = stack(rngs)

    def __call__(self, x):
        return nnx.scan(lambda x, layer: nnx.relu(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)


X4, X16, X64 = (np.ones((2, n), np.float32) for n in (4, 16, 64))


@pytest.mark.parametrize(("model", "x", "path", "shape", "variance", "scaled"), [
    (Stacked(), X16, "scan/Dense_0/kernel", (3, 16, 16), 1 / 16, 1), (Stacked(), X16, "vmap/kernel", (2, 16, 8), 1 / 16, 1),
    (vmapped, X4, "stack/kernel", (3, 4, 6), 1 / 4, 1), (Factorised(), X64, "u", (64, 64), 4, 128),
], ids=["nn.scan", "nn.vmap", "nnx.vmap", "factorised"])
def test_stacked_and_factorised_parameters(model, x, path, shape, variance, scaled):
    laws = sp.network(model, x).laws
    assert laws[path].source == "traced"
    assert laws.shapes[path] == shape
    assert laws[path].variance == pytest.approx(variance, rel=1e-5)
    assert laws[path].variance * laws.fan_in[path] == pytest.approx(scaled, rel=1e-5)


def test_masked_product_of_parameters_is_followed():
    found = sp.propagate(sp.network(Factorised(), X64), X64).second_moment.values[-1]
    assert found == pytest.approx(32 * 4 * 0.25, rel=1e-5)


def test_layers_stacked_by_vmap_are_independent():
    """He layers keep the mean square of a ReLU network from the second on, which weights shared by the layers would not."""
    found = sp.propagate(sp.network(Scanned, X16), X16).second_moment.values
    np.testing.assert_allclose(found[-1], 1.0, rtol=1e-6)


def test_delta_orthogonal_is_a_pointwise_convolution():
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    delta = nn.Conv(6, (3, 3), kernel_init=I.delta_orthogonal())
    pointwise = nn.Conv(6, (1, 1), kernel_init=I.normal(6**-0.5))
    one, two_ = (sp.infinite_kernel(sp.network(m, x))(x).nngp for m in (delta, pointwise))
    np.testing.assert_allclose(one, two_, rtol=1e-5, atol=1e-6)


def test_laws_are_a_tree_like_the_parameters_and_print_as_a_table():
    net = sp.network(Stacked(), X16)
    laws = net.laws
    assert isinstance(laws, Laws) and net.laws is laws
    assert set(jax.tree.leaves(laws)) == set(laws.values())
    variances = jax.tree.map(lambda law: law.variance, laws).tree
    params = net.init(jax.random.key(0))
    assert jax.tree.structure(variances["variables"]) == jax.tree.structure(params["variables"])
    nnx_laws = sp.network(vmapped, X4).laws
    assert jax.tree.leaves(jax.tree.map(lambda law: law.variance, nnx_laws).tree["stack"]) == [0.0, nnx_laws["stack/kernel"].variance]
    head, *lines = str(laws).splitlines()
    assert head.split() == ["parameter", "shape", "family", "mean", "variance", "variance", "x", "fan-in", "source"]
    assert [line.split()[0] for line in lines] == list(laws)
    assert next(line for line in lines if line.startswith("vmap/kernel")).split()[-3:] == ["0.0625", "1", "traced"]
    with pytest.raises(KeyError, match="nothing.*scan/Dense_0/kernel"):
        laws["nothing"]


@pytest.mark.parametrize("arrange", [lambda w: w, lambda w: jnp.concatenate([w, w]), lambda w: jnp.concatenate([w[:1], w[1:]])])
def test_functions_of_shifted_draws_in_any_arrangement(arrange):
    """A mean stays a mean where draws are joined: it is not counted into their variance."""
    def init(key):
        return {"w": jnp.tanh(arrange(jax.random.normal(key, (2, 64)) + 0.5))}

    law = sp.network(lambda p, x: x @ p["w"].reshape(-1, 1), np.ones((1, arrange(np.ones((2, 64))).size), np.float32), init=init).laws["w"]
    z, w = np.polynomial.hermite_e.hermegauss(60)
    mean, second = (np.dot(w / w.sum(), np.tanh(z + 0.5) ** k) for k in (1, 2))
    np.testing.assert_allclose([law.mean, law.variance], [mean, second - mean**2], rtol=1e-7)


def sorted_mask(of_weights):
    """Half of the weights kept, by their own magnitudes or by those of other draws."""
    def init(key):
        w, other, last = (jax.random.normal(k, shape) / shape[0]**0.5
                          for k, shape in zip(jax.random.split(key, 3), ((32, 64), (32, 64), (64, 8)), strict=True))
        scores = jnp.abs(w if of_weights else other)
        return {"w": w, "mask": (scores >= jnp.sort(scores.ravel())[1024]).astype(F32), "v": last}

    return sp.network(lambda p, x: (x @ (p["w"] * p["mask"])) @ p["v"], np.eye(3, 32, dtype=np.float32), init=init)


def test_measured_laws_that_depend_on_others_are_refused():
    x = np.eye(3, 32, dtype=np.float32)
    assert sorted_mask(True).laws["mask"].source == "measured, depends on w"
    with pytest.raises(sp.Unsound, match="'mask' had to be measured, and it depends on 'w'"):
        sp.propagate(sorted_mask(True), x)
    assert sorted_mask(False).laws["mask"].source == "measured"
    np.testing.assert_allclose(sp.propagate(sorted_mask(False), x, backward=False).second_moment.values[-1], 1 / 64, rtol=0.02)
