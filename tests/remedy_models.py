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
SEGMENTS = np.where(DIGITS.images > 0, LABELS[:, None, None], -1).astype(np.int32)  # the digit at each pixel with ink, -1 elsewhere


class Bare(nn.Plain):
    """The start of a residual branch without normalization."""

    biased = True

    def norm(self, features, rngs):
        return lambda x: x


class UNet(nnx.Module):
    """Several convolutions at each resolution, all with Flax's own initializer, which is LeCun's on the fans of the kernel's shape."""

    def __init__(self, widths, outputs, convolutions, rngs):
        def level(a, b):
            return nnx.List([nnx.Conv(n, b, (3, 3), rngs=rngs) for n in (a, *[b] * (convolutions - 1))])

        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # coarse and fine, on the way up
        self.down = nnx.List([level(a, b) for a, b in zip((1, *widths[:-1]), widths, strict=True)])
        self.up = nnx.List([nnx.ConvTranspose(a, b, (2, 2), (2, 2), rngs=rngs) for a, b in pairs])
        self.merge = nnx.List([level(2 * b, b) for _, b in pairs])
        self.head = nnx.Conv(widths[0], outputs, (1, 1), rngs=rngs)

    def __call__(self, x):
        seen = []
        for k, level in enumerate(self.down):
            x = self._through(level, nnx.avg_pool(x, (2, 2), (2, 2)) if k else x)
            seen.append(x)
        for up, level, beside in zip(self.up, self.merge, seen[-2::-1], strict=True):
            x = self._through(level, jnp.concatenate([nnx.relu(up(x)), beside], -1))
        return self.head(x)

    def _through(self, level, x):
        for layer in level:
            x = nnx.relu(layer(x))
        return x


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


def unet(rngs, widths=(16, 32, 32), convolutions=4):
    return UNet(widths, 10, convolutions, rngs)


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


def pixel_entropy(y, t):
    """Over the pixels with ink."""
    each = optax.softmax_cross_entropy_with_integer_labels(y, jnp.maximum(t, 0))
    return jnp.sum(each * (t >= 0)) / jnp.sum(t >= 0)


@dataclass(frozen=True)
class Rule:
    """An optimizer with its learning rate."""

    rate: float
    adam: bool = False

    def __str__(self):
        return f"Adam, rate {self.rate:g}" if self.adam else f"SGD, rate {self.rate:g}, momentum 0.9"

    def optax(self):
        return optax.adam(self.rate) if self.adam else optax.sgd(self.rate, momentum=0.9)


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its inputs and targets, the loss, how it is trained, and the target of its remedy."""

    model: Callable[..., Any]
    x: np.ndarray
    y: np.ndarray
    loss: Callable[..., Any]
    rule: Rule
    steps: int
    target: str = "forward"

    @property
    def chance(self):
        """The loss of the best output that does not depend on the input; of equally likely digits."""
        return float(np.mean((self.y - self.y.mean(0)) ** 2)) if self.loss is square else float(np.log(10))

    def network(self, examples=4, **sizes):
        return sp.network(partial(self.model, **sizes), self.x[:examples])


CASES = {
    "U-Net, LeCun": Case(unet, IMAGES, SEGMENTS, pixel_entropy, Rule(3e-3), 300),
    "tanh, 100 layers, He": Case(tanh, PIXELS, LABELS, entropy, Rule(1e-3), 150, "critical"),
    "autoencoder, 40 layers, N(0, 0.01²)": Case(autoencoder, PIXELS, PIXELS, square, Rule(1e-3, adam=True), 150),
    "ResNet without norm, He": Case(resnet, IMAGES, LABELS, entropy, Rule(3e-3), 300),
    "post-norm transformer, Xavier": Case(transformer, ROWS, LABELS, entropy, Rule(4e-3, adam=True), 200),
}


def trainer(net, case, batch=64):
    """Training of a case, compiled once: ``train(params, seed)`` gives the losses of its minibatches, which ``seed`` draws, and the last
    on the first 512 examples; infinite where a run diverges."""
    inputs, targets, optimizer = jnp.asarray(case.x), jnp.asarray(case.y), case.rule.optax()

    @jax.jit
    def loss(p, x, y):
        return case.loss(net.apply(p, x), y)

    @jax.jit
    def step(p, state, chosen):
        found, grads = jax.value_and_grad(loss, allow_int=True)(p, inputs[chosen], targets[chosen])
        updates, state = optimizer.update(grads, state, p)
        return optax.apply_updates(p, updates), state, found

    def train(params, seed=0, after=lambda: None):
        rng, state, losses = np.random.default_rng(seed), optimizer.init(params), []
        for _ in range(case.steps):
            params, state, found = step(params, state, rng.integers(len(inputs), size=batch))
            losses.append(float(found))
            after()
        losses.append(float(loss(params, inputs[:512], targets[:512])))
        return np.nan_to_num(losses, nan=np.inf)

    return train
