"""The size of each loss term at the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from sigprop.engine import RULES, Context, Field, Known, interpret, known, method_of
from sigprop.errors import InvalidInput, Unsound
from sigprop.infinite import output_moment
from sigprop.network import Network, parameters
from sigprop.pinn.terms import Terms, named, networks
from sigprop.types import METHODS


class _Loss(NamedTuple):
    value: float
    error: float
    method: str


def loss_balance(net: Network, terms: Terms, *, rules: Mapping[str, Any] = RULES) -> xr.Dataset:
    """Expected loss of every term over draws of the parameters, in the infinite-width limit.

    A residual is a function of the network's derivatives along its inputs and is interpreted like any other: for a linear operator such
    as the wave equation's, ``E[r²] = E[u_tt²] + c⁴ E[u_xx²] - 2 c² E[u_tt u_xx]``; products such as ``u u_x`` of Burgers' are those of
    correlated Gaussian fields.

    Args:
        net: of the solution ``u``, from :func:`sigprop.network`; only its parameters and their laws are used.
        terms: by name ``(residual, points, targets)``, see :data:`Terms`.
        rules: table of primitive rules, to extend the interpreter.

    Returns:
        Dataset over ``term``, float64: ``loss`` (E of the mean over points and components of ``(residual - targets)**2``), ``share`` of
        their sum, ``error`` (estimated absolute error of ``loss``; a standard error where ``method`` is ``sampled``) and ``method``.

    Raises:
        InvalidInput: for unusable terms, and residuals that no parameter reaches (second derivatives of ReLU), naming the term.
        MissingRule, Unsound: where a term cannot be predicted.
    """
    found = {name: _loss(name, one, points, rules) for name, (one, points) in networks(net, terms).items()}
    value = np.array([loss.value for loss in found.values()])
    total = value.sum()
    data = {"loss": value, "share": value / total if total > 0 else np.full(len(value), np.nan),
            "error": np.array([loss.error for loss in found.values()]), "method": np.array([loss.method for loss in found.values()])}
    return xr.Dataset({name: ("term", column) for name, column in data.items()}, {"term": list(found)})


def balance_over(net: Network, terms_of: Callable[[float], Terms], values: Sequence[float], name: str = "constant",
                 rules: Mapping[str, Any] = RULES) -> xr.Dataset:
    """:func:`loss_balance` for each value of one constant of the equation (wave speed, viscosity, wave number).

    Args:
        terms_of: from a value to the terms, the same names for each.
        values: finite numbers, one or more.
        name: of the constant, the dimension of the result.

    Raises:
        InvalidInput, MissingRule, Unsound: as :func:`loss_balance`; for values that are not finite.
    """
    numbers = np.asarray(values, float)
    if numbers.ndim != 1 or not numbers.size or not np.all(np.isfinite(numbers)):
        raise InvalidInput(f"values: {values!r} is not a sequence of finite numbers")
    if name == "term":
        raise InvalidInput("name: 'term' is taken by the dimension of the loss terms")
    tables = [loss_balance(net, terms_of(float(v)), rules=rules) for v in numbers]
    names = [list(table["term"].values) for table in tables]
    if any(n != names[0] for n in names):
        raise InvalidInput(f"terms_of: the names of the terms change with {name}: {names}")
    return xr.concat(tables, dim=name, join="exact").assign_coords({name: numbers})


def _loss(name: str, net: Network, points: Any, rules: Mapping[str, Any]) -> _Loss:
    with named(name):
        context = Context(rules)
        graph = net.graph(points)
        value = interpret(context, graph, [*parameters(context, net)[0], known(points)])[graph.outputs[0]]
        if not isinstance(value, Field | Known):
            raise value.reason
        array, note = output_moment(context, value, value, True)
        loss = float(np.mean(array))
        if not np.isfinite(loss):
            raise Unsound("the loss overflows: the signal explodes")
        method = method_of(note, value.node.tails) if isinstance(value, Field) else METHODS[note.how]
        return _Loss(loss, loss * float(note.error), method)
