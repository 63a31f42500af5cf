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
        others: formats of which the windows are drawn too.
        depth, width: of the networks measured.
        beyond: by which factor those are inside and outside of the window.
    """

    dtype: str = "float16"
    depths: tuple[int, ...] = (10, 50, 100)
    others: tuple[str, ...] = ("bfloat16", "float8_e5m2", "float8_e4m3fn")
    depth: int = 20
    width: int = 128
    beyond: float = 1.25
    seeds: int = 32


PRESETS = {"quick": Config(), "paper": Config(depths=(5, 10, 20, 50, 100, 200), depth=50, width=256)}
_KNOWN = {10: (0.1436, 9.189), 50: (0.6783, 1.558), 100: (0.8236, 1.248)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """``low`` and ``high`` ``(format, depth)``; by ``end`` and ``side`` of the window, of the last layer: shares lost there,
    ``predicted`` from its law and measured on the real dtype; gradients with and without the recommended scale of the loss."""
    formats = list(dict.fromkeys((config.dtype, *config.others)))
    windows = [[precision.gain_window(dtype, depth) for depth in config.depths] for dtype in formats]
    ends = {end: (("format", "depth"), [[getattr(w, end) for w in row] for row in windows]) for end in ("low", "high")}
    one = xr.Dataset({**ends, "decades": ("format", [_decades(dtype) for dtype in formats])},
                     {"format": formats, "depth": list(config.depths)})

    def point(end: str, side: str) -> dict[str, Any]:
        edge = getattr(precision.gain_window(config.dtype, config.depth), end)
        net, x = _network(config, edge * config.beyond ** (1 if (end == "low") == (side == "inside") else -1))
        theory = precision.analyze(net, x, dtypes=[config.dtype], backward=False)
        with np.errstate(invalid="ignore"):  # bfloat16 overflows where the network's own dtype does, whose powers are infinite
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


def _decades(dtype: str) -> float:
    """From the smallest normal number to the largest, by JAX."""
    info = jax.numpy.finfo(dtype)
    return float(np.log10(float(info.max)) - np.log10(float(info.smallest_normal)))


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
    at = {"node": 0, "format": 0}
    found: dict[str, Any] = {"loss_scale": scale}
    for name, theory in (("lost", plain), ("lost_scaled", scaled)):
        real = precision.measure(net, x, analysis=theory, seeds=config.seeds, key=config.key)
        for end, one, after in (("", theory, ""), ("_measured", real, ""), ("_stderr", real, "_stderr")):
            found[f"{name}{end}"] = float((one[f"grad_subnormal{after}"] + one[f"grad_flushed{after}"]).isel(at))
    return xr.Dataset(found)


def claims(found: xr.Dataset) -> list[Claim]:
    """Windows as known for float16; networks inside keep their signals and those outside lose them; the scale saves gradients."""
    lines = []
    for depth in found.depth.values:
        if int(depth) in _KNOWN:
            for end, known in zip(("low", "high"), _KNOWN[int(depth)], strict=True):
                edge = found[end].sel(depth=depth)[0]
                lines.append(same(f"{depth} layers: {end} end of the window of sigma_w² n / 2", known, edge, 5e-4))
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
    for dtype in found.format.values:
        one = found.sel(format=dtype)
        width = (np.log10(one.high / one.low) * one.depth / 2 / one.decades).values
        lines.append(same(f"{dtype}: decades of the window times depth / 2, over those of the format", 1, width[np.argmax(abs(width - 1))],
                          1e-6))
    return [*lines, agrees("measured over predicted share of small gradients that is lost", found.lost, found.lost_measured,
                           found.lost_stderr, 0.1),
            above("share of small gradients lost, measured, over that with the recommended scale of the loss", 10,
                  found.lost_measured / max(float(found.lost_scaled_measured), 1e-6), 0)]


def draw(found: xr.Dataset) -> Any:
    """The window against depth."""
    figure, (axes,) = drawing.panels()
    for k, dtype in enumerate(found.format.values):
        one = found.sel(format=dtype)
        for end in ("low", "high"):
            drawing.curve(axes, one.depth, one[end], None, None, str(dtype) if end == "low" else "", k)
    axes.fill_between(found.depth, found.low[0], found.high[0], color=drawing.COLOURS[0], alpha=0.15, linewidth=0)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylim(float(found.low[0].min()) / 3, float(found.high[0].max()) * 3)  # wider ones leave it
    drawing.labelled(axes, "depth $L$", r"$\sigma_w^2 n / 2$", "xy")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
