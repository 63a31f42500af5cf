"""Initializers that count other fans than their operations have are found in models of both Flax libraries; right ones are not."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn import initializers as I
from lint_models import (
    FusedAttention,
    GatedFFN,
    GemmaAttention,
    Grouped,
    LinenUNet,
    LowRank,
    Masked,
    Rotary,
    SlicedAttention,
    Sound,
    SoundLinen,
    UNetDecoder,
    experts,
    experts_init,
    torch_init,
    torch_style,
)
from zoo import ZOO

import sigprop as sp
from sigprop.network import parameter_paths

RNG = np.random.default_rng(0)
VECTORS, TOKENS, IMAGES = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 32), (2, 6, 32), (2, 8, 8, 3)))
SEQUENCES, NARROW, WORDS = IMAGES[:, 0], VECTORS[:, :24], np.arange(10).reshape(2, 5)
ROOTS = I.variance_scaling(2.0, "fan_out", "normal")  # as torch's kaiming_normal_(mode="fan_out")


def mlp(kernel):
    return nn.Sequential([nn.Dense(64, kernel_init=kernel), nn.relu, nn.Dense(64, kernel_init=kernel), nn.relu, nn.Dense(5)])


def grouped(kernel):
    return lambda rngs: Grouped(rngs, kernel)


def plain(kernel):
    return sp.network(torch_style, NARROW, init=torch_init(kernel))


def transposed(kernel, shape, x):
    return sp.network(lambda w, x: x @ w.T, x, init=lambda key: kernel(key, shape))


STRIDE, AXES, FUSED, STORED = "stride of a transposed convolution", "axes not summed", "fused kernel", "(out, in) kernel"
WRONG = {  # what: (model or network, input, {parameter: (cause, fan counted, true fan)})
    "nnx U-Net": (UNetDecoder, IMAGES, {"up/kernel": (STRIDE, 16 * 4, 16)}),
    "linen U-Net": (LinenUNet(), IMAGES, {"ConvTranspose_0/kernel": (STRIDE, 8 * 16, 8 * 4)}),
    "linen U-Net, He": (LinenUNet(I.he_uniform()), IMAGES, {"ConvTranspose_0/kernel": (STRIDE, 8 * 16, 8 * 4)}),
    "fans of the shape alone": (LinenUNet(sp.init.he()), IMAGES, {"ConvTranspose_0/kernel": (STRIDE, 8 * 16, 8 * 4)}),
    "one dimension": (LinenUNet(rank=1), SEQUENCES, {"ConvTranspose_0/kernel": (STRIDE, 8 * 4, 8 * 2)}),
    "one dimension, He": (LinenUNet(I.he_normal(), 1), SEQUENCES, {"ConvTranspose_0/kernel": (STRIDE, 8 * 4, 8 * 2)}),
    "heads": (GemmaAttention, TOKENS, {"q/kernel": (AXES, 4 * 32, 32), "kv/kernel": (AXES, 2 * 32, 32)}),
    "two heads": (lambda rngs: GemmaAttention(rngs, 2), TOKENS, {"q/kernel": (AXES, 2 * 32, 32), "kv/kernel": (AXES, 2 * 32, 32)}),
    "fused, split": (FusedAttention(), TOKENS, {"qkv/kernel": (FUSED, (32 + 96) / 2, 32)}),
    "fused, reshaped": (FusedAttention(I.glorot_normal(), "reshape"), TOKENS, {"qkv/kernel": (FUSED, (32 + 96) / 2, 32)}),
    "fused, slices of one parameter": (SlicedAttention, TOKENS, {"w": (FUSED, (32 + 96) / 2, 32)}),
    "stored (out, in)": (plain(I.lecun_normal()), NARROW, {"0": (STORED, 72, 24), "1": (STORED, 12, 72), "2": (STORED, 5, 12)}),
    "stored (out, in), He": (plain(I.he_normal()), NARROW, {"0": (STORED, 72, 24), "1": (STORED, 12, 72), "2": (STORED, 5, 12)}),
    "groups, Xavier": (grouped(I.xavier_uniform()), IMAGES, {"depthwise/kernel": ("groups", (9 + 144) / 2, 9),
                                                             "grouped/kernel": ("groups", (36 + 288) / 2, (36 + 72) / 2)}),
    "groups, fan-out": (grouped(ROOTS), IMAGES, {"depthwise/kernel": ("groups", 144, 9), "grouped/kernel": ("groups", 288, 72)}),
    "stride, fan-out": (nn.Conv(16, (3, 3), 2, kernel_init=ROOTS, name="down"), IMAGES, {"kernel": ("stride", 144, 36)}),
    "experts": (sp.network(experts, VECTORS, init=experts_init), VECTORS, {"up": (AXES, 4 * 32, 32)}),
    "mask": (Masked(), VECTORS, {"w": ("mask", 32, 6.4)}),
    "epsilon": (GatedFFN(), TOKENS, {"down/kernel": ("epsilon", np.nan, np.nan)}),
}
RIGHT = {
    "nnx layers": (Sound, IMAGES), "linen layers": (SoundLinen(), WORDS), "linen, Xavier": (SoundLinen(I.xavier_uniform()), WORDS),
    "He": (mlp(I.he_normal()), VECTORS), "Xavier": (mlp(I.xavier_uniform()), VECTORS), "small": (mlp(I.normal(0.02)), VECTORS),
    "orthogonal": (mlp(I.orthogonal(2**0.5)), VECTORS), "true fan-in": (lambda rngs: UNetDecoder(rngs, I.normal(0.25)), IMAGES),
    "said fans": (LinenUNet(sp.init.he(sp.init.Fans(transposed_stride=2))), IMAGES),
    "true fan-in, one dimension": (LinenUNet(I.normal(0.25), 1), SEQUENCES), "fused, LeCun": (FusedAttention(I.lecun_normal()), TOKENS),
    "axes named": (plain(I.variance_scaling(2, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2)), NARROW),
    "axes named, twice as wide": (transposed(I.lecun_normal(-1, -2), (64, 32), VECTORS), VECTORS),
    "groups, LeCun": (grouped(I.lecun_normal()), IMAGES), "low rank": (LowRank(), TOKENS), "gated": (GatedFFN(std=0.2), TOKENS),
    "gated, small epsilon": (GatedFFN(epsilon=1e-12), TOKENS), "zeros": (mlp(I.zeros), VECTORS),
    "rotary": (Rotary(), TOKENS), "recurrence": (nn.RNN(nn.OptimizedLSTMCell(32)), TOKENS[:, :2]),
}


def network(model, x):
    return model if isinstance(model, sp.Network) else sp.network(model, x)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_fans_are_found(case):
    model, x, expected = WRONG[case]
    found = sp.lint(network(model, x))
    assert {f.leaf: f.cause for f in found} == {path: cause for path, (cause, *_) in expected.items()}
    for f in found:
        _, counted, true = expected[f.leaf]
        np.testing.assert_allclose((f.counted, f.true), (counted, true), rtol=1e-12)
        if f.cause != "epsilon":
            assert f.factor == pytest.approx(true / counted)
        assert f.leaf in str(f) and "normal(" in f.fix and f.leaf in repr(found)


@pytest.mark.parametrize("case", RIGHT)
def test_right_models_have_no_finding(case):
    model, x = RIGHT[case]
    found = sp.lint(network(model, x))
    assert not len(found) and str(found).startswith("No finding."), found
    assert not found.unchecked


@pytest.mark.parametrize("case", WRONG)
def test_the_fix_mends(case):
    """What is left after the kernels are drawn as the fixes say."""
    model, x, expected = WRONG[case]
    net = network(model, x)
    stds = {f.leaf: float(re.search(r"normal\(([\d.e+-]+)\)", f.fix)[1]) for f in sp.lint(net)}
    laws = {path: sp.Law(0.0, std**2) for path, std in stds.items()}
    tree = jax.tree.unflatten(jax.tree.structure(net.abstract_params), [laws.get(path) for path in parameter_paths(net.abstract_params)])
    assert not len(sp.lint(sp.network(net.apply, x, init=net.init, laws=tree)))


def test_xavier_on_a_wider_layer_is_no_mistake_but_shows():
    """2 / (d + 4 d) times d: a compromise between forward and backward, which the table of laws shows as 0.4."""
    net = sp.network(nn.Dense(4 * 32, kernel_init=I.xavier_uniform()), VECTORS)
    assert not len(sp.lint(net)) and net.laws["kernel"].variance * net.laws.fan_in["kernel"] == pytest.approx(0.4, rel=1e-6)


ZOO_CAUSES = {"U-Net": [STRIDE] * 2, "U-Net with max-pooling": [STRIDE], "Masked MLP": ["mask"] * 3}  # all others count right
SLOW = {"Weight-normalized MLP"}  # its laws are measured


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in ZOO])
def test_real_architectures(name):
    assert [f.cause for f in sp.lint(ZOO[name].network(16), checks="fans")] == ZOO_CAUSES.get(name, [])


def test_findings_are_a_list():
    found = sp.lint(plain(I.lecun_normal()))
    assert [f.leaf for f in found] == ["0", "1", "2"] and found[0].leaf == "0" and len(found[1:]) == 2
    head, *lines = repr(found).splitlines()
    assert head.split()[:2] == ["parameter", "cause"] and len(lines) == 3


UNIT = np.where(RNG.random((2, 6, 6, 32)) < 0.5, -1, 1).astype(np.float32)
LAYERS = {  # layer, input, parameter: each alone, so that the fan-in decides the variance
    "transposed": (nn.ConvTranspose(8, (4, 4), (2, 2), "CIRCULAR", name="layer"), UNIT, "kernel"),
    "einsum": (lambda rngs: nnx.Einsum("btd,ndh->btnh", (4, 32, 8), rngs=rngs), UNIT[0], "kernel"),
    "fused": (FusedAttention(), UNIT[0], "qkv/kernel"), "masked": (Masked(), UNIT[0, 0], "w"),
    "stored (out, in)": (transposed(I.lecun_normal(), (96, 32), UNIT[0, 0]), UNIT[0, 0], "params"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_factors_are_those_of_the_predicted_variance(case):
    """Of unit inputs: what a layer's variance is predicted to be, over the scale that its initializer aims at."""
    model, x, path = LAYERS[case]
    (finding,) = sp.lint(network(model, x))
    predicted = sp.propagate(network(model, x), x, backward=False)
    aim = 2.0 if case == "masked" else 1.0
    assert finding.leaf == path and finding.factor == pytest.approx(float(predicted.variance[0]) / aim, rel=1e-4)


def test_what_cannot_be_checked_is_said():
    net = sp.network(lambda w, x: jnp.linalg.qr(x @ w)[0], VECTORS, init=lambda key: I.lecun_normal()(key, (32, 8)))
    found = sp.lint(net)
    assert "normalizations" in found.unchecked and "Not checked" in str(found) and not sp.lint(net, checks=("fans",)).unchecked
    made = GemmaAttention(nnx.Rngs(0))
    assert "fans of 'kv/kernel' and 2 more, whose law is measured" in sp.lint(sp.network(made, TOKENS), checks="fans").unchecked


@pytest.mark.parametrize(("call", "message"), [
    (lambda: sp.lint(VECTORS), "^net: ndarray is not a network"), (lambda: sp.lint(sp.network(Sound)), "^x: .*give example inputs"),
    (lambda: sp.lint(sp.network(mlp(I.zeros), VECTORS), checks=("fans", "signs")), "^checks: 'signs' is none of 'fans', 'epsilons'"),
], ids=["not a network", "no inputs", "unknown check"])
def test_bad_input_is_named(call, message):
    with pytest.raises(sp.InvalidInput, match=message):
        call()
