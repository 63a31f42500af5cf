"""Fully connected networks: plain, autoencoding, weight-normalized, masked, and a pure function of a dict of arrays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from zoo.architecture import Architecture
from zoo.data import flat_digits


class TanhMLP(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(4):
            x = nn.tanh(nn.Dense(self.width, kernel_init=nn.initializers.xavier_normal(), bias_init=nn.initializers.normal(0.1))(x))
        return nn.Dense(10)(x)


class Autoencoder(nnx.Module):
    """A deep ReLU autoencoder at the library's default initialization, whose signal halves in every layer."""

    def __init__(self, width, *, rngs):
        sizes = [64, *[width] * 4, width // 2, width // 4, width // 2, *[width] * 4]
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(sizes[:-1], sizes[1:], strict=True)])
        self.out = nnx.Linear(width, 64, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return nnx.sigmoid(self.out(x))


class WeightNormMLP(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.silu(nn.WeightNorm(nn.Dense(self.width))(x))
        return nn.WeightNorm(nn.Dense(10))(x)


class MaskedLinear(nnx.Module):
    """A linear layer whose kernel is multiplied by a fixed random mask."""

    def __init__(self, features_in, features_out, keep, *, rngs):
        self.linear = nnx.Linear(features_in, features_out, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
        self.mask = nnx.Variable(jax.random.bernoulli(rngs.params(), keep, (features_in, features_out)).astype(jnp.float32))

    def __call__(self, x):
        return x @ (self.linear.kernel[...] * self.mask[...]) + self.linear.bias[...]


class MaskedMLP(nnx.Module):
    def __init__(self, width, *, keep=0.25, rngs):
        self.layers = nnx.List([MaskedLinear(n, width, keep, rngs=rngs) for n in (64, width, width)])
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.out(x)


def init_mlp(width, depth=3):
    def init(key):
        params = {}
        fan_in = 64
        for i, k in enumerate(jax.random.split(key, depth)):
            params[f"layer{i}"] = {"w": jax.random.normal(k, (fan_in, width)) * jnp.sqrt(1.5 / fan_in), "b": jnp.zeros(width)}
            fan_in = width
        params["out"] = {"w": jax.random.normal(jax.random.fold_in(key, 7), (width, 10)) / jnp.sqrt(width), "b": jnp.zeros(10)}
        return params

    return init


def apply_mlp(params, x):
    for name in ("layer0", "layer1", "layer2"):
        x = jax.nn.elu(x @ params[name]["w"] + params[name]["b"])
    return x @ params["out"]["w"] + params["out"]["b"]


def _digits():
    return (flat_digits(),)


ARCHITECTURES = {
    "Tanh MLP": Architecture("linen", TanhMLP, _digits),
    "Deep autoencoder": Architecture("nnx", lambda n: lambda rngs: Autoencoder(n, rngs=rngs), _digits, averaged=1 / 4),
    "Weight-normalized MLP": Architecture("linen", WeightNormMLP, _digits),
    "Masked MLP": Architecture("nnx", lambda n: lambda rngs: MaskedMLP(n, rngs=rngs), _digits),
    "Pure-function MLP": Architecture("function", lambda n: apply_mlp, _digits, init=init_mlp),
}
