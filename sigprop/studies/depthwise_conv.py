"""Depthwise convolutions: n = k² whatever the number of channels, and n = k² C_in / groups where channels share a group (Chollet 2017).

Padding by zeros removes taps at the border: ``site_variance:NODE`` shows edges and corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sigprop import nn
from sigprop.init.checks import check_choice, check_whole
from sigprop.init.fans import Fans
from sigprop.network import Network
from sigprop.nn.checks import check_divides
from sigprop.nn.shared import Init
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, agrees, same
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, measure, pixels, predict, stack, unit_inputs

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


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """The first layer, pixel by pixel, on images of 8 by 8 pixels padded by zeros.

    Attributes:
        init: of all kernels.
        kinds: of layers, see :class:`Study`; grouped ones have ``groups`` groups.
        k: taps along an axis.
        channels: numbers of channels.
        groups: of the grouped ones.
    """

    init: str = "he"
    kinds: tuple[str, ...] = _KINDS
    k: tuple[int, ...] = (3, 5)
    channels: tuple[int, ...] = (16, 64)
    groups: int = 4


PRESETS = {"quick": Config(), "paper": Config(k=(3, 5, 7), seeds=512)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """E[z²] by pixel, ``(kind, k, channels, row, column)``: ``predicted``, ``measured``, ``stderr``."""
    def point(kind: str, k: int, channels: int) -> dict[str, Any]:
        study = Study(init=config.init, kind=kind, k=k, channels=channels, groups=config.groups, depth=1)
        return pixels(study, config.seeds, config.key, node=study.nodes()[-1])

    grid = {"kind": config.kinds, "k": config.k, "channels": config.channels}
    return frame.over(grid, point, out, "depthwise_conv", frame.pixel_axes())


def claims(found: xr.Dataset) -> list[Claim]:
    """n counts k² taps times the channels of a group: 2 in the middle for all, and fewer taps at the border."""
    k = found.k
    middle = found.predicted.isel(row=4, column=4)
    worst = middle.values.ravel()[np.argmax(np.abs(middle - 2).values)]
    lines = [same("E[z²] in the middle, for all kinds, k and channels", 2, worst, 1e-5)]
    taps = xr.apply_ufunc(np.vectorize(lambda n: ceil(n / 2) / n), k)  # of those along an axis, in the first row
    for name, column, left in (("corner", 0, taps**2), ("middle of an edge", 4, taps)):
        share = (found.predicted.isel(row=0, column=column) / middle / left).values.ravel()
        lines.append(same(f"E[z²] in the {name} over the middle, in units of the taps that are left", 1,
                          share[np.argmax(np.abs(share - 1))], 1e-5))
    return [
        *lines,
        *(
            agrees(f"{kind}, k = {int(n)}: measured over predicted E[z²] of all pixels", one.predicted, one.measured, one.stderr, 0.3)
            for kind in found.kind.values
            for n in k.values
            for one in [found.sel(kind=kind, k=n)]
        ),
    ]


def draw(found: xr.Dataset) -> Any:
    """E[z²] along the middle row of an image, for each kind of layer."""
    figure, panels = drawing.panels(found.sizes["kind"])
    for axes, kind in zip(panels, found.kind.values, strict=True):
        for j, k in enumerate(found.k.values):
            one = found.sel(kind=kind, k=k).isel(channels=0, row=4)
            drawing.curve(axes, one.column + 1, one.predicted, one.measured, one.stderr, f"$k$ = {k}", j)
        drawing.labelled(axes, f"column of the image, {kind}", "$E[z^2]$")
    return figure


__all__ = ["Config", "PRESETS", "Study", "claims", "compute", "draw", "measure", "predict"]
