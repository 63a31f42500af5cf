"""Initializers for residual networks: gains of branches, and scales that shrink with depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sigprop.init.checks import check_whole
from sigprop.init.independent import Constant
from sigprop.init.initializer import Scaled

Base = Callable[..., Any]  # an initializer of sp.init, or any callable (key, shape, dtype)


def zero_gamma() -> Constant:
    """0 for the last normalization scale of a branch, so that each block starts as the identity (Goyal et al. 2017, section 5.1)."""
    return Constant(0.0)


def skip_init() -> Constant:
    """0 for the scalar that multiplies a branch (De & Smith 2020, "SkipInit")."""
    return Constant(0.0)


def rezero() -> Constant:
    """0 for the scalar that multiplies a branch, which may be shared by the layers of a block (Bachlechner et al. 2020, eq. 1)."""
    return Constant(0.0)


def layer_scale(depth: int) -> Constant:
    """Channel-wise gains of the branches: 0.1 up to depth 18, 1e-5 up to 24, 1e-6 beyond (Touvron et al. 2021, section 2).

    Raises:
        InvalidInput: where ``depth`` is not a whole number of 1 or more.
    """
    check_whole("depth", depth)
    return Constant(0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6)


def fixup(base: Base, branches: int, layers: int) -> Scaled:
    """``base`` times ``branches^(-1 / (2 layers - 2))``, for all layers of a branch but the last (Zhang et al. 2019, section 3).

    The last layer of each branch and the classifier are :func:`zero_gamma`; scalar biases start at 0 and scalar multipliers at 1.

    Args:
        base: usually :func:`sigprop.init.he`.
        branches: number of residual branches of the network.
        layers: weight layers of one branch, 2 or more.

    Raises:
        InvalidInput: for counts out of range.
    """
    check_whole("branches", branches)
    check_whole("layers", layers, 2)
    return Scaled(base, branches ** (-1 / (2 * layers - 2)))


def t_fixup_encoder(base: Base, layers: int) -> Scaled:
    """``base`` times ``0.67 layers^(-1/4)``: value, output and MLP weights of a transformer's encoder (Huang et al. 2020).

    Args:
        base: usually :func:`sigprop.init.xavier`.
        layers: encoder layers.

    Raises:
        InvalidInput: where ``layers`` is not a whole number of 1 or more.
    """
    check_whole("layers", layers)
    return Scaled(base, 0.67 * layers**-0.25)


def t_fixup_decoder(base: Base, layers: int) -> Scaled:
    """``base`` times ``(9 layers)^(-1/4)``: value, output and MLP weights of a decoder, and embeddings of variance 1/d before it.

    Huang et al. 2020; arguments and errors as in :func:`t_fixup_encoder`.
    """
    check_whole("layers", layers)
    return Scaled(base, (9 * layers) ** -0.25)


def gpt2(base: Base, layers: int) -> Scaled:
    """``base`` over ``sqrt(2 layers)``: the output weights of both branches of each of ``layers`` blocks (Radford et al. 2019, sec. 2.3).

    Raises:
        InvalidInput: where ``layers`` is not a whole number of 1 or more.
    """
    check_whole("layers", layers)
    return Scaled(base, (2 * layers) ** -0.5)


class DeepNorm(NamedTuple):
    """Constants of a stack of post-normalized layers ``LN(alpha x + f(x))``.

    Attributes:
        alpha: multiplies the residual stream.
        beta: gain of the value, output and MLP weights over :func:`sigprop.init.xavier`; queries and keys have gain 1.
    """

    alpha: float
    beta: float

    def scaled(self, base: Base) -> Scaled:
        """``base`` times ``beta``."""
        return Scaled(base, self.beta)


def deep_norm(layers: int) -> DeepNorm:
    """For an encoder or a decoder alone (Wang et al. 2022, table in figure 2): ``(2 N)^(1/4)`` and ``(8 N)^(-1/4)``.

    Raises:
        InvalidInput: where ``layers`` is not a whole number of 1 or more.
    """
    check_whole("layers", layers)
    return DeepNorm((2 * layers) ** 0.25, (8 * layers) ** -0.25)


def deep_norm_pair(encoder_layers: int, decoder_layers: int) -> tuple[DeepNorm, DeepNorm]:
    """For the encoder and the decoder of a network that has both (Wang et al. 2022, table in figure 2).

    Raises:
        InvalidInput: where a count is not a whole number of 1 or more.
    """
    check_whole("encoder_layers", encoder_layers)
    check_whole("decoder_layers", decoder_layers)
    both = (encoder_layers**4 * decoder_layers) ** (1 / 16)
    return DeepNorm(0.81 * both, 0.87 / both), DeepNorm((3 * decoder_layers) ** 0.25, (12 * decoder_layers) ** -0.25)
