"""Where commands write: tables to the terminal, numbers as JSON, files that are checked before the work."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from sigprop.datasets import plain
from sigprop.errors import InvalidInput

Json = Annotated[Path | None, Parameter(help="write all numbers to this file; - for the terminal, in place of the table",
                                        allow_leading_hyphen=True)]
_STDOUT = Path("-")
_WIDTH = 140  # of tables in files and pipes


def writable(**paths: Path | None) -> None:
    """Refuse before the work what would fail after it."""
    for name, path in paths.items():
        if path is not None and path != _STDOUT and not path.resolve().parent.is_dir():
            raise InvalidInput(f"--{name}: there is no directory {path.resolve().parent}")
        if path is not None and path.is_dir():
            raise InvalidInput(f"--{name}: {path} is a directory")
    if paths.get("png") and importlib.util.find_spec("matplotlib") is None:
        raise InvalidInput("--png: figures need matplotlib: pip install 'sigprop[figures]'")


def show(shown: Any, content: Any, path: Path | None) -> None:
    """Print what can be printed, or its numbers where ``path`` is ``-``; write the numbers to any other path.

    Args:
        content: dicts, lists, arrays and datasets in any nesting; in JSON not-a-number and infinities are strings.
    """
    if path == _STDOUT:
        json.dump(plain(content), sys.stdout, allow_nan=False)
        print()
        return
    if path is not None:
        path.write_text(json.dumps(plain(content), allow_nan=False), encoding="utf-8")
    if isinstance(shown, str):
        print(shown)
        return
    console = Console()
    (console if console.is_terminal else Console(width=_WIDTH)).print(shown)
