"""The studies: textbook numbers for predictions, measurement against prediction, and bad input.

Predicted variances are exact but for initializers that round standard deviations to float32, relative 1e-7 per layer. Measurements raise a
false alarm with probability 1e-6 each and detect what stands beside them; ReLU chains need no allowance for finite width, since the sign
symmetry of their weights makes E[z²] and E[g²] what they are in the limit.
"""

from functools import partial
from math import log, pi, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import Sample, agree

import sigprop as sp
from sigprop import studies
from sigprop.studies import (
    attention_entropy,
    deep_autoencoder,
    densenet_bn,
    depthwise_conv,
    pointwise_conv,
    resnet_zero_gamma,
    results,
    transposed_conv,
    weight_norm,
)

slow = partial(pytest.param, marks=pytest.mark.slow)
FLAT = 2e-6
EPSILON = 1e-4  # of what five batch normalizations lose to their epsilon
forward = partial(studies.study.predict, backward=False)


def test_the_package_is_imported_when_used():
    assert sp.studies is studies
    assert {*results.NAMES, "Claim", "run"} == {*studies.__all__}
    assert all(hasattr(getattr(studies, name), f) for name in results.NAMES for f in ("Config", "PRESETS", "compute", "claims", "draw"))
    with_networks = (attention_entropy, deep_autoencoder, densenet_bn, depthwise_conv, pointwise_conv, resnet_zero_gamma, transposed_conv,
                     weight_norm)
    assert all(hasattr(module, f) for module in with_networks for f in ("Study", "predict", "measure"))


POINTWISE = {  # E[z²] of both layers from C to C and to 64 channels
    "he": lambda c: [2, 2], "xavier": lambda c: [1, c / (c + 64)], "lecun": lambda c: [1, 0.5], "normal": lambda c: [c, c**2 / 2],
    sp.init.Normal(0.1): lambda c: [0.1 * c, 0.005 * c**2],
}


@pytest.mark.parametrize("channels", [3, 2048])
@pytest.mark.parametrize("init", POINTWISE, ids=str)
def test_pointwise(init, channels):
    """At 3 channels ReLU still halves E[z²], by the symmetry of the weights; so few are sampled, with the error that is stated."""
    found, expected = forward(pointwise_conv.Study(init=init, channels=channels, examples=1)), np.array(POINTWISE[init](channels))
    assert (np.abs(found.second_moment - expected) < FLAT * expected + 3 * found.error).all()
    assert (found.error < 2e-3 * expected).all()


DEPTHWISE = {
    "depthwise": ({}, [2, 2]), "grouped": ({"groups": 4}, [2, 2]), "separable": ({}, [1, 2, 1, 2]),
    "grouped, Xavier": ({"kind": "grouped", "groups": 4, "init": "xavier"}, [1, 0.5]), "LeCun": ({"init": "lecun"}, [1, 0.5]),
}


@pytest.mark.parametrize(("k", "channels"), [(3, 8), (4, 12)])
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(name, k, channels):
    """The number of channels does not matter where all pixels have k² taps."""
    options, expected = DEPTHWISE[name]
    kind = {"kind": name} if name in ("grouped", "separable") else {}
    found = forward(depthwise_conv.Study(k=k, channels=channels, size=4, examples=1, padding="CIRCULAR", **kind, **options))
    np.testing.assert_allclose(found.second_moment, expected, rtol=FLAT)


@pytest.mark.parametrize("k", [3, 4, 5])
def test_padding_takes_taps_at_the_border(k, size=6):
    """Forward and backward, pixel by pixel: a corner keeps (k+1)²/(2k)² of the variance for odd k."""
    found = depthwise_conv.predict(depthwise_conv.Study(k=k, channels=8, size=size, examples=1))
    reach = np.array([[-((k - 1) // 2) <= j - i <= k // 2 for j in range(size)] for i in range(size)])
    taps, fed = reach.sum(1), reach.sum(0)
    np.testing.assert_allclose(found["site_variance:layers/0"][0], 2 * np.outer(taps, taps) / k**2, rtol=FLAT)
    np.testing.assert_allclose(found["site_grad_variance:layers/0"][0], np.outer(fed, fed) / k**2, rtol=FLAT)
    if k % 2:
        assert found["site_variance:layers/0"].values[0, 0, 0] / 2 == pytest.approx((k + 1) ** 2 / (2 * k) ** 2)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_transposed(k, stride, channels=8, size=4):
    """Taps that reach a pixel, and pixels that an input feeds, counted by the operation on ones; means of C k²/s² and C k² inside."""
    found = transposed_conv.predict(transposed_conv.Study(k=k, stride=stride, channels=channels, features=channels, size=size, examples=1))

    def ones(x):
        return jax.lax.conv_transpose(x, jnp.ones((k, k, 1, 1)), (stride, stride), "SAME")

    reached, back = jax.vjp(ones, jnp.ones((1, size, size, 1)))
    (fed,) = back(jnp.ones_like(reached))
    weight = 2 * stride**2 / k**2  # variance of a weight, times C
    np.testing.assert_allclose(found["site_variance:layers/2"][0], weight * reached[0, :, :, 0], rtol=FLAT)
    np.testing.assert_allclose(found["site_grad_variance:relu"][0], weight * fed[0, :, :, 0], rtol=FLAT)
    inner = found["site_variance:layers/2"].values[0][stride:-stride, stride:-stride]
    if stride < size - 2 and (size - 2) * stride > k:
        np.testing.assert_allclose(inner[:stride, :stride].mean(), 2, rtol=0.15 if k > 4 else FLAT)
    if (k, stride) == (3, 2):
        assert {*np.round(inner.ravel() * 9 / 8, 4)} == {1.0, 2.0, 4.0}


@pytest.mark.parametrize("stride", [2, 3])
def test_counting_the_kernel_is_low_by_the_stride_squared(stride):
    for init, lost in (("he", 1), (sp.init.he(), stride**2)):
        found = forward(transposed_conv.Study(k=stride, stride=stride, depth=2, size=2, channels=8, features=8, init=init, examples=1))
        np.testing.assert_allclose(found.second_moment[[0, 2, 3]], [2, 2 / lost, 2 / lost**2], rtol=FLAT)


LOGITS = {
    "He": ({"init": "he"}, 4), "Xavier": ({"init": "xavier"}, 1), "LeCun": ({"init": "lecun"}, 1),
    "fused Xavier": ({"init": "xavier", "fused": True}, 0.25), "over d": ({"power": 1.0, "heads": 4}, 4 / 32),
    "causal": ({"causal": True}, 4), "alike": ({"similarity": 0.9}, 4),
}


@pytest.mark.parametrize("name", LOGITS)
def test_attention_logits(name):
    options, variance = LOGITS[name]
    found = attention_entropy.predict(attention_entropy.Study(tokens=16, **options))
    assert (np.abs(found.logit_variance - variance) < 4 * found.logit_error).all()
    assert (found.logit_error < 0.02 * variance).all()
    if name == "alike":
        np.testing.assert_allclose(found.row_variance, 4 * 0.1 * 15 / 16, rtol=0.3)


@pytest.mark.parametrize(("tokens", "variance", "entropy"), [(128, 0.25, 4.7284), (128, 1, 4.3667), (128, 4, 3.206), (128, 16, 1.529),
                                                             (16, 1, 2.356), (16, 4, 1.645)])
def test_independent_logits(tokens, variance, entropy):
    """Reference means of 4,000 rows, four standard errors and rounding."""
    found = attention_entropy.predict(attention_entropy.Independent(tokens=tokens, variance=variance))
    assert abs(found.entropy_mean.item() - entropy) < 4 * (found.entropy_std.item() / 4000**0.5 + found.error.item()) + 5e-4
    if variance < 0.5:
        assert found.entropy_mean.item() == pytest.approx(log(tokens) - variance / 2, rel=2e-3)


def test_sharper_attention():
    """Of 16 tokens: He's rows are sharper than Xavier's, larger variances keep fewer keys and give one more weight."""
    he, xavier = (attention_entropy.predict(attention_entropy.Study(tokens=16, init=init)) for init in ("he", "xavier"))
    assert (he.entropy_mean < xavier.entropy_mean - 0.5).all() and (he.effective_keys < xavier.effective_keys).all()
    assert (he.max_weight > 1.5 * xavier.max_weight).all()


AUTOENCODERS = {"xavier": 0.5, sp.init.Normal(1e-4): 0.0032}


@pytest.mark.parametrize("init", ["xavier", slow("he"), slow(sp.init.Normal(1e-4))], ids=str)
def test_forty_layers(init, depth=42):
    """2^-40 = 9.1e-13 for square Glorot after forty layers, forward and backward; 3.2e-3 per layer for N(0, 0.01²)."""
    found = deep_autoencoder.predict(deep_autoencoder.Study(depth=depth, init=init, examples=2))
    factor = AUTOENCODERS.get(init, 1.0)
    for name, order in (("log10_second_moment", 1), ("log10_grad_variance", -1)):
        decades = found[name].values[::order]
        np.testing.assert_allclose(decades - decades[0], np.log10(factor) * np.arange(depth), atol=1e-5)
    if init == "xavier":
        assert found.second_moment.values[40] / found.second_moment.values[0] == pytest.approx(9.1e-13, rel=1e-3)


def test_bottleneck():
    """He is exact forward; the gradient is multiplied by n_out / n_in."""
    study = deep_autoencoder.Study(depth=12, bottleneck=16, examples=2)
    found, widths = deep_autoencoder.predict(study), np.array(study.widths)
    np.testing.assert_allclose(found.second_moment / found.second_moment[0], 1, rtol=FLAT)
    g = found.grad_variance.values
    np.testing.assert_allclose(g[:-1] / g[1:], widths[2:] / widths[1:-1], rtol=FLAT)


def gradients(found):
    return dict(zip(found.parameter.values, found.parameter_grad_variance.values, strict=True))


@pytest.mark.parametrize("start", ["gamma", "skip_init", "rezero", "fixup"])
def test_blocks_that_start_as_the_identity(start):
    """A constant stream; branch weights have gradients of exactly 0, what multiplies the branch has not (Fixup: its head is 0 too)."""
    study = resnet_zero_gamma.Study(start=start, blocks=2, examples=3, size=2)
    found = resnet_zero_gamma.predict(study)
    np.testing.assert_allclose(found.second_moment, found.second_moment[0], rtol=1e-12)
    sizes = gradients(found)
    assert all(sizes[f"blocks/{k}/convs/{j}/kernel"] == 0 for k in range(2) for j in range(2))
    assert all((sizes[name] > 0.01) == (start != "fixup") for name in study.scales())


@pytest.mark.parametrize("gamma", [1.0, slow(0.25), slow(0.5)])
def test_the_stream_grows_by_gamma_squared(gamma):
    """On the statistics of the batch, within what is sampled and lost to epsilon."""
    found = forward(resnet_zero_gamma.Study(gamma=gamma, blocks=2, examples=4, size=2))
    np.testing.assert_allclose(np.diff(found.second_moment), gamma**2, rtol=2e-3)


def dense_block(growth, layers, factor):
    """E[z²] of the stem and of each layer's new features, where a layer of C inputs multiplies their mean by ``factor(C)``."""
    sizes, found = [2 * growth], [factor(3, 2 * growth) * 2]
    for _ in range(layers):
        found.append(factor(sum(sizes), growth) * float(np.dot(found, sizes)) / sum(sizes))
        sizes.append(growth)
    return found


@pytest.mark.parametrize(("norm", "growth"), [(True, 12), (False, 24), slow(False, 48)])
@pytest.mark.parametrize("init", ["he", "xavier"])
def test_dense_block(init, norm, growth):
    """Without normalization, or with running statistics of 0 and 1, He keeps E[z²] of every new feature and Glorot lowers it."""
    study = densenet_bn.Study(growth=growth, init=init, norm=norm, batch_statistics=False, examples=1, size=3)
    expected = dense_block(growth, 3, (lambda c, m: 1) if init == "he" else lambda c, m: c / (c + m))
    np.testing.assert_allclose(forward(study).second_moment, expected, rtol=EPSILON if norm else FLAT)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["he", "xavier"])
def test_dense_block_on_the_batch(init, growth=12):
    """Every new feature has variance 1 under He, C / (C + growth) under Glorot, whatever came before; within what is sampled."""
    found = forward(densenet_bn.Study(init=init, growth=growth, layers=2, size=3))
    expected = [1, 1] if init == "he" else [c / (c + growth) for c in (2 * growth, 3 * growth)]
    np.testing.assert_allclose(found.second_moment[1:], expected, rtol=5e-3)


@pytest.mark.slow
def test_gradients_explode_under_batch_normalization(examples=256, depth=14):
    """By pi / (pi - 1) per layer (Yang et al. 2019), within 1 %."""
    size = densenet_bn.predict(densenet_bn.Perceptron(examples=examples, depth=depth)).grad_variance.values
    np.testing.assert_allclose((size[10] / size[13]) ** (1 / 3), pi / (pi - 1), rtol=0.01)


@pytest.mark.parametrize(("gain", "depth"), [(sqrt(2), 20), (1.0, 6), slow(sqrt(2), 100)])
def test_weight_norm(gain, depth):
    """E[z²] is multiplied by g²/2 from layer to layer, and so is the gradient on the way back."""
    found = weight_norm.predict(weight_norm.Study(gain=gain, depth=depth, examples=1), backward=depth < 10)
    np.testing.assert_allclose(found.second_moment, gain**2 * (gain**2 / 2) ** np.arange(depth), rtol=1e-7 * depth)
    if depth < 10:
        np.testing.assert_allclose(found.grad_variance, (gain**2 / 2) ** np.arange(depth)[::-1], rtol=1e-6)


def test_gradients_of_weight_norm(depth=3, scale=100.0):
    """That of g is E[(dL/dz)²] E[(v x / |v|)²] summed over examples, whatever the scale of v; that of v is inverse to its square."""
    one, other = (gradients(weight_norm.predict(weight_norm.Study(depth=depth, scale=s, examples=2))) for s in (1.0, scale))
    for k in range(depth):
        assert one[f"layers/{k}/gain"] == pytest.approx(2, rel=1e-5) == other[f"layers/{k}/gain"]
        assert one[f"layers/{k}/layer/kernel"] == pytest.approx(scale**2 * other[f"layers/{k}/layer/kernel"], rel=1e-5)


MEASURED = {  # study, seeds, what is detected, allowance for finite width
    "pointwise": (pointwise_conv.Study(channels=16, features=16), 512, 0.25, 0.0),
    "weight norm": (weight_norm.Study(depth=2), 512, 0.25, 2 / 64),
}
SLOW = {
    "pointwise, 3 channels, unit weights": (pointwise_conv.Study(channels=3, init="normal"), 2048, 0.3, 0.0),
    "depthwise": (depthwise_conv.Study(k=5, size=6), 1024, 0.15, 0.0),
    "grouped": (depthwise_conv.Study(kind="grouped", groups=4, init="xavier", size=6), 1024, 0.15, 0.0),
    "separable": (depthwise_conv.Study(kind="separable", size=4), 1024, 0.15, 0.0),
    "transposed": (transposed_conv.Study(k=3, size=4), 1024, 0.15, 0.0),
    "transposed, gaps": (transposed_conv.Study(k=2, stride=3, size=4), 1024, 0.15, 0.0),
    "autoencoder": (deep_autoencoder.Study(width=256, depth=12, init="xavier", bottleneck=64), 1024, 0.3, 0.0),
    "residual, gamma 0": (resnet_zero_gamma.Study(blocks=2, width=64, examples=4), 512, 0.3, 8 / 64),
    "residual, LayerScale, running": (resnet_zero_gamma.Study(start="layer_scale", blocks=2, width=64, batch_statistics=False, examples=2),
                                      1024, 0.3, 8 / 64),
    "dense block, running": (densenet_bn.Study(growth=48, examples=2, batch_statistics=False), 1024, 0.3, 8 / 48),
    "batch-normalized perceptron": (densenet_bn.Perceptron(width=256, examples=16), 512, 0.3, 8 / 256),
}


@pytest.mark.parametrize("name", [*MEASURED, *(slow(name) for name in SLOW)])
def test_measurement_agrees(name):
    study, seeds, detects, allowance = {**MEASURED, **SLOW}[name]
    found, measured = studies.study.predict(study), studies.study.measure(study, seeds, jax.random.key(1))
    unmeasured = {"gaussian", "method", "error", "grad_error", "parameter_grad_error"}
    assert {*found} - unmeasured == {n for n in measured if "_stderr" not in n}
    for column in ("second_moment", "grad_variance", "parameter_grad_variance"):
        one, other, error = (f[n].values for f, n in ((found, column), (measured, column), (measured, f"{column}_stderr")))
        assert (other[one == 0] == 0).all()
        live = one > 0  # not NaN; as ratios, since layers differ by powers of ten
        ratios = Sample(other[live] / one[live], error[live] / one[live], seeds // 4 - 1)
        agree(np.ones(live.sum()), ratios, detects=detects, allowance=allowance)
    for kind in ("site_variance", "site_grad_variance"):
        for node in [n for n in found if n.startswith(f"{kind}:")]:
            stderr = measured[node.replace(kind, f"{kind}_stderr")].values
            agree(found[node].values, Sample(measured[node].values, stderr, seeds // 4 - 1), detects=1.0, allowance=allowance)


@pytest.mark.slow
def test_measured_attention():
    """Heads of 32 channels: mean entropy relative to ln n, and the logits' variance."""
    study = attention_entropy.Study(heads=4, tokens=64)
    found, measured = attention_entropy.predict(study), attention_entropy.measure(study, 512, jax.random.key(1))
    assert {"entropy_mean", "entropy_mean_stderr", "effective_keys", "max_weight", "row_variance"} <= {*measured}
    for column, detects, scale in (("entropy_mean", 0.02, log(64)), ("logit_variance", 0.1, None), ("effective_keys", 0.1, None)):
        one, other, error = found[column].values[0], measured[column].values[0], measured[f"{column}_stderr"].values[0]
        agree(one[0], Sample(other.mean(), (np.mean(error**2) / 4) ** 0.5, 127), detects=detects, allowance=0.005, scale=scale)


def test_standardized_layers(depth=3, width=128):
    """They lose what their inputs have in common, which the gain of ReLU makes up for; 2/width is a correction to the limit."""
    study = weight_norm.Study(kind="standardized", gain=sp.init.nfnet_gain("relu"), width=width, depth=depth, examples=1)
    size = forward(study).second_moment.values
    np.testing.assert_allclose(size[1:] / size[:-1], 1, rtol=3 / width)


def test_spectral_layers_leave_a_quarter_of_the_signal():
    """One step of power iteration finds the norm 2 of He's square weights, whose spectral norm is sqrt(8)."""
    study = weight_norm.Study(kind="spectral", width=256, depth=4)
    found = weight_norm.predict(study)
    np.testing.assert_allclose(found.second_moment, 0.5 * 0.25 ** np.arange(4.0), rtol=1e-6)
    np.testing.assert_allclose(found.grad_variance, 0.25 ** np.arange(3, -1, -1.0), rtol=1e-6)


@pytest.mark.slow
def test_spectral_layers_are_measured():
    study = weight_norm.Study(kind="spectral", width=256, depth=4)
    found, measured = weight_norm.predict(study), weight_norm.measure(study, 64)
    for column in ("second_moment", "grad_variance"):
        size = found[column].values
        agree(np.ones(4), Sample(measured[column].values / size, measured[f"{column}_stderr"].values / size, 63), detects=0.35,
              allowance=8 / 256)


@pytest.mark.slow
def test_standardized_layers_are_measured():
    study = weight_norm.Study(kind="standardized", gain=sp.init.nfnet_gain("relu"), width=128, depth=6)
    found = weight_norm.measure(study, 256)
    size, error = found.second_moment.values, found.second_moment_stderr.values
    assert (np.abs(size[1:] - size[0]) < 6 * np.hypot(error[1:], error[0])).all()


@pytest.mark.slow
def test_training():
    """Forty layers learn under He only; gammas leave zero and the loss falls."""
    he, glorot = (deep_autoencoder.train(deep_autoencoder.Study(init=init), steps=300) for init in ("he", "xavier"))
    assert he.loss[-20:].mean() < 0.8 * he.chance and glorot.loss[-20:].mean() > 0.95 * glorot.chance
    found = resnet_zero_gamma.train(resnet_zero_gamma.Study(blocks=2), steps=150, learning_rate=1e-2)
    assert found.loss[-20:].mean() < 0.5 * log(10) and (found.rms[0] == 0).all() and (found.rms[-1] > 0.01).all()


BAD = {
    "init: 'kaiming' is none of 'he', 'xavier', 'lecun', 'normal'; or give an init": lambda: pointwise_conv.Study(init="kaiming"),
    "channels: 0 given": lambda: pointwise_conv.Study(channels=0),
    "examples: 0 given": lambda: transposed_conv.Study(examples=0),
    "kernel: 0 given": lambda: depthwise_conv.Study(k=0),
    "kind: 'full' is none of 'depthwise', 'grouped'": lambda: depthwise_conv.Study(kind="full"),
    "groups: 5 given, it does not divide the 32 channels": lambda: depthwise_conv.Study(groups=5),
    "padding: 'same' is none of": lambda: transposed_conv.Study(padding="same"),
    "stride: 0 given": lambda: transposed_conv.Study(stride=0),
    "heads: 3 given, it does not divide the 128 features": lambda: attention_entropy.Study(heads=3),
    "similarity: 2 given; it must be at least 0 and at most 1": lambda: attention_entropy.Study(similarity=2),
    "variance: -1 given": lambda: attention_entropy.Independent(variance=-1),
    "seeds: 4 given; standard errors need at least 8": lambda: attention_entropy.measure(attention_entropy.Study(tokens=4), seeds=4),
    "depth: 5 given; it must be even": lambda: deep_autoencoder.Study(depth=5),
    "batch_size: 5000 given, there are 1797": lambda: deep_autoencoder.train(deep_autoencoder.Study(depth=4), batch_size=5000),
    "start: 'zero' is none of 'gamma', 'skip_init'": lambda: resnet_zero_gamma.Study(start="zero"),
    "gamma: nan is not a finite": lambda: resnet_zero_gamma.Study(gamma=float("nan")),
    "growth: 1.5 given": lambda: densenet_bn.Study(growth=1.5),
    "act: 'gelu' is none of": lambda: densenet_bn.Perceptron(act="gelu"),
    "gain: 0 given; it must be above 0": lambda: weight_norm.Study(gain=0),
    "kind: 'scaled' is none of": lambda: weight_norm.Study(kind="scaled"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    with pytest.raises(sp.InvalidInput, match=message):
        BAD[message]()
