"""Quantization and half precision: published numbers, closed forms, real dtypes, and networks measured beside their prediction."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import sigprop as sp
from sigprop.inputs import load
from sigprop.precision.formats import number_format
from sigprop.precision.quantizer import noise
from sigprop.predict.distribution import pooled
from sigprop.tracing import evaluate

P = sp.precision
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
DRAWS = np.random.default_rng(0).standard_normal(400_000)
LAWS = {  # a law, and numbers drawn from it
    "gaussian": (P.normal(1.5), 1.5 * DRAWS),
    "off zero": (P.normal(0.5, 1.0), 1.0 + 0.5 * DRAWS),
    "rectified": (P.rectified(2.0), np.maximum(2.0 * DRAWS, 0)),
    "mixture": (pooled([(P.normal(0.1), 0.5), (P.normal(3.0), 0.5)]), DRAWS * np.where(np.arange(DRAWS.size) % 2, 0.1, 3.0)),
    "softmax": (P.of_samples(np.exp(2 * stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)) / 500), np.exp(2 * DRAWS) / 500),
}


@pytest.mark.parametrize(("law", "dtype", "clip", "sqnr"), [
    (P.normal(), "int8", 3.92, 40.5), (P.normal(), "int4", 2.474, 18.9),  # Max 1960, in steps of 2 clip / 254 and 2 clip / 14
    (P.rectified(), "int8", 4.215, 46.0), (P.rectified(), "int4", 2.899, 24.3)])
def test_published_clips(law, dtype, clip, sqnr):
    found = P.quantizer(law, dtype)
    assert found.clip == pytest.approx(clip, abs=0.5 * 10.0 ** -len(str(clip).partition(".")[2]) + 1e-9)
    assert found.sqnr == pytest.approx(sqnr, abs=0.05)
    assert P.quantizer(law.scaled(7.0), dtype).clip == pytest.approx(7 * found.clip, rel=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize(("depth", "fp16"), [(10, (0.1436, 9.189)), (50, (0.6783, 1.558)), (100, (0.8236, 1.248))])
def test_gain_window(dtype, depth, fp16):
    window, info = P.gain_window(dtype, depth), jnp.finfo(dtype)
    assert window.low ** (depth / 2) == pytest.approx(float(info.smallest_normal)) and window.high ** (depth / 2) == pytest.approx(
        float(info.max))
    if dtype == "float16":
        assert window.low == pytest.approx(fp16[0], abs=5e-5) and window.high == pytest.approx(fp16[1], abs=5e-4)
    assert P.gain_window(dtype, depth, 2.0).low < window.low


def test_schemes():
    """A share of a Gaussian law, and its expected largest number: closed form, and 2000 draws of 1000 (false alarm 1e-6)."""
    assert P.quantizer(P.normal(2.0), scheme="saturation", saturation=1e-3).clip == pytest.approx(2 * stats.norm.isf(5e-4), rel=1e-4)
    assert P.quantizer(P.normal(2.0), scheme="saturation", saturation=1e-3).saturation == pytest.approx(1e-3, rel=1e-3)
    largest = np.abs(np.random.default_rng(1).standard_normal((2000, 1000))).max(1)
    clip = P.quantizer(P.normal(), scheme="absmax", entries=1000).clip
    assert abs(clip - largest.mean()) < 4.9 * largest.std() / 2000**0.5


@pytest.mark.parametrize("dtype", ["int8", "int4", "float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float8_e3m4"])
@pytest.mark.parametrize("name", LAWS)
def test_noise_and_shares_of_real_casts(name, dtype):
    """Against casts of 400,000 draws by ml_dtypes, at several scales; false alarm 1e-6 each by five standard errors."""
    law, draws = LAWS[name]
    kind = number_format(dtype, law.one_sided)
    for clip in (0.3, 1.0, 1.4):
        scale = clip * law.mean_square**0.5 / kind.largest
        errors = (draws - scale * kind.round(draws / scale)) ** 2
        assert abs(noise(law, kind, scale) - errors.mean()) < 5 * errors.std() / errors.size**0.5 + 1e-3 * errors.mean()
    if kind.digits is None:
        return
    for factor in (1.0, kind.tiny, 30 * kind.smallest, kind.largest / 3):
        with np.errstate(all="ignore"):
            held = (factor * draws).astype(jnp.dtype(dtype)).astype(np.float64)
        size, scaled = np.abs(held), law.scaled(factor)
        for found, real in ((kind.subnormal(scaled), (size > 0) & (size < kind.tiny)), (kind.flushed(scaled), (size == 0) & (draws != 0)),
                            (kind.overflowing(scaled), ~np.isfinite(held))):
            p = max(found, 1 / draws.size)
            assert abs(found - real.mean()) < 5 * (p * (1 - min(p, 0.5)) / draws.size) ** 0.5 + 3 / draws.size + 1e-4, (factor, found)


def mlp(width=512, depth=3, std=2.0, dtype=np.float32):
    """A ReLU network without biases, weights of variance std / fan-in; one example input of unit size."""
    def apply(params, x):
        for w in params[:-1]:
            x = jax.nn.relu(x @ w)
        return x @ params[-1]

    def init(key):
        sizes = [64, *[width] * depth, 10]
        return [(std / m) ** 0.5 * jax.random.normal(k, (m, n), dtype)
                for k, m, n in zip(jax.random.split(key, depth + 1), sizes, sizes[1:], strict=False)]

    x = load("digits", 4, None, 2).astype(dtype)
    return sp.network(apply, x, init=init), x


class Images(nn.Module):
    """Convolutions, each with a norm where ``norm`` is set."""

    widths: tuple[int, ...] = (16, 32, 32)
    norm: bool = False

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.Conv(width, (3, 3), kernel_init=HE)(x)
            x = nn.relu(nn.LayerNorm()(x) if self.norm else x)
        return nn.Dense(10, kernel_init=HE)(x.mean((1, 2)))


def statistics(law, dtype, scale):
    """What is compared of a node, by name; of the noise its share of the signal."""
    kind = number_format(dtype, law.one_sided)
    found = {"saturation": law.beyond(scale * kind.largest), "sqnr": noise(law, kind, scale) / law.mean_square}
    return found if kind.digits is None else {**found, "subnormal": kind.subnormal(law), "flushed": kind.flushed(law)}


def rare(law, dtype, scale):
    """Standard deviation, relative to the signal, of squared errors beyond the clip: too few are drawn to show their own spread."""
    clip = scale * number_format(dtype, law.one_sided).largest
    fourth = law.average(lambda x: np.maximum(np.abs(x) - clip, 0) ** 4, lambda x: np.sign(x) * np.maximum(np.abs(x) - clip, 0) ** 5 / 5)
    return max(fourth, 0.0) ** 0.5 / law.mean_square


def compared(net, x, width, seeds, false_alarm=1e-3, gradients=True):
    """Prediction and measurement over all nodes and formats, by statistic: the largest gap in units of what is allowed, where, and the
    largest relative discrepancy that would pass unseen where there are more than 1000 counts, or 100,000 numbers for a noise of few tails.

    Allowed are Student's ``t`` standard errors for a false alarm of ``false_alarm`` over all comparisons, the standard error of a sampled
    law, and what finite width does: sums over ``width`` channels have a variance that fluctuates by ``7 / width`` relative to its square (5
    of a ReLU, 2 of a norm), so that the law is a mixture of ``sqrt(1 +- sqrt(7 / width))`` times the predicted one.
    """
    found, laws = P.analyze(net, *x, backward=gradients), P.entries(net, *x, backward=gradients)
    measured = P.measure(net, *x, analysis=found, seeds=seeds, backward=gradients)
    sizes = {row.name: np.prod(row.shape) * seeds for row in net.rows(*x)}
    cases = [("", n, laws.rows[n]) for n in sizes] + [("grad_", n, laws.row_gradients[n]) for n in sizes if gradients]
    cases = [case for case in cases if not isinstance(case[2], Exception) and np.isfinite(found.scale.sel(node=case[1])).all()]
    critical = stats.t.isf(false_alarm / (24 * len(cases)) / 2, measured.attrs["seeds"] - 1)
    worst, unseen = {}, {}
    for prefix, node, (law, _, _) in cases:
        mixed = pooled([(law.scaled((1 + sign * (7 / width) ** 0.5) ** 0.5), 0.5) for sign in (1, -1)])
        for dtype in found.format.values:
            scale = float(found.scale.sel(node=node, format=dtype))
            one, two = statistics(law, dtype, scale), statistics(mixed, dtype, scale)
            for name in one.keys() - ({"saturation", "sqnr"} if prefix else set()):
                both = (measured[f"{prefix}{name}{end}"].sel(node=node, format=dtype) for end in ("", "_stderr"))
                real, error = (float(a.sel(granularity="tensor") if name == "sqnr" else a) for a in both)
                predicted, count = one[name], sizes[node]
                if name == "sqnr":
                    real = 10 ** (-real / 10)
                    noises = [np.hypot(real * np.log(10) / 10 * error, rare(law, dtype, scale) / count**0.5),
                              3 * predicted / law.samples**0.5]
                else:
                    share = np.clip(predicted, 1 / count, 1.0)
                    noises = [max(error, (share / count) ** 0.5), (share / law.samples) ** 0.5]
                allowed = critical * np.hypot(*noises) + abs(two[name] - predicted)
                key = prefix + name
                worst[key] = max(worst.get(key, (0.0, "")), (abs(real - predicted) / allowed, f"{node} {dtype}: {predicted} {real}"))
                if predicted * count > 1000 if name != "sqnr" else count > 1e5 and dtype != "int8":
                    unseen[key] = max(unseen.get(key, 0.0), allowed / predicted)
    return found, measured, worst, unseen


def test_a_perceptron_against_measurement():
    """At width 1024, 32 draws: false alarm 1e-3."""
    net, x = mlp(1024, 1)
    found, _, worst, unseen = compared(net, (x,), 1024, 32)
    assert max(ratio for ratio, _ in worst.values()) < 1, worst
    assert unseen["sqnr"] < 0.3 and unseen["saturation"] < 0.5 and unseen["subnormal"] < 0.5, unseen
    hidden = found.sel(node=found.node.values[:-1])
    assert (hidden.sqnr.sel(format="int8", granularity="channel") > hidden.sqnr.sel(format="int8", granularity="tensor")).all()
    leaves = [*net.init(jax.random.key(5)), jnp.asarray(x)]
    rows = evaluate(net.graph(x), leaves, [r.value for r in net.rows(x)])[1]
    for row, spread in zip(rows[:-1], found.channel_spread.values[:-1], strict=True):  # of 1024 channels, predicted from 64
        squares = np.mean(np.square(row), 0)
        assert np.std(squares) / np.mean(squares) == pytest.approx(spread, rel=0.35)
    assert found.weight_channel_spread.values[1] == pytest.approx((2 / 1024) ** 0.5, rel=0.35)  # of normal entries


@pytest.mark.slow
def test_a_deep_cnn_against_measurement():
    """Twenty convolutions of 128 channels with layer norms on digits, 32 draws, false alarm 1e-3.

    Without norms, twenty layers multiply the variance of a draw by a factor that fluctuates by 5 / width each: no width within reach has
    the tails of the limit. The gradients are left out: behind a ReLU those of a norm vanish in the limit only, as 1 / sqrt(width).
    """
    x = load("digits", 2, (8, 8, 1), 10)
    found, _, worst, unseen = compared(sp.network(Images((128,) * 20, norm=True), x), (x,), 128, 32, gradients=False)
    assert max(ratio for ratio, _ in worst.values()) < 1, worst
    assert unseen["subnormal"] < 0.2 and unseen["saturation"] < 0.7, unseen
    assert found.sqnr.sel(node="LayerNorm_10", format="int8", granularity="tensor") == pytest.approx(40.54, abs=0.01)


@pytest.mark.slow
def test_a_transformer_block_against_measurement():
    """A pre-norm block of 256 channels and four heads, 32 draws, false alarm 1e-3; gradients too."""
    x = np.random.default_rng(0).standard_normal((1, 8, 256)).astype(np.float32)
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    net = sp.network(lambda rngs: sp.nn.EncoderBlock(256, 4, hidden=512, kernel_init=init, rngs=rngs), x)
    _, _, worst, unseen = compared(net, (x,), 256, 32)
    assert max(ratio for ratio, _ in worst.values()) < 1, worst
    assert unseen["sqnr"] < 0.15 and unseen["saturation"] < 0.3 and unseen["subnormal"] < 0.7, unseen


def test_integer_products_equal_dequantized_ones():
    """Accumulation in 32-bit integers is exact, that of the dequantized numbers is not: they differ by rounding of float32 alone."""
    images = load("digits", 2, (8, 8, 1), 10)
    for net, x in (mlp(64), (sp.network(Images((8, 8)), images), images)):
        params = net.init(jax.random.key(1))
        found = P.analyze(net, x, dtypes=["int8", "int4"], backward=False)
        for dtype in ("int8", "int4"):
            chosen = {name: q for name, q in P.quantizers(found, dtype).items() if name in P.operands(net, x)}
            assert {q.format.name for q in chosen.values()} == {dtype, f"u{dtype}"} and "x[0]" in chosen
            one, two = (jax.jit(f(net, chosen))(params, x) for f in (P.integer, P.quantized))
            exact = net.apply(params, x)
            np.testing.assert_allclose(one, two, atol=2e-5 * np.abs(two).max())
            noise_to_signal = float(jnp.mean((one - exact) ** 2) / jnp.mean(exact**2))
            assert 0 < noise_to_signal < (1e-3 if dtype == "int8" else 0.3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_execution_as_the_dtype_itself(dtype):
    """The same parameters and inputs in the dtype: JAX's own arithmetic, which rounds at the same places. And dtypes that it has no
    arithmetic for."""
    net, x = mlp(256)
    params = net.init(jax.random.key(2))
    ours = P.executed(net, dtype)(params, x)
    theirs = net.apply([p.astype(dtype) for p in params], jnp.asarray(x, dtype)).astype(np.float32)
    exact = net.apply(params, x)
    lost = [float(jnp.linalg.norm(y - exact) / jnp.linalg.norm(exact)) for y in (ours, theirs)]
    assert lost[0] == pytest.approx(lost[1], rel=0.25) and 0 < lost[0] < 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_array_equal(jax.jit(P.executed(net, dtype))(params, x).astype(dtype), ours.astype(dtype))
    for name in ("float8_e4m3fn", "float8_e5m2"):
        y = P.executed(net, name)(params, x)
        assert lost[0] < float(jnp.linalg.norm(y - exact) / jnp.linalg.norm(exact)) < 0.4
        np.testing.assert_array_equal(y, y.astype(name).astype(np.float32))


@pytest.mark.parametrize("factor", [0.85, 1.15])
@pytest.mark.parametrize("end", ["low", "high"])
def test_window_of_a_network_executed_in_float16(end, factor):
    """Fifty ReLU layers: at the ends of the window, moved by 15 %, the last signals are, or are not, subnormal or infinite."""
    net, x = mlp(256, 50, 2 * factor * getattr(P.gain_window("float16", 50), end))
    y = np.abs(np.asarray(P.executed(net, "float16")(net.init(jax.random.key(0)), x), np.float64))
    inside = (factor > 1) == (end == "low")
    rms = np.sqrt(np.mean(y**2))
    assert (2.0**-14 < rms < 65504 and np.isfinite(y).all()) == inside
    predicted = P.analyze(net, x, dtypes=["float16"], backward=False).isel(node=-1, format=0)
    lost = float(predicted.subnormal + predicted.flushed if end == "low" else predicted.overflow)
    assert (lost < 0.15) == inside, lost


def test_loss_scale_and_what_stays_in_float32():
    """Five layers of half the critical variance: signals stay, gradients of a small cotangent need a scale, which then suffices."""
    net, x = mlp(256, 5, 1.0)
    found = P.analyze(net, x, dtypes=["float16", "bfloat16", "int4"], cotangent_rms=2e-4)
    half, scale = found.sel(format="float16"), float(found.loss_scale.sel(format="float16"))
    assert found.loss_scale.sel(format="bfloat16") == 1 and np.log2(scale) % 1 == 0 and np.isnan(found.loss_scale.sel(format="int4"))
    assert float((half.grad_subnormal + half.grad_flushed).max()) > 0.05 and not half.keep_float32.any()
    again = P.analyze(net, x, dtypes=["float16"], cotangent_rms=2e-4 * scale)
    lost = [again[f"{p}{name}"].isel(format=0) for p in ("grad_", "parameter_grad_") for name in ("subnormal", "flushed")]
    assert max(float((a + b).max()) for a, b in (lost[:2], lost[2:])) < 0.01
    assert float(again.grad_overflow.max()) == 0 and again.loss_scale == 1
    dead, x = mlp(256, 10, 0.02)
    kept = P.analyze(dead, x, dtypes=["fp16"]).keep_float32
    assert kept.values[-2:].all()


def test_constants_and_cancelled_gradients():
    """A constant has no scale; the gradient of the bias of attention keys is exactly zero and not flushed."""
    x = np.random.default_rng(0).standard_normal((1, 4, 32)).astype(np.float32)
    net = sp.network(nn.MultiHeadDotProductAttention(2), x)
    found = P.analyze(net, x, dtypes=["int8", "float8_e5m2"])
    bias = next(p for p in found.parameter.values if "key" in p and "bias" in p)
    assert np.isnan(found.weight_scale.sel(parameter=bias)).all()
    assert found.parameter_grad_flushed.sel(parameter=bias, format="float8_e5m2") == 0


@pytest.mark.slow
def test_trained_network_in_int8():
    """Digits at 8 bits: scales from the laws of the trained weights, pushed through the interpreter as if the entries were independent,
    beside scales from the activations of 256 training images. The laws of the initializer no longer hold after training: they clip."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = ((digits.images - digits.images.mean()) / digits.images.std()).astype(np.float32)[..., None]
    wanted, model, rate = digits.target, Images(), optax.adam(3e-3)

    def apply(params, x):
        return model.apply(params, x)

    fresh = sp.network(apply, images[:8], init=lambda key: model.init(key, images[:1]))

    @jax.jit
    def step(state, key):
        k = jax.random.choice(key, 1200, (64,), replace=False)

        def loss(p):
            return optax.softmax_cross_entropy_with_integer_labels(apply(p, jnp.asarray(images)[k]), jnp.asarray(wanted)[k]).mean()

        updates, moments = rate.update(jax.grad(loss)(state[0]), state[1])
        return optax.apply_updates(state[0], updates), moments

    def accuracy(f, params):
        return 100 * float(np.mean(np.argmax(jax.jit(f)(params, images[1200:]), -1) == wanted[1200:]))

    table = []
    for seed in range(3):
        params = fresh.init(jax.random.key(seed))
        state = params, rate.init(params)
        for key in jax.random.split(jax.random.key(9 + seed), 400):
            state = step(state, key)
        params = state[0]
        trained = sp.network(apply, images[:8], params=params)
        wish, rows = P.operands(trained, images[:8]), trained.rows(images[:256])
        values = evaluate(trained.graph(images[:256]), [*jax.tree.leaves(params), images[:256]], [r.value for r in rows])[1]
        seen = {**dict(zip([r.name for r in rows], values, strict=True)), "x[0]": images[:256],
                **dict(zip(trained.trained_paths, jax.tree.leaves(params), strict=True))}
        predicted = [P.quantizers(P.analyze(net, images[:8], dtypes=["int8"], backward=False), "int8") for net in (trained, fresh)]
        calibrated = {name: P.quantizer(P.of_samples(seen[name])) for name in wish}
        scales = [{name: q[name] for name in wish} for q in (calibrated, *predicted)]
        table.append([accuracy(f, params) for f in (trained.apply, *(P.quantized(trained, q) for q in scales))])
        few = images[-4:]  # in integers, whose convolutions are slow on CPUs
        one, two = (f(trained, scales[1])(params, few) for f in (P.integer, P.quantized))
        np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(two).max())
    mean = np.mean(table, 0)
    assert mean[0] > 90 and abs(mean[2] - mean[1]) < 0.5 and mean[3] < mean[2], table


NET, X = mlp(8)
PARAMS = NET.init(jax.random.key(0))
BAD = {
    "dtype": lambda: P.quantizer(P.normal(), "float12"),
    "float8_e4m3fnn": lambda: P.gain_window("float8_e4m3fnn", 10),
    "no exponent; its range": lambda: P.gain_window("int8", 10),
    "no exponent; quantize": lambda: P.executed(NET, "int8"),
    "rms": lambda: P.gain_window("fp16", 10, 1e6),
    "depth": lambda: P.gain_window("fp16", 0),
    "variance vanishes": lambda: P.quantizer(P.of_samples([3.0, 3.0])),
    "law: its variance": lambda: P.quantizer(P.normal(0.0)),
    "NaN": lambda: P.of_samples([1.0, np.nan]),
    "infinite": lambda: P.of_samples([np.inf]),
    "none": lambda: P.of_samples([]),
    "finite": lambda: P.normal(np.inf),
    "scheme": lambda: P.quantizer(P.normal(), scheme="max"),
    "saturation": lambda: P.quantizer(P.normal(), scheme="saturation", saturation=0.0),
    "entries": lambda: P.quantizer(P.normal(), entries=0),
    "one_sided": lambda: P.quantizer(P.normal(), one_sided=True),
    "not zero": lambda: P.quantizer(P.rectified(), scheme="saturation", saturation=0.6),
    "int7": lambda: P.analyze(NET, X, dtypes=["int7"]),
    "cotangent_rms": lambda: P.analyze(NET, X, cotangent_rms=np.nan),
    "batch on axis 0": lambda: P.analyze(NET),
    "none of 'int8'": lambda: P.quantizers(P.analyze(NET, X, dtypes=["int8"], backward=False), "int4"),
    "no row, parameter or input": lambda: P.quantized(NET, {"nowhere": P.quantizer(P.normal())})(PARAMS, X),
    "integer products": lambda: P.integer(NET, {"x[0]": P.quantizer(P.normal(), "fp16")}),
    "both factors": lambda: P.integer(NET, {"x[0]": P.quantizer(P.normal())})(PARAMS, X),
    "concrete": lambda: jax.jit(lambda x: P.analyze(NET, x).scale.data)(X),
    "seeds": lambda: P.measure(NET, X, analysis=P.analyze(NET, X, dtypes=["int8"], backward=False), seeds=4),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input(words):
    with pytest.raises(sp.InvalidInput, match=words):
        BAD[words]()


def test_a_dtype_that_the_platform_lacks(monkeypatch):
    def refused(*args):
        raise NotImplementedError("no such type")

    monkeypatch.setattr(P.Format, "cast", refused)
    with pytest.raises(sp.InvalidInput, match="is not on the platform"):
        P.executed(NET, "float8_e4m3fn")
