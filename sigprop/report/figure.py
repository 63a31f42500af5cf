"""The report as a figure: both curves on a logarithmic scale, and their ratio with what explains it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.errors import InvalidInput
from sigprop.report.compare import has_gradients, log10_mean_square
from sigprop.report.table import concerns

if TYPE_CHECKING:
    from sigprop.report.result import Report

_PREDICTED, _MEASURED, _PROBLEM = "#1f4e79", "#d95f02", "#c62828"
_SPAN = 2.0  # decades at least, so that a healthy network looks level
_LABELS = 28  # names that fit below the axis


def draw(report: Report) -> Any:
    """A matplotlib ``Figure`` that no window owns; decimal logarithms keep it finite where the variance itself underflows."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidInput("figures need matplotlib: pip install 'sigprop[figures]'") from error
    count = report.predicted.sizes["node"]
    quantities = ["second_moment", *(["grad_variance"] if has_gradients(report.predicted) else [])]
    size = (min(max(7.5, 1.5 + 0.24 * count), 13.0), 3.2 + 2.8 * len(quantities))
    drawn = Figure(figsize=size, layout="constrained")
    panels = drawn.subplots(len(quantities) + 1, 1, sharex=True, height_ratios=[*[2.4] * len(quantities), 1])
    top, bottom = panels[0], panels[-1]
    for axes, quantity in zip(panels, quantities, strict=False):
        _curves(report, axes, quantity)
    _ratios(report, bottom)
    for axes in panels:
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    _names(report, bottom)
    top.set_title(report.name, loc="left", fontsize=11, fontweight="bold")
    return drawn


def _curves(report: Report, axes: Any, quantity: str) -> None:
    predicted, measured = (log10_mean_square(data, quantity) for data in (report.predicted, report.measured))
    stderr = np.asarray(report.measured[f"log10_{quantity}_stderr"], float)
    place = np.arange(len(predicted))
    seen, drawn = np.isfinite(predicted), np.isfinite(measured)
    axes.plot(place, np.where(seen, predicted, np.nan), "-", color=_PREDICTED, linewidth=1.8, label="predicted", zorder=2)
    axes.errorbar(place[drawn], measured[drawn], yerr=np.nan_to_num(stderr[drawn]), fmt="o", markersize=3.6, color=_MEASURED,
                  elinewidth=1.1, capsize=1.8, label="measured ± s.e.", zorder=3)
    marked = [k for k in range(len(place)) if any(p.severe and concerns(p, *_row(report, k)) for p in report.problems)]
    for number, k in enumerate(marked):
        axes.axvline(k, color=_PROBLEM, linewidth=1.0, linestyle=":", zorder=1, label=None if number else "problem")
    low, high = axes.get_ylim()
    if high - low < _SPAN:
        axes.set_ylim((low + high - _SPAN) / 2, (low + high + _SPAN) / 2)
    floor = axes.get_ylim()[0]
    for values, color, height in ((predicted, _PREDICTED, 0.0), (measured, _MEASURED, 0.03)):
        zero = place[np.isneginf(values)]
        if len(zero):
            level = np.full(len(zero), floor + height * (axes.get_ylim()[1] - floor))
            axes.plot(zero, level, "v", color=color, markersize=6, clip_on=False,
                      label="exactly 0" if color == _PREDICTED else "measured as 0")
    axes.set_ylabel("log₁₀ E[z²]" if quantity == "second_moment" else "log₁₀ E[g²]")
    axes.legend(frameon=False, fontsize=9, ncols=5, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)


def _row(report: Report, k: int) -> tuple[str, str]:
    return str(report.predicted.node.values[k]), str(report.predicted.path.values[k])


def _ratios(report: Report, axes: Any) -> None:
    c, scale = report.comparison, np.log(10)
    place = np.arange(c.sizes["node"])
    ratio, allowed = np.asarray(c.log_ratio) / scale, np.asarray(c.allowed) / scale
    stderr = np.nan_to_num(np.asarray(report.measured["log10_second_moment_stderr"], float))
    axes.fill_between(place, -allowed, allowed, step="mid", color=_PREDICTED, alpha=0.12, linewidth=0, label="explained by noise and width")
    axes.axhline(0, color=_PREDICTED, linewidth=1)
    present = np.isfinite(log10_mean_square(report.predicted)) & np.isfinite(log10_mean_square(report.measured))
    fine = np.isfinite(ratio) & present & (np.asarray(c["range"]) == 0)
    for chosen, color in ((fine & ~np.asarray(c.flag), _MEASURED), (fine & np.asarray(c.flag), _PROBLEM)):
        if chosen.any():
            axes.errorbar(place[chosen], ratio[chosen], yerr=stderr[chosen], fmt="o", markersize=3.2, color=color, elinewidth=1,
                          capsize=1.5)
    largest = max([*np.abs(ratio[fine]), 0.02]) + max([*stderr[fine], 0.0])
    axes.set_ylim(-1.4 * largest, 1.4 * largest)
    axes.set_ylabel("log₁₀ ratio")
    axes.legend(frameon=False, fontsize=8, loc="best")


def _names(report: Report, axes: Any) -> None:
    count = report.predicted.sizes["node"]
    step = max(1, -(-count // _LABELS))
    place = list(range(0, count, step))
    names = [str(report.predicted.node.values[k]) for k in place]
    short = [n if len(n) <= 24 else "…" + n[-23:] for n in names]
    axes.set_xticks(place, short, rotation=60, ha="right", fontsize=7.5, rotation_mode="anchor")
    axes.set_xlim(-0.8, count - 0.2)
