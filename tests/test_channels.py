"""A scale for each channel: chosen by its numbers, executed, and its noise measured beside the prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from test_precision import Images, mlp

import sigprop as sp
from sigprop.inputs import load

P = sp.precision


def images():
    x = load("digits", 4, (8, 8, 1), 10)
    return sp.network(Images((16, 32)), x), x


@pytest.mark.parametrize("scheme", ["mse", "absmax", "saturation"])
@pytest.mark.parametrize("made", [lambda: mlp(512, 1), images], ids=["perceptron", "convolutions"])
def test_scales_for_each_channel_against_measurement(made, scheme):
    """Of every row and weight, 16 draws of 16 channels beside 64 predicted ones, in standard errors; false alarm 1e-3 for all together.
    Seen are discrepancies of 3 dB at the median, of 4 dB where a share is clipped; scales for each channel gain up to 15 dB."""
    net, x = made()
    found = P.analyze(net, x, dtypes=["int8", "int4", "float8_e4m3fn"], scheme=scheme, saturation=0.01, backward=False)
    measured = P.measure(net, x, analysis=found, seeds=16, backward=False)
    gaps, errors = [], []
    for prefix in ("", "weight_"):
        one, two, error = (a.sel(granularity="channel").values for a in (
            found[f"{prefix}sqnr"], measured[f"{prefix}sqnr"], measured[f"{prefix}sqnr_stderr"]))
        errors.append(np.hypot(found[f"{prefix}channel_sqnr_stderr"].values, error))
        gaps.append(np.abs(one - two) / errors[-1])
        assert (np.isnan(one) == (found[f"{prefix}channel_axes"].values == 0)[:, None]).all()
    gaps, errors = (np.concatenate(a) for a in (gaps, errors))
    critical = stats.t.isf(1e-3 / np.isfinite(gaps).sum() / 2, 15)
    assert np.nanmax(gaps) < critical, gaps
    assert np.nanmax(errors) * critical < 8 and np.nanmedian(errors) * critical < (4 if scheme == "saturation" else 3), errors


def test_scales_for_each_channel_are_those_of_the_channel():
    """Each channel as its own quantizer would have it, kernels of two channel axes too, in the dtype of the array."""
    values = np.random.default_rng(0).standard_normal((50, 3, 4)) * np.arange(1, 13).reshape(3, 4) ** 2
    for scheme in ("mse", "absmax", "saturation"):
        both = P.channel_quantizer(values, "int4", scheme, axes=2, saturation=0.1)
        assert both.scale.shape == both.clip.shape == (3, 4)
        for k in np.ndindex(3, 4):
            alone = P.channel_quantizer(values[(..., *k)][:, None], "int4", scheme, saturation=0.1)
            np.testing.assert_allclose(both.scale[k], alone.scale[0])
            np.testing.assert_allclose(both(values)[(..., *k)], alone(values[(..., *k)][:, None])[:, 0])
        assert both.sqnr == pytest.approx(10 * np.log10(np.mean(values**2) / np.mean((values - both(values)) ** 2)))
        assert scheme != "mse" or both.sqnr > P.quantizer(P.of_samples(values), "int4").sqnr + 2
        assert both.saturation == pytest.approx({"mse": both.saturation, "absmax": 0.0, "saturation": 0.1}[scheme])
    assert both(jnp.asarray(values, jnp.bfloat16)).dtype == jnp.bfloat16
    assert P.channel_quantizer(values**2, "int8").format.name == "uint8"
    half = P.channel_quantizer(values, "bfloat16")
    np.testing.assert_array_equal(half.scale, np.ones(4))


@pytest.mark.parametrize("made", [lambda: mlp(64), lambda: images(), lambda: embedded()], ids=["perceptron", "convolutions", "moved"])
def test_execution_with_a_scale_for_each_output_channel(made):
    """Weights whose output channels differ in size: a scale for each loses less, in integers as in dequantized numbers, and so does one
    for each channel of rows in dequantized ones, beside scales from the rows' values; noise is what the quantizers say."""
    net, x = made()
    params = jax.tree.map(lambda a: a * np.geomspace(0.1, 10, a.shape[-1]).astype(a.dtype) if a.ndim > 1 else a,
                          net.init(jax.random.key(1)))
    known = sp.network(net.apply, x, params=params)
    found, values, arrays = P.analyze(known, x, dtypes=["int8"], backward=False), P.values(known, params, x), P.values(known, params)
    names = [name for name in P.operands(known, x) if np.any(values[name])]
    tensor = {name: P.quantizer(P.of_samples(values[name])) for name in names}
    exact, channel = net.apply(params, x), P.quantizers(found, "int8", values)
    weights = {name: channel[name] if name in arrays else q for name, q in tensor.items()}
    rows = {name: q if name in arrays else channel[name] for name, q in tensor.items()}
    for name in names:
        a, q = np.asarray(values[name], np.float64), channel[name]
        if name != "x[0]":
            assert 0 < q.scale.ndim < a.ndim and q.scale.shape == a.shape[-q.scale.ndim:] and q.sqnr > tensor[name].sqnr
        assert q.sqnr == pytest.approx(10 * np.log10(np.mean(a**2) / np.mean((a - q(a)) ** 2)), abs=1e-6 if name != "x[0]" else 0.1)
    one, two = (jax.jit(f(known, weights))(params, x) for f in (P.integer, P.quantized))
    np.testing.assert_allclose(one, two, atol=2e-5 * np.abs(two).max())
    lost = [float(jnp.mean((P.quantized(known, q)(params, x) - exact) ** 2 / jnp.mean(exact**2, 0))) for q in (tensor, weights, rows)]
    assert lost[1] < lost[0] / 2 and lost[2] < lost[0], lost


def embedded():
    """A kernel on the left of its product, and one cut into those of a batch of products."""
    def apply(params, x):
        one, two = params
        h = jnp.einsum("bi,io->ob", x, one).T
        h = jax.nn.relu(h.reshape(-1, 2, 16))
        return jnp.einsum("bgi,gio->bgo", h, two.reshape(2, 16, 8)).reshape(len(x), -1)

    x = load("digits", 4, None, 2).astype(np.float32)
    return sp.network(apply, x, init=lambda key: [jax.random.normal(key, (64, 32)) / 8, jax.random.normal(key, (32, 8)) / 4]), x


NET, X = mlp(8)
PARAMS = NET.init(jax.random.key(0))
BAD = {
    "axes: 3 of": lambda: P.channel_quantizer(np.ones((2, 3)), axes=3),
    "axes: 0 of": lambda: P.channel_quantizer(np.ones((2, 3)), axes=0),
    "for finite numbers": lambda: P.channel_quantizer(np.array([[1.0, np.inf]])),
    "values: none": lambda: P.channel_quantizer(np.ones((0, 3))),
    "unsigned integers would clip": lambda: P.channel_quantizer(-np.ones((2, 3)), one_sided=True),
    "scheme: .*max": lambda: P.channel_quantizer(np.ones((2, 3)), scheme="max"),
    "concrete numbers": lambda: jax.jit(lambda a: P.channel_quantizer(a).scale)(X),
    "'nowhere' is no row": lambda: P.quantizers(P.analyze(NET, X, dtypes=["int8"], backward=False), "int8", {"nowhere": X}),
    r"shape \(9,\), does not fit": lambda: P.channel_quantizer(np.ones((2, 9)))(X),
    r"shape \(3,\), does not fit": lambda: P.quantized(NET, {"x[0]": P.channel_quantizer(np.ones((2, 3)))})(PARAMS, X),
    r"shape \(2, 4, 64\), does not fit": lambda: P.integer(NET, {"x[0]": P.channel_quantizer(np.ones((2, 4, 64)), axes=3)})(PARAMS, X),
    "a product sums up": lambda: P.integer(NET, {name: P.channel_quantizer(a) for name, a in {"x[0]": X, "0": PARAMS[0]}.items()})(
        PARAMS, X),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input(words):
    with pytest.raises(sp.InvalidInput, match=words):
        BAD[words]()
