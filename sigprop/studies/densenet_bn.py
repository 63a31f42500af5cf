"""Dense blocks: channels accumulate, and batch normalization with He keeps every new feature at variance 1 (Huang et al. 2017).

Normalized inputs leave ReLU with a second moment of 1/2, which He doubles and Glorot, that counts the few outputs too, does not. Without
skips, batch normalization makes gradients explode: by pi / (pi - 1) per ReLU layer for large batches (Yang et al. 2019), see
:class:`Perceptron`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from flax import nnx

from sigprop import nn
from sigprop.init.checks import check_choice, check_whole
from sigprop.network import Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, agrees, same
from sigprop.studies.study import Study as Base
from sigprop.studies.study import compared, initializer, measure, predict, unit_inputs


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """One dense block of 3 by 3 convolutions after a first one to ``2 growth`` channels, on images whose pixels have a mean square of 1.

    Attributes:
        growth: the growth rate, channels that each layer adds.
        layers: of the block.
        norm: whether there is batch normalization.
        batch_statistics: whether it uses the statistics of the batch, as in training, or running ones, which are 0 and 1 at the start and
            change nothing.
        size: height and width of an image.
        padding: ``"CIRCULAR"``, under which all pixels are alike, or ``"SAME"`` (by zeros), which removes taps at the border.
    """

    growth: int = 12
    layers: int = 3
    norm: bool = True
    batch_statistics: bool = True
    size: int = 4
    padding: str = "CIRCULAR"
    examples: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("growth", "layers", "size"):
            check_whole(name, getattr(self, name))
        nn.Convolution(padding=self.padding)

    def network(self) -> Network:
        x = unit_inputs((self.examples, self.size, self.size, 3), self.seed)
        init, norm = initializer(self.init), nnx.BatchNorm if self.norm else nn.no_norm
        return network(lambda rngs: nn.DenseNet(3, self.growth, 10, blocks=1, layers=self.layers, norm=norm, padding=self.padding,
                                                kernel_init=init, rngs=rngs), x, train=self.batch_statistics)

    def nodes(self) -> list[str]:
        return ["stem", *(f"blocks/0/{k}/conv" for k in range(self.layers))]


@dataclass(frozen=True, kw_only=True)
class Perceptron(Base):
    """Dense layers with batch normalization on the statistics of the batch and an activation after each but the last.

    Attributes:
        width, depth: of all layers, and their number.
        act: ``"relu"`` or ``"identity"``.
    """

    width: int = 64
    depth: int = 4
    act: str = "relu"
    examples: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("width", self.width)
        check_whole("depth", self.depth, 2)
        check_choice("act", self.act, ("relu", "identity"))

    def network(self) -> Network:
        init = initializer(self.init)

        def build(rngs: nnx.Rngs) -> nnx.Module:
            layers: list[Any] = []
            for _ in range(self.depth):
                layers += [nnx.Linear(self.width, self.width, use_bias=False, kernel_init=init, rngs=rngs),
                           nnx.BatchNorm(self.width, rngs=rngs), *([nnx.relu] if self.act == "relu" else [])]
            return nnx.Sequential(*layers[:-2 if self.act == "relu" else -1])

        return network(build, unit_inputs((self.examples, self.width), self.seed), train=True)

    def nodes(self) -> list[str]:
        return [f"layers/{(3 if self.act == 'relu' else 2) * k}" for k in range(self.depth)]


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """E[z²] of every new feature map, with and without batch normalization on running statistics (0 and 1, as at the start).

    Attributes:
        init: of which it is claimed that it keeps every new feature map's.
        others: inits beside it.
        growth: growth rates.
        layers: of the block.
        batch: whether to predict and measure a layer on the statistics of the batch too, which are sampled.
    """

    init: str = "he"
    others: tuple[str, ...] = ("xavier",)
    growth: tuple[int, ...] = (12,)
    layers: int = 2
    batch: bool = True


PRESETS = {"quick": Config(), "paper": Config(growth=(12, 24, 48), layers=6, seeds=1024)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """E[z²] ``(init, growth, norm, layer)``, ``predicted``, and ``measured`` without norm; ``batch_*``, of one layer on the batch's."""

    def study(init: str, growth: int, norm: bool, **options: Any) -> Study:
        return Study(init=init, growth=growth, norm=norm, layers=options.pop("layers", config.layers), size=3, examples=2, **options)

    def point(init: str, growth: int, norm: bool) -> dict[str, Any]:
        made = study(init, growth, norm, batch_statistics=False)
        if not norm:
            return compared(made, config.seeds, config.key)
        one = predict(made, backward=False)
        unknown = np.full(one.sizes["node"], np.nan)
        return {"predicted": one.second_moment.values, "uncertain": one.error.values, "measured": unknown, "stderr": unknown}

    def batch(init: str) -> dict[str, Any]:
        found = compared(study(init, config.growth[0], True, layers=1), config.seeds, config.key)
        return {f"batch_{name}": column[-1] for name, column in found.items()}

    inits = list(dict.fromkeys((config.init, *config.others)))
    found = frame.over({"init": inits, "growth": config.growth, "norm": [False, True]}, point, out, "densenet_bn", frame.layers())
    return found.merge(frame.over({"init": inits}, batch, out, "densenet_bn_batch", {})) if config.batch else found


def _expected(growth: int, count: int, factor: Any) -> np.ndarray:
    """E[z²] of the stem and of each layer's new features, where ``factor(C, new)`` multiplies the mean over the C channels there are."""
    sizes, found = [2 * growth], [2 * factor(3, 2 * growth)]
    for _ in range(count - 1):
        found.append(factor(sum(sizes), growth) * float(np.dot(found, sizes)) / sum(sizes))
        sizes.append(growth)
    return np.array(found)


def claims(found: xr.Dataset) -> list[Claim]:
    """He keeps every new feature map's E[z²], at 1 behind normalization on the batch; Glorot, that counts new channels too, lowers it."""
    lines, count = [], found.sizes["layer"]
    for k, init in enumerate(found.init.values):
        factor = (lambda c, new: 1) if k == 0 else (lambda c, new: c / (c + new))
        known = k == 0 or init == "xavier"
        for norm in (False, True):
            one = found.sel(init=init, norm=norm)
            name = f"{init}, {'running statistics' if norm else 'no norm'}"
            ratio = np.concatenate([one.predicted.sel(growth=g) / _expected(int(g), count, factor) for g in one.growth.values])
            if known:
                lines.append(
                    same(f"{name}: E[z²] of each new feature map, in units of what is known", 1, ratio[np.argmax(np.abs(ratio - 1))], 1e-4)
                )
            if not norm:
                lines.append(agrees(f"{name}: measured over predicted", one.predicted, one.measured, one.stderr, 0.35))
        grown = int(found.growth[0])
        if known and "batch_predicted" in found:
            one, name = found.sel(init=init), f"{init}, statistics of the batch"
            lines += [same(f"{name}: E[z²] of a new feature map", factor(2 * grown, grown), one.batch_predicted, 5e-3),
                      agrees(f"{name}: measured over predicted", one.batch_predicted, one.batch_measured, one.batch_stderr, 0.1)]
    return lines


def draw(found: xr.Dataset) -> Any:
    """E[z²] of each new feature map."""
    figure, (axes,) = drawing.panels()
    for k, init in enumerate(found.init.values):
        one = found.sel(init=init, norm=False).isel(growth=0)
        drawing.curve(axes, np.arange(found.sizes["layer"]), one.predicted, one.measured, one.stderr, str(init), k)
    drawing.labelled(axes, "layer of the block", "$E[z^2]$ of its new features")
    return figure


__all__ = ["Config", "PRESETS", "Perceptron", "Study", "claims", "compute", "draw", "measure", "predict"]
