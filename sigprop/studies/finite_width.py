"""Finite width: the mean square of one draw fluctuates, for ReLU under He by a factor prod(1 + 5/n) (Hanin & Rolnick 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop import meanfield, nn
from sigprop.init.checks import check_whole
from sigprop.network import network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, agrees, near, same, slope
from sigprop.studies.study import initializer, unit_inputs


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """ReLU networks of one depth and several widths.

    Attributes:
        init: of the kernels.
        widths: of all layers.
        depth: hidden layers.
    """

    init: str = "he"
    widths: tuple[int, ...] = (32, 64, 128)
    depth: int = 4
    seeds: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("depth", self.depth)


PRESETS = {"quick": Config(), "paper": Config(widths=(32, 64, 128, 256), depth=6, seeds=12288)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``width``, of the mean square Q of the last hidden pre-activations: ``mean`` and ``second`` over draws, with standard errors;
    ``predicted``, E[Q²] / E[Q]² for a mean over so many units, to first order in 1/width."""
    grid = {"width": config.widths, "draw": range(config.seed, config.seed + config.seeds)}
    q = frame.drawn(grid, partial(_mean_square, config), out, "finite_width", {}, static=["width"]).value
    unit = q / q.mean("draw")
    ratio = (unit**2).mean("draw")
    influence = unit**2 - 2 * ratio * unit  # of one draw on E[Q²] / E[Q]²
    predicted = [_predicted(config, width) for width in config.widths]
    return xr.Dataset({"predicted": ("width", predicted), "measured": ratio, "stderr": influence.std("draw", ddof=1) / config.seeds**0.5,
                       "mean": q.mean("draw"), "mean_stderr": q.std("draw", ddof=1) / config.seeds**0.5}, attrs={"depth": config.depth})


def _mean_square(config: Config, width: int, draw: Any) -> Any:
    x, init = unit_inputs((1, width), 0), initializer(config.init)
    net = network(lambda rngs: nn.MLP([width] * (config.depth + 2), kernel_init=init, rngs=rngs), x)
    return jnp.mean(net.apply(net.init(frame.draw_key(draw)), jnp.asarray(x)) ** 2)


def _predicted(config: Config, width: int) -> float:
    """Fluctuations of Q given the weights before, and those of a mean over ``width`` units."""
    variance = float(meanfield.finite_width("relu", 2.0, widths=[width] * config.depth).variance[-1])
    return 1 + variance + 2 * (1 + variance) / width


def claims(found: xr.Dataset) -> list[Claim]:
    """The fluctuations are those predicted, and known for ReLU; they fall as 1/width; the mean has no correction."""
    depth, lines = found.attrs["depth"], []
    for n in found.width.values:
        one = found.sel(width=n)
        lines.append(
            same(f"width {n}: E[Q²] / E[Q]² over (1 + 2/n) prod(1 + 5/n)", 1, one.predicted / ((1 + 2 / n) * (1 + 5 / n) ** depth), 1e-6)
        )
        lines.append(agrees(f"width {n}: measured over predicted E[Q²] / E[Q]²", one.predicted, one.measured, one.stderr, 0.25))
        lines.append(agrees(f"width {n}: E[Q] over that of the limit", 2, one["mean"], one.mean_stderr, 0.1))
    excess = found.measured - 1
    power, error = slope(np.log(found.width), np.log(excess), found.stderr / excess)
    lines.append(near("power of the width in E[Q²] / E[Q]² - 1, to first order", -1, power, error, 0.3))
    return lines


def draw(found: xr.Dataset) -> Any:
    """Relative variance of Q against width."""
    figure, (axes,) = drawing.panels()
    drawing.curve(axes, found.width, found.predicted - 1, found.measured - 1, found.stderr, f"{found.attrs['depth']} hidden layers", 0)
    drawing.labelled(axes, "width", "$E[Q^2] / E[Q]^2 - 1$", "xy")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
