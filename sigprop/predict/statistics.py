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
from sigprop.engine.labels import aligned, contract, union
from sigprop.engine.nodes import Concat, Const, Node
from sigprop.engine.sampling import REPLICATES
from sigprop.engine.values import labelled
from sigprop.errors import Unsound
from sigprop.gaussian import normal_mixture
from sigprop.types import Note

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
    note: Note
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
    return Statistics(average, sites, centre, gram, exponent, quantiles(context, value, where), alone,
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
    return Statistics(array.mean(), second, xp.mean(flat, axis=1), gram, 0, quantile, value.note, False, "deterministic", ())


def quantiles(context: Context, value: Field, where: Layout) -> Any:
    """Quantiles at ``PROBABILITIES`` of an entry, pooled over examples, sites and channels, on equidistributed points.

    Those of a mixture of normal laws where the field is Gaussian. NaN where the entries cannot be sampled jointly; the moments are known
    all the same.
    """
    parts = side_by_side(value.node, where.own)
    laws = [law for node, labels, _ in parts if (law := _laws(context, node, labels)) is not None]
    if len(laws) == len(parts):
        xp = namespace(*(array for law in laws for array in law))
        mean, sd = (xp.concatenate([xp.ravel(law[k]) for law in laws]) for k in range(2))
        weights = np.concatenate([np.full(np.size(law[0]), w / np.size(law[0])) for law, (*_, w) in zip(laws, parts, strict=True)])
        return normal_mixture(mean, sd, weights, np.asarray(PROBABILITIES))
    try:
        drawn = [(_drawn(context, node, labels), w) for node, labels, w in parts]
    except Unsound:
        return np.full(len(PROBABILITIES), np.nan)
    if len(drawn) == 1:
        array = drawn[0][0]
        return namespace(array).quantile(array, np.asarray(PROBABILITIES))
    values = np.concatenate([np.ravel(a) for a, _ in drawn])
    weights = np.concatenate([np.full(np.size(a), w / np.size(a)) for a, w in drawn])
    return np.quantile(values, np.asarray(PROBABILITIES), weights=weights, method="inverted_cdf")


def side_by_side(node: Node, labels: tuple[Label, ...]) -> list[tuple[Node, tuple[Label, ...], float]]:
    """A field, or those that are side by side in it, and their sizes."""
    if not isinstance(node, Concat):
        return [(node, labels, 1.0)]
    found = []
    for (part, index), size in zip(node.parts, node.sizes, strict=True):
        own = tuple(labels[j]._replace(size=size, number=labels[j].number + _SHIFT) if j == node.axis else labels[j] for j in index)
        found += [(n, where, w * size) for n, where, w in side_by_side(part, own)]
    return found


def _laws(context: Context, node: Node, labels: tuple[Label, ...]) -> tuple[Any, Any] | None:
    """Mean and standard deviation of all entries of a Gaussian field; ``None`` for any other."""
    if isinstance(node, Const):
        return node.array, namespace(node.array).zeros_like(node.array)
    if not node.gaussian:
        return None
    mean, second = (context.query.moment([(node, labels)] * order) for order in (1, 2))
    xp = namespace(mean.array, second.array)
    every = union([mean.labels, second.labels])
    centre, square = (aligned(n._replace(array=n.plain()), every) for n in (mean, second))
    return tuple(xp.broadcast_arrays(centre, xp.sqrt(xp.maximum(square - centre**2, 0.0))))


def _drawn(context: Context, node: Node, labels: tuple[Label, ...]) -> Any:
    """Samples of a field."""
    if isinstance(node, Const):
        return node.array
    sampler = Sampler(context.query, [(node, labels)])
    if sampler.whole:
        return np.stack([sampler.at(node, labels, sampler.budgeted(), replicate).array for replicate in range(REPLICATES)])
    count = sampler.samples(_ENTRIES, least=512)
    points = ndtri((np.arange(count) + 0.5) / count)[:, None] if sampler.size == 1 else sampler.points(count, 0)
    return sampler.evaluate(node, labels, sampler.draw(points)).array
