"""The report as a terminal table."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sigprop.report.compare import FALSE_ALARM, has_gradients, log10_mean_square
from sigprop.report.problems import Problem, power

if TYPE_CHECKING:
    from sigprop.report.result import Report

OUTSIDE = {-1: "underflow", 1: "overflow"}
_BLIND = 2.0  # decades
_NARROW = 110  # characters
MARKS = {"dying": "dies", "exploding": "explodes", "vanishing-gradient": "g vanishes", "exploding-gradient": "g explodes",
         "epsilon": "epsilon", "zero-head": "zero", "fan-mismatch": "fan-in", "zero-branch": "zero branch", "narrow": "narrow",
         "approximate": "approximate", "disagreement": "differs"}


def entries(report: Report) -> list[dict[str, Any]]:
    """One mapping per row: ``parent``, ``label``, ``shape``, ``flag`` and one for each of :func:`columns` are strings, ``severe`` says
    whether it is marked, and ``order`` has the numbers that columns are sorted by."""
    gradient, its_measured = (log10_mean_square(data, "grad_variance") for data in (report.predicted, report.measured))
    predicted, measured = log10_mean_square(report.predicted), log10_mean_square(report.measured)
    stderr = np.asarray(report.measured["log10_second_moment_stderr"], float) * np.log(10)
    with np.errstate(invalid="ignore"):
        order = {"predicted": predicted, "measured": measured, "ratio": measured - predicted, "E[g²]": gradient,
                 "g ratio": its_measured - gradient}
    out = []
    for k, node in enumerate(map(str, report.predicted.node.values)):
        path = str(report.predicted.path.values[k])
        parent, own = parent_and_label(node, path)
        found = [p for p in report.problems if concerns(p, node, path)]
        flags = [MARKS[p.kind] for p in found if p.kind != "approximate"]
        difference, its_difference = (bool(report.comparison[name].values[k]) for name in ("flag", "grad_flag"))
        if outside := int(report.comparison["range"].values[k]):
            flags.append(OUTSIDE[outside])
        out.append({
            "parent": parent, "label": own,
            "shape": str(report.predicted["shape"].values[k]).replace(" ", ""),
            "predicted": power(predicted[k]), "measured": _with_error(measured[k], stderr[k]),
            "ratio": _ratio(measured[k] - predicted[k]) if np.isfinite(predicted[k] + measured[k]) else "",
            "E[g²]": "" if np.isnan(gradient[k]) else power(gradient[k]),
            "g ratio": _ratio(its_measured[k] - gradient[k]) if np.isfinite(gradient[k] + its_measured[k]) else "",
            "order": {name: float(column[k]) for name, column in order.items()},
            "flag": ", ".join(dict.fromkeys(flags + ["differs"] * difference + ["g differs"] * its_difference)),
            "severe": difference or its_difference or any(p.severe for p in found),
        })
    return _grouped(out)


def columns(report: Report) -> tuple[str, ...]:
    """Those of the table that hold numbers; predicted gradients and their measured ratio where there are any."""
    return ("predicted", "measured", "ratio", *(("E[g²]", "g ratio") if has_gradients(report.predicted) else ()))


def _grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give up a module's heading where no row beside lies in that module too: its name then goes before the row's."""
    parents = [row["parent"] for row in rows]
    for k, row in enumerate(rows):
        beside = [f"{parents[j]}/" for j in (k - 1, k + 1) if 0 <= j < len(rows)]
        while row["parent"] and not any(b.startswith(row["parent"] + "/") for b in beside):
            row["parent"], _, last = row["parent"].rpartition("/")
            row["label"] = f"{last}/{row['label']}"
    return rows


def concerns(problem: Problem, node: str, path: str) -> bool:
    """Whether a row is the one that a problem names: the node itself, or the module that holds the parameter."""
    return any(name == node or bool(path and name.rsplit("/", 1)[0] == path == node) for name in (problem.node, *problem.alike))


def parent_and_label(node: str, path: str) -> tuple[str, str]:
    """The module that a row lies in, and the row's name there: a row is either a whole module or an operation inside one."""
    if path and node.split("#")[0] == path:
        parent = path.rsplit("/", 1)[0] if "/" in path else ""
    else:
        parent = path
    return parent, node.removeprefix(parent + "/") if parent else node


def _with_error(log10: float, relative: float) -> str:
    if log10 == -np.inf:
        return "0"
    return f"{power(log10)} ± " + ("<0.01%" if relative < 1e-4 else f"{100 * relative:.2g}%")


def _ratio(log10: float) -> str:
    return f"{10**log10:.3f}" if abs(log10) < 2 else power(log10)


@dataclass(frozen=True)
class Fitted:
    """The table and the verdicts, as wide as the console; below ``_NARROW`` columns without shapes and measured numbers, whose ratio to
    the predicted ones stays, and without lines between columns."""

    report: Report
    rows: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield renderable(self.report, self.rows, narrow=options.max_width < _NARROW)


def renderable(report: Report, rows: int | None = None, narrow: bool = False) -> Group:
    grid = Table(title=Text(f"{report.name}: E[z²] at initialization"), title_justify="left", title_style="bold", expand=False,
                 header_style="bold", box=SIMPLE_HEAD if narrow else HEAVY_HEAD, padding=(0, 1, 0, 0) if narrow else (0, 1))
    named = ("module",) if narrow else ("module", "shape")
    for name in named:
        grid.add_column(name, no_wrap=not narrow, overflow="fold")
    numbers = tuple(c for c in columns(report) if not (narrow and c == "measured"))
    for name in numbers:
        grid.add_column(Text("measured ± s.e." if name == "measured" else name), justify="right", no_wrap=True)
    grid.add_column("flag")
    every = entries(report)
    shown = _folded(every, rows)
    opened: tuple[str, ...] = ()
    for k, entry in enumerate(every):
        if k not in shown:
            if k - 1 in shown or k == 0:
                hidden = next((j for j in range(k, len(every)) if j in shown), len(every)) - k
                grid.add_row(Text(f"⋮ {hidden} more rows", style="dim"))
            continue
        opened = _open(grid, opened, entry["parent"])
        style = "red" if entry["severe"] else "yellow" if entry["flag"] else ""
        shape = () if narrow else (entry["shape"],)
        grid.add_row(Text("  " * len(opened) + entry["label"]), *shape, *(entry[c] for c in numbers), entry["flag"], style=style)
    return Group(grid, *_verdicts(report))


def _open(grid: Table, opened: tuple[str, ...], parent: str) -> tuple[str, ...]:
    """Headings for the modules that a row lies in, where the row above is not in them already."""
    parents = tuple(p for p in parent.split("/") if p)
    common = 0
    while common < min(len(parents), len(opened)) and parents[common] == opened[common]:
        common += 1
    for depth in range(common, len(parents)):
        grid.add_row(Text("  " * depth + parents[depth], style="bold"))
    return parents


def _folded(every: list[dict[str, Any]], rows: int | None) -> set[int]:
    if rows is None or len(every) <= rows:
        return set(range(len(every)))
    head = max(rows - rows // 3, 1)
    marked = [k for k, e in enumerate(every) if e["flag"] not in ("", *OUTSIDE.values())][:rows]
    return {*range(head), *range(len(every) - rows // 3, len(every)), *marked}


def _verdicts(report: Report) -> list[Any]:
    lines: list[Any] = []
    for p in report.problems:
        color = "red" if p.severe else "yellow"
        lines.append(Text.assemble((f"{p.kind}: ", f"bold {color}"), p.sentence))
        lines.append(Padding(Text.assemble(("remedy: ", "bold"), p.remedy), (0, 0, 0, 4)))
    if report.ok:
        lines.append(Text("No problem found.", style="bold green"))
    lines.append(Text(footnote(report), style="dim"))
    return lines


def footnote(report: Report) -> str:
    """How much was measured, and what such a measurement can see."""
    judged = np.asarray(report.comparison.allowed)[np.asarray(report.comparison["range"]) == 0]
    allowed = float(np.median(judged)) / np.log(10) if len(judged) else 0.0
    seen = f"at the median row, a factor of {power(allowed)} is seen" if allowed < _BLIND else (
        f"at the median row, no factor below {10**_BLIND:g} is seen: measure with more seeds")
    reason = report.predicted.attrs.get("gradients", "")
    gradients = f" Gradients are not predicted: {reason}." if reason and "not asked for" not in reason else ""
    narrow = int(np.sum(report.comparison["width"] | report.comparison["grad_width"]))
    width = (f" {narrow} row{'s differ' if narrow > 1 else ' differs'} by more than noise, but no more than corrections of order 1/width: "
             "the prediction is that of infinite width.") if narrow else ""
    if known := int(np.sum(report.comparison["width_known"])):
        width += (f" Finite width is that of a plain chain at {known} row{'s' if known > 1 else ''}: an exact mean of skewed draws; "
                  "elsewhere its order alone is known.")
    return (f"{report.measured.attrs['seeds']} seeds. A row is flagged where the difference exceeds noise (false alarm {FALSE_ALARM:g} per "
            f"report), finite width and the prediction's error; {seen}.{width}{gradients}")


def text(report: Report, width: int) -> str:
    """The table as plain text."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, force_terminal=False).print(Fitted(report))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())
