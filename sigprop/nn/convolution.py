"""Kinds of 2-D convolution as small values, and a classifier made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from sigprop.init.checks import check_choice, check_whole
from sigprop.init.fans import PLAIN, Fans
from sigprop.init.scaling import he
from sigprop.nn.checks import check_callable, check_divides, check_instance, checked_widths, one_for_each
from sigprop.nn.shared import HE, LECUN, ZEROS, Activation, Init

_PADDINGS = ("SAME", "VALID", "CIRCULAR")


@dataclass(frozen=True)
class Convolution:
    """A convolution of ``kernel`` by ``kernel`` taps over all channels.

    Called with the numbers of input and output channels it makes the layer.

    Attributes:
        kernel, stride: per spatial axis.
        padding: ``SAME`` (by zeros), ``VALID`` or ``CIRCULAR``.

    Raises:
        InvalidInput: for numbers below 1, and unknown paddings; by a call for channels that do not fit.
    """

    kernel: int = 3
    stride: int = 1
    padding: str = "SAME"

    def __post_init__(self) -> None:
        check_whole("kernel", self.kernel)
        check_whole("stride", self.stride)
        check_choice("padding", self.padding, _PADDINGS)

    @property
    def fans(self) -> Fans:
        """How the operation uses its kernel."""
        return Fans(stride=self.stride)

    def __call__(self, in_features: int, out_features: int, *, kernel_init: Init | None = None, bias_init: Init = ZEROS,
                 rngs: nnx.Rngs) -> nnx.Module:
        """The layer ``[*batch, height, width, in] -> [*batch, height, width, out]``; He on :attr:`fans` unless ``kernel_init`` is given."""
        return self._conv(in_features, out_features, kernel_init, bias_init, rngs)

    def _conv(self, in_features: int, out_features: int, kernel_init: Init | None, bias_init: Init, rngs: nnx.Rngs,
              groups: int = 1) -> nnx.Conv:
        return nnx.Conv(in_features, out_features, (self.kernel, self.kernel), (self.stride, self.stride), padding=self.padding,
                        feature_group_count=groups, kernel_init=kernel_init or he(self.fans), bias_init=bias_init, rngs=rngs)


@dataclass(frozen=True)
class Pointwise(Convolution):
    """A convolution of one tap, which mixes channels: n = C_in (Lin et al. 2013)."""

    kernel: int = 1


@dataclass(frozen=True)
class Grouped(Convolution):
    """Groups of channels that do not meet: n = k² C_in / groups (Krizhevsky et al. 2012; Xie et al. 2017).

    Attributes:
        groups: divides both numbers of channels.
    """

    groups: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("groups", self.groups)

    @property
    def fans(self) -> Fans:
        return Fans(groups=self.groups, stride=self.stride)

    def __call__(self, in_features: int, out_features: int, *, kernel_init: Init | None = None, bias_init: Init = ZEROS,
                 rngs: nnx.Rngs) -> nnx.Module:
        check_divides("groups", self.groups, in_features, "input channels")
        check_divides("groups", self.groups, out_features, "output channels")
        return self._conv(in_features, out_features, kernel_init, bias_init, rngs, self.groups)


@dataclass(frozen=True)
class Depthwise(Convolution):
    """Each channel by itself: n = k² whatever the number of channels, of which there come out a multiple (Chollet 2017)."""

    def __call__(self, in_features: int, out_features: int, *, kernel_init: Init | None = None, bias_init: Init = ZEROS,
                 rngs: nnx.Rngs) -> nnx.Module:
        check_divides("in_features", in_features, out_features, "output channels of a depthwise convolution")
        return self._conv(in_features, out_features, kernel_init, bias_init, rngs, in_features)


@dataclass(frozen=True)
class Separable(Convolution):
    """A depthwise convolution and then a pointwise one, with nothing in between (Chollet 2017, "Xception").

    Attributes:
        depthwise_init: kernel of the first, which no activation follows: LeCun's variance keeps the signal. ``kernel_init`` is that of
            the second.
    """

    depthwise_init: Init = LECUN

    @property
    def fans(self) -> Fans:
        return PLAIN

    def __call__(self, in_features: int, out_features: int, *, kernel_init: Init | None = None, bias_init: Init = ZEROS,
                 rngs: nnx.Rngs) -> nnx.Module:
        return nnx.Sequential(
            self._conv(in_features, in_features, self.depthwise_init, bias_init, rngs, in_features),
            Pointwise()(in_features, out_features, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs))


@dataclass(frozen=True)
class Transposed(Convolution):
    """A transposed convolution: C_in k²/s² inputs reach an output pixel on average, which is exact where the stride s divides k (Dumoulin &
    Visin 2016)."""

    kernel: int = 4
    stride: int = 2

    @property
    def fans(self) -> Fans:
        return Fans(transposed_stride=self.stride)

    def __call__(self, in_features: int, out_features: int, *, kernel_init: Init | None = None, bias_init: Init = ZEROS,
                 rngs: nnx.Rngs) -> nnx.Module:
        return nnx.ConvTranspose(in_features, out_features, (self.kernel, self.kernel), (self.stride, self.stride), padding=self.padding,
                                 kernel_init=kernel_init or he(self.fans), bias_init=bias_init, rngs=rngs)


THREE = Convolution()


class CNN(nnx.Module):
    """Convolutions with an activation after each, the mean over pixels, and a dense layer.

    Args:
        in_features: channels of an image.
        widths: channels after each convolution, one or more.
        out_features: outputs.
        layer: kind of all convolutions, or a sequence of one for each: :class:`Convolution`, :class:`Pointwise`, :class:`Depthwise`,
            :class:`Separable`, :class:`Grouped`, :class:`Transposed`.
        kernel_init: of all kernels; ``None`` is He's on the fans of each operation.
        bias_init, act: as in :class:`MLP`.

    Raises:
        InvalidInput: for empty widths, kinds that are none or too few, channels that do not fit, and what cannot be called.
    """

    def __init__(self, in_features: int, widths: Sequence[int], out_features: int, *, layer: Convolution | Sequence[Convolution] = THREE,
                 kernel_init: Init | None = None, bias_init: Init = ZEROS, act: Activation = nnx.relu, rngs: nnx.Rngs) -> None:
        sizes = (*checked_widths("in_features", [in_features]), *checked_widths("widths", widths))
        kinds = _kinds(layer, len(widths))
        check_whole("out_features", out_features)
        check_callable(bias_init=bias_init, act=act, kernel_init=kernel_init or HE)
        self.act = act
        self.layers = nnx.List([kind(a, b, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)
                                for kind, a, b in zip(kinds, sizes[:-1], sizes[1:], strict=True)])
        self.head = nnx.Linear(sizes[-1], out_features, kernel_init=kernel_init or HE, bias_init=bias_init, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch outputs"]:
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x.mean((-3, -2)))


def _kinds(layer: Any, count: int) -> tuple[Convolution, ...]:
    kinds = one_for_each("layer", layer, count, "kinds", "widths")
    for kind in kinds:
        check_instance("layer", kind, Convolution, "Convolution(), Pointwise(), Depthwise(), Separable(), Grouped(groups=2), Transposed()")
    return kinds
