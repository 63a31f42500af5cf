"""Half precision: the factor per layer must keep signals above the smallest normal number and below the largest, for all layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop import meanfield, nn, precision
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
        run: depths at which the ends are measured too, on networks executed in the formats.
        draws: of the parameters of these.
    """

    dtype: str = "float16"
    depths: tuple[int, ...] = (10, 50, 100)
    others: tuple[str, ...] = ("bfloat16", "float8_e5m2", "float8_e4m3fn")
    depth: int = 20
    width: int = 128
    beyond: float = 1.25
    run: tuple[int, ...] = (10,)
    draws: int = 512
    seeds: int = 32


PRESETS = {"quick": Config(), "paper": Config(depths=(5, 10, 20, 50, 100, 200), depth=50, width=256, run=(5, 10, 20))}
_ROOM = {"low": 16.0, "high": 1 / 16}  # by which inputs are scaled where an end is measured, so that entries beyond their rms are held
_KNOWN = {10: (0.1436, 9.189), 50: (0.6783, 1.558), 100: (0.8236, 1.248)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """``low`` and ``high`` ``(format, depth)``, and as measured, ``edge`` ``(format, end, run)``; by ``end`` and ``side`` of the window,
    of the last layer: shares lost there, ``predicted`` from its law and measured on the real dtype; gradients with and without the
    recommended scale of the loss."""
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
    grid = {"format": formats, "end": ["low", "high"], "run": config.run}
    three = frame.over(grid, partial(_edge, config), out, "fp16_subnormals_ends", {})
    info = jax.numpy.finfo(config.dtype)
    return (
        xr.merge([one, two, three, _gradients(config)])
        .assign_attrs(dtype=config.dtype, width=config.width, tiny=float(info.smallest_normal), largest=float(info.max))
    )


def _decades(dtype: str) -> float:
    """From the smallest normal number to the largest, by JAX."""
    info = jax.numpy.finfo(dtype)
    return float(np.log10(float(info.max)) - np.log10(float(info.smallest_normal)))


def _network(config: Config, factor: float) -> tuple[Network, np.ndarray]:
    x = unit_inputs((2, config.width), 0)
    init = Normal(2 * factor / config.width)
    return network(lambda rngs: nn.MLP([config.width] * (config.depth + 1), kernel_init=init, rngs=rngs), x), x


def _edge(config: Config, format: str, end: str, run: int) -> dict[str, float]:
    """The factor at which the root mean square of signals behind the last ReLU crosses that end of the format in networks executed in it:
    ``edge``, the geometric mean over draws, and ``edge_predicted``, what it is in the window for this width.

    The logarithm of a draw's mean square is normal, and below that of the mean by half its variance (Hanin & Nica 2020)."""
    net, x = _network(replace(config, depth=run), 1.0)
    kind, executed, room = precision.number_format(format), precision.executed(net, format), _ROOM[end]
    bound, window = room * (kind.largest if end == "high" else kind.tiny), getattr(precision.gain_window(format, run), end)

    def of(key: Any) -> Any:
        params = net.init(key)

        def step(_: Any, factor: Any) -> Any:  # of Newton's method, as the mean square is a power of the factor but for rounding
            size = executed(jax.tree.map(lambda w: w * jnp.exp(factor / 2).astype(w.dtype), params), room * jnp.asarray(x))
            return factor - jnp.log(jnp.mean(jnp.maximum(size / jnp.float32(bound), 0) ** 2)) / run

        return jax.lax.fori_loop(0, 4, step, jnp.float32(np.log(window) + np.log(room) / run))  # from inside, where nothing overflows

    logs = np.asarray(jax.jit(lambda keys: jax.lax.map(of, keys, batch_size=32))(jax.random.split(config.key, config.draws)), np.float64)
    spread = float(meanfield.finite_width("relu", 2.0, widths=[config.width] * run).variance[-1])
    found = float(np.exp(logs.mean()))
    return {"edge": found, "edge_stderr": found * float(logs.std(ddof=1)) / config.draws**0.5,
            "edge_predicted": window * (1 + spread) ** (0.5 / run)}


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
    for dtype in found.format.values:
        one = found.sel(format=dtype)
        lines.append(agrees(f"{dtype}: ends of the window, measured on executed networks over predicted", one.edge_predicted, one.edge,
                            one.edge_stderr, 5 / found.attrs["width"]))
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
    """The window against depth, with its ends as measured on networks executed in the format."""
    figure, (axes,) = drawing.panels()
    for k, dtype in enumerate(found.format.values):
        one = found.sel(format=dtype)
        for end in ("low", "high"):
            drawing.curve(axes, one.depth, one[end], None, None, str(dtype) if end == "low" else "", k)
            real = one.sel(end=end)
            drawing.curve(axes, found.run, None, real.edge, real.edge_stderr, "", k)
    axes.fill_between(found.depth, found.low[0], found.high[0], color=drawing.COLOURS[0], alpha=0.15, linewidth=0)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylim(float(found.low[0].min()) / 3, float(found.high[0].max()) * 3)  # wider ones leave it
    drawing.labelled(axes, "depth $L$", r"$\sigma_w^2 n / 2$", "xy")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
