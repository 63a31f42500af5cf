"""Sparse networks: a random mask that keeps p multiplies E[z²] by p in every layer, which weights of variance 2 / (p n) make up for.

A mask of the largest magnitudes keeps more: p + 2 t phi(t) with t = Phi^{-1}(1 - p/2) of normal weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from sigprop import empirical, nn, sparse
from sigprop import predict as predicted
from sigprop.init.checks import check_choice, check_number
from sigprop.network import Law, Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, agrees, same
from sigprop.studies.study import initializer, unit_inputs


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """ReLU networks of equal widths with masks on all kernels.

    Attributes:
        init: of the dense network.
        kept: fractions kept.
        correction: ``"share"``, weights drawn larger by what the mask takes away, or ``"none"``.
        depth, width: of the networks.
    """

    init: str = "he"
    kept: tuple[float, ...] = (0.5, 0.1)
    correction: str = "share"
    depth: int = 5
    width: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("correction", self.correction, ("share", "none"))
        for fraction in self.kept:
            check_number("kept", fraction, high=1.0, above=0.0)


PRESETS = {"quick": Config(), "paper": Config(kept=(0.5, 0.2, 0.1, 0.05, 0.01), depth=20, width=1024, seeds=512)}
_KNOWN = {0.5: 0.9287, 0.2: 0.6498, 0.1: 0.4393, 0.05: 0.2791, 0.01: 0.0845}
_KINDS = ("random", "magnitude")


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``kind`` of mask, ``kept`` and ``layer``: E[z²], ``predicted``, ``measured`` and ``corrected``; ``normal`` and
    ``own``, the fraction of the variance that the largest weights leave, of normal ones and of those drawn here (truncated ones)."""
    def point(kind: str, kept: float) -> dict[str, Any]:
        net = _pruned(config, kind, kept)
        right = _pruned(config, kind, kept, corrected=config.correction == "share")
        x = net.example
        one, two = (_layers(predicted.propagate(n, *x, backward=False)) for n in (net, right))
        other = _layers(empirical.measure(net, *x, seeds=config.seeds, key=config.key, backward=False))
        return {"predicted": one.second_moment.values, "corrected": two.second_moment.values, "measured": other.second_moment.values,
                "stderr": other.second_moment_stderr.values}

    found = frame.over({"kind": list(_KINDS), "kept": config.kept}, point, out, "sparse_lottery",
                       frame.layers("predicted", "corrected", "measured", "stderr"))
    dense = _pruned(config, "magnitude", 1.0)
    return found.assign(normal=("kept", [sparse.share(Law(0.0, 1.0), kept).variance for kept in config.kept]),
                        own=("kept", [_own_share(dense, kept) for kept in config.kept]))


def _pruned(config: Config, kind: str, kept: float, corrected: bool = False) -> Network:
    init, widths = initializer(config.init), [config.width] * (config.depth + 1)
    net = network(partial(_perceptron, widths, init), unit_inputs((1, config.width), 0))
    masks = sparse.mask(sparse.random(net, jax.random.key(1)), kept)
    if kind == "random":
        return sparse.masked(sparse.corrected(net, dict.fromkeys(masks, kept)) if corrected else net, masks)
    pruned = sparse.thresholded(net, kept)
    if not corrected:
        return pruned
    gain = _own_share(net, kept) ** -0.5
    return sparse.thresholded(network(partial(_perceptron, widths, gain * init), *net.example), kept)


def _own_share(net: Network, kept: float) -> float:
    """What the largest weights leave of the variance under the law of the kernels, which need not be normal."""
    return sparse.share(next(law for path, law in net.laws.items() if path.endswith("kernel")), kept).variance


def _perceptron(widths: Any, init: Any, rngs: Any) -> Any:
    return nn.MLP(widths, kernel_init=init, rngs=rngs)


def _layers(found: xr.Dataset) -> xr.Dataset:
    return found.sel(node=[n for n in found.node.values if str(n).startswith("layers/")])


def claims(found: xr.Dataset) -> list[Claim]:
    """E[z²] falls as p^L, or as the share of the largest weights to the L; drawn larger it is kept."""
    steps, lines = found.sizes["layer"] - 1, []
    for p in found.kept.values:
        share, own = float(found.normal.sel(kept=p)), float(found.own.sel(kept=p))
        if float(p) in _KNOWN:
            lines.append(same(f"largest {p:.0%} of normal weights: share of the variance", _KNOWN[float(p)], share, 6e-5))
        for kind, factor in (("random", float(p)), ("magnitude", own)):
            one = found.sel(kind=kind, kept=p)
            # random masks are drawn: a fraction of each unit's weights is left, p of them on average
            lines.append(same(f"{kind}, {p:.0%} kept: factor of E[z²] per layer, in units of what is known", 1,
                              (one.predicted[-1] / one.predicted[0]) ** (1 / steps) / factor, 0.02 if kind == "random" else 1e-4))
            lines.append(same(f"{kind}, {p:.0%} kept, corrected: factor of E[z²] per layer", 1, (one.corrected[-1] / one.corrected[0]) **
                              (1 / steps), 0.02 if kind == "random" else 1e-4))
            lines.append(agrees(f"{kind}, {p:.0%} kept: measured over predicted E[z²]", one.predicted, one.measured, one.stderr, 0.25))
    return lines


def draw(found: xr.Dataset) -> Any:
    """E[z²] by layer."""
    figure, (axes,) = drawing.panels()
    layer = np.arange(1, found.sizes["layer"] + 1)
    for i, kind in enumerate(found.kind.values):
        for j, p in enumerate(found.kept.values):
            one = found.sel(kind=kind, kept=p)
            drawing.curve(axes, layer, one.predicted, one.measured, one.stderr, f"{kind}, {p:.0%}", i * found.sizes["kept"] + j)
    drawing.labelled(axes, "layer", "$E[z^2]$", "y")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
