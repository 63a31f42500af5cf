"""The largest entry of some, as max-pooling takes it, and its derivative, which goes to the first of the largest."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from sigprop.arrays import namespace
from sigprop.engine.interpreter import Context
from sigprop.engine.means import NARROW
from sigprop.engine.rules.contract import shaped, sum_any, taps, without
from sigprop.engine.rules.elementwise import mapped
from sigprop.engine.rules.shape import expand, mul_any, window_axis
from sigprop.engine.values import Field, Known, Value
from sigprop.errors import Unsound
from sigprop.tracing import Op


def reduction(name: str) -> Any:
    """A rule for the largest or smallest entry along some axes."""
    def rule(context: Context, op: Op, value: Field) -> Sequence[Value]:
        return [_reduced(context, name, value, op.params["axes"])]

    return rule


def _reduced(context: Context, name: str, value: Value, axes: Sequence[int]) -> Value:
    """An extreme of a few entries, which is sampled; that of many channels has no limit."""
    function = _largest if name.endswith("max") else _smallest
    if isinstance(value, Known):
        return Known(function(value.array, tuple(axes)), value.note)
    assert isinstance(value, Field)
    child, gone, dims, axes_left = without(value, axes)
    wide = prod(d.size for d in gone if d.kind == "chan")
    if wide >= NARROW:
        raise Unsound(f"the largest of {wide} channels grows with their number without a limit: reduce over sites instead")
    pool = context.pool
    return Field(pool.reduce(name, function, child, gone, dims) if gone else pool._lift(child, dims), axes_left)


def _largest(array: Any, axes: tuple[int, ...]) -> Any:
    return array.max(axis=axes)


def _smallest(array: Any, axes: tuple[int, ...]) -> Any:
    return array.min(axis=axes)


def window_extreme(context: Context, op: Op, value: Value) -> Sequence[Value]:
    """Max-pooling."""
    seen, tables = _windows(context, op, value)
    return [_reduced(context, op.name, seen, _tap_axes(tables))] if tables else [value]


def _windows(context: Context, op: Op, value: Value) -> tuple[Value, dict[int, np.ndarray]]:
    """``value`` with an axis of taps after each axis that is pooled, and by axis what its windows read.

    Padding is never the largest: it reads another entry of its window instead.
    """
    p, tables, size = op.params, {}, len(value.shape)
    for axis, width in enumerate(p["window_dimensions"]):
        spread = [p.get(name, (1,) * size)[axis] for name in ("base_dilation", "window_dilation")]
        k = axis + len(tables)
        table = taps(value.shape[k], width, p["window_strides"][axis], p["padding"][axis], *spread)
        if np.array_equal(table, np.arange(value.shape[k])[:, None]):
            continue
        if (table.max(axis=1) < 0).any():
            raise Unsound("a window of a max-pooling lies wholly in its padding")
        tables[axis] = np.where(table < 0, table.max(axis=1, keepdims=True), table)
        value = window_axis(context, value, k, tables[axis])
    return value, tables


def _tap_axes(tables: dict[int, np.ndarray]) -> list[int]:
    return [axis + k + 1 for k, axis in enumerate(tables)]


def scatter_to_extremes(context: Context, op: Op, source: Value, operand: Value) -> Sequence[Value]:
    """The derivative of max-pooling: each window hands on what it gets to the first of its largest entries."""
    seen, tables = _windows(context, op, operand)
    out = mul_any(context, _first(context, op, seen, tables), expand(source, _tap_axes(tables)))
    for axis, table in tables.items():
        shape = [*out.shape[:axis], table.size, *out.shape[axis + 2:]]
        readers = [np.flatnonzero(table == k) for k in range(operand.shape[axis])]
        most = max(map(len, readers))
        back = np.stack([np.pad(r, (0, most - len(r)), constant_values=-1) for r in readers])
        out = sum_any(context, window_axis(context, shaped(context, out, shape), axis, back), [axis + 1])
    return [out]


def _first(context: Context, op: Op, seen: Value, tables: dict[int, np.ndarray]) -> Value:
    """One at the first of the largest (or smallest) entries of each window, zero at the others."""
    places = _tap_axes(tables)
    widths = [seen.shape[k] for k in places]
    own, others = (expand(seen, [k + j + side for j, k in enumerate(places)]) for side in (1, 0))
    number = np.arange(prod(widths)).reshape([n for w in widths for n in (w, 1)])
    before = number <= number.reshape([n for w in widths for n in (1, w)])
    shape = [1] * len(own.shape)
    for j, (k, w) in enumerate(zip(places, widths, strict=True)):
        shape[k + j] = shape[k + j + 1] = w
    sign = -1 if op.params["select_prim"].name == "le" else 1
    wins = mapped(context, "wins", _wins, [mul_any(context, v, Known(np.asarray(float(sign)))) for v in (own, others)] +
                  [Known(before.reshape(shape).astype(float))], ("wins",), None)
    return _reduced(context, "reduce_min", wins, [k + j + 1 for j, k in enumerate(places)])


def _wins(own: Any, other: Any, before: Any) -> Any:
    """Whether ``own`` is at least ``other``, or exceeds it where that comes first. Equal fields are drawn equal up to rounding only."""
    xp = namespace(own, other, before)
    least = own - other
    slack = 30 * float(np.finfo(least.dtype).eps) ** 0.5 * (abs(own) + abs(other))  # of the root of a singular covariance
    return xp.where(before > 0, least >= -slack, least > slack) * 1.0


RULES: dict[str, Any] = {
    "reduce_max": reduction("reduce_max"), "reduce_min": reduction("reduce_min"), "reduce_window_max": window_extreme,
    "reduce_window_min": window_extreme, "select_and_scatter_add": scatter_to_extremes,
}
