"""Predicted size of the gradient at every row and of every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sigprop.arrays import namespace
from sigprop.engine import Context, Field, Known, Label, Named, Value, interpret, known
from sigprop.engine.draws import normal
from sigprop.engine.labels import contract
from sigprop.engine.values import plain_axes
from sigprop.network import Network, backward_graph


class Gradients(NamedTuple):
    """Mean over entries of E[g²], with its exponent and its note: at each row, and of each floating parameter leaf."""

    rows: list[Named]
    parameters: list[Named]


def gradients(context: Context, net: Network, params: Sequence[Value], *x: Any, cotangent: Value | None = None) -> Gradients:
    """Interpret the backward pass of ``net`` on inputs ``x``.

    Args:
        params: values of the parameters in ``context``.
        cotangent: of the output; by default independent standard normal entries.

    Raises:
        MissingRule, Unsound: where the backward pass cannot be predicted; where gradient independence fails.
    """
    graph = backward_graph(net, *x)
    shape = graph.avals[graph.inputs[-1]].shape
    value = standard(context, shape) if cotangent is None else cotangent
    env = interpret(context, graph, [*params, *(known(a) for a in jax.tree.leaves(x)), value])
    found = [mean_square(context, env[o]) for o in graph.outputs]
    rows = len(net.rows(*x))
    return Gradients(found[:rows], found[rows:])


def standard(context: Context, shape: Sequence[int]) -> Field:
    """Independent standard normal entries with one common sign, which makes everything linear in them odd."""
    node = context.pool.leaf("cotangent", [n for n in shape if n > 1], normal(), sign="cotangent")
    return Field(node, plain_axes(shape))


def mean_square(context: Context, value: Value) -> Named:
    """E[value²], averaged over all entries."""
    if isinstance(value, Known):
        xp = namespace(value.array)
        size = xp.max(xp.abs(value.array)) if np.size(value.array) else 0.0
        return Named((), xp.mean((value.array / xp.where(size > 0, size, 1.0)) ** 2) * size**2, 0, value.note)
    assert isinstance(value, Field)
    labels = tuple(Label(k, d.kind, d.size) for k, d in enumerate(value.node.dims))
    found = context.query.moment([(value.node, labels), (value.node, labels)])
    total = contract([found], labels)
    return total._replace(array=total.array / np.prod([d.size for d in value.node.dims], dtype=float))
