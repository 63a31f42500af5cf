"""``sigprop report``: the main job on a user's model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigprop.cli.app import app, errors
from sigprop.cli.model import Model, Target
from sigprop.cli.output import Json, show, writable
from sigprop.errors import InvalidInput
from sigprop.report import report


@app.command(name="report")
def report_command(
    target: Target, /, *, model: Model = Model(),
    seeds: Annotated[int, Parameter(help="draws of the parameters to measure on")] = 64,
    backward: Annotated[bool, Parameter(help="predict and measure gradients too")] = True,
    html: Annotated[Path | None, Parameter(help="write the report as one page")] = None,
    details: Annotated[bool | None, Parameter(help="add histograms, attention, Adam, number formats and spectra to the page; those of "
                                                   "--html are on by default")] = None,
    png: Annotated[Path | None, Parameter(help="write the figure")] = None,
    json: Json = None,
    rows: Annotated[int | None, Parameter(help="fold unremarkable rows of longer tables")] = None,
    strict: Annotated[bool, Parameter(help="exit with status 1 when a problem is found", negative=())] = False,
) -> int:
    """Predict a model's signal propagation at initialization, measure it, and say what is wrong."""
    writable(html=html, png=png, json=json)
    if rows is not None and rows < 1:
        raise InvalidInput(f"--rows: {rows} given; at least 1 is needed")
    arrays = model.arrays()
    with errors.status("predicting and measuring"):
        net = model.network(target, arrays)
        made = report(net, *arrays, seeds=seeds, backward=backward, name=target.rpartition(":")[2],
                      details=html is not None if details is None else details)
    show(made.table(rows), made.content(), json)
    if html:
        made.to_html(html)
    if png:
        made.plot().savefig(png, dpi=150, format="png")
    return int(strict and not made.ok)
