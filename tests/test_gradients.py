"""E[g²] of every trained parameter, for the gradient g of <c, y> with standard normal c, against measurement.

A parameter agrees when the harness's comparison passes: false alarm 1e-6 per network, and discrepancies of ``detects`` are seen. The
measurement is extrapolated from widths n and 2n, whose error of order 1/n cancels; what is left is of second order in layers/n.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import Sample, agree, sample

import sigprop as sp
from sigprop.network import parameter_paths
from sigprop.network.backward import backward
from sigprop.predict import interpretation
from sigprop.predict.gradients import gradients

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((3, 12)).astype(np.float32)
IMAGES = RNG.standard_normal((2, 6, 6, 2)).astype(np.float32)
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
        x = nn.Dense(self.width)(x)
        for _ in range(2):
            x = jnp.concatenate([x, nn.Dense(self.width)(nn.relu(x))], -1)
        return nn.Dense(4)(nn.relu(x))


class Convolutions(nn.Module):
    width: int
    depthwise: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        if self.depthwise:
            x = nn.Conv(self.width, (3, 3), feature_group_count=self.width)(x)
        x = nn.avg_pool(nn.relu(nn.Conv(self.width, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(4)(x.mean((1, 2)))


class Embedded(nn.Module):
    width: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, self.width)(tokens)
        return nn.Dense(4)(nn.gelu(nn.Dense(self.width)(x)).mean(1))


class Shared(nn.Module):
    """One layer applied twice."""

    width: int

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(self.width)
        return nn.Dense(4)(jnp.tanh(layer(jnp.tanh(layer(jnp.tanh(nn.Dense(self.width)(x)))))))


CASES = {
    "relu": (mlp(nn.relu), ROWS, 48), "tanh": (mlp(nn.tanh), ROWS, 48), "gelu": (mlp(nn.gelu), ROWS, 48),
    "pre-norm residual": (PreNorm, ROWS, 64), "norm and tanh": (lambda n: NormBlocks(n, nn.tanh), ROWS, 64),
    "norm and gelu": (lambda n: NormBlocks(n, nn.gelu), ROWS, 64), "concatenated": (DenseNet, ROWS, 48),
    "embedding": (Embedded, TOKENS, 48), "shared weights": (Shared, ROWS, 64),
    "convolutions": (Convolutions, IMAGES, 32), "depthwise": (lambda n: Convolutions(n, True), IMAGES, 32),
}
SLOW = {"convolutions", "depthwise"}


def measured(net, x, seeds, group=16):
    """The mean over c is exact: the squared Jacobian summed over output entries. Seeds are grouped into nearly normal observations."""
    free = [path for path, moves in zip(parameter_paths(net.abstract_params), net.trainable, strict=True) if moves]
    pull = backward(net, x)
    shape = jax.eval_shape(lambda k: net.apply(net.init(k), x), jax.random.key(0)).shape
    every = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)

    def one(key):
        params = net.init(key)
        found = jax.vmap(lambda c: jnp.stack([jnp.mean(g**2) for g in pull(params, (x,), c)[1]]))(every)
        return found.sum(0)

    keys = jax.random.split(jax.random.key(1), (seeds // group, group))
    found = np.asarray(jax.jit(lambda k: jax.lax.map(lambda some: jax.vmap(one)(some).mean(0), k))(keys))
    return free, sample(found)


def table(net, x):
    found = interpretation(net, x)
    return gradients(found.context, net, found.params, x).parameters


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_parameters_have_the_predicted_gradients(name):
    build, x, width = CASES[name]
    nets = [sp.network(build(n), x) for n in (width, 2 * width)]
    values = [np.array([v.plain() for v in table(net, x).values()]) for net in nets]
    (paths, narrow), (_, wide) = (measured(net, x, 1024) for net in nets)
    assert list(table(nets[0], x)) == paths
    one, two = (Sample(s.mean / v, s.stderr / v, s.dof) for s, v in zip((narrow, wide), values, strict=True))
    limit = Sample(2 * two.mean - one.mean, np.sqrt(4 * two.stderr**2 + one.stderr**2), one.dof)
    agree(np.ones(len(paths)), limit, detects=0.1, allowance=(2 * (one.mean - two.mean)) ** 2 + (5 / width) ** 2)


class TransposedReadOut(nn.Module):
    """The read-out is the embedding, transposed."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(20, 64)
        return embed.attend(jnp.tanh(nn.Dense(64)(embed(tokens))))


class TransposedReuse(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.lecun_normal(), (64, 64))
        h = jnp.tanh(nn.Dense(64)(x))
        return nn.Dense(4)(jnp.tanh(jnp.tanh(h @ w) @ w.T))


@pytest.mark.parametrize(("model", "x"), [(TransposedReadOut, TOKENS), (TransposedReuse, ROWS)])
def test_tied_weights_are_refused(model, x):
    net = sp.network(model(), x)
    try:
        found = table(net, x)
    except sp.SigpropError:
        return
    assert any(isinstance(v, sp.SigpropError) for v in found.values()), found
