"""Networks with an initialization that fails, and what they are trained on: scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import sigprop as sp
from sigprop import nn

DIGITS = load_digits()
PIXELS = ((DIGITS.data - DIGITS.data.mean()) / DIGITS.data.std()).astype(np.float32)  # mean 0 and variance 1 over all
LABELS = DIGITS.target.astype(np.int32)
ROWS = PIXELS.reshape(-1, 8, 8)  # as tokens
IMAGES = ROWS[..., None]
NOISY = IMAGES + np.random.default_rng(0).standard_normal(IMAGES.shape).astype(np.float32)


class Bare(nn.Plain):
    """The start of a residual branch without normalization."""

    biased = True

    def norm(self, features, rngs):
        return lambda x: x


class PostNormEncoder(nnx.Module):
    """Rows of an image as tokens; the norm follows each sum."""

    def __init__(self, layers, width, rngs):
        self.embed = nnx.Linear(8, width, rngs=rngs)
        self.blocks = nnx.List([nn.EncoderBlock(width, 4, placement=nn.PostNorm, rngs=rngs) for _ in range(layers)])
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def unet(rngs, widths=(16, 32, 64, 64)):
    return nn.UNet(1, widths, 1, kernel_init=sp.init.lecun(), rngs=rngs)


def tanh(rngs, depth=100, width=64):
    return nn.MLP([64] + [width] * (depth - 1) + [10], act=jnp.tanh, kernel_init=sp.init.he(), rngs=rngs)


def autoencoder(rngs, width=64):
    return nn.Autoencoder(64, [width] * 19, 32, kernel_init=sp.init.Normal(0.01**2), rngs=rngs)


def resnet(rngs, blocks=24, width=16):
    return nn.ResNet(1, [width], 10, blocks=blocks, start=Bare(), kernel_init=sp.init.he(), rngs=rngs)


def transformer(rngs, layers=12, width=32):
    return PostNormEncoder(layers, width, rngs)


def square(y, t):
    return jnp.mean((y - t) ** 2)


def entropy(y, t):
    return optax.softmax_cross_entropy_with_integer_labels(y, t).mean()


@dataclass(frozen=True)
class Case:
    """A model, its inputs and targets, the loss, the optimizer, and the target of its remedy; ``chance`` is that of a constant output."""

    model: Callable[..., Any]
    x: np.ndarray
    y: np.ndarray
    loss: Callable[..., Any]
    optimizer: optax.GradientTransformation
    target: str = "forward"

    @property
    def chance(self):
        return float(np.log(10)) if self.loss is entropy else float(np.mean((self.y - self.y.mean(0)) ** 2))

    def network(self, examples=4, **sizes):
        return sp.network(partial(self.model, **sizes), self.x[:examples])


CASES = {
    "U-Net, LeCun": Case(unet, NOISY, IMAGES, square, optax.sgd(1e-2, momentum=0.9)),
    "tanh, 100 layers, He": Case(tanh, PIXELS, LABELS, entropy, optax.sgd(1e-3, momentum=0.9), "critical"),
    "autoencoder, 40 layers, N(0, 0.01²)": Case(autoencoder, PIXELS, PIXELS, square, optax.adam(1e-3)),
    "ResNet without norm, He": Case(resnet, IMAGES, LABELS, entropy, optax.sgd(1e-2, momentum=0.9)),
    "post-norm transformer, Xavier": Case(transformer, ROWS, LABELS, entropy, optax.adam(1e-3)),
}


def train(net, case, params, steps, batch=64, seed=0, after=lambda: None):
    """Losses of ``steps`` minibatches, and the last on the first 512 examples; infinite where a run diverges."""
    inputs, targets = jnp.asarray(case.x), jnp.asarray(case.y)

    def loss(p, x, y):
        return case.loss(net.apply(p, x), y)

    @jax.jit
    def step(p, state, x, y):
        found, grads = jax.value_and_grad(loss, allow_int=True)(p, x, y)
        updates, state = case.optimizer.update(grads, state, p)
        return optax.apply_updates(p, updates), state, found

    rng, state, losses = np.random.default_rng(seed), case.optimizer.init(params), []
    for _ in range(steps):
        chosen = rng.integers(len(case.x), size=batch)
        params, state, found = step(params, state, inputs[chosen], targets[chosen])
        losses.append(float(found))
        after()
    losses.append(float(jax.jit(loss)(params, inputs[:512], targets[:512])))
    return np.nan_to_num(losses, nan=np.inf)
