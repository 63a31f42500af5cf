"""Networks of several inputs and of coordinates: DeepONet, a FiLM-conditioned network, SIREN."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from zoo.architecture import Architecture
from zoo.data import flat_digits, scanlines


class Net(nnx.Module):
    def __init__(self, features_in, width, *, rngs):
        self.first = nnx.Linear(features_in, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.third = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.third(jnp.tanh(self.second(jnp.tanh(self.first(x)))))


class DeepONet(nnx.Module):
    """The inner product of a branch net of a sampled function and a trunk net of a coordinate."""

    def __init__(self, width, *, rngs):
        self.branch = Net(32, width, rngs=rngs)
        self.trunk = Net(2, width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(()))

    def __call__(self, u, y):
        return jnp.einsum("bp,bp->b", self.branch(u), self.trunk(y)) + self.bias[...]


class Film(nnx.Module):
    """A network whose hidden layer is scaled and shifted by functions of a second input."""

    def __init__(self, width, *, rngs):
        self.first = nnx.Linear(64, width, rngs=rngs)
        self.condition = nnx.Linear(4, width, rngs=rngs)
        self.to_scale = nnx.Linear(width, width, rngs=rngs)
        self.to_shift = nnx.Linear(width, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x, condition):
        c = nnx.silu(self.condition(condition))
        h = self.norm(nnx.silu(self.first(x)))
        h = (1 + self.to_scale(c)) * h + self.to_shift(c)
        return self.out(nnx.silu(self.second(h)))


def _siren_uniform(bound):
    def init(key, shape, dtype=jnp.float32):
        return nnx.initializers.uniform(2 * bound(shape))(key, shape, dtype) - bound(shape)

    return init


class Siren(nnx.Module):
    """Sine layers with their own uniform initializers, on pixel coordinates."""

    def __init__(self, width, *, frequency=30.0, depth=3, rngs):
        self.frequency = frequency
        first = _siren_uniform(lambda shape: 1 / shape[0])
        rest = _siren_uniform(lambda shape: float(np.sqrt(6 / shape[0]) / frequency))
        self.layers = nnx.List([
            nnx.Linear(n, width, kernel_init=init, rngs=rngs) for n, init in [(2, first)] + [(width, rest)] * depth])
        self.out = nnx.Linear(width, 3, kernel_init=rest, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.sin(self.frequency * layer(x))
        return self.out(x)


def _sampled_functions():
    return scanlines(32)[..., 0], np.array([[0.3, 0.7], [0.9, 0.2]], np.float32)


def _conditioned():
    return flat_digits(), np.eye(4, dtype=np.float32)[:2]


def _coordinates():
    return (np.array([[-0.9, 0.4], [0.1, 0.75], [0.15, 0.7]], np.float32),)


ARCHITECTURES = {
    "DeepONet": Architecture("nnx", lambda n: lambda rngs: DeepONet(n, rngs=rngs), _sampled_functions),
    "FiLM-conditioned net": Architecture("nnx", lambda n: lambda rngs: Film(n, rngs=rngs), _conditioned),
    "SIREN": Architecture("nnx", lambda n: lambda rngs: Siren(n, rngs=rngs), _coordinates),
}
