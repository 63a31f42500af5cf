"""Weight normalization: with W = g v / |v| the gain is g, whatever the scale of v, and g = sqrt(2) keeps the variance through ReLU.

The variance of layer l is ``(g²/2)^l`` times that of the first; the gradient of g does not depend on the scale of v, that of v is inverse
to it (Salimans & Kingma 2016). Beside it are weight standardization (Qiao et al. 2019) and spectral normalization (Miyato et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from flax import nnx

from sigprop import nn
from sigprop.init import nfnet_gain
from sigprop.init.checks import check_choice, check_number, check_whole
from sigprop.init.initializer import Scaled
from sigprop.network import Network, network
from sigprop.nn.shared import Init
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, agrees, same
from sigprop.studies.study import Study as Base
from sigprop.studies.study import compared, initializer, measure, predict, unit_inputs

_KINDS = ("weight_norm", "standardized", "spectral")


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """A dense network of equal widths with ReLU in between, on inputs with a mean square of 1.

    Attributes:
        gain: first value of g of every unit, above 0; a spectral norm has none.
        scale: of v, which is drawn from ``init``.
        kind: ``"weight_norm"``; ``"standardized"``, after a plain first layer, predicted up to terms of order 1/width; or ``"spectral"``
            (Flax's, one step of power iteration, from a random start: a norm of s sqrt(n + m), not of s (sqrt(n) + sqrt(m))).
        depth: number of layers.
        width: of all layers.
    """

    gain: float = sqrt(2)
    scale: float = 1.0
    kind: str = "weight_norm"
    depth: int = 10
    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("gain", self.gain, above=0.0)
        check_number("scale", self.scale, above=0.0)
        check_choice("kind", self.kind, _KINDS)
        check_whole("depth", self.depth)
        check_whole("width", self.width)

    def network(self) -> Network:
        standardized = partial(nn.StandardizedLinear, gain=self.gain)
        layers = {"weight_norm": partial(nn.WeightNormLinear, gain=self.gain), "spectral": _spectral,
                  "standardized": [nnx.Linear] + [standardized] * (self.depth - 1)}
        init = Scaled(initializer(self.init), self.scale)
        x = unit_inputs((self.examples, self.width), self.seed)
        return network(lambda rngs: nn.MLP([self.width] * (self.depth + 1), layer=layers[self.kind], kernel_init=init, rngs=rngs), x,
                       train=self.kind == "spectral")

    def nodes(self) -> list[str]:
        inner = "/layer_instance" if self.kind == "spectral" else ""
        return [f"layers/{k}{inner}" for k in range(self.depth)]


def _spectral(in_features: int, out_features: int, *, kernel_init: Init, bias_init: Init, rngs: nnx.Rngs) -> nnx.SpectralNorm:
    return nnx.SpectralNorm(nnx.Linear(in_features, out_features, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs), rngs=rngs)


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """E[z²] against depth for several gains, and gradients for two scales of v.

    Attributes:
        gain: of which it is claimed that it keeps the variance.
        others: gains beside it.
        scale: of v, beside 1.
        depth, width: of the networks, also, four times as wide since they are predicted up to terms of order 1/width, of those with weight
            standardization, of the gain that makes up for what the inputs of a layer have in common, and with spectral normalization.
    """

    gain: float = sqrt(2)
    others: tuple[float, ...] = (1.0,)
    scale: float = 100.0
    depth: int = 6
    width: int = 64


PRESETS = {"quick": Config(), "paper": Config(others=(1.0, 1.2, 1.6, 2.0), depth=12, seeds=512)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """E[z²] ``(gain, layer)``, ``predicted`` and ``measured``; E[g²] of g and of v ``(scale, weight)`` at the first gain, too;
    E[z²] ``(kind, layer)`` of the other normalizations, ``kind_predicted`` and ``kind_measured``."""
    def forward(gain: float) -> dict[str, Any]:
        return compared(Study(gain=gain, depth=config.depth, width=config.width), config.seeds, config.key)

    def gradient(scale: float) -> dict[str, Any]:
        study = Study(gain=config.gain, scale=scale, depth=3, width=config.width)
        one, real = predict(study), measure(study, config.seeds, config.key)
        columns = {"": one.parameter_grad_variance, "_measured": real.parameter_grad_variance,
                   "_stderr": real.parameter_grad_variance_stderr}
        return {f"gradient_{name}{end}": column.sel(parameter=[f"layers/{k}/{path}" for k in range(3)]).values
                for name, path in (("gain", "gain"), ("v", "layer/kernel")) for end, column in columns.items()}

    def other_kind(kind: str) -> dict[str, Any]:
        study = Study(kind=kind, gain=nfnet_gain("relu"), depth=config.depth, width=4 * config.width)  # spectral norms have no gain
        found = compared(study, config.seeds, config.key)
        return {f"kind_{name}": v for name, v in found.items()}

    one = frame.over({"gain": list(dict.fromkeys((config.gain, *config.others)))}, forward, out, "weight_norm", frame.layers())
    other = frame.over({"scale": [1.0, config.scale]}, gradient, out, "weight_norm_gradients",
                       frame.layers(*(f"gradient_{n}{end}" for n in ("gain", "v") for end in ("", "_measured", "_stderr")), dim="weight"))
    kinds = frame.over({"kind": list(_KINDS[1:])}, other_kind, out, "weight_norm_kinds",
                       frame.layers(*(f"kind_{name}" for name in frame.layers())))
    return xr.merge([one, other, kinds]).assign_attrs(wide=4 * config.width)


def claims(found: xr.Dataset) -> list[Claim]:
    """The gain is g, whatever the scale of v; the square root of 2 keeps the variance through ReLU, and so do standardized weights;
    one step of power iteration leaves a quarter of it."""
    kept = found.isel(gain=0)
    lines = [
        same(f"g = {float(kept.gain):.4g}: E[z²] of the last layer over that of the first", 1, kept.predicted[-1] / kept.predicted[0], 1e-5)
    ]
    for gain in found.gain.values:
        one = found.sel(gain=gain)
        lines.append(same(f"g = {gain:.4g}: factor of E[z²] per layer", gain**2 / 2, (one.predicted[-1] / one.predicted[0]) **
                          (1 / (one.sizes["layer"] - 1)), 1e-5))
        lines.append(agrees(f"g = {gain:.4g}: measured over predicted E[z²]", one.predicted, one.measured, one.stderr, 0.4))
    small, large = (found.isel(scale=k) for k in (0, 1))
    ratio = (large.gradient_gain / small.gradient_gain).values
    lines.append(same("E[g²] of g at another scale of v, over that at 1", 1, ratio[np.argmax(np.abs(ratio - 1))], 1e-4))
    ratio = (large.gradient_v / small.gradient_v).values * float(large.scale) ** 2
    lines.append(same("E[g²] of v times the square of its scale, over that at 1", 1, ratio[np.argmax(np.abs(ratio - 1))], 1e-4))
    for name, title in (("gain", "g"), ("v", "v")):
        theory, mean, error = (found[f"gradient_{name}{end}"] for end in ("", "_measured", "_stderr"))
        lines.append(agrees(f"measured over predicted E[g²] of {title}, at both scales", theory, mean, error, 0.3))
    for kind, factor, error in (("standardized", 1.0, 3 / found.attrs["wide"]), ("spectral", 0.25, 1e-5)):  # terms of order 1/width
        one = found.sel(kind=kind)
        growth = one.kind_predicted[1:].values / one.kind_predicted[:-1].values
        lines.append(same(f"{kind}: factor of E[z²] per layer", factor, growth[np.argmax(np.abs(growth - factor))], error))
        lines.append(agrees(f"{kind}: measured over predicted E[z²]", one.kind_predicted, one.kind_measured, one.kind_stderr, 0.2))
    return lines


def draw(found: xr.Dataset) -> Any:
    """E[z²] against depth."""
    figure, (axes,) = drawing.panels()
    for k, gain in enumerate(found.gain.values):
        one = found.sel(gain=gain)
        drawing.curve(axes, np.arange(1, one.sizes["layer"] + 1), one.predicted, one.measured, one.stderr, f"g = {gain:.3g}", k)
    for k, kind in enumerate(found.kind.values, len(found.gain)):
        one = found.sel(kind=kind)
        drawing.curve(axes, np.arange(1, one.sizes["layer"] + 1), one.kind_predicted, one.kind_measured, one.kind_stderr, str(kind), k)
    drawing.labelled(axes, "layer", "$E[z^2]$", "y")
    return figure


__all__ = ["Config", "PRESETS", "Study", "claims", "compute", "draw", "measure", "predict"]
