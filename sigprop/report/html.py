"""The report as one self-contained page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from sigprop.errors import InvalidInput
from sigprop.report.problems import power
from sigprop.report.table import columns, entries, footnote

if TYPE_CHECKING:
    from sigprop.report.result import Report

_STYLE = """
.sigprop { font: 14px/1.5 system-ui, sans-serif; color: #1c2530; max-width: 1100px; }
.sigprop h1 { font-size: 20px; margin: 0 0 4px; }
.sigprop .note { color: #5d6b7a; font-size: 12.5px; }
.sigprop table { border-collapse: collapse; font-size: 13px; margin: 12px 0; font-variant-numeric: tabular-nums;
  background: #fff; color: #1c2530; }
.sigprop th { text-align: right; border-bottom: 2px solid #1f4e79; padding: 4px 12px; background: #fff; }
.sigprop td { text-align: right; border-bottom: 1px solid #e8ecf0; padding: 2px 12px; white-space: nowrap; }
.sigprop th:first-child, .sigprop td:first-child, .sigprop td.flag, .sigprop th.flag { text-align: left; }
.sigprop td.module { font-weight: 600; background: #f6f8fa; }
.sigprop tr.severe td { background: #fdecea; color: #a11717; }
.sigprop tr.remark td { background: #fff8e1; }
.sigprop .problem, .sigprop .fine { border-left: 4px solid #c62828; background: #fdecea; color: #1c2530; padding: 8px 14px; margin: 8px 0; }
.sigprop .problem.remark { border-color: #e0a100; background: #fff8e1; }
.sigprop .fine { border-color: #2e7d32; background: #e8f5e9; }
.sigprop code { background: #00000010; padding: 0 3px; border-radius: 3px; }
.sigprop img { max-width: 100%; background: #fff; }
"""


def page(report: Report) -> str:
    """A document without references to anything outside it."""
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{escape(report.name)}: signal propagation</title><style>body {{ margin: 24px; background: #fff; }}</style></head>"
            f"<body>{fragment(report)}</body></html>\n")


def fragment(report: Report) -> str:
    """The page's body, for notebooks."""
    return (f'<div class="sigprop"><style>{_STYLE}</style><h1>{escape(report.name)}: signal at initialization</h1>'
            f"{_summary(report)}{_problems(report)}{_figure(report)}{_table(report)}"
            f'<p class="note">{escape(footnote(report))}</p></div>')


def _summary(report: Report) -> str:
    last = report.predicted.isel(node=-1)
    size, nodes = power(float(last["log10_second_moment"])), report.predicted.sizes["node"]
    return (f'<p class="note">{nodes} rows; output <code>{escape(str(last.node.item()))}</code> {escape(str(last["shape"].item()))} with '
            f"predicted E[z²] = {size}; measured on {report.measured.attrs['seeds']} draws of the parameters.</p>")


def _problems(report: Report) -> str:
    found = [f'<div class="problem{"" if p.severe else " remark"}"><b>{escape(p.kind)}</b> · {escape(p.sentence)}<br>'
             f"<b>Remedy:</b> {escape(p.remedy)}</div>" for p in report.problems]
    return "".join(found if not report.ok else [*found, '<div class="fine">No problem found.</div>'])


def _figure(report: Report) -> str:
    try:
        figure = report.plot()
    except InvalidInput as error:
        return f'<p class="note">{escape(str(error))}</p>'
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "sigprop"}):  # equal reports make equal pages
        figure.savefig(stream, format="svg", metadata={"Date": None})
    content = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="predicted and measured E[z²] by node" src="data:image/svg+xml;base64,{content}">'


def _table(report: Report) -> str:
    numbers = columns(report)
    heads = "".join(f'<th class="{c.split()[0]}">{c}</th>' for c in ("module", "shape", *numbers, "flag"))
    lines: list[str] = []
    opened: tuple[str, ...] = ()
    for entry in entries(report):
        parents = tuple(p for p in entry["parent"].split("/") if p)
        for depth in range(len(parents)):
            if parents[:depth + 1] != opened[:depth + 1]:
                lines.append(f'<tr><td class="module" colspan="{3 + len(numbers)}" style="padding-left:{_indent(depth)}">'
                             f"{escape(parents[depth])}</td></tr>")
        opened = parents
        lines.append(_line(entry, len(parents), numbers))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _line(entry: dict[str, Any], depth: int, numbers: Sequence[str]) -> str:
    mark = ' class="severe"' if entry["severe"] else ' class="remark"' if entry["flag"] else ""
    cells = "".join(f"<td>{escape(entry[c])}</td>" for c in ("shape", *numbers))
    return (f'<tr{mark}><td style="padding-left:{_indent(depth)}">{escape(entry["label"])}</td>{cells}'
            f'<td class="flag">{escape(entry["flag"])}</td></tr>')


def _indent(depth: int) -> str:
    return f"{12 + 16 * depth}px"
