"""Tables between two marks in the README."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def put(table: str, marks: tuple[str, str], names: Iterable[str]) -> None:
    """Rows in the order of ``names``, which are their first cells; those that ``table`` lacks stay as they are."""
    before, rest = README.read_text().split(marks[0])
    old, after = rest.split(marks[1])
    head, rule, *new = table.splitlines()
    rows = {line.split("|")[1].strip(): line for line in (*old.strip().splitlines()[2:], *new)}
    README.write_text("\n".join((before + marks[0], head, rule, *(rows[name] for name in names if name in rows), marks[1] + after)))
