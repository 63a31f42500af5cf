"""Half precision: the factor per layer must keep signals above the smallest normal number and below the largest, for all layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from sigprop import nn, precision
from sigprop.init.independent import Normal
from sigprop.network import Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, same
from sigprop.studies.study import unit_inputs


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Windows of the factor sigma_w² n / 2 of ReLU layers, and networks on both sides of their ends.

    Attributes:
        dtype: of which the windows are, such as ``"float16"`` or ``"bfloat16"``; known numbers are those of float16.
        depths: of the windows.
        depth, width: of the networks measured.
        beyond: by which factor those are inside and outside of the window.
    """

    dtype: str = "float16"
    depths: tuple[int, ...] = (10, 50, 100)
    depth: int = 20
    width: int = 128
    beyond: float = 1.25
    seeds: int = 32


PRESETS = {"quick": Config(), "paper": Config(depths=(5, 10, 20, 50, 100, 200), depth=50, width=512, seeds=128)}
_KNOWN = {10: (0.1436, 9.189), 50: (0.6783, 1.558), 100: (0.8236, 1.248)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """``low`` and ``high`` ``(depth)``; by ``end`` and ``side`` of the window, of the last layer: shares lost there,
    ``predicted`` from its law and measured on the real dtype; gradients with and without the recommended scale of the loss."""
    windows = [precision.gain_window(config.dtype, depth) for depth in config.depths]
    one = xr.Dataset(
        {"low": ("depth", [w.low for w in windows]), "high": ("depth", [w.high for w in windows])}, {"depth": list(config.depths)}
    )

    def point(end: str, side: str) -> dict[str, Any]:
        edge = getattr(precision.gain_window(config.dtype, config.depth), end)
        net, x = _network(config, edge * config.beyond ** (1 if (end == "low") == (side == "inside") else -1))
        theory = precision.analyze(net, x, dtypes=[config.dtype], backward=False)
        real = precision.measure(net, x, analysis=theory, seeds=config.seeds, key=config.key, backward=False)
        last = {"node": -1, "format": 0}
        y = np.asarray(precision.executed(net, config.dtype)(net.init(config.key), x), np.float64)
        names = ("subnormal", "flushed") if end == "low" else ("overflow",)
        return {"predicted": sum(float(theory[n][last]) for n in names), "measured": sum(float(real[n][last]) for n in names),
                "stderr": sum(float(real[f"{n}_stderr"][last]) for n in names), "executed": float(np.sqrt(np.mean(np.square(y))))}

    two = frame.over({"end": ["low", "high"], "side": ["inside", "outside"]}, point, out, "fp16_subnormals", {})
    info = jax.numpy.finfo(config.dtype)
    return (
        one.merge(two).merge(_gradients(config)).assign_attrs(dtype=config.dtype, tiny=float(info.smallest_normal), largest=float(info.max))
    )


def _network(config: Config, factor: float) -> tuple[Network, np.ndarray]:
    x = unit_inputs((2, config.width), 0)
    init = Normal(2 * factor / config.width)
    return network(lambda rngs: nn.MLP([config.width] * (config.depth + 1), kernel_init=init, rngs=rngs), x), x


def _gradients(config: Config) -> xr.Dataset:
    """Shares of the gradients at the first layer that are lost, for small cotangents, without and with the scale of the loss."""
    net, x = _network(config, 1.0)
    small = 16 * float(jax.numpy.finfo(config.dtype).smallest_normal) / 64
    plain = precision.analyze(net, x, dtypes=[config.dtype], cotangent_rms=small)
    scale = float(plain.loss_scale[0])
    scaled = precision.analyze(net, x, dtypes=[config.dtype], cotangent_rms=small * scale)
    lost = [float((found.grad_subnormal + found.grad_flushed).isel(node=0, format=0)) for found in (plain, scaled)]
    return xr.Dataset({"loss_scale": scale, "lost": lost[0], "lost_scaled": lost[1]})


def claims(found: xr.Dataset) -> list[Claim]:
    """Windows as known for float16; networks inside keep their signals and those outside lose them; the scale saves gradients."""
    lines = []
    for depth in found.depth.values:
        if int(depth) in _KNOWN:
            for end, known in zip(("low", "high"), _KNOWN[int(depth)], strict=True):
                lines.append(same(f"{depth} layers: {end} end of the window of sigma_w² n / 2", known, found[end].sel(depth=depth), 5e-4))
    for end, bound in (("low", found.attrs["tiny"]), ("high", found.attrs["largest"])):
        inside, outside = (found.sel(end=end, side=side) for side in ("inside", "outside"))
        lines.append(
            above(
                f"{end} end: share lost outside of the window less that inside, measured",
                0.05,
                outside.measured - inside.measured,
                np.hypot(outside.stderr, inside.stderr),
            )
        )
        kept = inside.executed / bound if end == "low" else bound / inside.executed
        lines.append(above(f"{end} end, inside: root mean square of the executed network, from that end of the format", 1, kept, 0))
        lines.append(agrees(f"{end} end, outside: measured over predicted share that is lost", outside.predicted, outside.measured,
                            outside.stderr, 0.1))
    return [*lines, above("share of small gradients lost, over that with the recommended scale of the loss", 10,
                          found.lost / max(float(found.lost_scaled), 1e-6), 0)]


def draw(found: xr.Dataset) -> Any:
    """The window against depth."""
    figure, (axes,) = drawing.panels()
    axes.fill_between(found.depth, found.low, found.high, color=drawing.COLOURS[0], alpha=0.2, linewidth=0, label=found.attrs["dtype"])
    axes.axhline(1, color="black", linewidth=0.8)
    drawing.labelled(axes, "depth", r"$\sigma_w^2 n / 2$", "xy")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
