"""Depthwise convolutions: n = k² whatever the number of channels, and n = k² C_in / groups where channels share a group (Chollet 2017).

Padding by zeros removes taps at the border: ``site_variance:NODE`` shows edges and corners.
"""

from __future__ import annotations

from dataclasses import dataclass

from sigprop import nn
from sigprop.init.checks import check_choice, check_whole
from sigprop.init.fans import Fans
from sigprop.network import Network
from sigprop.nn.checks import check_divides
from sigprop.nn.shared import Init
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, measure, predict, stack, unit_inputs

_KINDS = ("depthwise", "grouped", "separable")


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """A stack of k by k convolutions with ReLU in between, on images whose pixels have a mean square of 1.

    Attributes:
        k: taps along an axis.
        channels: of all layers.
        kind: ``"depthwise"`` (each channel by itself), ``"grouped"``, or ``"separable"``: depthwise, then pointwise with ``init``.
        groups: of a grouped convolution, a divisor of ``channels``.
        depthwise_init: of the depthwise half of a separable layer, which no activation follows.
        depth: number of layers.
        size: height and width of an image.
        padding: ``"SAME"`` (by zeros), ``"VALID"`` or ``"CIRCULAR"``.
    """

    k: int = 3
    channels: int = 32
    kind: str = "depthwise"
    groups: int = 2
    depthwise_init: str | Init = "lecun"
    depth: int = 2
    size: int = 8
    padding: str = "SAME"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "depth", "size"):
            check_whole(name, getattr(self, name))
        check_choice("kind", self.kind, _KINDS)
        check_divides("groups", self.groups, self.channels, "channels")
        self._layer()

    def _layer(self) -> nn.Convolution:
        if self.kind == "grouped":
            return nn.Grouped(self.k, padding=self.padding, groups=self.groups)
        if self.kind == "separable":
            alone = initializer(self.depthwise_init, Fans(groups=self.channels))
            return nn.Separable(self.k, padding=self.padding, depthwise_init=alone)
        return nn.Depthwise(self.k, padding=self.padding)

    def network(self) -> Network:
        x = unit_inputs((self.examples, self.size, self.size, self.channels), self.seed)
        layer = self._layer()
        init = initializer(self.init, Fans(groups=self.channels) if self.kind == "depthwise" else layer.fans)
        return stack([layer] * self.depth, [self.channels] * (self.depth + 1), [init] * self.depth, x)

    def nodes(self) -> list[str]:
        halves = ["/layers/0", "/layers/1"] if self.kind == "separable" else [""]
        return [f"layers/{2 * k}{half}" for k in range(self.depth) for half in halves]


__all__ = ["Study", "measure", "predict"]
