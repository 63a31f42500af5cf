"""The modules of ``sp.nn``: shapes, what they predict, starts of residual branches, and what they refuse."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sigprop as sp
from sigprop import nn

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


VECTOR, IMAGE, TOKENS, POINTS = normal(2, 16), normal(1, 4, 4, 3), normal(2, 3, 16), normal(3, 2)
CNN = partial(nn.CNN, 3, [8, 8], 2)
STARTS = [nn.Plain(), nn.Gamma(0.5), nn.ZeroGamma(), nn.SkipInit(), nn.ReZero(), nn.Fixup(), nn.LayerScale()]
deep = sp.init.deep_norm(4)

MODULES = {  # factory, inputs, shape of the output
    "MLP": (partial(nn.MLP, [16, 8, 3]), (VECTOR,), (2, 3)),
    "autoencoder": (partial(nn.Autoencoder, 16, [12, 8], 4), (VECTOR,), (2, 16)),
    "weight norm": (partial(nn.MLP, [16, 8, 3], layer=nn.WeightNormLinear), (VECTOR,), (2, 3)),
    "weight norm, convolution": (partial(nn.WeightNormConv, 3, 4), (IMAGE,), (1, 4, 4, 4)),
    "standardized, convolution": (partial(nn.StandardizedConv, 3, 4), (IMAGE,), (1, 4, 4, 4)),
    "random mask": (partial(nn.MLP, [16, 8, 3], layer=partial(nn.MaskedLinear, mask=nn.RandomMask(0.5))), (VECTOR,), (2, 3)),
    "given mask": (partial(nn.MaskedConv, 3, 4, mask=nn.GivenMask(np.tri(27, 4).reshape(3, 3, 3, 4))), (IMAGE,), (1, 4, 4, 4)),
    "CNN": (CNN, (IMAGE,), (1, 2)),
    "pointwise": (partial(CNN, layer=nn.Pointwise()), (IMAGE,), (1, 2)),
    "depthwise": (partial(CNN, layer=[nn.Convolution(), nn.Depthwise()]), (IMAGE,), (1, 2)),
    "separable": (partial(CNN, layer=[nn.Convolution(), nn.Separable()]), (IMAGE,), (1, 2)),
    "grouped": (partial(CNN, layer=[nn.Convolution(stride=2), nn.Grouped(groups=2)]), (IMAGE,), (1, 2)),
    "transposed": (partial(CNN, layer=nn.Transposed(kernel=2)), (IMAGE,), (1, 2)),
    **{f"{block.__name__}, {start}": (partial(nn.ResNet, 3, [8], 2, blocks=1, block=block, start=start), (IMAGE,), (1, 2))
       for block in (nn.PreActivation, nn.PostActivation) for start in STARTS},
    "ResNet of two stages": (partial(nn.ResNet, 3, [8, 12], 2, blocks=1), (IMAGE,), (1, 2)),
    "DenseNet": (partial(nn.DenseNet, 3, 8, 2, layers=2), (IMAGE,), (1, 2)),
    "DenseNet without norms": (partial(nn.DenseNet, 3, 8, 2, layers=2, norm=nn.no_norm), (IMAGE,), (1, 2)),
    **{f"encoder, {name}": (partial(nn.EncoderBlock, 16, 2, hidden=16, placement=placement, causal=causal), (TOKENS,), TOKENS.shape)
       for name, placement, causal in [("pre-norm", nn.PreNorm, True), ("post-norm", nn.PostNorm, False),
                                       ("sandwich", partial(nn.SandwichNorm, norm=nnx.RMSNorm), False)]},
    **{f"self-attention, {options}": (partial(nn.SelfAttention, 16, 2, **options), (TOKENS,), TOKENS.shape)
       for options in ({"causal": True}, {"fused": True, "power": 1.0})},
    "encoder, DeepNorm": (partial(nn.EncoderBlock, 16, 2, hidden=16, placement=partial(nn.PostNorm, stream=deep.alpha),
                                  value_init=deep.scaled(sp.init.xavier())), (TOKENS,), TOKENS.shape),
    "decoder": (partial(nn.DecoderBlock, 16, 2, hidden=16), (TOKENS, TOKENS), TOKENS.shape),
    "LSTM": (partial(nn.RecurrentClassifier, 16, 8, 3), (TOKENS,), (2, 3)),
    "GRU": (partial(nn.RecurrentClassifier, 16, 8, 3, cell=nnx.GRUCell), (TOKENS,), (2, 3)),
    "PINN": (partial(nn.PINN, [2, 16, 16, 1]), (POINTS,), (3, 1)),
    "PINN, Fourier features": (partial(nn.PINN, [2, 16, 16, 1], frequency_init=sp.init.fourier_features(0.5)), (POINTS,), (3, 1)),
    "SIREN": (partial(nn.Siren, [2, 16, 16, 1]), (POINTS,), (3, 1)),
    "modified MLP": (partial(nn.ModifiedMLP, 2, 16, 1), (POINTS,), (3, 1)),
    "image decoder": (partial(nn.Decoder, 16, 2, [8, 8], 3), (VECTOR,), (2, 4, 4, 3)),
    "U-Net": (partial(nn.UNet, 3, [8, 8], 2), (IMAGE,), (1, 4, 4, 2)),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("encoder, sandwich", "decoder"))) for n in MODULES])
def test_runs_and_is_predicted(name):
    factory, x, shape = MODULES[name]
    net = sp.network(lambda rngs: factory(rngs=rngs), *x)
    y = jax.jit(net.apply)(net.init(jax.random.key(0)), *x)
    assert y.shape == shape and jnp.isfinite(y).all()
    found = sp.propagate(net, *x, backward=False)
    assert np.isfinite(found.second_moment).all()
    assert (found.second_moment[-1] > 0) == bool(jnp.any(y != 0))


def layers(net, x):
    """Predicted E[z²] of every layer with weights, in order."""
    found = sp.propagate(net, x, backward=False)
    return found.second_moment.values[[k for k, name in enumerate(found.node.values) if "layers/" in name and "relu" not in name]]


def mlp(depth, width=16, **options):
    return sp.network(lambda rngs: nn.MLP([width] * (depth + 1), rngs=rngs, **options), normal(2, width))


def test_autoencoder_of_forty_square_layers():
    """Each ReLU halves E[z²]: Glorot's kernels do not make up for it, He's do."""
    for init, factor in ((sp.init.xavier(), 0.5), (sp.init.he(), 1.0)):
        net = sp.network(lambda rngs: nn.Autoencoder(16, [16] * 20, 16, kernel_init=init, rngs=rngs), VECTOR)
        q = layers(net, VECTOR)
        assert len(q) == 42
        np.testing.assert_allclose(q / q[0], factor ** np.arange(42.0), rtol=1e-5)


@pytest.mark.parametrize("width", [16, 64])
def test_weight_norm_keeps_the_signal(width, depth=50):
    """At a gain of sqrt(2), rounded to float32, E[z²] is the same in every layer, exactly at any width."""
    net = mlp(depth, width, layer=nn.WeightNormLinear)
    q = layers(net, net.example[0])
    rounding = float(np.float32(2**0.5)) ** 2 / 2
    np.testing.assert_allclose(q / q[0], rounding ** np.arange(depth), rtol=1e-6)


@pytest.mark.slow
def test_weight_norm_is_measured_to_keep_the_signal(depth=50, width=128, seeds=64):
    """Exactly, at finite width too: all that differs from |x|² g² / n is noise, six standard errors of 16 groups of seeds."""
    net = mlp(depth, width, layer=nn.WeightNormLinear)
    x = net.example[0]
    q = 2 * np.mean(x**2)
    found = sp.measure(net, x, seeds=seeds, backward=False)
    rows = [k for k, name in enumerate(found.node.values) if "relu" not in name]
    size, error = (found[v].values[rows] for v in ("second_moment", "second_moment_stderr"))
    assert (error < 0.35 * q).all() and (np.abs(size - q) < 6 * error).all()


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_weight_norm_ignores_the_scale_of_its_kernel(scale):
    key = jax.random.key(0)
    one, other = (nn.WeightNormLinear(16, 8, kernel_init=s * sp.init.he(), rngs=nnx.Rngs(key))(VECTOR) for s in (1.0, scale))
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_standardized_layers_keep_the_signal(width=64, seeds=64):
    """Rows of kernels sum to 0 and have the norm of their gain; E[z²] is kept through ReLU: five standard errors."""
    layer = nn.StandardizedLinear(16, 8, rngs=nnx.Rngs(0))
    kernel = layer.kernel()
    np.testing.assert_allclose(kernel.sum(0), 0, atol=1e-5)
    np.testing.assert_allclose(jnp.sqrt((kernel**2).sum(0)), sp.init.nfnet_gain("relu"), rtol=1e-5)
    found = sp.measure(mlp(8, width, layer=nn.StandardizedLinear), normal(2, width), seeds=seeds, backward=False)
    rows = [k for k, name in enumerate(found.node.values) if "relu" not in name]
    size, error = (found[v].values[rows] for v in ("second_moment", "second_moment_stderr"))
    assert (np.abs(size[1:] - size[0]) < 5 * np.hypot(error[1:], error[0])).all()


MAGNITUDES = {0.5: 0.9287, 0.2: 0.6498, 0.1: 0.4393, 0.05: 0.2791, 0.01: 0.0845}  # fraction kept, share of the variance


@pytest.mark.parametrize(("mask", "kept"), [
    (nn.RandomMask(0.25), 0.25), (nn.RandomMask(0.9), 0.9), (nn.BlockMask(2, 4), 0.5)])
def test_masks(mask, kept):
    """E[z²] falls by the kept fraction in every layer, unless He's variance is divided by it."""
    sparse = partial(nn.MaskedLinear, mask=mask)
    for init, factor in ((sp.init.he(), kept), (sp.init.he(kept=kept), 1.0)):
        net = mlp(3, layer=sparse, kernel_init=init)
        q = layers(net, net.example[0])
        np.testing.assert_allclose(q / q[0], factor ** np.arange(3.0), rtol=1e-5)


@pytest.mark.parametrize("kept", MAGNITUDES)
def test_magnitude_masks(kept, depth=4):
    """E[z²] falls by more than the kept fraction, unless He's variance is divided by the share of the variance that is kept."""
    for correction in (1.0, MAGNITUDES[kept]):
        init = sp.init.he(distribution="normal", kept=correction)
        mask = nn.MagnitudeMask(kept, init)
        assert mask.share == pytest.approx(MAGNITUDES[kept], abs=5e-5)
        net = mlp(depth, 64, layer=partial(nn.MaskedLinear, mask=mask), kernel_init=init)
        q = layers(net, net.example[0])
        np.testing.assert_allclose(q / q[0], (mask.share / correction) ** np.arange(depth), rtol=1e-5)


def test_magnitude_masks_are_measured(kept=0.2, width=128, depth=4, seeds=512):
    """False alarm 1e-6."""
    init = sp.init.he(distribution="normal")
    net = mlp(depth, width, layer=partial(nn.MaskedLinear, mask=nn.MagnitudeMask(kept, init)), kernel_init=init)
    predicted, found = (f(net, net.example[0], backward=False) for f in (sp.propagate, partial(sp.measure, seeds=seeds)))
    gap = np.abs(found.second_moment - predicted.second_moment) / found.second_moment_stderr
    assert (gap < 6).all() and (found.second_moment_stderr < 0.05 * found.second_moment).all()


def test_masks_are_constant():
    layer = nn.MaskedLinear(16, 8, mask=nn.BlockMask(1, 4), rngs=nnx.Rngs(0))
    assert (layer.mask[...].reshape(4, 4, 8).sum(1) == 1).all()
    gradient = nnx.grad(lambda m: m(VECTOR).sum())(layer)
    assert "mask" not in gradient
    np.testing.assert_array_equal(gradient["layer"]["kernel"][...] != 0, layer.mask[...] * (VECTOR.sum(0) != 0)[:, None] != 0)


@pytest.mark.parametrize("layer", [nn.Transposed(kernel=2), nn.Transposed(kernel=3, stride=3), nn.Transposed(padding="CIRCULAR")])
def test_transposed_decoder_is_flat(layer):
    """He on C_in k²/s² keeps E[z²] at every pixel; on C_in k², as the kernel's shape says, each layer loses s²."""
    for init, lost in ((None, 1), (sp.init.he(), layer.stride**2)):
        net = sp.network(lambda rngs: nn.Decoder(16, 2, [16] * 3, 3, layer=layer, kernel_init=init, rngs=rngs), VECTOR)
        found = sp.propagate(net, VECTOR, backward=False)
        q = found.second_moment.sel(node=["dense", "layers/0", "layers/1"]).values
        np.testing.assert_allclose(q / q[0], (1 / lost) ** np.arange(3.0), rtol=1e-5)
        pixels = found["site_variance:layers/1"].values
        np.testing.assert_allclose(pixels, np.broadcast_to(pixels[:, :1, :1], pixels.shape), rtol=1e-5)


@pytest.mark.parametrize("block", [nn.PreActivation, nn.PostActivation])
@pytest.mark.parametrize(("start", "still", "moving"), [
    (nn.ZeroGamma(), ["convs/0/kernel", "convs/1/kernel"], ["last_norm/scale"]),
    (nn.SkipInit(), ["convs/0/kernel", "convs/1/kernel"], ["gain/scale"]),
    (nn.ReZero(), ["convs/0/kernel", "convs/1/kernel"], ["gain/scale"]),
    (nn.Fixup(), ["convs/0/kernel"], ["convs/1/kernel"]),
])
def test_blocks_start_as_the_identity(block, start, still, moving):
    """Exactly, and with gradients that are exactly zero before what is zero."""
    module = block(8, 8, start=start, branches=4, rngs=nnx.Rngs(0))
    x, c = jnp.abs(normal(2, 4, 4, 8)), normal(2, 4, 4, 8)
    np.testing.assert_array_equal(module(x), x)
    gradient = nnx.to_flat_state(nnx.grad(lambda m: (c * m(x)).sum())(module))
    sizes = {"/".join(map(str, path)): float(jnp.abs(leaf[...]).max()) for path, leaf in gradient}
    assert [sizes[name] for name in still] == [0.0] * len(still)
    assert all(sizes[name] > 1e-3 for name in moving)


def test_layer_scale_and_gamma_set_the_branch():
    """What a block adds is proportional to its gain."""
    x = jnp.abs(normal(2, 4, 4, 8))
    full = nn.PreActivation(8, 8, start=nn.Gamma(1.0), rngs=nnx.Rngs(0)).branch(x)
    np.testing.assert_allclose(nn.PreActivation(8, 8, start=nn.Gamma(0.25), rngs=nnx.Rngs(0)).branch(x), 0.25 * full, rtol=1e-5)
    plain, scaled = (nn.PreActivation(8, 8, start=s, rngs=nnx.Rngs(0)).branch(x) for s in (nn.Plain(), nn.LayerScale(24)))
    np.testing.assert_allclose(scaled, 1e-5 * plain, rtol=1e-5)


@pytest.mark.slow
def test_variance_grows_linearly_at_gamma_one(blocks=4):
    """On the statistics of the batch every block adds 1: five standard errors."""
    x = normal(8, 4, 4, 3)
    net = sp.network(lambda rngs: nn.ResNet(3, [16], 2, blocks=blocks, start=nn.Gamma(1.0), rngs=rngs), x, train=True)
    found = sp.measure(net, x, seeds=64, backward=False).sel(node=[f"blocks/{k}/add" for k in range(blocks)])
    gap = np.abs(np.diff(found.second_moment) - 1)
    assert (gap < 5 * np.hypot(found.second_moment_stderr.values[1:], found.second_moment_stderr.values[:-1])).all()


def test_second_derivatives_of_coordinate_networks():
    for factory in (partial(nn.PINN, [2, 16, 1]), partial(nn.Siren, [2, 16, 1]), partial(nn.ModifiedMLP, 2, 16, 1)):
        second = jax.jit(jax.hessian(lambda x: factory(rngs=nnx.Rngs(0))(x)[0]))(jnp.ones(2))
        assert jnp.isfinite(second).all() and (second != 0).all()


BAD = {
    "widths.*2 or more": lambda r: nn.MLP([], rngs=r),
    "widths: 0 given": lambda r: nn.MLP([4, 0, 2], rngs=r),
    "act: 'relu' given; it must be a function": lambda r: nn.MLP([4, 2], act="relu", rngs=r),
    "kernel_init: 'he' given": lambda r: nn.CNN(3, [4], 2, kernel_init="he", rngs=r),
    "bottleneck: 0 given": lambda r: nn.Autoencoder(4, [4], 0, rngs=r),
    "groups: 2 given, it does not divide the 3 input": lambda r: nn.CNN(3, [4], 2, layer=nn.Grouped(groups=2), rngs=r),
    "in_features: 3 given, it does not divide the 4 output": lambda r: nn.CNN(3, [4], 2, layer=nn.Depthwise(), rngs=r),
    "layer: 'depthwise' given; it must be one of": lambda r: nn.CNN(3, [4], 2, layer="depthwise", rngs=r),
    "layer: 1 makers given for 2 layers": lambda r: nn.MLP([4, 4, 2], layer=[nnx.Linear], rngs=r),
    "layer: 2 kinds given for 1 widths": lambda r: nn.CNN(3, [4], 2, layer=[nn.Pointwise()] * 2, rngs=r),
    "padding: 'same' is none of": lambda r: nn.Convolution(padding="same"),
    "stride: 0 given": lambda r: nn.Transposed(stride=0),
    "start: 'zero' given; it must be one of": lambda r: nn.ResNet(3, [4], 2, start="zero", rngs=r),
    "widths.*1 or more": lambda r: nn.ResNet(3, [], 2, rngs=r),
    "value: nan": lambda r: nn.Gamma(float("nan")),
    "depth: 0 given": lambda r: nn.LayerScale(0),
    "growth: 0 given": lambda r: nn.DenseNet(3, 0, 2, rngs=r),
    "kept: 0.0 given; it must be above 0": lambda r: nn.RandomMask(0.0),
    "kept: 5 given; it must be at most size, 4": lambda r: nn.BlockMask(5, 4),
    "init: its law is uniform": lambda r: nn.MaskedLinear(6, 2, mask=nn.MagnitudeMask(0.5, sp.init.he(distribution="uniform")), rngs=r),
    "size: 4 given, it does not divide the 6 inputs": lambda r: nn.MaskedLinear(6, 2, mask=nn.BlockMask(2, 4), rngs=r),
    "mask: it has entries other than 0 and 1": lambda r: nn.GivenMask([0.5]),
    "mask: its shape is": lambda r: nn.MaskedLinear(6, 2, mask=nn.GivenMask(np.ones((2, 6))), rngs=r),
    "gain: 0 given; it must be above 0": lambda r: nn.WeightNormLinear(4, 2, gain=0, rngs=r),
    "layer: LayerNorm given; it must be a Flax layer with a kernel": lambda r: nn.WeightNorm(nnx.LayerNorm(4, rngs=r)),
    "heads: 3 given, it does not divide the 16 features": lambda r: nn.EncoderBlock(16, 3, rngs=r),
    "heads: 5 given, it does not divide the 16 features": lambda r: nn.SelfAttention(16, 5, rngs=r),
    "power: inf is not a finite": lambda r: nn.SelfAttention(16, 2, power=float("inf"), rngs=r),
    "placement: 'pre' given": lambda r: nn.DecoderBlock(16, 2, placement="pre", rngs=r),
    "branch: 'half' is not a finite real number": lambda r: nn.PreNorm(16, branch="half", rngs=r),
    "cell: 'lstm' given": lambda r: nn.RecurrentClassifier(4, 4, 2, cell="lstm", rngs=r),
    "w0: 0.0 given; it must be above 0": lambda r: nn.Siren([2, 4, 1], w0=0.0, rngs=r),
    "features: 5 given; it must be even": lambda r: nn.FourierFeatures(2, 5, rngs=r),
    "layer:.*Transposed": lambda r: nn.Decoder(4, 2, [4], 3, layer=nn.Pointwise(), rngs=r),
    "up: a stride of 3 given; it must be 2": lambda r: nn.UNet(3, [4, 4], 2, up=nn.Transposed(3, 3), rngs=r),
    "x: its height is 3; it must be a multiple of 2": lambda r: nnx.eval_shape(
        lambda: nn.UNet(3, [4, 4], 2, rngs=nnx.Rngs(0))(jnp.ones((1, 3, 4, 3)))),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(sp.InvalidInput, match=message):
        BAD[message](nnx.Rngs(0))
