"""Sums over the taps of windows, as convolutions and pooling make them, without an array of all windows."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from sigprop.arrays import concrete, namespace
from sigprop.engine.labels import NOTHING, AnyLabel, Derived, Label, Named, aligned, bases, contract, total
from sigprop.types import Note

_TAPS = 32  # of a window that is summed over them
_DENSE = 32  # products for each tap up to which a window is a product with a matrix


def without_windows(factors: Sequence[Named], summed: Sequence[AnyLabel]) -> tuple[Sequence[Named], Sequence[AnyLabel]]:
    """Sums over the taps of windows, where nothing but fixed weights depends on these, without the windows, which are copies."""
    for k, factor in enumerate(factors):
        for tap in dict.fromkeys(b for la in reversed(factor.labels) if isinstance(la, Derived) for b in la.bases if b in summed):
            found = _window(factor, tap, [f for j, f in enumerate(factors) if j != k])
            if found is not None:
                return without_windows(found, [label for label in summed if label != tap])
    return factors, summed


def _window(factor: Named, tap: Label, others: Sequence[Named]) -> list[Named] | None:
    """``factor`` summed over ``tap``, and the other factors that are left; ``None`` where it is no window of fixed weights."""
    windows = [la for la in factor.labels if tap in bases(la)]
    places = [tuple(b for b in bases(la) if b != tap) for la in windows]
    outs = {b for place in places for b in place}
    elsewhere = {b for la in factor.labels if la not in windows for b in bases(la)}
    plain = all(isinstance(la, Derived) and isinstance(la.table, np.ndarray) and len(place) == 1
                for la, place in zip(windows, places, strict=True))
    tied = any(tap in bases(la) for f in others for la in f.labels if isinstance(la, Derived)) or any(
        tap in bases(la) for f in (factor, *others) for pair in f.same for la in pair)
    if not plain or tied or tap.size > _TAPS or len(outs) < len(places) or outs & elsewhere:
        return None
    split = [_factored(f, {tap, *outs}) if tap in f.labels else (None, f) for f in others]
    if any(pair is None for pair in split):
        return None
    weights = [w for w, _ in split if w is not None]  # type: ignore[misc]
    rest = [f for _, f in split if f is not None]  # type: ignore[misc]
    tables = [np.moveaxis(la.table, la.bases.index(tap), 1) for la in windows]  # type: ignore[union-attr]
    made = _matrix if prod(la.size for la in windows) <= _DENSE * tap.size else _slices
    return [made(factor, tap, windows, [place[0] for place in places], tables, weights), *rest]


def _matrix(factor: Named, tap: Label, windows: Sequence[AnyLabel], outs: Sequence[Label], tables: Sequence[np.ndarray],
            weights: Sequence[Named]) -> Named:
    """As a product with a matrix: the tables, one-hot, contracted with the weights over the taps."""
    fresh = [Label(-1 - k, "site", la.size) for k, la in enumerate(windows)]
    hot = [Named((out, tap, new), (table[:, :, None] == np.arange(new.size)) * 1.0)
           for out, new, table in zip(outs, fresh, tables, strict=True)]
    matrix = contract([*weights, *hot], [tap])
    rest = tuple(la for la in factor.labels if la not in windows)
    labels, array = _product(aligned(matrix, (*outs, *fresh)), outs, factor._replace(same=()), windows, rest)
    return Named(labels, array, total([factor.exponent, matrix.exponent]), Note.of([factor.note, matrix.note]), factor.same)


def _product(left: np.ndarray, outs: Sequence[Label], factor: Named, windows: Sequence[AnyLabel],
             rest: Sequence[AnyLabel]) -> tuple[tuple[AnyLabel, ...], Any]:
    """The matrix times the array. Row by row where it is the smaller one: XLA vectorises what it fuses into an operand of a product only
    along its last axis, and only if that is an axis of the product too."""
    count = len(windows)
    if concrete(factor.array):
        return (*outs, *rest), np.tensordot(left, aligned(factor, (*windows, *rest)), count)
    matrix, rows = jnp.asarray(left, factor.array.dtype), [la.size for la in rest[:-1]]
    if not rest or matrix.size * prod(rows) > factor.array.size:
        return (*outs, *rest), jnp.tensordot(matrix, aligned(factor, (*windows, *rest)), count, precision="highest")
    batch = tuple(range(len(rows)))
    here = tuple(range(len(rows), len(rows) + count))
    dims = (tuple(k + count for k in here), here), (batch, batch)
    right = aligned(factor, (*rest[:-1], *windows, rest[-1]))
    repeated = jnp.broadcast_to(matrix, (*rows, *matrix.shape))
    return (*rest[:-1], *outs, rest[-1]), lax.dot_general(repeated, right, dims, precision="highest")


def _slices(factor: Named, tap: Label, windows: Sequence[AnyLabel], outs: Sequence[Label], tables: Sequence[np.ndarray],
            weights: Sequence[Named]) -> Named:
    """As a sum of shifted copies."""
    order = tuple(la for la in factor.labels if la not in windows)
    front, labels, found = aligned(factor._replace(same=()), (*windows, *order)), (*outs, *order), []
    for n in range(tap.size):
        part, here = front, [_at(w, tap, n) for w in weights]
        for axis, (out, table) in enumerate(zip(outs, tables, strict=True)):
            own = np.prod([np.ones(out.size), *(w.array for w in here if w.labels == (out,))], axis=0)
            part = None if part is None else _shifted(part, axis, table[:, n], own)
        if part is not None:
            found.append(prod([aligned(w, labels) for w in here if len(w.labels) != 1], start=part))
    note = Note.of([factor.note, *(w.note for w in weights)])
    exponent = total([factor.exponent, *(w.exponent for w in weights)])
    return Named(labels, sum(found[1:], start=found[0]), exponent, note, factor.same) if found else NOTHING


def _at(named: Named, label: Label, number: int) -> Named:
    axis = named.labels.index(label)
    return named._replace(labels=tuple(la for la in named.labels if la != label), array=named.array.take(number, axis=axis))


def _factored(named: Named, inner: set[Label]) -> tuple[Named, Named | None] | None:
    """Fixed weights as a product of some over the labels ``inner`` and others over the rest."""
    if not concrete(named.array) or named.same or not named.array.any():
        return None
    rest = [k for k, la in enumerate(named.labels) if la not in inner]
    if not rest:
        return named, None
    own = [k for k in range(named.array.ndim) if k not in rest]
    top = np.unravel_index(int(abs(named.array).argmax()), named.array.shape)
    one = named.array[tuple(top[k] if k in rest else slice(None) for k in range(named.array.ndim))]
    two = named.array[tuple(top[k] if k in own else slice(None) for k in range(named.array.ndim))] / named.array[top]
    if not np.array_equal(np.expand_dims(one, rest) * np.expand_dims(two, own), named.array):
        return None
    return named._replace(labels=tuple(named.labels[k] for k in own), array=one), Named(tuple(named.labels[k] for k in rest), two)


def _shifted(array: Any, axis: int, column: np.ndarray, weights: np.ndarray) -> Any | None:
    """``weights * array[column]`` along ``axis``, as a slice between zeros where it is one; ``None`` where all weights are zero."""
    (inside,) = np.nonzero(weights)
    if not inside.size:
        return None
    low, high = int(inside[0]), int(inside[-1]) + 1
    places, weights = column[low:high], weights[low:high]
    steps = np.diff(places)
    xp, step = namespace(array), int(steps[0]) if len(steps) else 1
    if step < 1 or (steps != step).any():
        part = xp.take(array, places, axis=axis)
    elif concrete(array):
        part = array[(slice(None),) * axis + (slice(places[0], places[-1] + 1, step),)]
    else:
        part = lax.slice_in_dim(array, int(places[0]), int(places[-1]) + 1, step, axis)
    if (weights != 1).any():
        part = part * weights.reshape([-1] + [1] * (array.ndim - axis - 1)).astype(part.dtype)
    ends = [xp.zeros_like(part, shape=tuple(n if k == axis else m for k, m in enumerate(part.shape))) for n in (low, len(column) - high)]
    return xp.concatenate([ends[0], part, ends[1]], axis=axis)
