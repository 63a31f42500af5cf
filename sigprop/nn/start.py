"""How the branch of a residual block begins: what is in it beside its convolutions, and what it is multiplied by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from sigprop.init.checks import check_number, check_whole
from sigprop.init.residual import fixup, layer_scale, rezero, skip_init, zero_gamma
from sigprop.nn.shared import ONES, ZEROS, Init, same


class Gain(nnx.Module):
    """Multiplies by a parameter, and adds another where ``bias_init`` is given.

    Args:
        shape: ``()`` for one number, ``(channels,)`` for one per channel.
        scale_init, bias_init: first values.
    """

    def __init__(self, shape: tuple[int, ...] = (), *, scale_init: Init, bias_init: Init | None = None, rngs: nnx.Rngs) -> None:
        self.scale = nnx.Param(scale_init(rngs.params(), shape))
        self.bias = nnx.data(None) if bias_init is None else nnx.Param(bias_init(rngs.params(), shape))

    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        x = x * self.scale[...]
        return x if self.bias is None else x + self.bias[...]


class Shift(nnx.Module):
    """Adds one number, a parameter."""

    def __init__(self, *, bias_init: Init = ZEROS, rngs: nnx.Rngs) -> None:
        self.bias = nnx.Param(bias_init(rngs.params(), ()))

    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        return x + self.bias[...]


@dataclass(frozen=True)
class Plain:
    """Batch normalization with every scale at 1. The other starts differ from it in what they define.

    Attributes of the class:
        biased: whether convolutions have biases.
        closed: whether a pre-activation branch ends in :meth:`last_norm` too.
    """

    biased = False
    closed = False

    def norm(self, features: int, rngs: nnx.Rngs) -> Any:
        """Around the convolutions of the branch."""
        return nnx.BatchNorm(features, rngs=rngs)

    def last_norm(self, features: int, rngs: nnx.Rngs) -> Any:
        """After the last convolution."""
        return self.norm(features, rngs)

    def before(self, rngs: nnx.Rngs) -> Any:
        """Right before each convolution."""
        return same

    def gain(self, features: int, rngs: nnx.Rngs) -> Any:
        """At the end of the branch."""
        return same

    def kernel(self, base: Init, branches: int, layers: int, last: bool) -> Init:
        """Initializer of a convolution in one of ``branches`` branches of ``layers`` convolutions."""
        return base

    def head(self, base: Init) -> Init:
        """Initializer of the classifier."""
        return base


@dataclass(frozen=True)
class Gamma(Plain):
    """The last normalization of the branch has a scale of ``value``: on the statistics of the batch E[z²] of the stream
    grows by ``value²`` per block.

    A pre-activation branch gets a normalization after its last convolution for it.

    Raises:
        InvalidInput: where the value is not a finite number.
    """

    value: float = 1.0
    closed = True

    def __post_init__(self) -> None:
        check_number("value", self.value)

    def last_norm(self, features: int, rngs: nnx.Rngs) -> Any:
        return nnx.BatchNorm(features, scale_init=self.value * ONES, rngs=rngs)


@dataclass(frozen=True)
class ZeroGamma(Plain):
    """The last normalization of the branch has a scale of 0 (Goyal et al. 2017, section 5.1); otherwise as :class:`Gamma`."""

    closed = True

    def last_norm(self, features: int, rngs: nnx.Rngs) -> Any:
        return nnx.BatchNorm(features, scale_init=zero_gamma(), rngs=rngs)


class _Bare(Plain):
    """Without normalization."""

    biased = True

    def norm(self, features: int, rngs: nnx.Rngs) -> Any:
        return same


@dataclass(frozen=True)
class SkipInit(_Bare):
    """No normalization; one number per branch, first 0, multiplies it (De & Smith 2020)."""

    def gain(self, features: int, rngs: nnx.Rngs) -> Any:
        return Gain(scale_init=skip_init(), rngs=rngs)


@dataclass(frozen=True)
class ReZero(_Bare):
    """No normalization; one number per branch, first 0, multiplies it (Bachlechner et al. 2020, eq. 1)."""

    def gain(self, features: int, rngs: nnx.Rngs) -> Any:
        return Gain(scale_init=rezero(), rngs=rngs)


@dataclass(frozen=True)
class Fixup(_Bare):
    """No normalization; kernels shrunk by the number of branches, the last of each and the classifier 0, a bias (one number) before each
    convolution and activation, and a multiplier at the end of each branch (Zhang et al. 2019, section 3)."""

    biased = False

    def norm(self, features: int, rngs: nnx.Rngs) -> Any:
        return Shift(rngs=rngs)

    def last_norm(self, features: int, rngs: nnx.Rngs) -> Any:
        return same

    def before(self, rngs: nnx.Rngs) -> Any:
        return Shift(rngs=rngs)

    def gain(self, features: int, rngs: nnx.Rngs) -> Any:
        return Gain(scale_init=ONES, bias_init=ZEROS, rngs=rngs)

    def kernel(self, base: Init, branches: int, layers: int, last: bool) -> Init:
        return ZEROS if last else fixup(base, branches, layers)

    def head(self, base: Init) -> Init:
        return ZEROS


@dataclass(frozen=True)
class LayerScale(Plain):
    """Batch normalization, and one gain per channel that starts small for deep networks (Touvron et al. 2021, section 2).

    Attributes:
        depth: number of blocks that sets the first value, as in :func:`sigprop.init.layer_scale`.

    Raises:
        InvalidInput: where the depth is not a whole number of 1 or more.
    """

    depth: int = 18

    def __post_init__(self) -> None:
        check_whole("depth", self.depth)

    def gain(self, features: int, rngs: nnx.Rngs) -> Any:
        return Gain((features,), scale_init=layer_scale(self.depth), rngs=rngs)
