"""Known facts of initialization, each against a closed form written here independently, to four digits.

Pointwise, depthwise and transposed convolutions, deep autoencoders and random masks under He, Glorot, LeCun and N(0, 0.01^2).
"""

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers

import sigprop as sp

RNG = np.random.default_rng(0)
FOUR = 5e-5  # relative: four digits
INITS = {"He": initializers.he_normal(), "Glorot": initializers.glorot_uniform(), "LeCun": initializers.lecun_normal(),
         "N(0, 0.01^2)": initializers.normal(0.01)}


def weight_variance(name: str, fan_in: int, fan_out: int) -> float:
    return {"He": 2 / fan_in, "Glorot": 2 / (fan_in + fan_out), "LeCun": 1 / fan_in, "N(0, 0.01^2)": 1e-4}[name]


def output_map(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Predicted variance of every output position, ``[batch, *sites]``."""
    predicted = sp.propagate(sp.network(model, x), x, backward=False)
    return predicted[f"site_variance:{predicted.node.values[-1]}"].values


@pytest.mark.parametrize("name", INITS)
@pytest.mark.parametrize("channels", [3, 16, 256, 2048])
def test_pointwise_convolution(name, channels):
    x = RNG.standard_normal((1, 2, 2, channels)).astype(np.float32)
    found = output_map(nn.Conv(64, (1, 1), kernel_init=INITS[name]), x)
    np.testing.assert_allclose(found, (x.astype(float) ** 2).sum(-1) * weight_variance(name, channels, 64), rtol=FOUR)


@pytest.mark.parametrize("name", INITS)
def test_unit_inputs_through_pointwise_layers(name):
    """After the first layer, each He layer with ReLU keeps the variance, LeCun and square Glorot halve it."""
    layers = [layer for _ in range(12) for layer in (nn.Conv(64, (1, 1), kernel_init=INITS[name]), nn.relu)]
    x = RNG.standard_normal((2, 2, 2, 64)).astype(np.float32)
    predicted = sp.propagate(sp.network(nn.Sequential(layers), x), x, backward=False)
    q = predicted.variance.values[::2]
    factor = {"He": 1.0, "Glorot": 0.5, "LeCun": 0.5, "N(0, 0.01^2)": 64 * 1e-4 / 2}[name]
    np.testing.assert_allclose(q[1:] / q[:-1], factor, rtol=FOUR)


def window_sum(x: np.ndarray, k: int) -> np.ndarray:
    """Sum over the k x k window of SAME padding, ``x [batch, h, w, channels]``."""
    low = (k - 1) // 2
    padded = np.pad(x, ((0, 0), (low, k - 1 - low), (low, k - 1 - low), (0, 0)))
    h, w = x.shape[1:3]
    return sum(padded[:, i:i + h, j:j + w] for i in range(k) for j in range(k))


@pytest.mark.parametrize("name", INITS)
@pytest.mark.parametrize(("k", "groups"), [(2, 6), (3, 6), (5, 6), (3, 2)])
def test_depthwise_and_grouped_convolution(name, k, groups):
    """Per pixel: borders have fewer taps. The fan-in is k*k*C/groups whatever C; Glorot's fan-out is read off the kernel's shape."""
    channels = 6
    x = RNG.standard_normal((2, 6, 5, channels)).astype(np.float32)
    model = nn.Conv(channels, (k, k), feature_group_count=groups, kernel_init=INITS[name])
    per_group = window_sum(x.astype(float) ** 2, k).reshape(2, 6, 5, groups, -1).sum(-1)
    fan_in = k * k * channels // groups
    np.testing.assert_allclose(output_map(model, x), per_group.mean(-1) * weight_variance(name, fan_in, k * k * channels), rtol=FOUR)


def transposed_taps(size: int, k: int, stride: int, padding: str) -> np.ndarray:
    """How often an input pixel reaches an output pixel, ``[output, input]``, in one dimension.

    Input i is scattered to outputs i*stride ... i*stride + k - 1; SAME keeps size*stride of them, cropped at the start as
    ``jax.lax.conv_transpose`` documents.
    """
    length = (size - 1) * stride + max(k, stride)
    full = np.zeros((length + k + stride, size))
    for i in range(size):
        full[i * stride:i * stride + k, i] += 1
    if padding == "VALID":
        return full[:length]
    before = 0 if stride > k - 1 else k - 1 - (k + stride - 1) // 2
    return full[before:before + size * stride]


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_transposed_convolution_map(k, stride, padding):
    """Variance of each output pixel is the energy of the inputs that reach it times the variance of a weight, 2/(C k^2) for He."""
    x = RNG.standard_normal((2, 4, 3, 2)).astype(np.float32)
    energy = (x.astype(float) ** 2).sum(-1)
    for name, variance in (("He", 2 / (2 * k * k)), ("LeCun", 1 / (2 * k * k)), ("N(0, 0.01^2)", 1e-4)):
        model = nn.ConvTranspose(8, (k, k), strides=(stride, stride), padding=padding, kernel_init=INITS[name])
        rows, columns = (transposed_taps(n, k, stride, padding) for n in (4, 3))
        np.testing.assert_allclose(output_map(model, x), np.einsum("ph,qw,bhw->bpq", rows, columns, energy) * variance, rtol=FOUR)


def test_transposed_checkerboard():
    """k=3, stride 2: 2 or 1 taps per dimension by output phase, so interior variances in the ratio 4 : 2 : 1."""
    x = np.ones((1, 8, 8, 4), np.float32)
    found = output_map(nn.ConvTranspose(8, (3, 3), strides=(2, 2), kernel_init=INITS["LeCun"]), x)[0][4:8, 4:8]
    taps = np.sort(np.unique(np.round(found * 9)))
    np.testing.assert_allclose(taps, [1, 2, 4], rtol=FOUR)
    np.testing.assert_allclose(found.mean(), (3 / 2) ** 2 / 9, rtol=FOUR)  # C k^2 / s^2 inputs reach a pixel on average


@pytest.mark.parametrize(("k", "stride"), [(3, 2), (5, 3)])
@pytest.mark.slow
def test_transposed_map_agrees_with_monte_carlo(k, stride):
    x = RNG.standard_normal((1, 3, 3, 2)).astype(np.float32)
    model = nn.ConvTranspose(16, (k, k), strides=(stride, stride), kernel_init=INITS["He"])
    harness.check(sp.network(model, x), x)


@pytest.mark.parametrize("name", INITS)
def test_deep_autoencoder(name):
    """40 ReLU layers with a bottleneck: q_l = v_w n q_(l-1) / 2 with the true fans of each layer."""
    widths = [64] * 10 + [48] * 5 + [32] * 10 + [48] * 5 + [64] * 10
    layers = [layer for n in widths for layer in (nn.Dense(n, kernel_init=INITS[name]), nn.relu)]
    x = RNG.standard_normal((2, 64)).astype(np.float32)
    predicted = sp.propagate(sp.network(nn.Sequential(layers), x), x, backward=False)
    q, expected = float((x.astype(float) ** 2).mean()) * 2, []
    for fan_in, fan_out in zip([64, *widths[:-1]], widths, strict=True):
        q = q / 2 * fan_in * weight_variance(name, fan_in, fan_out)
        expected.append(np.log10(q))
    second = predicted.log10_second_moment.values[::2]
    np.testing.assert_allclose(second, expected, rtol=0, atol=FOUR / np.log(10))


@pytest.mark.parametrize("name", INITS)
@pytest.mark.parametrize("kept", [0.5, 0.1])
def test_fixed_random_mask(name, kept):
    """A fixed mask that keeps a share p of each unit's inputs multiplies the variance by its share, layer by layer."""
    n, depth = 100, 6
    order = np.argsort(RNG.random((depth, n, n)), axis=1)  # exactly p*n inputs per unit
    masks = (order < round(kept * n)).astype(np.float32)

    class Masked(nn.Module):
        @nn.compact
        def __call__(self, x):
            for layer in range(depth):
                kernel = self.param(f"kernel{layer}", INITS[name], (n, n))
                x = nn.relu(x @ (kernel * masks[layer]))
            return x

    x = np.ones((1, n), np.float32)
    predicted = sp.propagate(sp.network(Masked(), x), x)
    last = predicted.second_moment.values[-1]
    factor = kept * n * weight_variance(name, n, n) / 2
    np.testing.assert_allclose(last, factor**depth, rtol=FOUR)


def test_random_mask_drawn_with_the_parameters():
    def init(key):
        one, two = jax.random.split(key)
        return jax.random.normal(one, (40, 64)) * jax.random.bernoulli(two, 0.2, (40, 64)) * (2 / 40) ** 0.5

    x = RNG.standard_normal((3, 40)).astype(np.float32)
    net = sp.network(lambda w, x: x @ w, x, init=init)
    np.testing.assert_allclose(harness.predict(net, x), 0.2 * 2 / 40 * x.astype(float) @ x.T, rtol=FOUR)
    assert jnp.shape(net.init(jax.random.key(0))) == (40, 64)


def _on_sphere(z, n):
    """Density of a coordinate of a point on the sphere of radius ``sqrt(n)``."""
    return (1 - np.minimum(z**2 / n, 1)) ** ((n - 3) / 2)


def _sum_of_uniforms(z, n):
    """Density of a sum of ``n`` uniform variables, of variance 1."""
    t = np.linspace(-12, 12, 1201)
    return np.cos(t * z[:, None]) @ np.sinc(t * np.sqrt(3 / n) / np.pi) ** n


FEW = {
    "weights over their norm": (lambda f: nn.WeightNorm(nn.Dense(f, kernel_init=initializers.normal(1.0))), _on_sphere),
    "uniform weights": (lambda f: nn.Dense(f, kernel_init=initializers.variance_scaling(1.0, "fan_in", "uniform")), _sum_of_uniforms),
}


@pytest.mark.parametrize("activation", [nn.silu, nn.tanh, jnp.square])
@pytest.mark.parametrize("n", [16, 64, 256])
@pytest.mark.parametrize("name", FEW)
def test_declared_error_of_a_sum_over_few_inputs(name, n, activation):
    """The gap to the density of the sum is the declared error, up to the next order in ``1 / n``; norms of few weights are sampled."""
    (layer, law), x = FEW[name], np.where(np.arange(n) % 3, 1, -1).astype(np.float32)[None]
    predicted = sp.propagate(sp.network(nn.Sequential([layer(64), activation]), x), x)
    second, error, method = (predicted[k].values[-1] for k in ("second_moment", "error", "method"))
    z = np.linspace(-9, 9, 3601)
    density = law(z, n)
    exact = (np.asarray(activation(z.astype(np.float32)), float) ** 2 * density).sum() / density.sum()
    if method.startswith("sampled"):
        assert abs(second - exact) < 4 * error < 0.05 * exact
    else:
        assert error == pytest.approx(abs(second - exact), rel=8 / n)
