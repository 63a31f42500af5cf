"""How many terms of a parameter reach one output of an operation, and how many outputs one input feeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from sigprop.engine.rules import elementwise
from sigprop.network.contraction import CONTRACTIONS, contraction
from sigprop.network.following import Followed, Meeting
from sigprop.tracing import Op

SUM = "mul, reduce_sum"  # a product written as a multiplication and a sum
_ONE_TERM = {"concatenate", "pad", "dynamic_update_slice", "scatter", "scatter-add", "dynamic_slice", "select_n", "add_any"}


@dataclass(frozen=True)
class Count:
    """A number of terms over the entries of an array.

    Attributes:
        mean, low, high: over all sites and the channels that the parameter reaches; NaN where nothing is counted.
        inner: mean far from borders, over the phases of strides.
        sites: mean per pixel (convolutions), or per entry of the free axes of the data (matrix products); NaN where the data are zeros.
    """

    mean: float
    low: float
    high: float
    inner: float
    sites: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Use:
    """A parameter in one operation on data.

    Attributes:
        operation: primitive, ``"mul, reduce_sum"`` for a product that is written so.
        op: in the program; ``position`` of the parameter among its operands.
        fan_in: terms of the parameter per output; ``fan_out``: outputs per input.
        live: whether it meets data; else it is multiplied with other parameters, of which either may be the input.
        kept: share of its entries that masks leave.
    """

    operation: str
    op: Op = field(repr=False)
    position: int
    fan_in: Count
    fan_out: Count
    live: bool = True
    kept: float = 1.0

    @property
    def contracts(self) -> bool:
        """Whether inputs are summed over."""
        return self.operation in (*CONTRACTIONS, SUM)


def uses(followed: Followed, param: int) -> list[Use]:
    """All uses of a parameter, in program order."""
    return [_use(followed, meeting) for meeting in followed.meetings[param]]


def _use(followed: Followed, meeting: Meeting) -> Use:
    op, position, view = meeting.op, meeting.position, meeting.view
    if op.name in CONTRACTIONS and position < 2:
        return _contracted(followed, meeting)
    if op.name == "mul" and not view.spread and (summed := _summed(followed, meeting)):
        return summed
    if op.name == "gather" and position == 0:
        places = prod(followed.graph.avals[op.inputs[1]].shape[:-1])
        return Use(op.name, op, position, same(1.0), same(prod(followed.graph.avals[op.outputs[0]].shape) / max(places, 1)))
    if op.name in elementwise.RULES or op.name in _ONE_TERM:
        return Use(op.name, op, position, same(1.0), same(1.0 if op.name in ("mul", "div") else np.nan))
    return Use(op.name, op, position, same(np.nan), same(np.nan))


def same(number: float) -> Count:
    """The same count everywhere."""
    return Count(number, number, number, number, np.asarray(number))


def _contracted(followed: Followed, meeting: Meeting) -> Use:
    op, position, terms = meeting.op, meeting.position, meeting.view.terms
    made, weight, present = contraction(followed.graph, op), terms, np.broadcast_to(1.0, terms.shape)
    if np.isnan(_compact(terms)).any():
        weight, present = np.nan_to_num(terms), np.isfinite(terms).astype(float)
    data = followed.supports[op.inputs[1 - position]]
    forward = made.forward(weight, position, data), made.out, np.ones(())
    backward = made.backward(weight, position), made.operands[1 - position], data > 0
    counts = []
    for back, (found, axes, exists) in ((False, forward), (True, backward)):
        own_kernel = position == 0 and made.taps  # a kernel computed from data
        inner = found if own_kernel else made.endless(weight, position, back)
        mine = made.belongs(present, position, axes)
        inner_mean = _mean(inner) / max(_mean(mine), 1e-300)
        counts.append(_count(found, mine if exists.all() else mine & exists, inner_mean, made.sites(axes, position)))
    kept = _mean(np.minimum(weight, 1)) / max(_mean(present), 1e-300)
    return Use(op.name, op, position, counts[0], counts[1], meeting.live, kept)


def _summed(followed: Followed, meeting: Meeting) -> Use | None:
    """``(x[:, None] * w).sum()``: a contraction where the sum runs along an axis of the parameter."""
    op, position, graph = meeting.op, meeting.position, followed.graph
    after = followed.users.get(op.outputs[0], [])
    own, out = graph.avals[op.inputs[position]].shape, graph.avals[op.outputs[0]].shape
    other = graph.avals[op.inputs[1 - position]].shape
    if not after or any(o.name != "reduce_sum" for o in after) or op.outputs[0] in graph.outputs or len(own) != len(out):
        return None
    axes = tuple(after[0].params["axes"])
    if not any(own[a] > 1 for a in axes):
        return None
    terms = np.broadcast_to(meeting.view.terms, out)
    forward = np.sum(np.nan_to_num(terms) * followed.supports[op.inputs[1 - position]], axes)
    repeats = tuple(k for k, n in enumerate(out) if k >= len(out) - len(other) and other[k - len(out) + len(other)] < n)
    backward = np.sum(np.nan_to_num(terms), repeats)
    counts = [_count(a, np.ones(a.shape, bool), _mean(a), ()) for a in (forward, backward)]
    return Use(SUM, op, position, counts[0], counts[1], meeting.live)


def _count(found: np.ndarray, mine: np.ndarray, inner: float, sites: Sequence[int]) -> Count:
    """Over the entries that are ``mine``."""
    if not mine.any():
        return same(0.0)
    others = tuple(k for k in range(found.ndim) if k not in sites)
    if mine.all():
        slim = _compact(found)
        per_site = _compact(found, others).mean(others)
    else:
        slim, number = found[mine], mine.sum(others)
        per_site = np.where(number > 0, np.where(mine, found, 0).sum(others) / np.maximum(number, 1), np.nan)
    return Count(float(slim.mean()), float(slim.min()), float(slim.max()), inner, per_site)


def _mean(array: np.ndarray) -> float:
    return float(_compact(array).mean()) if array.size else 0.0


def _compact(array: np.ndarray, axes: Sequence[int] | None = None) -> np.ndarray:
    """One entry along ``axes`` (by default all) along which the array is a broadcast."""
    axes = range(array.ndim) if axes is None else axes
    return array[tuple(slice(0, 1) if k in axes and array.strides[k] == 0 else slice(None) for k in range(array.ndim))]
