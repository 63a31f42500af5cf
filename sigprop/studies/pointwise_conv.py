"""Pointwise convolutions: each output pixel is a mixture of C_in channels, so that n = C_in (Lin et al. 2013).

With ReLU in between, He keeps the variance for every C_in, LeCun halves it per layer, and unit weights multiply it by C_in / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from sigprop import nn
from sigprop.init.checks import check_whole
from sigprop.network import Network
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, measure, predict, stack, unit_inputs


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """A stack of 1 by 1 convolutions with ReLU in between, on images whose pixels have a mean square of 1.

    Attributes:
        channels: C_in of every layer.
        features: C_out of the last layer; the others have ``channels``.
        depth: number of layers.
        size: height and width of an image.
    """

    channels: int = 64
    features: int = 64
    depth: int = 2
    size: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "features", "depth", "size"):
            check_whole(name, getattr(self, name))

    def network(self) -> Network:
        x = unit_inputs((self.examples, self.size, self.size, self.channels), self.seed)
        widths = [self.channels] * self.depth + [self.features]
        return stack([nn.Pointwise()] * self.depth, widths, [initializer(self.init)] * self.depth, x)

    def nodes(self) -> list[str]:
        return [f"layers/{2 * k}" for k in range(self.depth)]


__all__ = ["Study", "measure", "predict"]
