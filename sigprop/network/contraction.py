"""Counting the terms of matrix products and convolutions, exactly and without running them.

Both are sums of products, ``out[o] = sum lhs[a] rhs[b] tap[c]...``, in which a tap says where weights meet inputs along a spatial axis:
it is 1 where ``output * stride + kernel * dilation - padding = input * input dilation``, else 0. Counts are such sums over ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from sigprop.tracing import Graph, Op

Labels = tuple[int, ...]
Part = tuple[np.ndarray, Labels]


class Tap(NamedTuple):
    """A spatial axis of a convolution: labels and lengths of its output, kernel and input axes, and how they meet."""

    labels: Labels
    sizes: Labels
    stride: int
    dilation: int
    hole: int
    padding: int

    def bounded(self) -> Part:
        """``[output, kernel, input]``."""
        o, k, i = np.ogrid[:self.sizes[0], :self.sizes[1], :self.sizes[2]]
        return (o * self.stride + k * self.dilation - self.padding == i * self.hole).astype(float), self.labels

    def endless(self, backward: bool) -> Part:
        """``[phase, kernel]``: whether an output meets any input along an axis without ends, for each phase of the output in some order;
        backward, whether an input meets any output."""
        step, period = (self.hole, self.stride) if backward else (self.stride, self.hole)
        at, k = np.ogrid[:period, :self.sizes[1]]
        met = (at * step + k * self.dilation - self.padding) % period == 0
        return met.astype(float), (self.labels[2 if backward else 0], self.labels[1])


@dataclass(frozen=True)
class Contraction:
    """``dot_general`` or ``conv_general_dilated`` as a sum over labelled axes.

    Attributes:
        operands, out: labels per axis of the program's arrays; an axis of groups has two.
        size: of each label.
        batch: labels of examples, of a convolution only.
    """

    operands: tuple[tuple[Labels, ...], tuple[Labels, ...]]
    out: tuple[Labels, ...]
    size: dict[int, int]
    taps: tuple[Tap, ...] = ()
    batch: Labels = ()

    def forward(self, weight: np.ndarray, position: int, data: np.ndarray) -> np.ndarray:
        """Terms that reach each entry of the result: ``weight`` holds terms per entry, ``data`` 0 where an entry is always zero."""
        parts = [self._part(weight, self.operands[position]), self._part(data, self.operands[1 - position])]
        return self._sum([*parts, *(t.bounded() for t in self.taps)], self.out)

    def backward(self, weight: np.ndarray, position: int) -> np.ndarray:
        """Terms that each entry of the other operand feeds."""
        parts = [self._part(weight, self.operands[position]), *(t.bounded() for t in self.taps)]
        return self._sum(parts, self.operands[1 - position])

    def endless(self, weight: np.ndarray, position: int, backward: bool) -> np.ndarray:
        """The same far from all borders, for each phase of a spatial axis, in some order."""
        tables = [t.endless(backward) for t in self.taps]
        size = {**self.size, **{labels[0]: len(table) for table, labels in tables}}
        axes = self.operands[1 - position] if backward else self.out
        return _sum([self._part(weight, self.operands[position]), *tables], _flat(axes), size)

    def belongs(self, present: np.ndarray, position: int, axes: Sequence[Labels]) -> np.ndarray:
        """Whether an entry of an array with ``axes`` lies in a channel of the ``present`` entries of the weight; broadcasts to it."""
        return self._sum([self._part(present, self.operands[position])], axes) > 0

    def sites(self, axes: Sequence[Labels], position: int) -> tuple[int, ...]:
        """Which ``axes`` the weight has no part in: pixels of a convolution; of a product all free axes of the data."""
        own = {*_flat(self.operands[position]), *self.batch}
        return tuple(k for k, labels in enumerate(axes) if not own.intersection(labels))

    def _part(self, array: np.ndarray, axes: Sequence[Labels]) -> Part:
        labels = _flat(axes)
        return array.reshape([self.size[n] for n in labels]), labels

    def _sum(self, parts: Sequence[Part], axes: Sequence[Labels]) -> np.ndarray:
        return _sum(parts, _flat(axes), self.size).reshape([prod(self.size[n] for n in labels) for labels in axes])


def _flat(axes: Sequence[Labels]) -> Labels:
    return tuple(n for labels in axes for n in labels)


def _sum(parts: Sequence[Part], out: Labels, size: dict[int, int]) -> np.ndarray:
    """``einsum`` in which an axis along which an array only repeats costs nothing."""
    slim = [_slim(*part) for part in parts]
    held = {n for _, labels in slim for n in labels}
    summed = {n for _, labels in parts for n in labels} - held - {*out}
    kept = [n for n in out if n in held]
    found = np.einsum(*(piece for array, labels in slim for piece in (array, list(labels))), kept, optimize="greedy")
    found = np.expand_dims(found * prod(size[n] for n in summed), tuple(k for k, n in enumerate(out) if n not in held))
    return np.broadcast_to(found, [size[n] for n in out])


def _slim(array: np.ndarray, labels: Labels) -> Part:
    """Without the axes along which ``array`` is a broadcast."""
    moving = [n == 0 or (n > 1 and step != 0) for n, step in zip(array.shape, array.strides, strict=True)]
    return array[tuple(slice(None) if m else 0 for m in moving)], tuple(n for n, m in zip(labels, moving, strict=True) if m)


def contraction(graph: Graph, op: Op) -> Contraction:
    """The operation as labelled sums."""
    return CONTRACTIONS[op.name](op, *(graph.avals[v].shape for v in (*op.inputs[:2], op.outputs[0])))


def _product(op: Op, left: Labels, right: Labels, out: Labels) -> Contraction:
    (left_sum, right_sum), (left_batch, right_batch) = op.params["dimension_numbers"]
    ours = list(range(len(left)))
    theirs = list(range(len(left), len(left) + len(right)))
    for a, b in zip((*left_sum, *left_batch), (*right_sum, *right_batch), strict=True):
        theirs[b] = ours[a]
    free = [ours[a] for a in left_batch]
    free += [n for k, n in enumerate(ours) if k not in (*left_sum, *left_batch)]
    free += [n for k, n in enumerate(theirs) if k not in (*right_sum, *right_batch)]
    size = dict(zip((*ours, *theirs), (*left, *right), strict=True))
    return Contraction((tuple((n,) for n in ours), tuple((n,) for n in theirs)), tuple((n,) for n in free), size)


_BATCH_GROUP, _BATCH, _GROUP, _IN, _OUT = range(5)


def _convolution(op: Op, left: Labels, right: Labels, out: Labels) -> Contraction:
    p = op.params
    spec = p["dimension_numbers"]
    many, groups, count = p["batch_group_count"], p["feature_group_count"], len(left) - 2
    size = {_BATCH_GROUP: many, _BATCH: left[spec.lhs_spec[0]] // many, _GROUP: groups, _IN: right[spec.rhs_spec[1]],
            _OUT: right[spec.rhs_spec[0]] // (many * groups)}
    taps = []
    for k in range(count):
        labels = tuple(5 + 3 * k + n for n in range(3))
        lengths = out[spec.out_spec[2 + k]], right[spec.rhs_spec[2 + k]], left[spec.lhs_spec[2 + k]]
        size.update(zip(labels, lengths, strict=True))
        taps.append(Tap(labels, lengths, p["window_strides"][k], p["rhs_dilation"][k], p["lhs_dilation"][k], p["padding"][k][0]))
    spatial = [[(t.labels[n],) for t in taps] for n in range(3)]
    channels = (_BATCH_GROUP, _GROUP, _OUT)
    data = _placed(spec.lhs_spec, [(_BATCH_GROUP, _BATCH), (_GROUP, _IN), *spatial[2]])
    kernel = _placed(spec.rhs_spec, [channels, (_IN,), *spatial[1]])
    made = _placed(spec.out_spec, [(_BATCH,), channels, *spatial[0]])
    return Contraction((data, kernel), made, size, tuple(taps), (_BATCH,))


def _placed(spec: Sequence[int], labels: Sequence[Labels]) -> tuple[Labels, ...]:
    placed: list[Labels] = [()] * len(spec)
    for axis, own in zip(spec, labels, strict=True):
        placed[axis] = own
    return tuple(placed)


CONTRACTIONS: dict[str, Callable[[Op, Labels, Labels, Labels], Contraction]] = {
    "dot_general": _product, "conv_general_dilated": _convolution,
}
