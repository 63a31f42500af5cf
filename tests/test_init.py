"""Initializers: their laws against closed forms, samples and tracing; fans against counted connections; gains against quadrature."""

import math

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from harness import agree, sample

import sigprop as sp
from sigprop import init as I

DENSE, CONV, BIAS = (6, 8), (3, 3, 4, 6), (8,)
# variance of a standard normal cut at +-t is 1 - 2 t density(t) / mass: at t = 2 and 1 (Johnson, Kotz & Balakrishnan 1994, 13.10)
# initializer, shape, mean, variance, family
LAWS = {
    "normal": (I.Normal(0.3, 0.1), DENSE, 0.1, 0.3, "normal"),
    "uniform": (I.Uniform(0.3, -0.1), DENSE, -0.1, 0.3, "uniform"),
    "truncated at 2": (I.TruncatedNormal(0.3, 0.1), DENSE, 0.1, 0.3, "truncated normal"),
    "truncated at 1": (I.TruncatedNormal(0.3, cut=1.0), DENSE, 0, 0.3, "truncated normal"),
    "truncated at 0.1": (I.TruncatedNormal(0.3, cut=0.1), DENSE, 0, 0.3, "truncated normal"),
    "truncated at 8": (I.TruncatedNormal(0.3, cut=8.0), DENSE, 0, 0.3, "truncated normal"),
    "without variance": (I.Normal(0.0, 0.4), DENSE, 0.4, 0, "constant"),
    "bias": (I.Normal(0.05), BIAS, 0, 0.05, "normal"),
    "he": (I.he(), CONV, 0, 2 / 36, "truncated normal"),
    "he, leaky": (I.he(negative_slope=0.5), DENSE, 0, 1.6 / 6, "truncated normal"),
    "he, 10 % kept": (I.he(kept=0.1, distribution="normal"), DENSE, 0, 20 / 6, "normal"),
    "he, fan-out": (I.he(mode="fan_out", distribution="uniform"), CONV, 0, 2 / 54, "uniform"),
    "he, grouped": (I.he(I.Fans(groups=2), "fan_out"), CONV, 0, 2 / 27, "truncated normal"),
    "he, transposed": (I.he(I.Fans(transposed_stride=2)), CONV, 0, 2 / 9, "truncated normal"),
    "he, transposed by 3 and 1": (I.he(I.Fans(transposed_stride=(3, 1))), CONV, 0, 2 / 12, "truncated normal"),
    "he, stored (out, in)": (I.he(I.Fans(in_axis=1, out_axis=0)), DENSE, 0, 2 / 8, "truncated normal"),
    "he, fan given": (I.he(100.0, distribution="normal"), DENSE, 0, 0.02, "normal"),
    "xavier": (I.xavier(), CONV, 0, 2 / (36 + 54), "truncated normal"),
    "xavier, uniform": (I.xavier(distribution="uniform", gain=2.0), DENSE, 0, 8 / 14, "uniform"),
    "xavier, fans given": (I.xavier((10.0, 30.0)), DENSE, 0, 2 / 40, "truncated normal"),
    "lecun": (I.lecun(), DENSE, 0, 1 / 6, "truncated normal"),
    "lecun, embedding": (I.lecun(I.Fans(in_axis=(), batch_axis=0)), DENSE, 0, 1, "truncated normal"),
    "geometric mean": (I.VarianceScaling(3.0, "fan_geo_avg", "normal"), DENSE, 0, 3 / math.sqrt(48), "normal"),
    "orthogonal, wide": (I.Orthogonal(1.5), DENSE, 0, 2.25 / 8, "orthogonal"),
    "orthogonal, tall": (I.Orthogonal(), CONV, 0, 1 / 36, "orthogonal"),
    "orthogonal, columns": (I.Orthogonal(2.0, column_axis=0), DENSE, 0, 4 / 8, "orthogonal"),
    "delta-orthogonal": (I.DeltaOrthogonal(1.5), CONV, 0, 2.25 / 6 / 9, "orthogonal"),
    "identity": (I.Identity(2.0), (6, 6), 2 / 6, 4 / 6 - 4 / 36, "table"),
    "dirac": (I.Dirac(), CONV, 4 / 216, 4 / 216 - (4 / 216) ** 2, "table"),
    "looks linear": (I.LooksLinear(), DENSE, 0, 1 / 8, "orthogonal"),
    "looks linear, shifted": (I.LooksLinear(I.Normal(0.2, 0.1)), DENSE, 0, 0.21, "normal"),
    "siren, first": (I.SirenFirst(), DENSE, 0, 1 / 3 / 36, "uniform"),
    "siren, hidden": (I.siren(30.0), DENSE, 0, 6 / 6 / 900 / 3, "uniform"),
    "fourier": (I.fourier_features(0.5), DENSE, 0, math.pi**2, "normal"),
    "fourier phase": (I.fourier_phase(), BIAS, math.pi, math.pi**2 / 3, "uniform"),
    "small init": (I.small_init(), DENSE, 0, 2 / 30, "normal"),
    "small embed": (I.small_embed(), DENSE, 0, 1e-8 / 3, "uniform"),
    "critical": (I.critical("tanh", 0.05), DENSE, 0, 1.760955 / 6, "normal"),
    "zero gamma": (I.zero_gamma(), BIAS, 0, 0, "constant"),
    "layer scale": (I.layer_scale(24), BIAS, 1e-5, 0, "constant"),
    "gpt2": (I.gpt2(I.Normal(0.02), 8), DENSE, 0, 0.02 / 16, "normal"),
    "negative gain": (-2 * I.Uniform(0.3, 0.1), DENSE, -0.2, 1.2, "uniform"),
    "gain 0": (0 * I.he(), DENSE, 0, 0, "constant"),
    "mup": (I.MuP(1024, 256).output(6).initializer(), DENSE, 0, 1 / 24, "normal"),
}
FIXED = [name for name, case in LAWS.items() if case[4] in ("constant", "table")]


class Linen(nn.Module):
    """One layer with the initializer on its kernel or bias, and a random read-out."""

    start: I.Initializer
    shape: tuple
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel, bias = (nn.initializers.lecun_normal(), self.start) if len(self.shape) == 1 else (self.start, nn.initializers.zeros)
        given = {"kernel_init": kernel, "bias_init": bias, "param_dtype": self.dtype, "name": "layer"}
        y = nn.Conv(self.shape[-1], self.shape[:2], **given)(x) if len(self.shape) == 4 else nn.Dense(self.shape[-1], **given)(x)
        return nn.Dense(1, name="head")(y)


class Nnx(nnx.Module):
    def __init__(self, init, shape, rngs, dtype=jnp.float32):
        if len(shape) == 1:
            self.layer = nnx.Linear(6, shape[0], bias_init=init, param_dtype=dtype, rngs=rngs)
        elif len(shape) == 2:
            self.layer = nnx.Linear(*shape, kernel_init=init, param_dtype=dtype, rngs=rngs)
        else:
            self.layer = nnx.Conv(*shape[2:], shape[:2], kernel_init=init, param_dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(shape[-1], 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.layer(x))


@pytest.mark.parametrize("name", LAWS)
def test_law_is_the_closed_form(name):
    init, shape, mean, variance, family = LAWS[name]
    law = init.law(shape)
    assert (law.family, law.source) == (family, "declared")
    assert law.mean == pytest.approx(mean, rel=1e-12, abs=1e-15)
    assert law.variance == pytest.approx(variance, rel=3e-7 if name == "critical" else 1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAWS)
def test_law_is_the_one_traced_from_flax_models(name, dtype):
    init, shape, *_ = LAWS[name]
    stated = init.law(shape)
    x = np.ones((2, 5, 5, 4) if len(shape) == 4 else (2, 6 if len(shape) == 1 else shape[0]), np.float32)
    path = "layer/bias" if len(shape) == 1 else "layer/kernel"
    for model in (Linen(init, shape, dtype), lambda rngs: Nnx(init, shape, rngs, dtype)):
        traced = sp.network(model, x).laws[path]
        rounding = 5e-7 if dtype == jnp.float32 or name not in FIXED else 2.0**-8  # fixed numbers are themselves rounded
        assert (traced.family, traced.source) == (stated.family, "traced")
        assert traced.mean == pytest.approx(stated.mean, rel=rounding, abs=1e-9)
        assert traced.variance == pytest.approx(stated.variance, rel=rounding, abs=1e-14)


ONE_OF_EACH = [
    "normal", "uniform", "truncated at 2", "truncated at 1", "truncated at 0.1", "truncated at 8", "bias", "he", "orthogonal, wide",
    "orthogonal, tall", "orthogonal, columns", "delta-orthogonal", "looks linear", "looks linear, shifted", "siren, first", "fourier",
    "fourier phase", "gpt2", "negative gain",
]
SAMPLED = [*((name, jnp.float32) for name in ONE_OF_EACH),
           *((name, jnp.bfloat16) for name in ("normal", "uniform", "truncated at 2", "orthogonal, tall"))]


@pytest.mark.parametrize(("name", "dtype"), SAMPLED)
def test_samples_have_the_stated_moments(name, dtype):
    """256 groups of seeds; a mean off by 2 % of the standard deviation or a variance off by 2 % is seen, false alarms are 1e-6."""
    init, shape, *_ = LAWS[name]
    law = init.law(shape)
    keys = jax.random.split(jax.random.key(3), (256, 3072 // math.prod(shape)))

    @jax.jit
    def observe(keys):
        draws = jax.vmap(lambda key: init(key, shape, dtype))(keys)
        assert draws.dtype == dtype and draws.shape[1:] == shape
        entries = draws.astype(jnp.float32)
        return jnp.mean(entries), jnp.mean((entries - law.mean) ** 2)

    first, second = jax.lax.map(observe, keys)
    agree(law.mean, sample(first), scale=abs(law.mean) + math.sqrt(law.variance))
    agree(law.variance, sample(second))


@pytest.mark.parametrize("name", FIXED)
def test_fixed_numbers_have_the_stated_moments(name):
    init, shape, *_ = LAWS[name]
    numbers = np.asarray(init(jax.random.key(0), shape), np.float64)
    np.testing.assert_array_equal(numbers, init(jax.random.key(1), shape))
    assert numbers.mean() == pytest.approx(init.law(shape).mean, rel=1e-6)
    assert numbers.var() == pytest.approx(init.law(shape).variance, rel=1e-6, abs=1e-14)


def test_initializers_are_values():
    """Equal settings are equal and hash alike; a jitted call with the initializer static makes the same numbers, key by key."""
    kinds = [case[0] for case in LAWS.values()]
    assert len({*kinds}) == len(kinds)
    assert I.he() == I.he() and hash(I.he()) == hash(I.he()) and I.he() != I.he(kept=0.5)
    call = jax.jit(lambda init, key, shape: init(key, shape), static_argnums=(0, 2))
    keys = jax.random.split(jax.random.key(0), 3)
    for init, shape in ((I.he(), DENSE), (I.gpt2(I.Uniform(1.0), 2), BIAS)):
        mapped = jax.vmap(lambda key, init=init, shape=shape: init(key, shape))(keys)
        np.testing.assert_allclose(call(init, keys[1], shape), mapped[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(init(keys[1], shape), init(keys[1], list(shape), None))


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
@pytest.mark.parametrize("axes", [(-2, -1, ()), (0, (2, 3), 1)], ids=str)
def test_plain_fans_draw_the_numbers_of_jax(axes, mode, distribution):
    key = jax.random.key(2)
    theirs = nn.initializers.variance_scaling(1.7, mode, distribution, *axes)(key, CONV)
    np.testing.assert_allclose(I.VarianceScaling(1.7, mode, distribution, I.Fans(*axes))(key, CONV), theirs, rtol=2e-6)


def connections(layer, x):
    """Mean numbers of inputs that reach an output unit and of outputs that an input unit feeds, counted with a kernel of ones."""
    params = layer.init(jax.random.key(0), x)
    units, pull = jax.vjp(lambda x: layer.apply(params, x), x)
    return float(units.mean()), float(pull(jnp.ones_like(units))[0].mean()), params["params"]["kernel"].shape


def check_fans(kernel, strides, groups, narrow, wide):
    given = {"kernel_size": kernel, "strides": strides, "padding": "CIRCULAR", "use_bias": False, "kernel_init": nn.initializers.ones}
    x = jnp.ones((1, *[6] * len(kernel), groups * narrow))
    fan_in, fan_out, shape = connections(nn.Conv(groups * wide, feature_group_count=groups, **given), x)
    assert I.Fans(groups=groups, stride=strides).count(shape) == pytest.approx((fan_in, fan_out), rel=1e-5)
    fan_in, fan_out, shape = connections(nn.ConvTranspose(wide, **given), x)
    assert I.Fans(transposed_stride=strides).count(shape) == pytest.approx((fan_in, fan_out), rel=1e-5)


@pytest.mark.parametrize("case", [((3,), (2,), 1, 2, 3), ((3, 2), (2, 3), 2, 1, 2), ((1, 4), (3, 1), 3, 1, 1)], ids=str)
def test_fans_are_the_counted_connections(case):
    check_fans(*case)


@pytest.mark.slow
@hypothesis.given(st.integers(1, 3), st.data())
@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
def test_fans_are_the_counted_connections_of_any_convolution(rank, data):
    kernel, strides = (data.draw(st.tuples(*[st.integers(1, most)] * rank)) for most in (4, 3))
    check_fans(kernel, strides, *(data.draw(st.integers(1, 3)) for _ in range(3)))


def test_he_keeps_the_signal_of_a_transposed_convolution_only_with_its_true_fan():
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 16)).astype(np.float32)
    for fans, expected in ((I.Fans(transposed_stride=2), 1.0), (I.Fans(), 0.25)):
        layer = nn.ConvTranspose(8, (4, 4), (2, 2), padding="CIRCULAR", kernel_init=I.lecun(fans))
        found = sp.propagate(sp.network(layer, x), x, backward=False).second_moment.values[-1]
        assert found == pytest.approx(expected * float(np.mean(x**2)), rel=1e-5)


def isometry(layer, shape):
    """Largest relative change of the squared norm of random inputs under a linear layer."""
    x = jax.random.normal(jax.random.key(1), shape)
    y = layer.apply(layer.init(jax.random.key(0), x), x)
    norms = [np.sum(np.asarray(a, np.float64) ** 2, axis=tuple(range(1, a.ndim))) for a in (x, y)]
    return float(np.max(np.abs(norms[1] / norms[0] - 1)))


def test_orthogonal_layers_keep_the_norm():
    circular = {"padding": "CIRCULAR", "use_bias": False}
    assert isometry(nn.Dense(8, use_bias=False, kernel_init=I.Orthogonal()), (3, 6)) < 1e-5
    for init in (I.DeltaOrthogonal(), I.Dirac()):
        assert isometry(nn.Conv(8, (3, 3), kernel_init=init, **circular), (2, 5, 5, 6)) < 1e-5
    assert isometry(nn.Conv(8, (3, 3), kernel_init=I.Orthogonal(), **circular), (2, 5, 5, 6)) > 0.01


@pytest.mark.parametrize("kernel", [(3,), (2, 3), (1, 3, 3)], ids=str)
def test_dirac_and_identity_copy_their_input(kernel):
    x = jax.random.normal(jax.random.key(1), (2, *[4] * len(kernel), 5))
    y = nn.Conv(7, kernel, kernel_init=I.Dirac(3.0)).init_with_output(jax.random.key(0), x)[0]
    np.testing.assert_allclose(y, np.pad(3 * x, [(0, 0)] * (x.ndim - 1) + [(0, 2)]), rtol=1e-6)
    np.testing.assert_array_equal(nn.Dense(5, kernel_init=I.Identity()).init_with_output(jax.random.key(0), x)[0], x)


def test_looks_linear_layer_is_linear():
    """Under concatenated ReLUs, and an isometry where its matrix is orthogonal."""
    a, b = jax.random.normal(jax.random.key(1), (2, 3, 6))
    layer = nn.Dense(6, use_bias=False, kernel_init=I.LooksLinear())
    double = lambda x: jnp.concatenate([nn.relu(x), nn.relu(-x)], axis=-1)  # noqa: E731
    params = layer.init(jax.random.key(0), double(a))
    f = lambda x: layer.apply(params, double(x))  # noqa: E731
    np.testing.assert_allclose(f(a + 2 * b), f(a) + 2 * f(b), atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(f(a), axis=1), jnp.linalg.norm(a, axis=1), rtol=1e-5)


def test_fourier_features_have_the_gaussian_kernel():
    """``exp(-(2 pi b d)^2 / 2)`` at distance d (Bochner), for both kinds of features; 512 draws of 512 features, 2 % of 1 is seen."""
    x = np.array([[0.0, 0.0], [0.1, 0.0], [0.1, -0.2], [0.3, 0.4]], np.float32)

    @jax.vmap
    def observe(key):
        angle = x @ I.fourier_features(0.8)(key, (2, 512))
        shifted = jnp.sqrt(2.0) * jnp.cos(angle + I.fourier_phase()(jax.random.fold_in(key, 1), (512,)))
        pair = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return jnp.stack([pair @ pair.T, shifted @ shifted.T]) / 512

    distance = np.linalg.norm(x[:, None] - x[None], axis=-1)
    expected = np.exp(-((2 * np.pi * 0.8 * distance) ** 2) / 2)
    agree(np.stack([expected, expected]), sample(observe(jax.random.split(jax.random.key(5), 512))), scale=1.0)


# what depth makes of a gain of 1: initializer, gain
DEPTH = {
    "fixup, 2 layers": (I.fixup(I.Normal(1.0), 16, 2), 1 / 4), "fixup, 3 layers": (I.fixup(I.Normal(1.0), 16, 3), 1 / 2),
    "t-fixup encoder": (I.t_fixup_encoder(I.Normal(1.0), 16), 0.335), "t-fixup decoder": (I.t_fixup_decoder(I.Normal(1.0), 9), 1 / 3),
    "gpt2": (I.gpt2(I.Normal(1.0), 8), 1 / 4), "deep norm": (I.deep_norm(2).scaled(I.Normal(1.0)), 1 / 2),
    "deep norm, encoder": (I.deep_norm_pair(8, 16)[0].scaled(I.Normal(1.0)), 0.87 / 2),
    "deep norm, decoder": (I.deep_norm_pair(8, 108)[1].scaled(I.Normal(1.0)), 1 / 6),
    "layer scale, 18": (I.layer_scale(18), 0.1), "layer scale, 25": (I.layer_scale(25), 1e-6),
    "skip-init": (I.skip_init(), 0.0), "rezero": (I.rezero(), 0.0),
}


@pytest.mark.parametrize("name", DEPTH)
def test_gains_that_shrink_with_depth(name):
    init, expected = DEPTH[name]
    law = init.law((4, 4))
    assert math.sqrt(law.variance) + law.mean == pytest.approx(expected, rel=1e-12)


def test_constants_of_the_residual_stream():
    assert [I.deep_norm(8).alpha, I.deep_norm_pair(8, 16)[0].alpha, I.deep_norm_pair(8, 27)[1].alpha] == pytest.approx([2, 1.62, 3])


@pytest.mark.parametrize("blocks", [1, 4, 16])
def test_gpt2_scaling_keeps_the_residual_stream_bounded(blocks):
    """Each of 2 L linear branches of a unit gain adds 1 / (2 L) of the stream: (1 + 1 / 2 L)^(2 L), below e at any depth."""
    class Stream(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2 * blocks):
                x = x + nn.Dense(64, kernel_init=I.gpt2(I.lecun(), blocks))(x)
            return x

    x = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    found = sp.propagate(sp.network(Stream(), x), x, backward=False).second_moment.values[-1] / np.mean(x**2)
    assert found == pytest.approx((1 + 1 / (2 * blocks)) ** (2 * blocks), rel=1e-5)


KEY = jax.random.key(0)
BAD = {
    "negative variance": (lambda: I.Normal(-1.0), "variance: -1.0.*at least 0"),
    "variance not finite": (lambda: I.Uniform(math.inf), "variance: inf"),
    "traced variance": (lambda: jax.jit(lambda v: I.Normal(v)(KEY, (2,)))(1.0), "variance: .*before tracing"),
    "cut": (lambda: I.TruncatedNormal(1.0, cut=0.01), "cut: 0.01.*at least 0.1"),
    "scale": (lambda: I.VarianceScaling(0.0), "scale: 0.0.*above 0"),
    "mode": (lambda: I.he(mode="fan_min"), "mode: 'fan_min' is none of 'fan_in', 'fan_out'"),
    "distribution": (lambda: I.lecun(distribution="cauchy"), "distribution: 'cauchy' is none of 'normal'"),
    "nothing kept": (lambda: I.he(kept=0), "kept: 0 given.*above 0 and at most 1"),
    "more than all kept": (lambda: I.he(kept=1.5), "kept: 1.5 given.*at most 1"),
    "fan 0": (lambda: I.he(0), "fans: 0 given.*above 0"),
    "three fans": (lambda: I.he((1, 2, 3)), r"fans: \(1, 2, 3\).*fan-in and fan-out"),
    "fans by name": (lambda: I.he("fan_in"), "fans: 'fan_in' is not a finite real number"),
    "empty axis": (lambda: I.he().law((0, 4)), r"shape: \(0, 4\).*fan is 0"),
    "fans of a bias": (lambda: I.he()(KEY, (4,)), r"in_axis: shape \(4,\) has no axis -2; give the fans"),
    "axis twice": (lambda: I.he(I.Fans(in_axis=1)).law((3, 4)), "in_axis 1, out_axis -1.*two roles"),
    "groups": (lambda: I.he(I.Fans(groups=4)).law(CONV), "groups: 4.*do not divide the 6 outputs"),
    "no groups": (lambda: I.Fans(groups=0), "groups: 0 given"),
    "stride 0": (lambda: I.Fans(stride=(1, 0)), "stride: 0 given"),
    "strides of another rank": (lambda: I.he(I.Fans(stride=(2,)), "fan_out").law(CONV), r"stride: \(2,\).*2 axes of receptive field"),
    "orthogonal vector": (lambda: I.Orthogonal()(KEY, (4,)), r"shape: \(4,\) given; an orthogonal matrix needs two axes"),
    "orthogonal axis": (lambda: I.Orthogonal(column_axis=2).law((4, 4)), "column_axis: .*no axis 2"),
    "delta-orthogonal, narrowing": (lambda: I.DeltaOrthogonal()(KEY, (3, 3, 6, 4)), "4 outputs for 6 inputs.*as many outputs or more"),
    "delta-orthogonal, dense": (lambda: I.DeltaOrthogonal().law((4, 4)), "one to three axes of field"),
    "identity": (lambda: I.Identity()(KEY, (4, 6)), r"shape: \(4, 6\) is not square"),
    "dirac": (lambda: I.Dirac()(KEY, (3, 6, 4)), r"shape: \(3, 6, 4\) given; a Dirac kernel.*as many outputs as inputs"),
    "looks linear": (lambda: I.LooksLinear()(KEY, (5, 4)), "even number of inputs"),
    "law of another initializer": (lambda: I.gpt2(nn.initializers.he_normal(), 3).law((4, 4)), "base: .*states no law"),
    "base": (lambda: I.gpt2(0.02, 3), "base: 0.02 is not an initializer"),
    "looks-linear base": (lambda: I.LooksLinear(0.02), "base: 0.02 is not an initializer"),
    "gain": (lambda: I.he() * "2", "gain: '2' is not a finite real number"),
    "w0": (lambda: I.siren(0.0), "w0: 0.0 given"),
    "bandwidth": (lambda: I.fourier_features(-1.0), "bandwidth: -1.0 given"),
    "limit": (lambda: I.small_embed(0.0), "limit: 0.0 given"),
    "depth": (lambda: I.layer_scale(0), "depth: 0 given.*whole number of 1"),
    "one layer": (lambda: I.fixup(I.he(), 8, 1), "layers: 1 given.*whole number of 2"),
    "half a layer": (lambda: I.deep_norm(2.5), "layers: 2.5 given"),
    "shape": (lambda: I.Normal(1.0)(KEY, 3), "shape: 3 is not a sequence"),
    "size": (lambda: I.Normal(1.0)(KEY, (3, -1)), r"shape: \(3, -1\) has an axis of size -1"),
    "dtype": (lambda: I.Normal(1.0)(KEY, (3,), jnp.int32), "dtype: int32 is not a real floating type"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()
