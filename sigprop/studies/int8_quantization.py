"""INT8: the law that is predicted before training sets the scale that loses least, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sigprop import nn, precision
from sigprop.inputs import load
from sigprop.network import network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, agrees, same
from sigprop.studies.study import initializer


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Known quantizers, and those of a ReLU network on digits.

    Attributes:
        init: of the network.
        depth, width: of the network; at width 256 draws differ so much that more is clipped, and 3 % of the decibels are lost.
        sigma: standard deviation that the known quantizers are made for, 1 where they are right.
    """

    init: str = "he"
    depth: int = 3
    width: int = 1024
    sigma: float = 1.0
    seeds: int = 64


PRESETS = {"quick": Config(), "paper": Config(depth=8, width=4096, seeds=128)}
_KNOWN = {("gaussian", "int8"): (3.92, 40.5), ("gaussian", "int4"): (2.474, 18.9), ("rectified", "int8"): (4.215, 46.0),
          ("rectified", "int4"): (2.899, 24.3)}  # clip in units of sigma, SQNR in decibels
_LAWS = {"gaussian": precision.normal, "rectified": precision.rectified}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """``clip`` and ``sqnr`` of ``(law, format)``; by ``node`` and ``format`` SQNR and saturation of the network, predicted and measured."""
    formats = ["int8", "int4"]
    made = {key: precision.quantizer(_LAWS[key[0]](config.sigma), key[1]) for key in _KNOWN}
    x, init = load("digits", 16, None, 2), initializer(config.init)
    net = network(lambda rngs: nn.MLP([64] + [config.width] * config.depth + [10], kernel_init=init, rngs=rngs), x)
    one = precision.analyze(net, x, dtypes=formats, backward=False)
    two = precision.measure(net, x, analysis=one, seeds=config.seeds, key=config.key, backward=False)
    nodes = [k for k, name in enumerate(one.node.values) if str(name).startswith("layers/")][:-1]  # ten outputs are not wide
    columns = {
        "predicted": one.sqnr.isel(granularity=0),
        "measured": two.sqnr,
        "stderr": two.sqnr_stderr,
        "scale": one.scale.isel(granularity=0) if "granularity" in one.scale.dims else one.scale,
        "saturation": two.saturation,
    }
    found = {name: (("node", "format"), np.asarray(v.transpose("node", "format"))[nodes]) for name, v in columns.items()}
    known = {
        name: (("law", "format"), [[getattr(made[law, kind], name) for kind in formats] for law in _LAWS]) for name in ("clip", "sqnr")
    }
    return xr.Dataset({**found, **known}, {"node": [str(one.node.values[k]) for k in nodes], "format": formats, "law": list(_LAWS)})


def claims(found: xr.Dataset) -> list[Claim]:
    """The clips of least error are those of Max (1960), and the network loses what its predicted laws say."""
    lines = []
    for (law, kind), (clip, sqnr) in _KNOWN.items():
        one = found.sel(law=law, format=kind)
        lines.append(same(f"{law}, {kind}: clip of least squared error, over sigma", clip, one["clip"], 5e-3))
        lines.append(same(f"{law}, {kind}: SQNR in dB", sqnr, one["sqnr"], 0.05))
    for kind in found.format.values:
        one = found.sel(format=kind)
        lines.append(agrees(f"{kind}: measured over predicted SQNR in dB, of every layer", one.predicted, one.measured, one.stderr, 0.05))
    return lines


def draw(found: xr.Dataset) -> Any:
    """SQNR by layer."""
    figure, (axes,) = drawing.panels()
    for k, kind in enumerate(found.format.values):
        one = found.sel(format=kind)
        drawing.curve(axes, np.arange(1, found.sizes["node"] + 1), one.predicted, one.measured, one.stderr, str(kind), k)
    drawing.labelled(axes, "layer", "SQNR, dB")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
