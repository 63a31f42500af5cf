"""Laws of the entries of nodes, parameters and gradients, pooled over examples, sites and channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete
from sigprop.engine import Context, Field, Known, Sampler, Unknown, Value, method_of
from sigprop.engine.labels import aligned
from sigprop.engine.nodes import Const, Node
from sigprop.engine.values import labelled
from sigprop.errors import InvalidInput, SigpropError
from sigprop.network import Network, check_inputs, parameter_paths
from sigprop.predict.distribution import CELLS, Distribution, grid, normal, of_cells, of_samples, pooled
from sigprop.predict.gradients import gradient_values, mean_square
from sigprop.predict.signal import interpretation
from sigprop.predict.statistics import side_by_side
from sigprop.types import METHODS, Note

_ENTRIES = 1 << 20  # numbers behind one law
_ROUNDING = 1e-12
_POINTS, _REPLICATES = 1 << 16, 8  # wanted, from independent scramblings at most; fewer miss the tail that clips of 8 bits weigh
_LEAST = 256  # cells of the axis of a Gaussian variable


class Entry(NamedTuple):
    """The law of an entry, and how it was found.

    Attributes:
        distribution: of the value at a random example, site and channel, over draws of the parameters.
        method: ``deterministic``; ``closed form`` or ``quadrature`` for a function of one Gaussian variable; ``sampled``; or, of gradients
            whose law cannot be drawn, ``gaussian``: their second moment is predicted, their law assumed.
        error: estimated relative error of its second moment.
    """

    distribution: Distribution
    method: str
    error: float


class Entries(NamedTuple):
    """Laws by name, or the errors that they end in: of rows, parameters, inputs, and of gradients at rows and of trained parameters.

    ``channels``, by name of a row, are values ``[channels, positions]`` of some channels at all examples and sites, ``channel_axes`` how
    many of the last axes of the row are its channels: 0 where others are, or parts of some.
    """

    rows: dict[str, Entry | SigpropError]
    parameters: dict[str, Entry | SigpropError]
    inputs: dict[str, Entry]
    channels: dict[str, np.ndarray]
    channel_axes: dict[str, int]
    row_gradients: dict[str, Entry | SigpropError]
    parameter_gradients: dict[str, Entry | SigpropError]


def entries(net: Network, *x: Any, backward: bool = True, channels: int = 0) -> Entries:
    """Laws of every row of :func:`sigprop.propagate`, of every parameter, and of the gradients of ``<c, y>`` for independent standard
    normal ``c``.

    A function of one Gaussian variable is followed through the cells of that variable, of several it is drawn on Sobol' points.

    Args:
        channels: of each row that are drawn jointly over examples and sites, where it has wide channels.

    Raises:
        InvalidInput: for unusable inputs, or traced ones.
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    check_inputs(x)
    if not all(map(concrete, jax.tree.leaves(x))):
        raise InvalidInput("x: laws of entries are found on concrete inputs, outside of jax.jit and jax.vmap")
    found = interpretation(net, *x)
    rows = {row.name: _tried(found.context, found.values[row.value]) for row in net.rows(*x)}
    paths = parameter_paths(net.abstract_params)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(net.abstract_params)]
    params = {path: _tried(found.context, v) for path, v, f in zip(paths, found.params, floating, strict=True) if f}
    inputs = {f"x[{k}]": Entry(of_samples(a), "deterministic", 0.0) for k, a in enumerate(jax.tree.leaves(x))
              if jnp.issubdtype(jnp.result_type(a), jnp.floating)}
    by_row: Mapping[str, Value] = {}
    by_leaf: Mapping[str, Value] = {}
    if backward:
        by_row, by_leaf = gradient_values(found.context, net, found.params, *x)
    drawn = {row.name: _channels(found.context, found.values[row.value], channels) for row in net.rows(*x)} if channels else {}
    axes = {row.name: _channel_axes(found.values[row.value]) for row in net.rows(*x) if drawn.get(row.name) is not None}
    grads = [{name: _gradient(found.context, v) for name, v in some.items()} for some in (by_row, by_leaf)]
    return Entries(rows, params, inputs, {name: a for name, a in drawn.items() if a is not None}, axes, grads[0], _cancelled(grads[1]))


def entry(context: Context, value: Value) -> Entry:
    """The law of the entries of a value.

    Raises:
        Unsound: where they cannot be drawn jointly.
        MissingRule, Unsound: of the value, where it is not known.
    """
    if isinstance(value, Unknown):
        raise value.reason
    if isinstance(value, Known):
        return Entry(of_samples(value.array), "deterministic", float(value.note.error))
    own, _ = labelled(value)
    parts = side_by_side(value.node, own)
    total = sum(weight for _, _, weight in parts)
    laws, notes = zip(*(_part(context, node, labels) for node, labels, _ in parts), strict=True)
    note = Note.largest(notes)
    return Entry(pooled([(law, p[2] / total) for law, p in zip(laws, parts, strict=True)]), method_of(note, value.node.tails),
                 float(note.error))


def _part(context: Context, node: Node, labels: tuple[Any, ...]) -> tuple[Distribution, Note]:
    if isinstance(node, Const):
        return of_samples(node.array), node.note
    sampler = Sampler(context.query, [(node, labels)])
    if sampler.size != 1:
        count = sampler.samples(_ENTRIES, least=512)
        several = int(np.clip(_POINTS // count, 1, _REPLICATES))
        drawn = [np.asarray(sampler.evaluate(node, labels, sampler.draw(sampler.points(count, k))).plain()) for k in range(several)]
        return of_samples(drawn)._replace(samples=count * several), sampler.note._replace(how=METHODS.index("sampled"))
    cells = int(np.clip(_ENTRIES // sampler.widest, _LEAST, CELLS)) // 2 * 2
    found = sampler.evaluate(node, labels, sampler.draw(grid(cells)[:, None]))
    array = np.asarray(found.plain())
    if sampler.point(cells + 1) not in found.labels:  # the same for all draws
        return of_samples(array), sampler.note
    array = np.moveaxis(array, found.labels.index(sampler.point(cells + 1)), 0)
    how = sampler.note.how if node.gaussian else max(sampler.note.how, METHODS.index("quadrature"))
    return of_cells([(array, 1.0)]), sampler.note._replace(how=how)


def _channels(context: Context, value: Value, count: int) -> np.ndarray | None:
    """Some channels of a node at all examples and sites ``[channels, positions]``; ``None`` where they are not independent copies, or
    cannot be drawn.

    Wide layers make channels independent given nothing but the inputs, each with the joint law of one channel over all positions.
    """
    if not isinstance(value, Field) or not any(d.kind == "chan" for d in value.node.dims):
        return None
    node, (own, _) = value.node, labelled(value)
    sites = [k for k, d in enumerate(node.dims) if d.kind == "site"]
    rest = [k for k in range(len(own)) if k not in sites]
    order = {k: n for n, k in enumerate((*rest, *sites))}
    try:
        joint = context.pool.reduce("positions", np.max, (node, tuple(order[k] for k in range(len(own)))), [node.dims[k] for k in sites],
                                    [node.dims[k] for k in rest])
        sampler = Sampler(context.query, [(joint, tuple(own[k] for k in rest))])
        found = sampler.evaluate(node, own, sampler.draw(sampler.points(count, 1)))
    except SigpropError:
        return None
    labels = [sampler.point(count), *(own[k] for k in sites)]
    if not set(found.labels) <= set(labels) or labels[0] not in found.labels:
        return None
    array = aligned(found._replace(array=found.plain()), labels)
    return np.broadcast_to(array, [la.size for la in labels]).reshape(count, -1)


def _channel_axes(value: Value) -> int:
    """How many of the last axes of a field are its channels: 0 where others are too, or parts of some."""
    if not isinstance(value, Field):
        return 0
    kinds = [{"site" if f.ref is None else value.node.dims[f.ref].kind for f in axis} for axis in value.axes]
    count = next((k for k, kind in enumerate(reversed(kinds)) if not kind <= {"chan"}), len(kinds))
    return count if not any("chan" in kind for kind in kinds[:len(kinds) - count]) else 0


def _tried(context: Context, value: Value) -> Entry | SigpropError:
    try:
        return entry(context, value)
    except SigpropError as error:
        return error


def _gradient(context: Context, value: Value) -> Entry | SigpropError:
    """The law of a gradient; a Gaussian one of its second moment where that is all that is known."""
    try:
        return entry(context, value)
    except SigpropError:
        pass
    try:
        found = mean_square(context, value)
        return Entry(normal(float(found.plain()) ** 0.5), "gaussian", float(found.note.error))
    except SigpropError as error:
        return error


def _cancelled(gradients: dict[str, Entry | SigpropError]) -> dict[str, Entry | SigpropError]:
    """Zero where a sampled gradient is rounding beside that of another parameter of its module, as that of a bias of attention keys is."""
    def size(entry: Entry | SigpropError) -> float:
        return entry.distribution.mean_square**0.5 if isinstance(entry, Entry) else 0.0

    largest: dict[str, float] = {}
    for path, found in gradients.items():
        module = path.rpartition("/")[0]
        largest[module] = max(largest.get(module, 0.0), size(found))
    return {path: found._replace(distribution=of_samples([0.0])) if isinstance(found, Entry) and "sampled" in found.method
            and size(found) < _ROUNDING * largest[path.rpartition("/")[0]] else found for path, found in gradients.items()}


__all__ = ["Entries", "Entry", "entries", "entry"]
