"""How all studies are drawn: predictions as lines, measurements as points with error bars, one colour per line."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from sigprop.errors import MissingDependency

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito: told apart by the colour-blind
_DASHES = ("-", (0, (5, 2)), (0, (2, 1)), (0, (6, 1, 1, 1)))  # of lines that coincide the lower ones are seen through the upper
_MARKERS = "os^DvP*"
_WIDTH, _HEIGHT = 3.4, 2.6  # inches, a column of a page


def panels(count: int = 1) -> tuple[Any, list[Any]]:
    """A figure of ``count`` panels side by side, and its axes.

    Raises:
        MissingDependency: where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("figures need matplotlib: pip install 'sigprop[figures]'") from error
    figure = Figure(figsize=(_WIDTH * count, _HEIGHT), layout="constrained")
    axes = [figure.add_subplot(1, count, k + 1) for k in range(count)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8, which="both")
    return figure, axes


def curve(axes: Any, x: Any, predicted: Any, measured: Any, stderr: Any, label: str, k: int) -> None:
    """The ``k``-th line: predicted ``[n]``, with the points measured on it; either may be ``None``."""
    colour, dash, marker = COLOURS[k % len(COLOURS)], _DASHES[k % len(_DASHES)], _MARKERS[k % len(_MARKERS)]
    if predicted is not None:
        axes.plot(x, predicted, color=colour, linestyle=dash, linewidth=1.2, label=label)
    if measured is not None:
        axes.errorbar(x, measured, np.nan_to_num(stderr), fmt=marker, color=colour, markersize=3, elinewidth=0.8, capsize=1.5,
                      label=None if predicted is not None else label)


def spread(count: int, most: int = 12) -> np.ndarray:
    """Some of ``count`` places, the first and the last among them, evenly on a logarithmic axis: where points would cover each other."""
    return np.unique(np.rint(np.geomspace(1, count, most)).astype(int)) - 1


def band(axes: Any, x: Any, runs: Any, label: str, k: int) -> None:
    """The mean of the runs ``[runs, n]``, and one standard deviation of them to either side, but not beyond the lowest."""
    runs = np.asarray(runs)
    mean, spread = runs.mean(0), runs.std(0, ddof=1)
    axes.plot(x, mean, color=COLOURS[k % len(COLOURS)], linewidth=1.0, label=label)
    axes.fill_between(x, np.maximum(mean - spread, runs.min(0)), mean + spread, color=COLOURS[k % len(COLOURS)], alpha=0.25, linewidth=0)


def labelled(axes: Any, x: str, y: str, log: str = "") -> None:
    """Names of the axes, a legend above where lines have names, and logarithmic axes: ``"x"``, ``"y"`` or ``"xy"``."""
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    for letter in log:
        getattr(axes, f"set_{letter}scale")("log")
        _ticks(getattr(axes, f"{letter}axis"))
    _whole(axes)
    names = axes.get_legend_handles_labels()[1]
    if names:
        longest = max(len(re.sub(r"\\\w+|[${}_^]", "", name)) for name in names)  # letters, without their markup
        room = 48 if axes.get_subplotspec().get_gridspec().ncols < 3 else 30  # letters, of which a line takes four
        columns = min(max(room // (longest + 4), 1), 4)
        axes.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0, columnspacing=0.8,
                    handlelength=1.7, handletextpad=0.5)


def _whole(axes: Any) -> None:
    """Whole numbers where all on the x axis are."""
    from matplotlib.ticker import MaxNLocator

    ticks = axes.xaxis.get_major_locator()
    numbers = [x for line in axes.lines for x in line.get_xdata() if np.issubdtype(type(x), np.number)]
    if isinstance(ticks, MaxNLocator) and numbers and all(x == round(x) for x in numbers):
        ticks.set_params(integer=True)


def _ticks(axis: Any) -> None:
    """Plain numbers at 1, 2 and 5 where there are few decades, evenly spaced ones within a factor of four."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    if high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 4 * low else MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


__all__ = ["COLOURS", "band", "curve", "labelled", "panels", "spread"]
