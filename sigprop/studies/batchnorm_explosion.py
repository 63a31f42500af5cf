"""Batch normalization without skips: gradients grow in every layer, by pi / (pi - 1) behind ReLU in large batches (Yang et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sigprop import meanfield
from sigprop.studies import drawing, frame
from sigprop.studies.densenet_bn import Perceptron, measure
from sigprop.studies.frame import Claim, agrees, same


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Dense networks with batch normalization in training mode, of no or of ReLU activation.

    Attributes:
        activations: ``"identity"``, ``"relu"``.
        examples: of a batch.
        depth, width: of the networks; the growth is that of all layers but the first and the last two.
        large: examples of a batch that counts as large.
        growth: of which it is claimed that ReLU layers have it in large batches; 0 for pi / (pi - 1).
    """

    activations: tuple[str, ...] = ("identity", "relu")
    examples: int = 32
    depth: int = 10
    width: int = 256
    large: int = 10**6
    growth: float = 0.0
    seeds: int = 64


PRESETS = {"quick": Config(), "paper": Config(examples=64, depth=20, width=512, seeds=128)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``activation``: E[g²] ``(layer)``, measured; the growth per layer, ``predicted`` by mean-field theory and measured, and that
    of large batches."""
    def point(activation: str) -> dict[str, Any]:
        study = Perceptron(act=activation, depth=config.depth, width=config.width, examples=config.examples)
        one = measure(study, config.seeds, config.key)
        steps = config.depth - 4
        ends = one.grad_variance.values[[1, 1 + steps]]
        relative = one.grad_variance_stderr.values[[1, 1 + steps]] / ends
        growth = (ends[0] / ends[1]) ** (1 / steps)
        return {"gradient": one.grad_variance.values, "gradient_stderr": one.grad_variance_stderr.values, "measured": growth,
                "stderr": growth * np.hypot(*relative) / steps, "predicted": _growth(activation, config.examples),
                "large": _growth(activation, config.large)}

    return frame.over(
        {"activation": config.activations}, point, out, "batchnorm_explosion", frame.layers("gradient", "gradient_stderr")
    ).assign_attrs(examples=config.examples, growth=config.growth or pi / (pi - 1))


def _growth(activation: str, examples: int) -> float:
    return meanfield.chi1(activation, 2.0, block=[meanfield.BatchNorm(examples)])


def claims(found: xr.Dataset) -> list[Claim]:
    """Growth of E[g²] per layer: pi / (pi - 1) for ReLU in large batches, (B - 2) / (B - 3) without activation, and as measured."""
    size, lines = found.attrs["examples"], []
    if "relu" in found.activation.values:
        lines.append(
            same("relu, large batches: growth of E[g²] per layer", found.attrs["growth"], found.large.sel(activation="relu"), 1e-4)
        )
    if "identity" in found.activation.values:
        lines.append(same(f"identity, {size} examples: growth of E[g²] per layer", (size - 2) / (size - 3),
                          found.predicted.sel(activation="identity"), 1e-9))
    return [*lines, *(agrees(f"{act}, {size} examples: measured over predicted growth", one.predicted, one.measured, one.stderr, 0.05)
                      for act in found.activation.values for one in [found.sel(activation=act)])]


def draw(found: xr.Dataset) -> Any:
    """E[g²] by layer, with the predicted growth between the second and the last layers but two."""
    figure, (axes,) = drawing.panels()
    count = found.sizes["layer"]
    for k, act in enumerate(found.activation.values):
        one = found.sel(activation=act)
        line = float(one.gradient[count - 3]) * float(one.predicted) ** np.arange(count - 4, -1, -1.0)
        drawing.curve(axes, np.arange(2, count - 1), line, None, None, str(act), k)
        drawing.curve(axes, np.arange(1, count + 1), None, one.gradient, one.gradient_stderr, "", k)
    drawing.labelled(axes, "layer", "$E[g^2]$", "y")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
