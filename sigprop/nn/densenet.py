"""Networks whose layers see all layers before them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sigprop.init.checks import check_whole
from sigprop.nn.checks import check_callable
from sigprop.nn.shared import HE, ZEROS, Activation, Init, NormMaker, same


def no_norm(features: int, *, rngs: nnx.Rngs) -> Any:
    """In place of a normalization."""
    return same


class DenseLayer(nnx.Module):
    """``growth`` new channels, ``conv(act(norm(x)))``, beside those of ``x``.

    Args:
        in_features, growth: channels before, and added.
        norm: ``nnx.BatchNorm``, :func:`no_norm`, or another that is called as ``norm(features, rngs=)``.
        padding: of the convolution, ``SAME`` (by zeros), ``VALID`` or ``CIRCULAR``.
        kernel_init, bias_init, act: as in :class:`MLP`; a bias only without a norm.

    Raises:
        InvalidInput: for counts below 1, and what cannot be called.
    """

    def __init__(self, in_features: int, growth: int, *, norm: NormMaker = nnx.BatchNorm, padding: str = "SAME",
                 kernel_init: Init = HE, bias_init: Init = ZEROS, act: Activation = nnx.relu, rngs: nnx.Rngs) -> None:
        check_whole("in_features", in_features)
        check_whole("growth", growth)
        check_callable(norm=norm, kernel_init=kernel_init, bias_init=bias_init, act=act)
        self.act = act
        self.norm = norm(in_features, rngs=rngs)
        self.conv = nnx.Conv(in_features, growth, (3, 3), padding=padding, use_bias=norm is no_norm, kernel_init=kernel_init,
                             bias_init=bias_init, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch height width more"]:
        return jnp.concatenate([x, self.conv(self.act(self.norm(x)))], -1)


class DenseNet(nnx.Module):
    """Dense blocks with a pointwise convolution and a mean over 2 by 2 pixels in between (Huang et al. 2017).

    Args:
        in_features: channels of an image.
        growth: the growth rate k; the first convolution makes 2k channels.
        blocks, layers: dense blocks, and layers of each.
        out_features: outputs.
        norm, padding, kernel_init, bias_init, act: as in :class:`DenseLayer`.

    Raises:
        InvalidInput: for counts below 1, and what cannot be called.
    """

    def __init__(self, in_features: int, growth: int, out_features: int, *, blocks: int = 2, layers: int = 3,
                 norm: NormMaker = nnx.BatchNorm, padding: str = "SAME", kernel_init: Init = HE, bias_init: Init = ZEROS,
                 act: Activation = nnx.relu, rngs: nnx.Rngs) -> None:
        for name, value in {"in_features": in_features, "growth": growth, "out_features": out_features, "blocks": blocks,
                            "layers": layers}.items():
            check_whole(name, value)
        check_callable(norm=norm, kernel_init=kernel_init, bias_init=bias_init, act=act)
        self.act = act
        self.stem = nnx.Conv(in_features, 2 * growth, (3, 3), padding=padding, use_bias=False, kernel_init=kernel_init, rngs=rngs)
        wide = (2 + layers) * growth  # channels at the end of a block
        self.blocks = nnx.List([nnx.List([
            DenseLayer((2 + k) * growth, growth, norm=norm, padding=padding, kernel_init=kernel_init, bias_init=bias_init, act=act,
                       rngs=rngs)
            for k in range(layers)]) for _ in range(blocks)])
        self.norms = nnx.List([norm(wide, rngs=rngs) for _ in range(blocks)])
        self.transitions = nnx.List([nnx.Conv(wide, 2 * growth, (1, 1), use_bias=norm is no_norm, kernel_init=kernel_init,
                                              bias_init=bias_init, rngs=rngs) for _ in range(blocks - 1)])
        self.head = nnx.Linear(wide, out_features, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch outputs"]:
        x = self.stem(x)
        for k, block in enumerate(self.blocks):
            if k:
                x = nnx.avg_pool(self.transitions[k - 1](x), (2, 2), (2, 2))
            for layer in block:
                x = layer(x)
            x = self.act(self.norms[k](x))
        return self.head(x.mean((-3, -2)))
