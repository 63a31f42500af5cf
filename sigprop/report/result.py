"""The report: prediction beside measurement, and what follows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from sigprop.datasets import decoded, plain
from sigprop.report import figure, html, table
from sigprop.report.problems import Problem

_WIDTH = 140


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What :func:`sigprop.report` returns. Printing it shows the table and the verdicts; notebooks show the page.

    Attributes:
        name: of the network.
        predicted, measured: as returned by :func:`sigprop.propagate` and :func:`sigprop.measure`.
        comparison: over ``node``: natural logarithm of measured over predicted E[z²], how large it may be, ``flag`` where it is larger,
            ``width`` where it is larger than noise alone explains, and finite width does.
        problems: verdicts and remarks, severe ones first.
        panels: further datasets by name, of a report with ``details``; ``attrs["reason"]`` says why one is missing.
    """

    name: str
    predicted: xr.Dataset
    measured: xr.Dataset
    comparison: xr.Dataset
    problems: list[Problem] = field(default_factory=list)
    panels: dict[str, xr.Dataset] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No severe problem."""
        return not any(p.severe for p in self.problems)

    def __str__(self) -> str:
        return table.text(self, _WIDTH)

    def __repr__(self) -> str:
        return f"<Report on {self.name}: {self.predicted.sizes['node']} rows, {len(self.problems)} problems>"

    def __rich__(self) -> Any:
        return self.table()

    def table(self, rows: int | None = None) -> Any:
        """The table and the verdicts as a rich renderable, of fewer columns on a narrow terminal; ``rows`` folds unremarkable rows in
        the middle of longer tables."""
        return table.Fitted(self, rows)

    def _repr_html_(self) -> str:
        return html.fragment(self)

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page, its figure embedded (without one where matplotlib is missing)."""
        Path(path).write_text(html.page(self), encoding="utf-8")

    def plot(self) -> Any:
        """A matplotlib ``Figure``: log10 E[z²] and E[g²], predicted (line) and measured (points with error bars), and the ratio of E[z²].

        Raises:
            InvalidInput: where matplotlib is missing.
        """
        return figure.draw(self)

    def to_json(self, path: str | Path) -> None:
        """Write everything as strict JSON, from which :meth:`from_json` makes an equal report. Not-a-number and infinities are strings."""
        Path(path).write_text(json.dumps(self.content(), allow_nan=False), encoding="utf-8")

    def content(self) -> dict[str, Any]:
        """What :meth:`to_json` writes."""
        sets = {name: plain(getattr(self, name)) for name in ("predicted", "measured", "comparison")}
        panels = {"panels": {name: plain(data) for name, data in self.panels.items()}}
        return {"name": self.name, "problems": [asdict(p) for p in self.problems], **sets, **panels}

    @classmethod
    def from_json(cls, path: str | Path) -> Report:
        """Read what :meth:`to_json` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        sets = {name: decoded(content[name]) for name in ("predicted", "measured", "comparison")}
        panels = {name: decoded(data) for name, data in content.get("panels", {}).items()}
        problems = [Problem(**{**p, "alike": tuple(p["alike"])}) for p in content["problems"]]
        return cls(content["name"], **sets, problems=problems, panels=panels)
