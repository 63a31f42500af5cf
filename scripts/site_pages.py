"""The pages of the site that are no notebooks: README and docs, and the API from docstrings."""

from __future__ import annotations

import re
import shutil
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "readme", "docs/guide.md": "guide", "docs/theory.md": "theory", "docs/interpreter.md": "interpreter",
         "docs/evidence.md": "evidence", "docs/speed.md": "speed", "docs/limits.md": "limits", "CONTRIBUTING.md": "contributing",
         "CHANGELOG.md": "changelog"}  # source: name of its page
API = ("sigprop", "!sigprop.cli")  # modules for pdoc
STYLE = """body { font: 16px/1.5 Georgia, serif; max-width: 50em; margin: 3em auto; padding: 0 1em; color: #222 }
h1, h2, h3 { font-weight: normal } a { color: #0072b2; text-decoration: none } li { margin: .6em 0 } li p { margin: .1em 0; color: #555 }
code, pre { font: 13px/1.45 monospace } pre { background: #f6f8fa; padding: .8em; overflow-x: auto } img { max-width: 100% }
table { border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto } td, th { border-bottom: 1px solid #ddd;
padding: .2em .7em; text-align: left; vertical-align: top }"""


def document(title: str, body: str) -> str:
    """A page of the site, without references to anything outside it."""
    return (f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}"
            f"</title><style>{STYLE}</style><body>{body}</body></html>")


def _linked(source: str, name: str) -> str:
    """Links between the sources, as links between their pages."""
    folder = (ROOT / name).parent

    def page(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = (folder / target).resolve()
        known = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
        return f"]({PAGES[known]}.html{anchor})" if known in PAGES else f"]({path.name})" if path.suffix == ".png" else match[0]

    return re.sub(r"\]\(([^)#:]+)(#[^)]*)?\)", page, source)


def text_pages(out: Path) -> list[tuple[str, str, str]]:
    """Write them and their figures; name, title and first sentences of each.

    Raises:
        FileNotFoundError: for a source that is missing.
    """
    found = []
    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        title = text.splitlines()[0].lstrip("# ")
        first = next((p for p in text.split("\n\n")[1:] if p[0] not in "#|!`<-"), "")
        body = MarkdownIt("commonmark", {"html": True}).enable("table").render(_linked(text, source))
        (out / f"{name}.html").write_text(document(title, f"<p><a href=index.html>sigprop</a></p>{body}"), encoding="utf-8")
        found.append((name, title, re.sub(r"[*`\[\]]|\([^)]*\.md\)", "", " ".join(first.split()))))
    for figure in (ROOT / "docs").glob("*.png"):
        shutil.copy(figure, out / figure.name)
    return found


def api(out: Path) -> None:
    """``OUT/api``: every module but those of the command, by pdoc."""
    import pdoc

    pdoc.render.configure(docformat="google", show_source=False, search=True)
    pdoc.pdoc(*API, output_directory=out / "api")
