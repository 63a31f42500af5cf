"""From a network and inputs to a report."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from sigprop.empirical import measure
from sigprop.errors import InvalidInput
from sigprop.network import Network
from sigprop.predict import propagate
from sigprop.report.chain import log_variances
from sigprop.report.checks import CHECKS, disagreement
from sigprop.report.compare import compare
from sigprop.report.facts import Facts
from sigprop.report.gradients import gradients
from sigprop.report.problems import gathered
from sigprop.report.result import Report
from sigprop.report.strength import strength


def report(net: Network, *x: Any, y: Any = None, loss: Any = None, seeds: int = 64, key: Any = None,
           name: str | None = None, backward: bool = True) -> Report:
    """Predict the signal's propagation at initialization, measure it, compare, and say what is wrong.

    Args:
        net: from :func:`sigprop.network`.
        x: inputs, batch on axis 0; by default those that ``net`` was made with.
        y, loss: reserved for gradients of a loss; giving them is refused.
        seeds: draws of the parameters to measure on, at least eight.
        key: of those draws, ``jax.random.key(0)`` by default.
        name: title, that of the network by default.
        backward: whether to predict and to measure gradients too.

    Raises:
        InvalidInput: for unusable inputs or options.
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    if y is not None or loss is not None:
        given = "y" if y is not None else "loss"
        raise InvalidInput(f"{given}: gradients of a loss are not reported yet; call sp.report(net, x) without y and loss")
    x = x or net.example
    predicted = propagate(net, *x, backward=backward)
    measured = measure(net, *x, seeds=seeds, key=key, backward=backward)
    known = Facts.of(net, predicted, *x)
    comparison = compared(known, measured)
    checks = (*CHECKS, strength, gradients)
    found = gathered([*(problem for check in checks for problem in check(known)), *disagreement(predicted, comparison)])
    return Report(name or net.name, predicted, measured, comparison, found)


def compared(known: Facts, measured: xr.Dataset) -> xr.Dataset:
    """:func:`compare` with what the program says of finite width."""
    rows = known.trail.rows
    crowding = np.asarray([known.trail.crowding.get(r.value, 0.0) for r in rows])
    return compare(known.predicted, measured, crowding, [r.dtype for r in rows], log_variances(known, [r.value for r in rows]))
