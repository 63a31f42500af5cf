"""Panels that are drawn: histograms, maps of attention entropy, spectra. Each a matplotlib ``Figure`` from the panel's dataset alone."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import xarray as xr

PREDICTED, MEASURED = "#1f4e79", "#d95f02"
_COLUMNS = 4
_ROWS = 64  # queries that a map shows


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def histograms(data: xr.Dataset) -> Any:
    """Share of entries by bin: measured as an area, predicted as a line, in units of the predicted root mean square."""
    count = data.sizes["node"]
    rows = ceil(count / _COLUMNS)
    figure = _figure(11, 2.0 * rows + 0.3)
    panels = np.atleast_1d(figure.subplots(rows, _COLUMNS, squeeze=False)).ravel()
    for axes, k in zip(panels, range(count), strict=False):
        one = data.isel(node=k)
        edges, predicted = one.edge.values, one.predicted.values
        middle = (edges[1:] + edges[:-1]) / 2
        scale = np.sqrt(np.sum(predicted * middle**2) / np.sum(predicted)) or 1.0
        axes.stairs(one.measured.values, edges / scale, fill=True, color=MEASURED, alpha=0.45, label="measured")
        axes.stairs(predicted, edges / scale, color=PREDICTED, linewidth=1.4, label="predicted")
        name = str(one.node.item())
        axes.set_title(name if len(name) <= 30 else "…" + name[-29:], fontsize=9, loc="left")
        axes.set_yticks([])
        axes.tick_params(labelsize=7.5)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in panels[count:]:
        axes.set_axis_off()
    panels[0].legend(frameon=False, fontsize=7.5)
    figure.supxlabel("value / predicted root mean square", fontsize=9)
    return figure


def attention(data: xr.Dataset) -> Any:
    """Mean entropy of a row of weights over that of uniform ones, head by query of the first input; measured beside predicted."""
    layers = [str(name) for name in data.layer.values]
    figure = _figure(11, 0.9 + 1.9 * len(layers))
    panels = figure.subplots(len(layers), 2, squeeze=False)
    image = None
    for pair, layer in zip(panels, layers, strict=True):
        keys = np.maximum(np.asarray(data[f"open_keys:{layer}"])[0, :_ROWS], 1)
        most = np.where(keys > 1, np.log(keys), np.nan)
        for axes, (prefix, what) in zip(pair, (("", "predicted"), ("measured_", "measured")), strict=True):
            share = np.asarray(data[f"{prefix}row_entropy_mean:{layer}"])[0, :, :_ROWS] / most
            image = axes.imshow(np.ma.masked_invalid(share), aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            axes.set_title(f"{layer}: {what}", fontsize=9, loc="left")
            axes.set_xlabel("query", fontsize=8)
            axes.set_ylabel("head", fontsize=8)
            axes.set_yticks(range(len(share)))
            axes.tick_params(labelsize=7.5)
    figure.colorbar(image, ax=panels, label="entropy / ln keys", shrink=0.8)
    return figure


def spectrum(data: xr.Dataset) -> Any:
    """Eigenvalues by rank on a logarithmic scale, of infinite width (line) and means over draws (points)."""
    kernels = [str(k) for k in data.kernel.values]
    figure = _figure(11, 2.8)
    for axes, name in zip(figure.subplots(1, len(kernels), squeeze=False)[0], kernels, strict=True):
        one = data.sel(kernel=name)
        rank = np.arange(1, data.sizes["index"] + 1)
        values = np.asarray(one.predicted)
        floor = np.finfo(float).eps * max(float(values.max()), np.finfo(float).tiny)
        axes.plot(rank, np.where(values > floor, values, np.nan), "-s", color=PREDICTED, markersize=4, label="infinite width")
        if "measured" in one:
            axes.errorbar(rank, np.asarray(one.measured), yerr=float(one.measured_stderr), fmt="o", color=MEASURED, markersize=4,
                          capsize=2, label="kernel averaged over draws")
        axes.set_yscale("log")
        axes.set_xticks(rank if len(rank) <= 12 else rank[:: len(rank) // 8])
        axes.set_title(f"{name} (condition number {float(one.condition_number):.3g}, effective rank {float(one.effective_rank):.3g})",
                       fontsize=9, loc="left")
        axes.set_xlabel("eigenvalue", fontsize=8)
        axes.tick_params(labelsize=7.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7.5)
    return figure
