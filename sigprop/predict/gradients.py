"""Predicted size of the gradient at every row and of every parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sigprop.arrays import namespace
from sigprop.engine import Context, Field, Known, Named, Unknown, Value, interpret, known
from sigprop.engine.draws import normal
from sigprop.engine.labels import aligned, contract, own_labels
from sigprop.engine.values import drawn, labelled, settle
from sigprop.errors import SigpropError
from sigprop.network import Network, backward_graph


class Gradients(NamedTuple):
    """Mean over entries of E[g²], with its exponent and its note, or the error that it ends in.

    Attributes:
        rows: by name.
        parameters: by path, trained ones only.
        sites: arrays ``[batch, *sites]`` of those rows that were asked for by site, averaged over the other axes.
    """

    rows: dict[str, Named | SigpropError]
    parameters: dict[str, Named | SigpropError]
    sites: dict[str, Any]


def gradients(context: Context, net: Network, params: Sequence[Value], *x: Any, cotangent: Value | None = None,
              sites: Mapping[str, Sequence[int]] | None = None) -> Gradients:
    """Interpret the backward pass of ``net`` on inputs ``x``.

    Args:
        params: values of the parameters in ``context``.
        cotangent: of the output; by default independent standard normal entries.
        sites: by name of a row, the axes of its pixels or tokens, for which E[g²] is wanted site by site.

    A ``MissingRule`` or ``Unsound`` is kept with what it concerns: where gradient independence fails, what lies before is not known.
    """
    rows, leaves = gradient_values(context, net, params, *x, cotangent=cotangent)
    by_row, by_leaf = ({name: _tried(context, value) for name, value in found.items()} for found in (rows, leaves))
    batch = jax.tree.leaves(x)[0].shape[0]
    maps = {name: site_squares(context, rows[name], batch, axes) for name, axes in (sites or {}).items()
            if isinstance(by_row.get(name), Named)}
    return Gradients(by_row, by_leaf, maps)


def gradient_values(context: Context, net: Network, params: Sequence[Value], *x: Any,
                    cotangent: Value | None = None) -> tuple[dict[str, Value], dict[str, Value]]:
    """The gradients themselves, of the rows by name and of the trained parameters by path."""
    graph = backward_graph(net, *x)
    shape = graph.avals[graph.inputs[-1]].shape
    value = standard(context, shape) if cotangent is None else cotangent
    env = interpret(context, graph, [*params, *(known(a) for a in jax.tree.leaves(x)), value], lenient=True)
    found = [env[o] for o in graph.outputs]
    rows = [row.name for row in net.differentiable(*x)[1]]
    return dict(zip(rows, found, strict=False)), dict(zip(net.trained_paths, found[len(rows):], strict=True))


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


def site_squares(context: Context, value: Value, batch: int, axes: Sequence[int]) -> Any:
    """E[value²] by example and by site, ``[batch, *sites]``, averaged over the axes that are neither.

    Args:
        axes: those of the sites; where the first axis is none of them and as long as ``batch``, it is that of the examples.

    Raises:
        MissingRule, Unsound: where it is not known.
    """
    if isinstance(value, Unknown):
        raise value.reason
    kept = [*([0] if value.shape[0] == batch and 0 not in axes else []), *axes]
    if isinstance(value, Known):
        xp = namespace(value.array)
        found = xp.mean(value.array**2, axis=tuple(a for a in range(len(value.shape)) if a not in kept))
    else:
        own, rows = labelled(value)
        wanted = [label for axis in kept for label in rows[axis]]
        moment = context.query.moment([(value.node, own), (value.node, own)])
        gone = [label for label in own if label not in wanted]
        total = contract([moment], gone)
        array = total.plain() / np.prod([label.size for label in gone], dtype=float)
        xp = namespace(array)
        array = aligned(total._replace(array=array, exponent=0), wanted)
        found = xp.broadcast_to(array, [label.size for label in wanted]).reshape([value.shape[a] for a in kept])
    return found if len(kept) > len(axes) else xp.broadcast_to(found, (batch, *found.shape))


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
