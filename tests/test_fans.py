"""Fans of operations against counts of the nonzeros of their Jacobians, and against the variances that they explain."""

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.nn import initializers as I
from stacked import Stacked

import sigprop as sp

RNG = np.random.default_rng(0)
ORDERS = {n: ("N" + "DHW"[3 - n:] + "C", "DHW"[3 - n:] + "IO", "N" + "DHW"[3 - n:] + "C") for n in (1, 2, 3)}


def counted(function, x, w):
    """Nonzeros of d out / d in for a generic weight: inputs that reach each output, outputs that each input feeds."""
    basis = np.eye(x.size, dtype=np.float32).reshape(-1, *x.shape)
    rows = jax.jit(jax.vmap(lambda t: jax.jvp(lambda a: function(w, a), (x,), (t,))[1]))(basis)
    met = np.asarray(rows) != 0
    return met.sum(0), met.reshape(len(basis), -1).sum(1).reshape(x.shape)


@st.composite
def convolutions(draw):
    """Shapes and options with stride, any padding (negative too), kernel and input dilation, groups of channels and of examples, 1-3 D."""
    rank = draw(st.integers(1, 3))
    each = lambda low, high: tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))  # noqa: E731
    groups, batches = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (3, 1), (1, 2)]))
    size, kernel = each(1, 7 if rank == 1 else 5 if rank == 2 else 3), each(1, 4 if rank < 3 else 3)
    padding = draw(st.sampled_from(["SAME", "VALID"]) | st.just([*zip(each(-1, 3), each(-1, 3), strict=True)]))
    holes = (1,) * rank if isinstance(padding, str) else each(1, 3)  # JAX resolves names of paddings for undilated inputs only
    options = {"window_strides": each(1, 3), "padding": padding, "rhs_dilation": each(1, 3), "lhs_dilation": holes,
               "feature_group_count": groups, "batch_group_count": batches}
    if not isinstance(padding, str):
        hypothesis.assume(all((n - 1) * hole + low + high >= 0 for n, hole, (low, high) in zip(size, holes, padding, strict=True)))
    channels, filters = groups * draw(st.integers(1, 2)), groups * batches * draw(st.integers(1, 2))
    return (2, *size, channels), (*kernel, channels // groups, filters), options, ORDERS[rank]


@hypothesis.given(convolutions())
@hypothesis.settings(max_examples=220, deadline=None, derandomize=True)
def test_convolutions_have_the_fans_of_their_jacobian(case):
    shape, kernel, options, orders = case

    def function(w, x):
        return lax.conv_general_dilated(x, w, dimension_numbers=orders, **options)

    x, w = RNG.standard_normal(shape).astype(np.float32), RNG.standard_normal(kernel).astype(np.float32)
    out = jax.eval_shape(function, w, x).shape
    hypothesis.assume(0 not in out)
    fan = sp.fans(sp.network(function, x, init=lambda key: jax.random.normal(key, kernel)))["params"]
    fan_in, fan_out = counted(function, x, w)
    assert (fan.fan_in, fan.fan_out) == pytest.approx((fan_in.mean(), fan_out.mean()), rel=1e-12)
    (use,) = fan.uses
    assert (use.fan_in.low, use.fan_in.high) == (fan_in.min(), fan_in.max())
    assert (use.fan_out.low, use.fan_out.high) == (fan_out.min(), fan_out.max())
    np.testing.assert_allclose(fan.fan_in_sites, fan_in.mean((0, -1)), rtol=1e-12)
    np.testing.assert_allclose(fan.fan_out_sites, fan_out.mean((0, -1)), rtol=1e-12)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


KEPT = (RNG.random((12, 8)) < 0.3).astype(np.float32)
ONE_D = ("NWC", "WIO", "NWC")
# (function of kernel and data, shapes of both): each linear in both, with no entry of the kernel twice in one output
FUNCTIONS = {
    "dense": (lambda w, x: x @ w, (12, 8), (3, 12)), "stored (out, in)": (lambda w, x: x @ w.T, (8, 12), (3, 12)),
    "tokens mixed": (lambda w, x: jnp.einsum("btc,ts->bsc", x, w), (6, 4), (2, 6, 5)),
    "heads": (lambda w, x: jnp.einsum("btd,hdk->bthk", x, w), (2, 12, 5), (2, 3, 12)),
    "heads joined": (lambda w, x: jnp.einsum("bthk,hkd->btd", x, w), (2, 5, 12), (2, 3, 2, 5)),
    "kernels of each head": (lambda w, x: jnp.einsum("bhi,hio->bho", x, w), (3, 4, 5), (2, 3, 4)),
    "block diagonal": (lambda w, x: x @ jax.scipy.linalg.block_diag(*w), (3, 4, 2), (2, 12)),
    "masked": (lambda w, x: x @ (w * KEPT), (12, 8), (3, 12)),
    "mask selects": (lambda w, x: x @ jnp.where(KEPT > 0, w, 0), (12, 8), (3, 12)),
    "lower triangle": (lambda w, x: x @ jnp.tril(w), (8, 8), (3, 8)),
    "rows permuted": (lambda w, x: x @ w[np.arange(12) * 5 % 12], (12, 8), (3, 12)),
    "a slice": (lambda w, x: x @ w[:, 2:7], (12, 8), (3, 12)),
    "beside constants": (lambda w, x: x @ jnp.concatenate([w, KEPT], 1), (12, 8), (3, 12)),
    "flipped, scaled, cast": (lambda w, x: x @ (3 * w[::-1]).astype(jnp.float16).astype(jnp.float32), (12, 8), (3, 12)),
    "multiply and sum": (lambda w, x: (x[:, :, None] * w).sum(1), (12, 8), (3, 12)),
    "zeros around the data": (lambda w, x: lax.conv_general_dilated(jnp.pad(x, ((0, 0), (2, 3), (0, 0))), w, (2,), "VALID",
                                                                    dimension_numbers=ONE_D), (4, 2, 3), (2, 7, 2)),
    "zeros between the data": (lambda w, x: lax.conv_general_dilated(lax.pad(x, 0.0, ((0, 0, 0), (1, 1, 2), (0, 0, 0))), w, (1,), "SAME",
                                                                     dimension_numbers=ONE_D), (3, 2, 3), (2, 4, 2)),
    "masked taps": (lambda w, x: lax.conv_general_dilated(x, w * np.array([1, 1, 0], np.float32)[:, None, None], (1,), "SAME",
                                                          dimension_numbers=ONE_D), (3, 2, 3), (2, 5, 2)),
    "kernel as the left operand": (lambda w, x: lax.dot(w, x), (8, 12), (12, 3)),
    "transposed": (lambda w, x: lax.conv_transpose(x, w, (2,), "SAME", dimension_numbers=ONE_D), (3, 2, 4), (2, 5, 2)),
    "scale": (lambda w, x: x * w, (12,), (3, 12)),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_fans_are_those_of_the_jacobian(case):
    """Entries of the kernel in each output, where it is in that channel at all; outputs of each input."""
    function, kernel, shape = FUNCTIONS[case]
    w, x = draw(*kernel), draw(*shape)
    fan = sp.fans(sp.network(function, x, init=lambda key: jax.random.normal(key, kernel)))["params"]
    by_w, by_x = (np.asarray(jax.jacobian(function, k)(w, x)) != 0 for k in (0, 1))
    ndim = by_w.ndim - w.ndim
    fan_in = by_w.sum(tuple(range(ndim, by_w.ndim)))
    reached = np.broadcast_to(fan_in.any(tuple(range(ndim - 1)), keepdims=True), fan_in.shape)
    assert fan.fan_in == pytest.approx(fan_in[reached].mean())
    assert fan.fan_out == pytest.approx(by_x[reached].sum(0).mean())


@pytest.mark.parametrize(("size", "stride"), [(2, 1), (3, 2), (4, 2), (5, 3), (2, 3)])
def test_transposed_convolutions_vary_by_phase(size, stride):
    """The predicted variance per pixel of unit inputs and weights is the fan-in per pixel, C k²/s² on average far from borders."""
    x = np.ones((1, 6, 6, 4), np.float32)
    net = sp.network(nn.ConvTranspose(3, (size, size), (stride, stride), kernel_init=I.normal(1.0), name="up"), x)
    fan = sp.fans(net)["kernel"]
    predicted = sp.propagate(net, x, backward=False)
    (name,) = [n for n in predicted if str(n).startswith("site_variance")]
    np.testing.assert_allclose(fan.fan_in_sites, predicted[name].values[0], rtol=1e-6)
    assert fan.inner == pytest.approx((4 * size**2 / stride**2, 3 * size**2))
    if (size, stride) == (3, 2):
        assert {*np.unique(fan.fan_in_sites[2:-2, 2:-2])} == {4.0, 8.0, 16.0}  # 1 or 2 taps per dimension


def test_gradients_have_the_fan_out():
    """The predicted E[g²] at the input of a strided convolution, for unit weights and cotangents, is its mean fan-out."""
    x = np.ones((1, 9, 9, 2), np.float32)
    net = sp.network(nn.Sequential([nn.Conv(3, (1, 1)), nn.Conv(5, (3, 3), (2, 2), kernel_init=I.normal(1.0))]), x)
    fan = sp.fans(net)["layers_1/kernel"]
    assert sp.propagate(net, x).grad_variance.values[0] == pytest.approx(fan.fan_out, rel=1e-5)
    assert fan.fan_out_sites.shape == (9, 9) and fan.inner == (27, 5 * 9 / 4)


class Zoo(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.grouped = nnx.Conv(8, 12, (3, 3), feature_group_count=4, padding="CIRCULAR", rngs=rngs)
        self.depthwise = nnx.Conv(12, 12, (5, 5), feature_group_count=12, strides=2, rngs=rngs)
        self.up = nnx.ConvTranspose(12, 6, (3, 3), strides=(2, 2), rngs=rngs)
        self.flipped = nnx.ConvTranspose(6, 16, (5, 5), strides=(2, 3), rngs=rngs, transpose_kernel=True)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 16, rngs=rngs, decode=False)
        self.heads = nnx.Einsum("abc,hcd->abhd", (4, 16, 4), rngs=rngs)
        self.stored_out_in = nnx.Param(I.lecun_normal()(rngs.params(), (5, 16)))
        self.forgotten = nnx.Param(jnp.ones(3))

    def __call__(self, tokens):
        x = self.flipped(self.up(self.depthwise(self.grouped(self.embed(tokens)))))
        x = self.norm(x).reshape(x.shape[0], -1, 16)[:, :5]
        return self.heads(self.attention(x)), x @ self.stored_out_in[...].T


class Shared(nn.Module):
    """Kernels that are masked, factorised, low-rank, tied, normalized by their length, or read back as a table."""

    @nn.compact
    def __call__(self, tokens):
        table = self.param("table", I.normal(1.0), (11, 16))
        v, u, g = (self.param(name, I.normal(1.0), shape) for name, shape in (("v", (16, 16)), ("u", (16, 16)), ("g", (16,))))
        mask = self.variable("masks", "mask", lambda: jax.random.bernoulli(self.make_rng("params"), 0.25, (16, 16)).astype(jnp.float32))
        x = table[tokens] @ (v * g * u * (np.arange(16)[:, None] % 4 == 0))
        x = x + x @ (self.param("masked", I.normal(1.0), (16, 16)) * mask.value)
        x = x @ (self.param("a", I.normal(1.0), (16, 2)) @ self.param("b", I.normal(1.0), (2, 16)))
        w = self.param("w", I.normal(1.0), (16, 12))
        x = jnp.tanh(x @ (w / jnp.linalg.norm(w, axis=0))) @ w.T
        return x @ table.T


TOKENS = np.zeros((2, 4), np.int32)
MODELS = {  # model, input, {parameter: (operation, uses, fan-in and fan-out far from borders)}
    "layers": (Zoo, np.zeros((2, 4, 4), np.int32), {
        "embed/embedding": ("gather", 1, 1, 8), "grouped/kernel": ("conv_general_dilated", 1, 18, 27),
        "depthwise/kernel": ("conv_general_dilated", 1, 25, 25 / 4), "up/kernel": ("conv_general_dilated", 1, 12 * 9 / 4, 54),
        "flipped/kernel": ("conv_general_dilated", 1, 6 * 25 / 6, 400), "attention/query/kernel": ("dot_general", 1, 16, 16),
        "attention/out/kernel": ("dot_general", 1, 16, 16), "heads/kernel": ("dot_general", 1, 16, 16),
        "stored_out_in": ("dot_general", 1, 16, 5), "norm/scale": ("mul", 1, 1, 1), "up/bias": ("add", 1, 1, np.nan),
        "forgotten": ("", 0, 0, 0),
    }),
    "stacked": (Stacked(), np.ones((2, 16), np.float32), {"scan/Dense_0/kernel": ("dot_general", 3, 16, 16),
                                                          "vmap/kernel": ("dot_general", 1, 16, 16)}),
    "shared": (Shared(), TOKENS, {
        "table": ("dot_general", 1, 16, 11), "v": ("dot_general", 1, 4, 4), "u": ("dot_general", 1, 4, 4), "g": ("", 0, np.nan, np.nan),
        "masked": ("dot_general", 1, 4, 4), "a": ("dot_general", 1, 2, 16), "b": ("dot_general", 1, 2, 16), "w": ("dot_general", 2, 14, 14),
    }),
    "recurrent": (nn.RNN(nn.SimpleCell(8)), np.ones((2, 5, 3), np.float32), {"cell/i/kernel": ("dot_general", 5, 3, 8),
                                                                           "cell/h/kernel": ("dot_general", 4, 8, 8)}),
    "a mask among the parameters": (lambda p, x: jnp.tanh(x @ (p["w"] * p["mask"])) @ p["eye"], np.ones((2, 6), np.float32), {
        "w": ("dot_general", 1, 2, 2), "mask": ("dot_general", 1, 6, 6), "eye": ("dot_general", 1, 6, 6)}),
    "fixed basis": (lambda w, x: x @ (np.ones((12, 3), np.float32) @ w), np.ones((2, 12), np.float32),
                    {"params": ("dot_general", 1, 36, 15)}),
}


INITS = {
    "fixed basis": lambda key: jax.random.normal(key, (3, 5)),
    "a mask among the parameters": lambda key: {"w": jax.random.normal(key, (6, 6)), "mask": np.tile(np.eye(3), (2, 2)), "eye": np.eye(6)},
}


@pytest.mark.parametrize("name", MODELS)
def test_fans_of_models(name):
    model, x, expected = MODELS[name]
    found = sp.fans(sp.network(model, x, **({"init": INITS[name]} if name in INITS else {})))
    for path, (operation, uses, *inner) in expected.items():
        fan = found[path]
        assert (path, fan.operation, len(fan.main)) == (path, operation, uses)
        np.testing.assert_allclose(fan.inner, inner, err_msg=path)


def test_fans_print_as_a_table():
    found = sp.fans(sp.network(Zoo, np.zeros((2, 4, 4), np.int32)))
    head, *lines = str(found).splitlines()
    assert head.split("  ")[0] == "parameter" and head.endswith("initializer counted")
    assert [line.split()[0] for line in lines] == list(found) and repr(found) == str(found)
    line = {line.split()[0]: line for line in lines}
    assert line["up/kernel"].endswith("18.75   12   48     37.5   24   54  fan_in 108") and line["heads/kernel"].endswith("fan_in 64")
    assert "never used: no output depends on it" in line["forgotten"] and found["forgotten"].fan_in == 0
    assert "depends" not in line["up/bias"] and sp.fans(sp.network(Shared(), TOKENS))["masks/mask"].note == "a mask"
    assert str(sp.fans(sp.network(Shared(), TOKENS))).count("a factor of other parameters (mul)") == 1


@pytest.mark.parametrize(("call", "message"), [
    (lambda: sp.fans({"w": 1}), "^net: dict is not a network"), (lambda: sp.fans(sp.network(Zoo)), "^x: .*give example inputs"),
    (lambda: sp.fans(sp.network(Stacked(), np.ones((2, 16), np.float32)), np.ones((2, 3, 16), np.float32)), r"^x\[0\]: rank 3"),
], ids=["not a network", "no inputs", "other inputs"])
def test_bad_input_is_named(call, message):
    with pytest.raises(sp.InvalidInput, match=message):
        call()


def test_no_such_parameter():
    with pytest.raises(KeyError, match="nothing.*vmap/kernel"):
        sp.fans(sp.network(Stacked(), np.ones((2, 16), np.float32)))["nothing"]


@hypothesis.given(st.tuples(*(st.integers(1, n) for n in (4, 4, 3, 4, 4))), st.integers(-2, 5))
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_fans_far_from_borders_are_those_in_the_middle_of_a_long_axis(numbers, padding):
    """One period of phases in the middle of 60 inputs, where no tap falls on a border."""
    kernel, stride, dilation, hole, channels = numbers

    def function(w, x):
        return lax.conv_general_dilated(x, w, (stride,), [(padding, 3)], (hole,), (dilation,), ("NWC", "WIO", "NWC"))

    net = sp.network(function, np.ones((1, 60, channels), np.float32), init=lambda key: jax.random.normal(key, (kernel, channels, 5)))
    fan = sp.fans(net)["params"]
    middle = len(fan.fan_in_sites) // 2
    assert fan.inner == pytest.approx((fan.fan_in_sites[middle:middle + hole].mean(), fan.fan_out_sites[30:30 + stride].mean()))


def test_inputs_that_a_mask_removes_are_not_counted():
    kept = np.arange(12) % 3 > 0

    def function(w, x):
        return jnp.tanh(jnp.where(kept, x, 0)) @ w + (-x * kept) @ w

    fan = sp.fans(sp.network(function, draw(2, 12), init=lambda key: jax.random.normal(key, (12, 5))))["params"]
    assert [u.fan_in.mean for u in fan.uses] == [8, 8] and [u.fan_out.mean for u in fan.uses] == [5, 5]
    assert np.isnan(fan.fan_out_sites).sum() == 0 and fan.inner == (12, 5)  # inputs 0, 3, 6 and 9 are no units
