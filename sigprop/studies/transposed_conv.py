"""Transposed convolutions: forward, the inputs that reach an output pixel count; backward, the outputs that an input pixel feeds.

On average C_in k²/s² inputs reach an output. Where the stride s does not divide k they differ by phase, which makes a checkerboard
(``site_variance:NODE``); each input feeds C_out k² outputs away from the border (``site_grad_variance:NODE``). Initializers that count
the shape of the kernel, such as ``sp.init.he()``, take C_in k² and are low by s² (Dumoulin & Visin 2016; Odena et al. 2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sigprop import nn
from sigprop.init.checks import check_whole
from sigprop.init.scaling import he
from sigprop.network import Network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, agrees, same
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, measure, predict, stack, unit_inputs


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """A pointwise convolution under He, and transposed convolutions under ``init``, with ReLU in between.

    The images that the first transposed convolution sees, row ``relu``, have a second moment of 1.

    Attributes:
        k: taps along an axis.
        stride: how often the image grows in each layer.
        channels: C_in of every transposed convolution.
        features: C_out of the last one; the others have ``channels``.
        depth: number of transposed convolutions.
        size: height and width of the first image.
        padding: ``"SAME"`` (k/s times the image, cropped), ``"VALID"`` or ``"CIRCULAR"``.
    """

    k: int = 4
    stride: int = 2
    channels: int = 32
    features: int = 32
    depth: int = 1
    size: int = 6
    padding: str = "SAME"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "features", "depth", "size"):
            check_whole(name, getattr(self, name))
        self._layer()

    def _layer(self) -> nn.Transposed:
        return nn.Transposed(self.k, self.stride, self.padding)

    def network(self) -> Network:
        x = unit_inputs((self.examples, self.size, self.size, self.channels), self.seed)
        layer = self._layer()
        widths = [self.channels] * (self.depth + 1) + [self.features]
        inits = [he()] + [initializer(self.init, layer.fans)] * self.depth
        return stack([nn.Pointwise()] + [layer] * self.depth, widths, inits, x)

    def nodes(self) -> list[str]:
        return ["layers/0", "relu", *(f"layers/{2 * k}" for k in range(1, self.depth + 1))]


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """One transposed convolution for each k and stride, on small images.

    Attributes:
        init: of its kernel, on the fans of the operation.
        k: taps along an axis.
        strides: how often the image grows.
        channels: of all layers.
        size: height and width of the images, such that pixels are left between borders of max(k, stride).
    """

    init: str = "he"
    k: tuple[int, ...] = (3, 4)
    strides: tuple[int, ...] = (2,)
    channels: int = 32
    size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("size", self.size, max(-(-(2 * max(k, s) + s) // s) for k in self.k for s in self.strides))


PRESETS = {"quick": Config(), "paper": Config(k=(2, 3, 4, 5), strides=(1, 2, 3), size=12, seeds=1024)}
_MAPS = {"forward": ("site_variance", "layers/2"), "backward": ("site_grad_variance", "relu")}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``k`` and ``stride``, along the middle of the image: E[z²] of the output and E[g²] of the input, one stride of pixels or more in
    from the border: the mean, the smallest and the largest; the worst ``ratio`` of what is measured over it; and ``by_shape``, E[z²] under
    an initializer that counts the shape of the kernel, relative to the one that counts the fans of the operation."""
    def point(k: int, stride: int) -> dict[str, Any]:
        study = Study(init=config.init, k=k, stride=stride, channels=config.channels, features=config.channels, size=config.size)
        one, other = predict(study), measure(study, config.seeds, config.key)
        shape = Study(init=he(), k=k, stride=stride, channels=config.channels, features=config.channels)
        right = Study(init="he", k=k, stride=stride, channels=config.channels, features=config.channels)
        by_shape, by_fans = (float(predict(s, backward=False).second_moment[-1]) for s in (shape, right))
        found: dict[str, Any] = {"by_shape": by_shape / by_fans}
        for name, (kind, node) in _MAPS.items():
            edge = max(k, stride) if name == "forward" else -(-k // stride)
            inner, measured, error = (_inner(d[f"{kind}{suffix}:{node}"], edge, stride if name == "forward" else 1)
                                      for d, suffix in ((one, ""), (other, ""), (other, "_stderr")))
            found |= {f"{name}_mean": inner.mean(), f"{name}_low": inner.min(), f"{name}_high": inner.max()}
            found |= {f"{name}_predicted": inner[0], f"{name}_measured": measured[0], f"{name}_stderr": error[0]}
        return found

    names = [f"{name}_{what}" for name in _MAPS for what in ("predicted", "measured", "stderr")]
    padded, longest = {name: ("pixel",) for name in names}, config.size * max(config.strides)

    def full(k: int, stride: int) -> dict[str, Any]:
        return _padded(point(k, stride), names, longest)

    found = frame.over({"k": config.k, "stride": config.strides}, full, out, "transposed_conv", padded)
    return found.assign_attrs(channels=config.channels)


def _inner(found: Any, edge: int, period: int) -> np.ndarray:
    """Pixels away from the border, whole periods of them, the mean over examples."""
    size = (found.shape[1] - 2 * edge) // period * period
    return np.asarray(found).mean(0)[edge:edge + size, edge:edge + size]


def _padded(found: dict[str, Any], names: list[str], size: int) -> dict[str, Any]:
    return {name: np.pad(v, (0, size - len(v)), constant_values=np.nan) if name in names else v for name, v in found.items()}


def claims(found: xr.Dataset) -> list[Claim]:
    """On average C_in k²/s² inputs reach an output; phases differ where s does not divide k; the kernel's shape is low by s²."""
    lines = []
    for k in found.k.values:
        for s in found.stride.values:
            one, name = found.sel(k=k, stride=s), f"k = {k}, s = {s}"
            lines.append(same(f"{name}: mean E[z²] over a period of pixels", 2, one.forward_mean, 1e-5))
            taps = [len(range(phase, k, s)) for phase in range(s)]
            if min(taps):
                lines.append(same(f"{name}: largest over smallest E[z²] of a pixel, by the taps that reach it",
                                  (max(taps) / min(taps)) ** 2, one.forward_high / one.forward_low, 1e-5))
            # k² weights of variance 2 s² / (C_in k²) for each of C_out = C_in channels
            lines.append(same(f"{name}: mean E[g²] of an input, by the outputs that it feeds", 2 * float(s) ** 2, one.backward_mean, 1e-4))
            lines.append(same(f"{name}: largest over smallest E[g²] of an input", 1, one.backward_high / one.backward_low, 1e-5))
            lines.append(same(f"{name}: E[z²] under an init that counts the kernel's shape, in units of the right one", 1 / float(s) ** 2,
                              one.by_shape, 1e-5))
            for way in _MAPS:
                live = (one[f"{way}_predicted"] > 0).values
                predicted, measured, stderr = (one[f"{way}_{what}"].values[live] for what in ("predicted", "measured", "stderr"))
                lines.append(agrees(f"{name}: measured over predicted, {way}", predicted, measured, stderr, 0.25))
    return lines


def draw(found: xr.Dataset) -> Any:
    """E[z²] of outputs along a row of the image, for one stride; E[g²] of inputs against k."""
    figure, (left, right) = drawing.panels(2)
    stride = found.stride.values[len(found.stride) // 2]
    for i, k in enumerate(found.k.values):
        one = found.sel(k=k, stride=stride).isel(pixel=slice(8))
        drawing.curve(left, one.pixel, one.forward_predicted, one.forward_measured, one.forward_stderr, f"$k$ = {k}", i)
    drawing.labelled(left, f"pixel, stride $s$ = {stride}", "$E[z^2]$ of outputs")
    for i, s in enumerate(found.stride.values):
        one = found.sel(stride=s).isel(pixel=0)
        drawing.curve(right, one.k, one.backward_mean, one.backward_measured, one.backward_stderr, f"$s$ = {s}", i)
    drawing.labelled(right, "taps $k$ along an axis", "$E[g^2]$ of inputs", "y")
    return figure


__all__ = ["Config", "PRESETS", "Study", "claims", "compute", "draw", "measure", "predict"]
