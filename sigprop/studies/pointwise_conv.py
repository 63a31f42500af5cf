"""Pointwise convolutions: each output pixel is a mixture of C_in channels, so that n = C_in (Lin et al. 2013).

With ReLU in between, He keeps the variance for every C_in, LeCun halves it per layer, and unit weights multiply it by C_in / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sigprop import nn
from sigprop.init.checks import check_whole
from sigprop.init.independent import Normal
from sigprop.network import Network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, agrees, same, slope
from sigprop.studies.study import Study as Base
from sigprop.studies.study import compared, initializer, measure, predict, stack, unit_inputs


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


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Inits against C_in, two layers, the second one to 64 channels.

    Attributes:
        init: of which it is claimed that it keeps the variance for every C_in.
        others: inits beside it; ``"user"`` is a normal one of variance 0.1.
        channels: values of C_in.
    """

    seeds: int = 1024
    init: str = "he"
    others: tuple[str, ...] = ("xavier", "normal")
    channels: tuple[int, ...] = (3, 128)


PRESETS = {
    "quick": Config(),
    "paper": Config(others=("xavier", "lecun", "normal", "user"), channels=(3, 16, 64, 256, 2048), seeds=512),
}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """E[z²] ``(init, channels, layer)``: ``predicted`` and ``uncertain``, ``measured`` and ``stderr``."""
    user = Normal(0.1)

    def point(init: str, channels: int) -> dict[str, Any]:
        return compared(Study(init=user if init == "user" else init, channels=channels), config.seeds, config.key)

    grid = {"init": list(dict.fromkeys((config.init, *config.others))), "channels": config.channels}
    return frame.over(grid, point, out, "pointwise_conv", frame.layers()).assign_attrs(init=config.init)


def claims(found: xr.Dataset) -> list[Claim]:
    """He is flat in C_in and from layer to layer, unit weights grow in proportion to C_in, and all is measured so."""
    kept = found.sel(init=found.attrs["init"])
    growth = (kept.predicted[:, -1] / kept.predicted[:, 0]).values
    worst = int(np.argmax(np.abs(growth - 1)))
    lines = [same(f"{found.attrs['init']}: E[z²] of the second layer over that of the first, at every C_in", 1, growth[worst],
                  3 * float((kept.uncertain / kept.predicted).max()) + 1e-6)]
    for init, expected in ((found.attrs["init"], 0), ("normal", 1)):
        if init in found.init.values:
            one = found.sel(init=init).isel(layer=0)
            power, error = slope(np.log(one.channels), np.log(one.measured), one.stderr / one.measured)
            lines.append(same(f"{init}: power of C_in in the measured E[z²]", expected, power, 4 * error))
    return [*lines, *(agrees(f"{init}: measured over predicted E[z²]", one.predicted, one.measured, one.stderr, 0.15)
                      for init, one in found.groupby("init", squeeze=False))]


def draw(found: xr.Dataset) -> Any:
    """E[z²] of the second layer against C_in."""
    figure, (axes,) = drawing.panels()
    for k, init in enumerate(found.init.values):
        one = found.sel(init=init).isel(layer=-1)
        drawing.curve(axes, one.channels, one.predicted, one.measured, one.stderr, str(init), k)
    drawing.labelled(axes, "input channels $C_{in}$", "$E[z^2]$, second layer", "xy")
    return figure


__all__ = ["Config", "PRESETS", "Study", "claims", "compute", "draw", "measure", "predict"]
