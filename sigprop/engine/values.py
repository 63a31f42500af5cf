"""Abstract values of the interpreter: deterministic arrays, or fields with the factorisation of their axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from sigprop.arrays import concrete, host, namespace
from sigprop.engine.build import Pool
from sigprop.engine.draws import Draw
from sigprop.engine.labels import Label
from sigprop.engine.nodes import Const, Dim, Node, Occurrence
from sigprop.errors import MissingRule
from sigprop.types import EXACT, Note


class Factor(NamedTuple):
    """A factor of an axis: its size and the node's dim, ``None`` where the field does not vary along it."""

    size: int
    ref: int | None


Axes = tuple[tuple[Factor, ...], ...]


@dataclass(frozen=True)
class Known:
    """A deterministic array; ``note`` tells how exactly it is known."""

    array: Any
    note: Note = EXACT

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.array))


def known(array: Any, note: Note = EXACT) -> Known:
    """A deterministic value, on the host unless it is traced or a typed key, so that it can be compared and hashed."""
    return Known(host(array), note)


@dataclass(frozen=True)
class Field:
    """A random array: each axis is a row-major tuple of factors of the node's dims; axes of size 1 have none."""

    node: Node
    axes: Axes

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(f.size for f in axis) for axis in self.axes)


@dataclass(frozen=True)
class Unknown:
    """A value that could not be followed; using it raises ``reason``."""

    reason: Exception
    shape: tuple[int, ...]


Value = Known | Field | Unknown


def plain_axes(dims: Sequence[Dim]) -> Axes:
    return tuple((Factor(d.size, k),) if d.size > 1 else () for k, d in enumerate(dims))


def drawn(pool: Pool, key: Any, shape: Sequence[int], draw: Draw, sign: str | None = None, sites: int = 0) -> Field:
    """Independent draws of the given shape, of which the first axes are ``sites``; equal keys are the same draws.

    See :meth:`Pool.leaf` for ``sign``.
    """
    node = pool.leaf(key, [n for n in shape if n > 1], draw, sign, sum(n > 1 for n in shape[:sites]))
    axes = iter(plain_axes(node.dims))
    return Field(node, tuple(next(axes) if n > 1 else () for n in shape))


def settle(node: Node, dims: Sequence[Dim], axes: Axes) -> Value:
    """The value of a node built over ``dims``: an array where it is deterministic."""
    if not isinstance(node, Const):
        return Field(node, axes)
    array = node.array
    xp = namespace(array)
    if len(node.dims) != len(dims):
        return Known(xp.broadcast_to(array, [prod(f.size for f in a) for a in axes]), node.note)
    flat = [f for axis in axes for f in axis]
    used = [f.ref for f in flat if f.ref is not None]
    array = xp.transpose(array, [*used, *[d for d in range(len(dims)) if d not in used]]) if used else array
    array = xp.reshape(array, [f.size if f.ref is not None else 1 for f in flat])
    array = xp.broadcast_to(array, [f.size for f in flat])
    return Known(xp.reshape(array, [prod(f.size for f in a) for a in axes]), node.note)


def labelled(value: Field, start: int = 0) -> tuple[tuple[Label, ...], list[list[Label]]]:
    """Fresh labels for each factor of each axis: those of the node's dims, and by axis."""
    own: dict[int, Label] = {}
    rows, count = [], start
    for factors in value.axes:
        row = []
        for f in factors:
            label = Label(count, "site" if f.ref is None else value.node.dims[f.ref].kind, f.size)
            count += 1
            row.append(label)
            if f.ref is not None:
                own[f.ref] = label
        rows.append(row)
    return tuple(own[k] for k in range(len(value.node.dims))), rows


def split(pool: Pool, value: Field, ref: int, sizes: Sequence[int]) -> Field:
    """Split the factor at the node's dim ``ref`` into row-major ``sizes``."""
    dims = value.node.dims
    new = [*dims[:ref], *[Dim(dims[ref].kind, s) for s in sizes], *dims[ref + 1:]]
    shift = len(sizes) - 1
    index = tuple(k if k <= ref else k + shift for k in range(len(dims)))
    table = np.arange(dims[ref].size).reshape(sizes)
    node = pool.take((value.node, index), ref, table, range(ref, ref + len(sizes)), new)
    axes = []
    for axis in value.axes:
        out: list[Factor] = []
        for f in axis:
            if f.ref == ref:
                out += [Factor(s, ref + k) for k, s in enumerate(sizes)]
            else:
                out.append(f if f.ref is None else Factor(f.size, index[f.ref]))
        axes.append(tuple(out))
    return Field(node, tuple(axes))


def merge(pool: Pool, value: Field, axis: int) -> Field:
    """Make the factors of ``axis`` one: the inverse of :func:`split`."""
    factors = value.axes[axis]
    if len(factors) < 2:
        return value
    if all(f.ref is None for f in factors):
        return Field(value.node, (*value.axes[:axis], (Factor(prod(f.size for f in factors), None),), *value.axes[axis + 1:]))
    total, node = prod(f.size for f in factors), value.node
    refs = [f.ref for f in factors if f.ref is not None]
    kind = "chan" if all(node.dims[r].kind == "chan" for r in refs) and None not in [f.ref for f in factors] else "site"
    old: list[int] = list(range(len(node.dims)))  # dims of the first node, where they are still there; the last dim is the merged one
    stride = total
    for f in factors:
        stride //= f.size
        if f.ref is None:
            continue
        table = np.arange(total) // stride % f.size
        place = old.index(f.ref)
        rest = [d for d in old if d not in (f.ref, -1)]
        where = tuple(len(rest) if d == -1 else -1 if d == f.ref else rest.index(d) for d in old)
        dims = [*(value.node.dims[d] for d in rest), Dim(kind, total)]
        node = pool.take((node, where), place, table, [len(rest)], dims)
        old = [*rest, -1]
        if len(node.dims) != len(dims):
            raise MissingRule("a merged axis does not vary")
    moved = tuple(tuple(Factor(f.size, None if f.ref is None else old.index(f.ref)) for f in a) if k != axis
                  else (Factor(total, len(old) - 1),) for k, a in enumerate(value.axes))
    return Field(node, moved)


def refine(pool: Pool, value: Value, axis: int, sizes: Sequence[int]) -> Value:
    """Factor ``axis`` exactly into ``sizes``, which must refine the present factors."""
    if not isinstance(value, Field):
        return value
    want = list(sizes)
    position = 0
    while position < len(value.axes[axis]):
        factor = value.axes[axis][position]
        piece: list[int] = []
        while prod(piece) < factor.size:
            piece.append(want.pop(0))
        if prod(piece) != factor.size:
            raise MissingRule(f"axes factored as {[f.size for f in value.axes[axis]]} and {list(sizes)} have no common refinement")
        if len(piece) > 1:
            if factor.ref is not None:
                value = split(pool, value, factor.ref, piece)
            else:
                new = (*value.axes[axis][:position], *(Factor(s, None) for s in piece), *value.axes[axis][position + 1:])
                value = Field(value.node, (*value.axes[:axis], new, *value.axes[axis + 1:]))
        position += len(piece)
    return value


def common_sizes(lists: Sequence[Sequence[int]]) -> list[int]:
    """Coarsest row-major factorisation that refines all of ``lists`` (each with the same product)."""
    edges = sorted({prod(sizes[k:]) for sizes in lists for k in range(len(sizes) + 1)}, reverse=True)
    out = []
    for high, low in zip(edges[:-1], edges[1:], strict=True):
        if high % low:
            raise MissingRule(f"axes factored as {[list(x) for x in lists]} have no common refinement")
        out.append(high // low)
    return out


def constant_occurrence(pool: Pool, value: Known, sizes: Sequence[Sequence[int]], where: Sequence[Sequence[int]],
                        dims: Sequence[Dim]) -> Occurrence:
    """A deterministic array as a node over just the dims that it varies along; ``where`` places its factors in ``dims``."""
    array = host(value.array)
    shape = [s if np.shape(array)[a] > 1 else 1 for a, axis in enumerate(sizes) for s in axis]
    array = namespace(array).reshape(array, shape)
    flat = [w for axis in where for w in axis]
    keep = []
    for k in range(len(flat)):
        if array.shape[k] == 1:
            continue
        if concrete(array):
            first = array[(slice(None),) * k + (slice(1),)]  # a view, as zeros of the size of a table of words are
            if array.strides[k] == 0 or np.array_equal(np.broadcast_to(first, array.shape), array):
                array = first
                continue
        keep.append(k)
    array = array.reshape([array.shape[k] for k in keep])
    return pool.const(array, [dims[flat[k]] for k in keep], value.note), tuple(flat[k] for k in keep)


def combine(pool: Pool, values: Sequence[Value]) -> tuple[list[Dim], list[Occurrence], Axes]:
    """Broadcast values of equal rank (or scalars) against each other, on common factors."""
    rank = max(len(v.shape) for v in values)
    values = [v if len(v.shape) == rank else _scalar(v, rank) for v in values]
    sizes: list[list[int]] = []
    for axis in range(rank):
        lists = [[f.size for f in v.axes[axis]] for v in values if isinstance(v, Field) and v.axes[axis]]
        full = max(v.shape[axis] for v in values)
        sizes.append(common_sizes(lists) if lists else ([full] if full > 1 else []))
    refined: list[Value] = []
    for v in values:
        for axis in range(rank):
            if isinstance(v, Field) and v.axes[axis]:
                v = refine(pool, v, axis, sizes[axis])
        refined.append(v)
    number, where, kinds = 0, [], []
    for axis in range(rank):
        row = []
        for k, _ in enumerate(sizes[axis]):
            found = [v.node.dims[f.ref].kind for v in refined if isinstance(v, Field) and v.axes[axis]
                     for f in [v.axes[axis][k]] if f.ref is not None]
            kinds.append("chan" if found and all(x == "chan" for x in found) else "site")
            row.append(number)
            number += 1
        where.append(row)
    flat = [s for row in sizes for s in row]
    dims = [Dim(kind, size) for kind, size in zip(kinds, flat, strict=True)]
    occurrences = [_occurrence(pool, v, sizes, where, dims) for v in refined]
    used = sorted({d for _, index in occurrences for d in index})
    local = {d: k for k, d in enumerate(used)}
    axes = tuple(tuple(Factor(s, local.get(w)) for s, w in zip(sizes[a], where[a], strict=True)) for a in range(rank))
    placed = [(n, tuple(local[d] for d in i)) for n, i in occurrences]
    return [dims[d] for d in used], placed, axes


def _scalar(value: Value, rank: int) -> Value:
    if isinstance(value, Field):
        return Field(value.node, ((),) * rank)
    assert isinstance(value, Known)
    return Known(namespace(value.array).reshape(value.array, (1,) * rank), value.note)


def _occurrence(pool: Pool, value: Value, sizes: list[list[int]], where: list[list[int]], dims: list[Dim]) -> Occurrence:
    if isinstance(value, Field):
        index: list[int] = [0] * len(value.node.dims)
        for axis, factors in enumerate(value.axes):
            for k, f in enumerate(factors):
                if f.ref is not None:
                    index[f.ref] = where[axis][k]
        return value.node, tuple(index)
    assert isinstance(value, Known)
    return constant_occurrence(pool, value, sizes, where, dims)
