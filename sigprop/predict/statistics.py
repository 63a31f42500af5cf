"""Statistics of one node: moments per example and site, correlations between examples, quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from sigprop.arrays import namespace, scaled
from sigprop.datasets import PROBABILITIES
from sigprop.engine import Context, Field, Known, Label, Named, Sampler, Value, method_of
from sigprop.engine.labels import aligned, contract
from sigprop.engine.nodes import Concat, Const, Node
from sigprop.engine.values import labelled
from sigprop.errors import Unsound

_ENTRIES = 1 << 20  # numbers drawn for the quantiles of one node
_SHIFT = 1000  # between the labels of one example and of the other


class Statistics(NamedTuple):
    """Predicted statistics of a node; arrays are ``[batch, *sites]`` (``sites``) or ``[batch, batch]`` (``gram``)."""

    mean: Any
    sites: Any
    site_mean: Any
    gram: Any
    exponent: Any
    quantile: Any
    error: Any
    gaussian: bool
    method: str
    site_axes: tuple[int, ...]


class Layout(NamedTuple):
    """Labels of a field: those of the node's dims, of the batch, of the sites by axis, and of the channels."""

    own: tuple[Label, ...]
    batch: list[Label]
    sites: dict[int, list[Label]]
    channels: list[Label]


def layout(value: Field, batch: int) -> Layout:
    """The leading factors of axis 0 whose product is ``batch`` range over the examples; of statistics over them there are none."""
    own, rows = labelled(value)
    examples: list[Label] = []
    sites: dict[int, list[Label]] = {}
    channels: list[Label] = []
    for axis, (factors, labels) in enumerate(zip(value.axes, rows, strict=True)):
        for f, label in zip(factors, labels, strict=True):
            if axis == 0 and value.shape[0] == batch and prod(e.size for e in examples) < batch:
                examples.append(label)
            elif label.kind == "chan":
                channels.append(label)
            elif f.ref is not None:
                sites.setdefault(axis, []).append(label)
    return Layout(own, examples, sites, channels)


def statistics(context: Context, value: Value, batch: int) -> Statistics:
    if isinstance(value, Known):
        return _deterministic(value, batch)
    assert isinstance(value, Field)
    node, where = value.node, layout(value, batch)
    places = [label for row in where.sites.values() for label in row]
    mean = _averaged(context.query.moment([(node, where.own)]), [*where.batch, *places])
    other = {label: Label(label.number + _SHIFT, label.kind, label.size) for label in where.batch}
    cross = context.query.moment([(node, where.own), (node, tuple(other.get(la, la) for la in where.own))])
    cross = _averaged(cross, [*where.batch, *other.values(), *places])
    size = prod(label.size for label in where.batch)
    exponent = cross.exponent
    full = _full(cross, [*where.batch, *other.values(), *places]).reshape(size, size, *_sizes(where))
    xp = namespace(full)
    gram = xp.mean(full, axis=tuple(range(2, full.ndim)))
    sites = xp.moveaxis(xp.diagonal(full, axis1=0, axis2=1), -1, 0)
    centre = scaled(_full(mean, [*where.batch, *places]), mean.exponent).reshape(size, *_sizes(where))
    average = centre.mean()
    if size != batch:
        mean_size = gram.diagonal().mean()
        gram = xp.broadcast_to(mean_size[None, None], (batch, batch))
        sites, centre = (xp.broadcast_to(a.mean(axis=0, keepdims=True), (batch, *a.shape[1:])) for a in (sites, centre))
    alone = context.query.moment([(node, where.own)] * 2).note  # without what pairs of different examples add to the error
    method = method_of(cross.note, node.tails)
    return Statistics(average, sites, centre, gram, exponent, quantiles(context, value, where), alone.error,
                      node.gaussian, method, tuple(where.sites))


def _sizes(where: Layout) -> list[int]:
    return [prod(label.size for label in row) for row in where.sites.values()]


def _averaged(named: Named, kept: Sequence[Label]) -> Named:
    gone = [label for label in named.labels if label not in kept]
    total = contract([named], gone)
    return total._replace(array=total.array / prod(label.size for label in gone))


def _full(named: Named, labels: Sequence[Label]) -> Any:
    return namespace(named.array).broadcast_to(aligned(named, labels), [label.size for label in labels])


def _deterministic(value: Known, batch: int) -> Statistics:
    array = value.array
    xp = namespace(array)
    own = array.ndim > 0 and array.shape[0] == batch
    array = array if own else xp.broadcast_to(array, (batch, *np.shape(array)))
    flat = array.reshape(batch, -1)
    gram = flat @ flat.T / flat.shape[1]
    second = xp.mean(flat**2, axis=1)
    quantile = xp.quantile(flat, np.asarray(PROBABILITIES))
    return Statistics(array.mean(), second, xp.mean(flat, axis=1), gram, 0, quantile, value.note.error, False, "deterministic", ())


def quantiles(context: Context, value: Field, where: Layout) -> Any:
    """Quantiles at ``PROBABILITIES`` of an entry, pooled over examples, sites and channels, on equidistributed points.

    NaN where the entries cannot be sampled jointly; the moments are known all the same.
    """
    try:
        drawn = _drawn(context, value.node, where.own)
    except Unsound:
        return np.full(len(PROBABILITIES), np.nan)
    if len(drawn) == 1:
        array = drawn[0][0]
        return namespace(array).quantile(array, np.asarray(PROBABILITIES))
    values = np.concatenate([np.ravel(a) for a, _ in drawn])
    weights = np.concatenate([np.full(np.size(a), w / np.size(a)) for a, w in drawn])
    return np.quantile(values, np.asarray(PROBABILITIES), weights=weights, method="inverted_cdf")


def _drawn(context: Context, node: Node, labels: tuple[Label, ...]) -> list[tuple[Any, float]]:
    """Samples of the parts of a field and their weights."""
    found = []
    for part, own, weight in side_by_side(node, labels):
        if isinstance(part, Const):
            found.append((part.array, weight))
            continue
        sampler = Sampler(context.query, [(part, own)])
        count = sampler.samples(_ENTRIES, least=512)
        points = ndtri((np.arange(count) + 0.5) / count)[:, None] if sampler.size == 1 else sampler.points(count, 0)
        found.append((sampler.evaluate(part, own, sampler.draw(points)).array, weight))
    return found


def side_by_side(node: Node, labels: tuple[Label, ...]) -> list[tuple[Node, tuple[Label, ...], float]]:
    """The parts of a concatenation with their labels and sizes: they are drawn one by one."""
    if not isinstance(node, Concat):
        return [(node, labels, 1.0)]
    found = []
    for (part, index), size in zip(node.parts, node.sizes, strict=True):
        own = tuple(labels[j]._replace(size=size, number=labels[j].number + _SHIFT) if j == node.axis else labels[j] for j in index)
        found += [(n, la, w * size) for n, la, w in side_by_side(part, own)]
    return found
