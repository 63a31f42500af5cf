"""Progress on terminals, and in notebooks that can show it."""

from __future__ import annotations

from importlib.util import find_spec

from rich.console import Console
from rich.progress import Progress, ProgressColumn


def progress(*columns: str | ProgressColumn, shown: bool | None = None, transient: bool = True) -> Progress:
    """Bars on the standard error.

    Args:
        columns: rich's own by default.
        shown: by default where there is a terminal, or a notebook with the widgets that rich needs; without these it warns.
        transient: whether they go when all is done.
    """
    console = Console(stderr=True)
    if shown is None:
        shown = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    return Progress(*columns, console=console, transient=transient, disable=not shown)
