"""The report as one self-contained page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sigprop.errors import InvalidInput
from sigprop.report import panel_figures
from sigprop.report.problems import power
from sigprop.report.table import columns, entries, footnote

if TYPE_CHECKING:
    from sigprop.report.result import Report

_ROUNDING = 1e-12  # of the largest gradient: that of a bias of attention keys is exactly zero, but for it
_NEEDS = "figures need matplotlib: pip install 'sigprop[figures]'"


@cache
def _asset(name: str) -> str:
    return files("sigprop.report").joinpath(name).read_text(encoding="utf-8")


def page(report: Report) -> str:
    """A document without references to anything outside it."""
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{escape(report.name)}: signal propagation</title><style>body {{ margin: 24px; background: #fff; }} "
            f"@media (max-width: 600px) {{ body {{ margin: 10px; }} }}</style></head>"
            f"<body>{fragment(report)}</body></html>\n")


def fragment(report: Report) -> str:
    """The page's body, for notebooks."""
    panels = "".join(_panel(name, data) for name, data in report.panels.items())
    return (f'<div class="sigprop"><style>{_asset("page.css")}</style><h1>{escape(report.name)}: signal at initialization</h1>'
            f"{_summary(report)}{_problems(report)}{_curves(report)}{_table(report)}"
            f'<p class="note">{escape(footnote(report))}</p>{panels}<script>{_asset("page.js")}</script></div>')


def _summary(report: Report) -> str:
    last = report.predicted.isel(node=-1)
    size, nodes = power(float(last["log10_second_moment"])), report.predicted.sizes["node"]
    return (f'<p class="note">{nodes} rows; output <code>{escape(str(last.node.item()))}</code> {escape(str(last["shape"].item()))} with '
            f"predicted E[z²] = {size}; measured on {report.measured.attrs['seeds']} draws of the parameters.</p>")


def _problems(report: Report) -> str:
    found = [f'<div class="problem{"" if p.severe else " remark"}"><b>{escape(p.kind)}</b> · {escape(p.sentence)}<br>'
             f"<b>Remedy:</b> {escape(p.remedy)}</div>" for p in report.problems]
    return "".join(found if not report.ok else [*found, '<div class="fine">No problem found.</div>'])


def _curves(report: Report) -> str:
    try:
        return _image(report.plot(), "predicted and measured E[z²] by node")
    except InvalidInput as error:
        return f'<p class="note">{escape(str(error))}</p>'


def _image(figure: Any, alt: str) -> str:
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "sigprop"}):  # equal reports make equal pages
        figure.savefig(stream, format="svg", metadata={"Date": None})
    content = base64.b64encode(stream.getvalue()).decode()
    return f'<div class="wide"><img alt="{escape(alt)}" src="data:image/svg+xml;base64,{content}"></div>'


# the layers

def _table(report: Report) -> str:
    numbers = columns(report)
    heads = "".join(_head(c, c.split()[0]) for c in ("module", "shape", *numbers, "flag"))
    lines: list[str] = []
    opened: tuple[str, ...] = ()
    for entry in entries(report):
        parents = tuple(p for p in entry["parent"].split("/") if p)
        for depth in range(len(parents)):
            if parents[:depth + 1] != opened[:depth + 1]:
                button = f'<button aria-expanded="true">{escape(parents[depth])}</button>'
                lines.append(f'<tr class="module" data-depth="{depth}"><td class="module" colspan="{3 + len(numbers)}" '
                             f'style="padding-left:{_indent(depth)}">{button}</td></tr>')
        opened = parents
        lines.append(_line(entry, len(parents), numbers))
    return (f'<div class="wide"><table class="layers" data-tree><thead><tr>{heads}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>")


def _head(text: str, kind: str = "") -> str:
    return f'<th class="{escape(kind)}" aria-sort="none"><button>{escape(text)}</button></th>'


def _line(entry: dict[str, Any], depth: int, numbers: Sequence[str]) -> str:
    mark = ' class="severe"' if entry["severe"] else ' class="remark"' if entry["flag"] else ""
    cells = f"<td>{escape(entry['shape'])}</td>" + "".join(_cell(entry[c], entry["order"][c]) for c in numbers)
    full = "/".join(filter(None, (entry["parent"], entry["label"])))
    return (f'<tr{mark} data-depth="{depth}"><td style="padding-left:{_indent(depth)}"><span class="short">{escape(entry["label"])}</span>'
            f'<span class="full">{escape(full)}</span></td>{cells}<td class="flag">{escape(entry["flag"])}</td></tr>')


def _cell(text: str, order: float) -> str:
    """A number as it is shown, and what rows are sorted by; NaN comes last."""
    shown = {np.inf: "Infinity", -np.inf: "-Infinity"}.get(order, "" if np.isnan(order) else f"{order:.9g}")
    return f'<td data-v="{shown}">{escape(text)}</td>'


def _indent(depth: int) -> str:
    return f"{12 + 16 * depth}px"


# panels

def _panel(name: str, data: xr.Dataset) -> str:
    title, note, body = _PANELS[name]
    if "reason" in data.attrs:
        return f'<section class="{name}"><h2>{title}</h2><p class="note">Not to be had: {escape(data.attrs["reason"])}</p></section>'
    return f'<section class="{name}"><h2>{title}</h2><p class="note">{escape(note(data))}</p>{body(data)}</section>'


def _drawn(draw: Callable[[xr.Dataset], Any], alt: str) -> Callable[[xr.Dataset], str]:
    def body(data: xr.Dataset) -> str:
        try:
            return _image(draw(data), alt)
        except ImportError:
            return f'<p class="note">{escape(_NEEDS)}</p>'

    return body


def _sortable(heads: Sequence[str], rows: Iterable[tuple[str, bool, Sequence[tuple[str, float]]]]) -> str:
    """Rows of a name, whether it is marked, and numbers with what they are sorted by."""
    lines = [f'<tr{" class=severe" * marked}><td>{escape(name)}</td>{"".join(_cell(*c) for c in cells)}</tr>'
             for name, marked, cells in rows]
    return (f'<div class="wide"><table><thead><tr>{"".join(map(_head, heads))}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>')


def _number(value: float) -> tuple[str, float]:
    return "" if np.isnan(value) else f"{value:.3g}", float(value)


def _share(value: float) -> tuple[str, float]:
    shown = "" if np.isnan(value) else "< 0.001 %" if 0 < value < 1e-5 else f"{100 * value:.2g} %"
    return shown, float(value)


def _adam(data: xr.Dataset) -> str:
    names = ("rms_gradient", "update", "relative_update", "epsilon", "learning_rate")
    marked = np.asarray(data.starved) & (np.asarray(data.rms_gradient) > _ROUNDING * float(data.rms_gradient.max()))
    rows = ((str(p), bool(marked[k]), [_number(float(data[n][k])) for n in names]) for k, p in enumerate(data.parameter.values))
    return _sortable(("parameter", "rms g", "first update", "update / weight", "largest epsilon", "largest learning rate"), rows)


def _precision(data: xr.Dataset) -> str:
    casts = [str(f) for f in data.format.values if bool(np.isfinite(data.lost.sel(format=f)).any())]
    heads = ["node", "int8, dB", *(f"{f} lost" for f in casts), *(f"g {f} lost" for f in casts)]

    def row(node: Any) -> tuple[str, bool, list[tuple[str, float]]]:
        one = data.sel(node=node)
        lost = [[float(one[name].sel(format=f)) for f in casts] for name in ("lost", "grad_lost")]
        half = [part[casts.index("float16")] for part in lost]
        return str(node), bool(np.nanmax([*half, 0.0]) > 0.01), [_number(float(one.sqnr.sel(format="int8"))), *map(_share, sum(lost, []))]

    return _sortable(heads, map(row, data.node.values))


def _spectra(data: xr.Dataset) -> str:
    averaged = " Sites of the output are averaged over." if data.attrs["sites"] == "averaged" else ""
    return f"Eigenvalues of the kernels on the inputs of this report.{averaged}"


_PANELS: dict[str, tuple[str, Callable[[xr.Dataset], str], Callable[[xr.Dataset], str]]] = {
    "histograms": ("Laws of the entries", lambda d: f"Share of the entries by bin: predicted law (line) and {d.attrs['seeds']} draws of "
                   "the parameters (area).", _drawn(panel_figures.histograms, "predicted and measured laws of nodes")),
    "attention": ("Attention", lambda d: "Mean entropy of a row of attention over that of uniform attention, for the first input: "
                  "1 spreads over all keys, 0 looks at one.", _drawn(panel_figures.attention, "attention entropy by head and query")),
    "adam": ("Adam", lambda d: f"Root mean square gradients for {d.attrs['loss']}, first update, and the largest epsilon and learning "
             "rate that keep it (sp.adam_advice). Marked where epsilon rules the step.", _adam),
    "precision": ("Number formats", lambda d: "Signal over quantization noise at 8 bits with the best scale, and shares of activations and "
                  "gradients (taken to be normal) that a cast makes subnormal, zero or infinite. Marked where float16 loses over 1 %.",
                  _precision),
    "spectrum": ("Spectrum of the kernels", _spectra, _drawn(panel_figures.spectrum, "eigenvalues of NNGP and tangent kernel")),
}
