"""From a network and inputs to a report."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import xarray as xr

from sigprop.empirical import measure
from sigprop.errors import InvalidInput
from sigprop.network import Network, check_network
from sigprop.predict import propagate
from sigprop.report.chain import log_variances
from sigprop.report.checks import CHECKS, disagreement
from sigprop.report.compare import compare
from sigprop.report.facts import Facts
from sigprop.report.gradients import gradients
from sigprop.report.panels import chosen, panels
from sigprop.report.problems import gathered
from sigprop.report.result import Report
from sigprop.report.strength import strength


def report(net: Network, *x: Any, y: Any = None, loss: Any = None, seeds: int = 64, key: Any = None,
           name: str | None = None, backward: bool = True, details: bool | Collection[str] = False) -> Report:
    """Predict the signal's propagation at initialization, measure it, compare, and say what is wrong.

    Args:
        net: from :func:`sigprop.network`.
        x: inputs, batch on axis 0; by default those that ``net`` was made with.
        loss: ``loss(output, y)``, or ``loss(output)``, a scalar, for the panel on Adam: half the mean square of the output stands in for
            it where none is given. E[g²] of the rows stays that of random cotangents.
        y: its targets, examples on axis 0.
        seeds: draws of the parameters to measure on, at least eight.
        key: of those draws, ``jax.random.key(0)`` by default.
        name: title, that of the network by default.
        backward: whether to predict and to measure gradients too.
        details: ``True`` for all panels that pages show below the table, or some of ``"histograms"``, ``"attention"``, ``"adam"``,
            ``"precision"``, ``"spectrum"``. They take about as long again as the report without them.

    Raises:
        InvalidInput: for unusable inputs or options.
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    check_network(net)
    wanted = chosen(details)
    if loss is not None and not callable(loss):
        raise InvalidInput(f"loss: {type(loss).__name__} given; it is a function loss(output, y) with a scalar result")
    if y is not None and loss is None:
        raise InvalidInput("y: targets given without a loss; give loss=, a function loss(output, y), too, or leave y out")
    if loss is not None and "adam" not in wanted:
        raise InvalidInput("loss: it is that of the panel on Adam, which is not asked for; add details=True")
    x = x or net.example
    predicted = propagate(net, *x, backward=backward)
    measured = measure(net, *x, seeds=seeds, key=key, backward=backward)
    known = Facts.of(net, predicted, *x)
    comparison = compared(known, measured)
    checks = (*CHECKS, strength, gradients)
    found = gathered([*(problem for check in checks for problem in check(known)), *disagreement(predicted, comparison)])
    added = panels(known, x, [p.node for p in found], loss, y, wanted)
    return Report(name or net.name, predicted, measured, comparison, found, added)


def compared(known: Facts, measured: xr.Dataset) -> xr.Dataset:
    """:func:`compare` with what the program says of finite width."""
    rows = known.trail.rows
    crowding = np.asarray([known.trail.crowding.get(r.value, 0.0) for r in rows])
    return compare(known.predicted, measured, crowding, [r.dtype for r in rows], log_variances(known, [r.value for r in rows]))
