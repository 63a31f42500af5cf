"""Tables in Markdown, between two marks in the README or a page of ``docs``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pages() -> list[Path]:
    """The README and the pages of ``docs``."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def table(rows: Iterable[Sequence[str]]) -> str:
    """Markdown of rows of cells, the first of them the head."""
    head, *body = rows
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in body)])


def put(text: str, marks: tuple[str, str], names: Iterable[str]) -> None:
    """Into the page that has the marks: rows in the order of ``names``, which are their first cells; those that ``text`` lacks stay as
    they are."""
    (page,) = [p for p in pages() if marks[0] in p.read_text(encoding="utf-8")]
    before, rest = page.read_text(encoding="utf-8").split(marks[0])
    old, after = rest.split(marks[1])
    head, rule, *new = text.splitlines()
    rows = {line.split("|")[1].strip(): line for line in (*old.strip().splitlines()[2:], *new)}
    page.write_text("\n".join((before + marks[0], head, rule, *(rows[name] for name in names if name in rows), marks[1] + after)),
                    encoding="utf-8")
