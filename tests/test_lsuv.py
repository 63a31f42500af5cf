"""LSUV: the variance of each layer's output on the batch, read off by Flax itself after the weights are rescaled."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sigprop as sp

X = np.random.default_rng(0).standard_normal((16, 12)).astype(np.float32) + 0.5
IMAGES = np.random.default_rng(1).standard_normal((8, 6, 6, 3)).astype(np.float32)
TOKENS = np.random.default_rng(2).integers(0, 7, (8, 5)).astype(np.int32)


def perceptron():
    start = sp.init.Normal(0.3)
    return nn.Sequential([layer for _ in range(6) for layer in (nn.Dense(24, kernel_init=start), nn.relu)] + [nn.Dense(3)])


class Images(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), kernel_init=sp.init.Orthogonal(5.0))(x))
        x = x + nn.Conv(8, (3, 3), feature_group_count=4)(nn.relu(nn.Conv(8, (1, 1))(x)))
        return nn.Dense(4)(nn.relu(nn.ConvTranspose(5, (2, 2), (2, 2))(x)).mean((1, 2)))


class Sentences(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 16)(tokens)
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
        return nn.Dense(2)(x)


MODELS = {"perceptron": (perceptron(), X), "convolutions": (Images(), IMAGES), "attention": (Sentences(), TOKENS)}


@pytest.mark.parametrize("target", [1.0, 4.0])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_has_the_target_variance(name, target):
    model, x = MODELS[name]
    net = sp.network(model, x)
    params = sp.lsuv(net, net.init(jax.random.key(0)), x, target=target)
    kinds = (nn.Dense, nn.Conv, nn.ConvTranspose, nn.DenseGeneral)
    seen = model.apply(params["variables"], x, capture_intermediates=lambda m, _: isinstance(m, kinds))[1]["intermediates"]
    found = [float(jnp.var(v)) for v in jax.tree.leaves(seen)]
    assert len(found) == {"perceptron": 7, "convolutions": 5, "attention": 5}[name]
    np.testing.assert_allclose(found, target, rtol=1e-4)


def test_other_parameters_keep_their_values():
    net = sp.network(Sentences(), TOKENS)
    before = net.init(jax.random.key(0))
    after = sp.lsuv(net, before, TOKENS)
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        kernel = "kernel" in jax.tree_util.keystr(path)
        assert bool(jnp.array_equal(old, new)) is not kernel
        if kernel:
            ratio = np.asarray(new / old)
            np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-4)


class Stacked(nnx.Module):
    """Four layers stored in one parameter."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=4)
        @nnx.vmap
        def stack(rngs):
            return nnx.Linear(12, 12, kernel_init=sp.init.Normal(2.0), rngs=rngs)

        self.layers = stack(rngs)

    def __call__(self, x):
        return nnx.scan(lambda x, layer: nnx.relu(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)


def test_layers_of_a_stack_have_their_own_factors():
    net = sp.network(Stacked, X)
    weights = jax.tree.leaves(sp.lsuv(net, net.init(jax.random.key(0)), X))[-1]
    assert weights.shape == (4, 12, 12)
    h = X
    for weight in weights:
        y = h @ weight
        assert float(jnp.var(y)) == pytest.approx(1, rel=1e-4)
        h = jax.nn.relu(y)


def test_recurrent_weights_have_the_variance_at_their_first_use():
    def apply(params, x):
        h = jnp.tanh(x @ params["in"])
        for _ in range(3):
            h = jnp.tanh(x @ params["in"] + h @ params["state"])
        return h

    def init(key):
        return {"in": jax.random.normal(key, (12, 20)), "state": jax.random.normal(jax.random.fold_in(key, 1), (20, 20))}

    net = sp.network(apply, X, init=init)
    params = sp.lsuv(net, net.init(jax.random.key(0)), X)
    first = X @ params["in"]
    assert [float(jnp.var(first)), float(jnp.var(jnp.tanh(first) @ params["state"]))] == pytest.approx([1, 1], rel=1e-4)


def test_it_can_be_mapped_over_seeds():
    net = sp.network(perceptron(), X)
    keys = jax.random.split(jax.random.key(0), 3)
    mapped = jax.jit(jax.vmap(lambda key: sp.lsuv(net, net.init(key), X)))(keys)
    alone = sp.lsuv(net, net.init(keys[2]), X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-4, atol=1e-6), mapped["variables"],
                 alone["variables"])


ZERO = sp.network(nn.Sequential([nn.Dense(8), nn.Dense(3, kernel_init=sp.init.Constant(0.0))]), X)
NET = sp.network(perceptron(), X)
BAD = {
    "zero head": (lambda: sp.lsuv(ZERO, ZERO.init(jax.random.key(0)), X), r"params\['layers_1/kernel'\]: .*does not vary"),
    "target": (lambda: sp.lsuv(NET, NET.init(jax.random.key(0)), X, target=0.0), "target: 0.0 given; it must be above 0"),
    "parameters": (lambda: sp.lsuv(NET, {"w": X}, X), "params: structure .* is not that of the network's parameters"),
    "inputs": (lambda: sp.lsuv(NET, NET.init(jax.random.key(0)), X * np.nan), "x.*NaN"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()
