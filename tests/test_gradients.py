"""E[g²] of every trained parameter, for the gradient g of <c, y> with standard normal c, against measurement.

Measurements are extrapolated from two widths as in ``harness.check_limit``. Comparisons raise a false alarm with probability 1e-6 per
network and see discrepancies of 3 % in any parameter, in the fast suite of 10 %.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import Sample, agree, sample
from sklearn.datasets import load_digits

import sigprop as sp
from sigprop.network import parameter_paths
from sigprop.network.backward import backward
from sigprop.predict import interpretation
from sigprop.predict.gradients import gradients

RNG = np.random.default_rng(0)
# Flax's truncated normal weights over n inputs give a first layer that is Gaussian only up to 1/n: 64 pixels leave 0.2 %
ROWS = (load_digits().data[:2] / 8 - 1).astype(np.float32)
IMAGES = RNG.standard_normal((2, 4, 4, 2)).astype(np.float32)
TOKENS = RNG.integers(0, 20, (2, 4))


def mlp(activation, depth=2):
    return lambda n: nn.Sequential([layer for _ in range(depth) for layer in (nn.Dense(n), activation)] + [nn.Dense(4)])


class PreNorm(nn.Module):
    width: int
    activation: object = nn.relu

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        for _ in range(2):
            x = x + nn.Dense(self.width)(self.activation(nn.Dense(self.width)(nn.LayerNorm()(x))))
        return nn.Dense(4)(nn.LayerNorm()(x))


class NormBlocks(nn.Module):
    width: int
    activation: object

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = self.activation(nn.LayerNorm()(nn.Dense(self.width)(x)))
        return nn.Dense(4)(x)


class DenseNet(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width)(x))
        for _ in range(2):
            x = jnp.concatenate([x, nn.relu(nn.Dense(self.width)(x))], -1)
        return nn.Dense(4)(x)


class Joined(nn.Module):
    """A choice for each unit after a concatenation, of which one part is deterministic."""

    width: int

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(self.width)(x)
        return nn.Dense(4)(nn.relu(jnp.concatenate([h, nn.Dense(self.width)(nn.relu(h)), x], -1)))


class Convolutions(nn.Module):
    width: int
    depthwise: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        if self.depthwise:
            x = nn.Conv(self.width, (3, 3), feature_group_count=self.width)(x)
        x = nn.avg_pool(nn.relu(nn.Conv(self.width, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(2)(x.mean((1, 2)))


class Attention(nn.Module):
    """A causal pre-norm layer with heads of eight channels; biases of keys change no weight, and have no gradient."""

    width: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, self.width, embedding_init=nn.initializers.normal(1.0))(tokens)
        attend = nn.MultiHeadDotProductAttention(num_heads=self.width // 8, use_bias=False)
        x = x + attend(nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
        return nn.Dense(4)(nn.LayerNorm()(x).mean(1))


class ClassToken(nn.Module):
    """A token of its own before those of the input, through attention, read out alone."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x.reshape(2, 2, -1))
        token = self.param("token", nn.initializers.normal(1.0), (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (2, 1, self.width)), x], 1)
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.width // 8, use_bias=False)(nn.LayerNorm()(x))
        return nn.Dense(2)(nn.LayerNorm()(x)[:, 0])


class Embedded(nn.Module):
    width: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, self.width, embedding_init=nn.initializers.normal(1.0))(tokens)
        return nn.Dense(4)(nn.gelu(nn.Dense(self.width)(x)).mean(1))


class Shared(nn.Module):
    """One layer applied twice."""

    width: int

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(self.width)
        return nn.Dense(4)(jnp.tanh(layer(jnp.tanh(layer(jnp.tanh(nn.Dense(self.width)(x)))))))


CASES = {  # model of a width, inputs, narrower width
    "relu": (mlp(nn.relu), ROWS, 128), "tanh": (mlp(nn.tanh), ROWS, 128), "gelu": (mlp(nn.gelu), ROWS, 128),
    "wide relu": (mlp(nn.relu), ROWS, 512), "deep tanh": (mlp(nn.tanh, 4), ROWS, 128),
    "pre-norm residual": (PreNorm, ROWS, 128), "norm and tanh": (lambda n: NormBlocks(n, nn.tanh), ROWS, 128),
    "norm and gelu": (lambda n: NormBlocks(n, nn.gelu), ROWS, 128), "concatenated": (DenseNet, ROWS, 128),
    "choice after concatenation": (Joined, ROWS, 128),
    "embedding": (Embedded, TOKENS, 128), "attention": (Attention, TOKENS, 96), "class token": (ClassToken, ROWS, 96),
    "shared weights": (Shared, ROWS, 128),
    "convolutions": (Convolutions, IMAGES, 96), "depthwise": (lambda n: Convolutions(n, True), IMAGES, 96),
}
FAST = ("tanh",)


def measured(net, x, seeds, group=16):
    """The mean over c is exact: the squared Jacobian summed over output entries. Seeds are grouped into nearly normal observations; those
    of images follow one after the other, because XLA's grouped convolutions on CPUs take tens of times longer for a batch of kernels."""
    free = [path for path, moves in zip(parameter_paths(net.abstract_params), net.trainable, strict=True) if moves]
    pull = backward(net, x)
    shape = jax.eval_shape(lambda k: net.apply(net.init(k), x), jax.random.key(0)).shape
    every = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
    over = functools.partial(jax.lax.map, batch_size=1 if np.ndim(x) == 4 else group)

    def one(key):
        params = net.init(key)
        return over(lambda c: jnp.stack([jnp.mean(g**2) for g in pull(params, (x,), c)[1]]), every).sum(0)

    keys = jax.random.split(jax.random.key(1), (seeds // group, group))
    found = np.asarray(jax.jit(lambda k: jax.lax.map(lambda some: over(one, some).mean(0), k))(keys))
    return free, sample(found)


def table(net, x):
    found = interpretation(net, x)
    return gradients(found.context, net, found.params, x).parameters


@pytest.mark.parametrize(("name", "seeds", "detects"), [
    *((name, 2048, 0.1) for name in FAST),
    *(pytest.param(name, 20480 * (4 if name == "class token" else 1), 0.03, marks=pytest.mark.slow) for name in CASES)])
def test_parameters_have_the_predicted_gradients(name, seeds, detects):
    build, x, width = CASES[name]
    ratios = []
    for n in (width, 2 * width):
        net = sp.network(build(n), x)
        predicted = table(net, x)
        paths, found = measured(net, x, seeds)
        assert list(predicted) == paths
        values = np.array([value.plain() for value in predicted.values()])
        ratios.append(Sample(found.mean / values, found.stderr / values, found.dof))
    narrow, wide = ratios
    limit = Sample(2 * wide.mean - narrow.mean, np.sqrt(4 * wide.stderr**2 + narrow.stderr**2), wide.dof)
    correction = 2 * (narrow.mean - wide.mean)
    agree(np.ones_like(limit.mean), limit, detects=detects, allowance=correction**2 + (5 / width) ** 2)


class TransposedReadOut(nn.Module):
    """The read-out is the embedding, transposed."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(20, 128)
        return embed.attend(jnp.tanh(nn.Dense(128)(embed(tokens))))


class TransposedReuse(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.lecun_normal(), (128, 128))
        h = jnp.tanh(nn.Dense(128)(x))
        return nn.Dense(4)(jnp.tanh(jnp.tanh(h @ w) @ w.T))


@pytest.mark.parametrize(("model", "x"), [(TransposedReadOut, TOKENS), pytest.param(TransposedReuse, ROWS, marks=pytest.mark.slow)])
def test_transposed_weights_are_right(model, x):
    net = sp.network(model(), x)
    predicted, (paths, found) = table(net, x), measured(net, x, 1024)
    assert list(predicted) == paths
    agree([value.plain() for value in predicted.values()], found, detects=0.15, allowance=8 / 128)
