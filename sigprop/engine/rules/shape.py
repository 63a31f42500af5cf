"""Shape operations: they regroup factors, or index them through tables."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from sigprop.arrays import concrete, namespace
from sigprop.engine.interpreter import Context
from sigprop.engine.nodes import Dim
from sigprop.engine.rules.elementwise import add, mul
from sigprop.engine.values import Factor, Field, Known, Value, common_sizes, constant_occurrence, merge, refine
from sigprop.errors import MissingRule
from sigprop.tracing import Op
from sigprop.types import Note


def reshape(context: Context, op: Op, value: Field) -> Sequence[Value]:
    return [regroup(context, value, op.params["new_sizes"])]


def regroup(context: Context, value: Field, shape: Sequence[int]) -> Field:
    """Cut the row-major list of factors at the new axes, splitting factors that straddle a cut."""
    flat = [f for axis in value.axes for f in axis]
    sizes = common_sizes([[f.size for f in flat], [s for s in shape if s > 1]]) if flat else []
    whole = refine(context.pool, Field(value.node, (tuple(flat),)), 0, sizes)
    assert isinstance(whole, Field)
    rest = list(whole.axes[0])
    axes = []
    for size in shape:
        axis: list[Factor] = []
        while prod(f.size for f in axis) < size:
            axis.append(rest.pop(0))
        axes.append(tuple(axis))
    return Field(whole.node, tuple(axes))


def transpose(context: Context, op: Op, value: Field) -> Sequence[Value]:
    return [Field(value.node, tuple(value.axes[p] for p in op.params["permutation"]))]


def broadcast_in_dim(context: Context, op: Op, value: Field) -> Sequence[Value]:
    axes: list[tuple[Factor, ...]] = [(Factor(n, None),) if n > 1 else () for n in op.params["shape"]]
    for source, target in enumerate(op.params["broadcast_dimensions"]):
        if value.axes[source]:
            axes[target] = value.axes[source]
    return [Field(value.node, tuple(axes))]


def squeeze(context: Context, op: Op, value: Field) -> Sequence[Value]:
    gone = {d % len(value.axes) for d in op.params["dimensions"]}
    return [Field(value.node, tuple(a for k, a in enumerate(value.axes) if k not in gone))]


def expand_dims(context: Context, op: Op, value: Field) -> Sequence[Value]:
    axes = list(value.axes)
    for d in sorted(op.params["dimensions"]):
        axes.insert(d, ())
    return [Field(value.node, tuple(axes))]


def take_axis(context: Context, value: Field, axis: int, table: Any, data: bool = False) -> Field:
    """Index ``axis`` by an integer ``table``: the axis becomes the table's axes (one factor each)."""
    shape = np.shape(table)
    factors = value.axes[axis]
    if len(factors) > 1:
        kept = _outer_rows(context, value, axis, table)
        if kept is not None:
            return kept
        value = merge(context.pool, value, axis)
        factors = value.axes[axis]
    ref = factors[0].ref if factors else None
    new = tuple((Factor(n, None),) if n > 1 else () for n in shape)
    if ref is None:
        return Field(value.node, (*value.axes[:axis], *new, *value.axes[axis + 1:]))
    dims = value.node.dims
    kept_shape = [n for n in shape if n > 1]
    # indices that are data (tokens) label examples, even where they happen to be distinct
    flat = np.reshape(table, kept_shape) if concrete(table) else table.reshape(kept_shape)
    disjoint = not data and concrete(table) and np.unique(flat).size == flat.size
    kind = dims[ref].kind if disjoint else "site"
    out = [*dims[:ref], *[Dim(kind, n) for n in kept_shape], *dims[ref + 1:]]
    shift = len(kept_shape) - 1
    index = tuple(k if k < ref else k + shift for k in range(len(dims)))
    node = context.pool.take((value.node, index), ref, flat, range(ref, ref + len(kept_shape)), out)
    if len(node.dims) != len(out):  # zeros that the field was padded with
        axes = [tuple(Factor(f.size, None) for f in a) for a in value.axes]
        return Field(node, (*axes[:axis], *new, *axes[axis + 1:]))
    moved = [tuple(Factor(f.size, None if f.ref is None else index[f.ref]) for f in a) for a in value.axes]
    places = iter(range(ref, ref + len(kept_shape)))
    new = tuple((Factor(n, next(places)),) if n > 1 else () for n in shape)
    return Field(node, (*moved[:axis], *new, *moved[axis + 1:]))


def _outer_rows(context: Context, value: Field, axis: int, table: Any) -> Field | None:
    """A contiguous slice of whole rows of the outermost factor of a merged axis."""
    inner = prod(f.size for f in value.axes[axis][1:])
    if not concrete(table) or np.ndim(table) != 1 or len(table) % inner or table[0] % inner:
        return None
    if not np.array_equal(table, np.arange(table[0], table[0] + len(table))):
        return None
    rows = np.arange(table[0] // inner, (table[0] + len(table)) // inner)
    outer = Field(value.node, (*value.axes[:axis], value.axes[axis][:1], value.axes[axis][1:], *value.axes[axis + 1:]))
    cut = take_axis(context, outer, axis, rows)
    merged = (*cut.axes[axis], *cut.axes[axis + 1])
    return Field(cut.node, (*cut.axes[:axis], merged, *cut.axes[axis + 2:]))


def slice_(context: Context, op: Op, value: Field) -> Sequence[Value]:
    strides = op.params["strides"] or (1,) * len(value.axes)
    for axis, (low, high, step) in enumerate(
        zip(op.params["start_indices"], op.params["limit_indices"], strides, strict=True)
    ):
        if (low, high, step) != (0, value.shape[axis], 1):
            value = take_axis(context, value, axis, np.arange(low, high, step))
    return [value]


def rev(context: Context, op: Op, value: Field) -> Sequence[Value]:
    for axis in op.params["dimensions"]:
        value = take_axis(context, value, axis, np.arange(value.shape[axis])[::-1])
    return [value]


def split_(context: Context, op: Op, value: Field) -> Sequence[Value]:
    edges = np.cumsum([0, *op.params["sizes"]])
    axis = op.params["axis"]
    empty = Known(np.zeros([0 if k == axis else n for k, n in enumerate(value.shape)]))
    return [take_axis(context, value, axis, np.arange(a, b)) if a < b else empty for a, b in zip(edges[:-1], edges[1:], strict=True)]


def tile(context: Context, op: Op, value: Field) -> Sequence[Value]:
    for axis, count in enumerate(op.params["reps"]):
        if count > 1:
            value = take_axis(context, value, axis, np.tile(np.arange(value.shape[axis]), count))
    return [value]


def window_axis(context: Context, value: Value, axis: int, table: np.ndarray) -> Value:
    """Index ``axis`` by ``table``, where -1 reads a zero."""
    inside = table >= 0
    if isinstance(value, Known):
        taken: Value = Known(namespace(value.array).take(value.array, np.maximum(table, 0), axis=axis), value.note)
    else:
        assert isinstance(value, Field)
        taken = take_axis(context, value, axis, np.maximum(table, 0)) if value.axes[axis] else _repeat(value, axis, table.shape)
    if inside.all():
        return taken
    shape = [1] * axis + list(table.shape) + [1] * (len(taken.shape) - axis - table.ndim)
    return mul_any(context, taken, Known(inside.astype(np.float64).reshape(shape)))


def _repeat(value: Field, axis: int, shape: Sequence[int]) -> Field:
    new = tuple((Factor(n, None),) if n > 1 else () for n in shape)
    return Field(value.node, (*value.axes[:axis], *new, *value.axes[axis + 1:]))


def mul_any(context: Context, left: Value, right: Value) -> Value:
    if isinstance(left, Known) and isinstance(right, Known):
        return Known(left.array * right.array, Note.of((left.note, right.note)))
    return mul(context, None, left, right)[0]


def pad(context: Context, op: Op, value: Field, filler: Value) -> Sequence[Value]:
    out: Value = value
    mask: Value = Known(np.ones((1,) * len(value.axes), np.float64))
    for axis, (low, high, inner) in enumerate(op.params["padding_config"]):
        if (low, high, inner) == (0, 0, 0):
            continue
        n = value.shape[axis]
        line = np.full((n - 1) * (inner + 1) + 1, -1)
        line[:: inner + 1] = np.arange(n)
        line = np.concatenate([np.full(max(low, 0), -1), line[max(-low, 0):len(line) - max(-high, 0)], np.full(max(high, 0), -1)])
        out = window_axis(context, out, axis, line)
        shape = [1] * len(value.axes)
        shape[axis] = len(line)
        mask = mul_any(context, mask, Known((line >= 0).astype(np.float64).reshape(shape)))
    assert isinstance(filler, Known) and isinstance(mask, Known)
    if concrete(filler.array) and float(filler.array) == 0:
        return [out]
    return add(context, op, out, Known((1 - mask.array) * filler.array, filler.note))


def concatenate(context: Context, op: Op, *values: Value) -> Sequence[Value]:
    """Parts are aligned on the factors of the other axes; the joined axis is one new dim."""
    return [_joined(context, [v for v in values if 0 not in v.shape], op.params["dimension"])]


def stack(context: Context, op: Op, *values: Value) -> Sequence[Value]:
    axis = op.params["axis"]
    return [_joined(context, [expand(v, [axis]) for v in values], axis)]


def expand(value: Value, axes: Sequence[int]) -> Value:
    """Insert axes of size 1 at the given positions of the result."""
    if isinstance(value, Known):
        return Known(np.expand_dims(value.array, tuple(axes)) if concrete(value.array) else value.array.reshape(
            _inserted(value.shape, axes)), value.note)
    assert isinstance(value, Field)
    new = list(value.axes)
    for a in sorted(axes):
        new.insert(a, ())
    return Field(value.node, tuple(new))


def _inserted(shape: Sequence[int], axes: Sequence[int]) -> list[int]:
    out = list(shape)
    for a in sorted(axes):
        out.insert(a, 1)
    return out


def _joined(context: Context, values: Sequence[Value], axis: int) -> Value:
    sizes = [v.shape[axis] for v in values]
    shared = _other_sizes(values, axis)
    placed, kinds = [], set()
    for value in values:
        value, kind = _refined(context, value, axis, shared)
        placed.append(value)
        kinds |= {kind} if kind else set()
    total = Dim("chan" if kinds == {"chan"} else "site", sum(sizes))
    flat = [(a, s) for a, row in enumerate(shared) for s in row]
    dims = [*(Dim("site", s) for _, s in flat), total]
    for value in placed:
        _mark_channels(value, axis, dims)
    where, count = [], 0
    for row in shared:
        where.append(list(range(count, count + len(row))))
        count += len(row)
    parts = [_part(context, v, axis, n, shared, where, dims) for v, n in zip(placed, sizes, strict=True)]
    used = sorted({d for _, index in parts for d in index} | {len(flat)})
    local = {d: k for k, d in enumerate(used)}
    node = context.pool.concat([(n, tuple(local[d] for d in i)) for n, i in parts], sizes, local[len(flat)], [dims[d] for d in used])
    axes = [tuple(Factor(s, local.get(w)) for s, w in zip(shared[a], where[a], strict=True)) for a in range(len(shared))]
    axes[axis] = (Factor(total.size, local[len(flat)]),)
    return Field(node, tuple(axes))


def _other_sizes(values: Sequence[Value], axis: int) -> list[list[int]]:
    rank = len(values[0].shape)
    out: list[list[int]] = []
    for k in range(rank):
        lists = [[f.size for f in v.axes[k]] for v in values if isinstance(v, Field) and v.axes[k]]
        full = values[0].shape[k]
        out.append([] if k == axis else common_sizes(lists) if lists else [full] if full > 1 else [])
    return out


def _refined(context: Context, value: Value, axis: int, shared: list[list[int]]) -> tuple[Value, str | None]:
    if not isinstance(value, Field):
        return value, None
    if len(value.axes[axis]) > 1:
        value = merge(context.pool, value, axis)
    for k, sizes in enumerate(shared):
        if k != axis and value.axes[k]:
            refined = refine(context.pool, value, k, sizes)
            assert isinstance(refined, Field)
            value = refined
    factor = value.axes[axis]
    return value, value.node.dims[factor[0].ref].kind if factor and factor[0].ref is not None else None


def _mark_channels(value: Value, axis: int, dims: list[Dim]) -> None:
    """A dim is of channels where any random part says so."""
    if not isinstance(value, Field):
        return
    count = 0
    for k, factors in enumerate(value.axes):
        if k == axis:
            continue
        for f in factors:
            if f.ref is not None and value.node.dims[f.ref].kind == "chan":
                dims[count] = Dim("chan", dims[count].size)
            count += 1


def _part(context: Context, value: Value, axis: int, size: int, shared: list[list[int]], where: list[list[int]],
          dims: list[Dim]) -> Any:
    last = len(dims) - 1
    if isinstance(value, Known):
        sizes = [row if k != axis else ([size] if size > 1 else []) for k, row in enumerate(shared)]
        places = [row if k != axis else ([last] if size > 1 else []) for k, row in enumerate(where)]
        local = [*dims[:last], Dim(dims[last].kind, size)]
        return constant_occurrence(context.pool, value, sizes, places, local)
    assert isinstance(value, Field)
    index = [0] * len(value.node.dims)
    for k, factors in enumerate(value.axes):
        for j, f in enumerate(factors):
            if f.ref is not None:
                index[f.ref] = last if k == axis else where[k][j]
    return value.node, tuple(index)


def gather(context: Context, op: Op, value: Value, indices: Value) -> Sequence[Value]:
    """One indexed axis, whole slices elsewhere: embedding look-ups, ``x[:, i]``, ``jnp.take``."""
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    if not isinstance(value, Field) or not isinstance(indices, Known):
        raise MissingRule("indexing by random integers")
    indexed = numbers.start_index_map
    whole = all(s == n for k, (s, n) in enumerate(zip(sizes, value.shape, strict=True)) if k not in indexed)
    if len(indexed) != 1 or numbers.collapsed_slice_dims != indexed or not whole or numbers.operand_batching_dims:
        raise MissingRule("gather over several indexed axes at once; index one axis at a time")
    axis = indexed[0]
    table = indices.array[..., 0]
    xp = namespace(table)
    table = xp.clip(xp.where(table < 0, table + value.shape[axis], table), 0, value.shape[axis] - 1)
    taken = take_axis(context, value, axis, table, data=True) if np.ndim(table) else _index(context, value, axis, table)
    rank = np.ndim(table)
    batch = [axis + k for k in range(rank)]
    rest = [k for k in range(len(taken.axes)) if k not in batch]
    order: list[int] = []
    for k in range(len(taken.axes)):
        order.append(rest.pop(0) if k in numbers.offset_dims else batch.pop(0))
    return [Field(taken.node, tuple(taken.axes[k] for k in order))]


def _index(context: Context, value: Field, axis: int, index: Any) -> Field:
    one = take_axis(context, value, axis, np.reshape(index, (1,)))
    return Field(one.node, (*one.axes[:axis], *one.axes[axis + 1:]))


def dynamic_slice(context: Context, op: Op, value: Value, *starts: Value) -> Sequence[Value]:
    if not isinstance(value, Field) or not all(isinstance(s, Known) and concrete(s.array) for s in starts):
        raise MissingRule("a dynamic slice at an index that is not known when the model is traced")
    for axis, (start, size) in enumerate(zip(starts, op.params["slice_sizes"], strict=True)):
        assert isinstance(start, Known)
        if size != value.shape[axis]:
            low = int(np.clip(start.array, 0, value.shape[axis] - size))
            value = take_axis(context, value, axis, np.arange(low, low + size))
    return [value]


RULES = {
    "reshape": reshape, "transpose": transpose, "broadcast_in_dim": broadcast_in_dim, "squeeze": squeeze,
    "expand_dims": expand_dims, "slice": slice_, "rev": rev, "split": split_, "tile": tile, "pad": pad,
    "concatenate": concatenate, "stack": stack, "gather": gather, "dynamic_slice": dynamic_slice,
}
