"""The site in ``out/docs``: README and docs, the API, every notebook, executed, and an index.

    python scripts/docs.py                       all of it
    python scripts/docs.py edge_of_chaos         of the notebooks one; the index lists what is there
    python scripts/docs.py --text                no notebooks
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import nbformat
import site_pages as site
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbconvert import HTMLExporter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sigprop.studies import results

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
TUTORIALS = ("tutorial_trace", "tutorial_kernels", "tutorial_batch")
SECTIONS = {"Tutorials": TUTORIALS, "Studies": results.NAMES}  # headings of the index, and names of pages
SETUP = "%matplotlib inline\n%config InlineBackend.figure_formats = ['svg']"


class Page(NamedTuple):
    """An entry of the index: the name of a file without ``.html``, its title, and its first sentences."""

    name: str
    title: str
    summary: str


class Warned(Exception):
    """A cell wrote to the standard error, which readers of the page would see."""


def notebook(name: str) -> Any:
    """``notebooks/NAME.py``, read."""
    return jupytext.read(NOTEBOOKS / f"{name}.py")


def described(name: str) -> Page:
    """The title and the first paragraph of a notebook, its first cell."""
    title, *paragraphs = notebook(name).cells[0].source.split("\n\n")
    return Page(name, title.lstrip("# "), " ".join(paragraphs[0].split()))


def executed(name: str, timeout: int) -> Any:
    """The notebook with the outputs of its cells, which start from an empty namespace.

    Raises:
        CellExecutionError, CellTimeoutError, Warned: where a cell raises, takes too long, or warns.
    """
    made = notebook(name)
    made.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    NotebookClient(made, timeout=timeout, kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=40"],
                   resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    del made.cells[0]
    said = [out.text for cell in made.cells for out in cell.get("outputs", ()) if out.get("name") == "stderr"]
    if said:
        raise Warned(said[0].strip())
    return made


def rendered(name: str, out: Path, timeout: int) -> None:
    """``OUT/NAME.html``."""
    page = HTMLExporter(template_name="lab", mathjax_url="", require_js_url="", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = page.from_notebook_node(executed(name, timeout), {"metadata": {"name": described(name).title}})
    (out / f"{name}.html").write_text(body)


def index(sections: dict[str, list[Page]], out: Path) -> None:
    """``OUT/index.html``, with a list for each section that has pages."""
    parts = ["<h1>sigprop</h1>"]
    for heading, pages in sections.items():
        entries = (f"<li><a href='{page.name}.html'>{escape(page.title)}</a><p>{escape(page.summary)}</p>" for page in pages)
        parts += [f"<h2>{escape(heading)}</h2><ul>", *entries, "</ul>"] if pages else []
    (out / "index.html").write_text(site.document("sigprop", "\n".join(parts)), encoding="utf-8")


def failures(names: list[str], out: Path, timeout: int) -> Iterator[str]:
    """Render pages, and say which cells raised or took too long."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("notebooks", total=len(names))
        for name in names:
            progress.update(task, description=name)
            begin = time.perf_counter()
            try:
                rendered(name, out, timeout)
                progress.console.print(f"{out / name}.html ({time.perf_counter() - begin:.0f} s)")
            except (CellExecutionError, CellTimeoutError, Warned) as error:
                yield f"{name}: {error}"
            progress.advance(task)


def main() -> int:
    known = [name for names in SECTIONS.values() for name in names]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("out/docs"))
    parser.add_argument("--text", action="store_true", help="README, docs and API alone")
    parser.add_argument("--timeout", type=int, default=1200, help="seconds that a cell may take")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"there is no notebook {unknown[0]!r}; notebooks are {', '.join(known)}")
    given.out.mkdir(parents=True, exist_ok=True)
    text = [Page(*page) for page in site.text_pages(given.out)]
    site.api(given.out)
    failed = list(failures([] if given.text else given.names or known, given.out, given.timeout))
    notebooks = {heading: [described(name) for name in names if (given.out / f"{name}.html").exists()]
                 for heading, names in SECTIONS.items()}
    reference = Page("api/sigprop", "API", "Every function and class, from the docstrings.")
    index({"Documentation": [*text, reference], **notebooks}, given.out)
    print(*failed, f"{given.out / 'index.html'}", sep="\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
