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
    return figure


__all__ = ["fitted", "style"]
