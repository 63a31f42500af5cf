"""Order and chaos in the plane of variances, and depth scales across their edge (Poole et al. 2016; Schoenholz et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sigprop import meanfield
from sigprop.init.checks import check_choice, check_number, check_whole
from sigprop.studies import drawing, edge_of_chaos, frame


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """A plane of weight and bias variances, a cut through it, and networks on the cut.

    Attributes:
        activation: ``"tanh"`` or ``"erf"``.
        points: of the plane, along each axis.
        bias_variance: of the cut.
        weight_variances: of the networks on the cut.
        depth, width: of these networks.
    """

    activation: str = "tanh"
    points: int = 60
    bias_variance: float = 0.05
    weight_variances: tuple[float, ...] = (1.2, 3.0)
    depth: int = 12
    width: int = 128
    seeds: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, ("tanh", "erf"))
        check_whole("points", self.points, 2)
        check_whole("depth", self.depth, 8)
        check_whole("width", self.width)
        check_number("bias_variance", self.bias_variance, 0.0)


PRESETS = {
    "quick": Config(),
    "paper": Config(points=120, weight_variances=(0.8, 1.0, 1.2, 1.4, 2.2, 2.6, 3.0, 3.5, 4.0), depth=20, width=256, seeds=256),
}
_PLANE = {"weight_variance": (0.5, 4.5), "bias_variance": (0.0, 0.5)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """``chi1`` and ``c`` of the plane, and ``critical`` weight variances by bias variance (``line``); along the ``cut`` ``xi_c`` and
    ``xi_gradient``; by weight variance ``measured``: the ``scale`` of gradients in networks, and ``scale_stderr``."""
    weights, biases = (np.linspace(*ends, config.points) for ends in _PLANE.values())
    plane = meanfield.phase_diagram(config.activation, weights, biases)
    fine = np.linspace(*_PLANE["weight_variance"], 4 * config.points)
    cut = meanfield.phase_diagram(config.activation, fine, config.bias_variance).isel(bias_variance=0, drop=True)
    line = _PLANE["bias_variance"][1] * np.linspace(0, 1, 40) ** 3  # steep where there is little bias
    critical = [float(meanfield.critical_weight_variance(config.activation, b)) for b in line]
    return xr.Dataset({"chi1": plane.chi1.astype("f4"), "c": plane.c.astype("f4"), "critical": ("line", critical),
                       **{name: ("cut", cut[name].values) for name in ("xi_c", "xi_gradient")}},
                      {"cut": fine, "line": line}).merge(_scales(config, out)).assign_attrs(bias=config.bias_variance)


def _scales(config: Config, out: Path | None) -> xr.Dataset:
    """xi_gradient of networks, from the growth of E[g²] in the second half of their layers, and its standard error."""
    study = edge_of_chaos.Config(activation=config.activation, bias_variance=config.bias_variance, weight_variances=config.weight_variances,
                                 depth=config.depth, width=config.width, seeds=config.seeds, seed=config.seed)
    one, steps = edge_of_chaos.compute(study, out).isel(layer=config.depth // 2), config.depth - config.depth // 2
    decay = -np.log(one.growth_measured) / steps  # -ln chi_1
    error = one.growth_stderr / one.growth_measured / steps
    found = xr.Dataset({"scale": 1 / decay, "scale_stderr": error / decay**2}).drop_vars("layer", errors="ignore")
    return found.rename(weight_variance="measured")


def draw(found: xr.Dataset) -> Any:
    """chi_1 and the correlation that inputs end with, with the critical line, and depth scales along the cut."""
    figure, (left, middle, right) = drawing.panels(3)
    w, b = found.weight_variance, found.bias_variance
    _map(figure, left, w, b, np.log(found.chi1.T), r"$\ln\chi_1$", "PuOr_r", 1.2)
    _map(figure, middle, w, b, found.c.T, "$c^*$", "cividis")
    for axes in (left, middle):
        axes.plot(found.critical, found.line, color="black", linewidth=1.0)
        axes.axhline(found.attrs["bias"], color="black", linewidth=0.6, linestyle=":")
        axes.set(xlim=(float(w[0]), float(w[-1])), ylim=(float(b[0]), float(b[-1])))
        axes.set_xlabel(r"$\sigma_w^2$", fontsize=8)
    left.set_ylabel(r"$\sigma_b^2$", fontsize=8)
    left.text(0.7, 0.4, "order", fontsize=8)
    left.text(3.2, 0.08, "chaos", fontsize=8)
    drawing.curve(right, found.cut, found.xi_c, None, None, r"$\xi_c$", 0)
    drawing.curve(right, found.cut, np.abs(found.xi_gradient), None, None, r"$|\xi_\nabla|$", 1)
    drawing.curve(right, found.measured, None, np.abs(found.scale), found.scale_stderr, "measured", 1)
    right.axvline(np.interp(found.attrs["bias"], found.line, found.critical), color="black", linewidth=0.6)
    drawing.labelled(right, r"$\sigma_w^2$", "depth scale, layers", "y")
    right.set_ylim(0.5, 200)
    right.legend(frameon=False, fontsize=7, loc="upper right")
    return figure


def _map(figure: Any, axes: Any, x: Any, y: Any, values: Any, label: str, colours: str, limit: float | None = None) -> None:
    low, high = (-limit, limit) if limit else (float(values.min()), float(values.max()))
    drawn = axes.pcolormesh(x, y, np.clip(values, low, high), cmap=colours, vmin=low, vmax=high, shading="nearest", rasterized=True)
    bar = figure.colorbar(drawn, ax=axes, pad=0.03)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


__all__ = ["Config", "PRESETS", "compute", "draw"]
