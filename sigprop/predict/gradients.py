"""Predicted size of the gradient at every row and of every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sigprop.arrays import namespace
from sigprop.engine import Context, Field, Known, Named, Unknown, Value, interpret, known
from sigprop.engine.draws import normal
from sigprop.engine.labels import aligned, contract, own_labels
from sigprop.engine.values import drawn, settle
from sigprop.errors import SigpropError
from sigprop.network import Network, backward_graph, parameter_paths


class Gradients(NamedTuple):
    """Mean over entries of E[g²], with its exponent and its note, or the error that it ends in.

    Attributes:
        rows: by name.
        parameters: by path, trained ones only.
    """

    rows: dict[str, Named | SigpropError]
    parameters: dict[str, Named | SigpropError]


def gradients(context: Context, net: Network, params: Sequence[Value], *x: Any, cotangent: Value | None = None) -> Gradients:
    """Interpret the backward pass of ``net`` on inputs ``x``.

    Args:
        params: values of the parameters in ``context``.
        cotangent: of the output; by default independent standard normal entries.

    A ``MissingRule`` or ``Unsound`` is kept with what it concerns: where gradient independence fails, what lies before is not known.
    """
    rows, leaves = gradient_values(context, net, params, *x, cotangent=cotangent)
    return Gradients(*({name: _tried(context, value) for name, value in found.items()} for found in (rows, leaves)))


def gradient_values(context: Context, net: Network, params: Sequence[Value], *x: Any,
                    cotangent: Value | None = None) -> tuple[dict[str, Value], dict[str, Value]]:
    """The gradients themselves, of the rows by name and of the trained parameters by path."""
    graph = backward_graph(net, *x)
    shape = graph.avals[graph.inputs[-1]].shape
    value = standard(context, shape) if cotangent is None else cotangent
    env = interpret(context, graph, [*params, *(known(a) for a in jax.tree.leaves(x)), value], lenient=True)
    found = [env[o] for o in graph.outputs]
    rows = [row.name for row in net.differentiable(*x)[1]]
    paths = [path for path, moves in zip(parameter_paths(net.abstract_params), net.trainable, strict=True) if moves]
    return dict(zip(rows, found, strict=False)), dict(zip(paths, found[len(rows):], strict=True))


def _tried(context: Context, value: Value) -> Named | SigpropError:
    try:
        return mean_square(context, value)
    except SigpropError as error:
        return error


def standard(context: Context, shape: Sequence[int]) -> Field:
    """Independent standard normal entries with one common sign, which makes everything linear in them odd; channels come last."""
    return drawn(context.pool, "cotangent", shape, normal(), sign="cotangent", sites=max(len(shape) - 1, 1))


def mean_square(context: Context, value: Value) -> Named:
    """E[value²], averaged over all entries.

    Raises:
        MissingRule, Unsound: where it is not known.
    """
    if isinstance(value, Known):
        xp = namespace(value.array)
        size = xp.max(xp.abs(value.array)) if np.size(value.array) else 0.0
        return Named((), xp.mean((value.array / xp.where(size > 0, size, 1.0)) ** 2) * size**2, 0, value.note)
    if isinstance(value, Unknown):
        raise value.reason
    assert isinstance(value, Field)
    labels = own_labels(value.node)
    found = context.query.moment([(value.node, labels), (value.node, labels)])
    total = contract([found], labels)
    return total._replace(array=total.array / np.prod([d.size for d in value.node.dims], dtype=float))


def squares(context: Context, value: Value) -> Known:
    """E[value²], entry by entry.

    Raises:
        MissingRule, Unsound: where it is not known.
    """
    if isinstance(value, Known):
        return Known(value.array**2, value.note)
    if isinstance(value, Unknown):
        raise value.reason
    node = value.node
    labels = own_labels(node)
    found = context.query.moment([(node, labels), (node, labels)])
    array = aligned(found._replace(array=found.plain()), labels)
    full = context.pool.const(namespace(array).broadcast_to(array, [d.size for d in node.dims]), node.dims, found.note)
    out = settle(full, node.dims, value.axes)
    assert isinstance(out, Known)
    return out
