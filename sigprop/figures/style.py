"""How figures look in print: widths of a two-column page, small serif letters, thin lines, fonts that printers can embed."""

from __future__ import annotations

from typing import Any

from sigprop.errors import MissingDependency
from sigprop.studies.drawing import COLOURS

_COLUMN, _PAGE = 3.25, 6.75  # inches, of a column and of both
_HEIGHT = 2.2


def style() -> Any:
    """Matplotlib's ``rcParams``.

    Raises:
        MissingDependency: where matplotlib or tueplots is not installed.
    """
    try:
        from cycler import cycler
        from tueplots import axes, fontsizes
    except ImportError as error:
        raise MissingDependency("figures for print need matplotlib and tueplots: pip install 'sigprop[figures]'") from error
    letters = {"font.family": "STIXGeneral", "mathtext.fontset": "stix", "pdf.fonttype": 42}  # comes with matplotlib
    return axes.lines() | fontsizes.icml2024() | letters | {"axes.prop_cycle": cycler(color=COLOURS), "savefig.pad_inches": 0.02}


def fitted(figure: Any) -> Any:
    """The figure at the width of a column, or of the page where it has several panels side by side."""
    columns = max(axes.get_subplotspec().get_topmost_subplotspec().get_gridspec().ncols
                  for axes in figure.axes if axes.get_subplotspec() is not None)
    figure.set_size_inches(_COLUMN if columns == 1 else _PAGE, _HEIGHT)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                _plain(axis)
    return figure


def _plain(axis: Any) -> None:
    """Numbers without powers of ten on a logarithmic axis of few decades: 1, 2, 5 where there are very few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    if low < 1e-4 or high > 1e5 or high > 1e4 * low:
        return
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(LogLocator(subs=range(2, 10)))
    few = high < 100 * low
    axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "") if few else NullFormatter())


__all__ = ["fitted", "style"]
