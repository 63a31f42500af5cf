"""Tangent kernels of finite networks come to the infinite one as 1/sqrt(width), the deeper the later (Jacot et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from sigprop import inputs, nn, spectra
from sigprop.empirical import empirical_kernel
from sigprop.infinite import infinite_kernel
from sigprop.init.scaling import he
from sigprop.network import Network, network
from sigprop.studies import drawing, frame


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """ReLU networks under He on scikit-learn's digits.

    Attributes:
        depths: numbers of hidden layers.
        widths: of the hidden layers, in ascending order.
        examples: images.
    """

    depths: tuple[int, ...] = (1, 3)
    widths: tuple[int, ...] = (32, 64, 128)
    examples: int = 8
    seeds: int = 256


PRESETS = {"quick": Config(), "paper": Config(depths=(1, 2, 4, 8), widths=(32, 64, 128, 256, 512, 1024), examples=16, seeds=128)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``depth`` and ``width``: ``distance``, the root mean square over draws of the relative distance in Frobenius norm, and
    ``stderr``."""
    grid = {"depth": config.depths, "width": config.widths, "draw": range(config.seed, config.seed + config.seeds)}
    square = frame.drawn(grid, partial(_distance, config), out, "ntk_convergence", {}, static=["depth", "width"]).value ** 2
    root = square.mean("draw") ** 0.5
    return xr.Dataset({"distance": root, "stderr": square.std("draw", ddof=1) / (2 * root * config.seeds**0.5)})


def _distance(config: Config, depth: int, width: int, draw: Any) -> Any:
    x = inputs.load("digits", config.examples, None, 2)
    net = _network(x, depth, width)
    with jax.ensure_compile_time_eval():
        limit = infinite_kernel(net)(x).ntk
    return spectra.relative_distance(empirical_kernel(net)(net.init(frame.draw_key(draw)), x).ntk, limit)


def _network(x: np.ndarray, depth: int, width: int) -> Network:
    return network(lambda rngs: nn.MLP([x.shape[1], *[width] * depth, 1], kernel_init=he(), rngs=rngs), x)


def draw(found: xr.Dataset) -> Any:
    """Distances against width, and the powers -1/2 that fit them best."""
    figure, (axes,) = drawing.panels()
    for k, depth in enumerate(found.depth.values):
        one = found.sel(depth=depth)
        logs = np.log(one.distance) + np.log(one.width) / 2
        line = np.exp(logs.weighted((one.distance / one.stderr) ** 2).mean()) / np.sqrt(one.width)
        drawing.curve(axes, one.width, line, one.distance, one.stderr, f"{depth} hidden layer{'s' if depth > 1 else ''}", k)
    drawing.labelled(axes, "width $n$", r"$\|\Theta_n - \Theta\|_F\,/\,\|\Theta\|_F$", "xy")
    return figure


__all__ = ["Config", "PRESETS", "compute", "draw"]
