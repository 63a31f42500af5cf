"""Figures for print: of every study, and classic ones of the field, redrawn from small stored data.

``paper_figures/NAME/data.nc`` holds the numbers; :func:`redrawn` draws them in seconds, :func:`recomputed` makes them anew.
"""

from sigprop.figures.stored import CLASSICS, DATA, NAMES, named, recomputed, redrawn

__all__ = ["CLASSICS", "DATA", "NAMES", "named", "recomputed", "redrawn"]
