"""Contractions: matrix products and convolutions are sums of products of fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sigprop.engine.interpreter import Context
from sigprop.engine.nodes import Dim, Occurrence, parameter_only
from sigprop.engine.rules.elementwise import mul
from sigprop.engine.rules.shape import expand, regroup, window_axis
from sigprop.engine.values import Axes, Factor, Field, Known, Value, settle
from sigprop.tracing import Op


def without(value: Field, axes: Sequence[int]) -> tuple[Occurrence, list[Dim], list[Dim], Axes]:
    """The node with its dims along ``axes`` last, these dims, the others, and the axes that are left."""
    every = value.node.dims
    gone = [f.ref for a in axes for f in value.axes[a] if f.ref is not None]
    left = [value.axes[a] for a in range(len(value.axes)) if a not in axes]
    kept = [f.ref for axis in left for f in axis if f.ref is not None]
    place = {ref: k for k, ref in enumerate([*kept, *gone])}
    out = tuple(tuple(Factor(f.size, None if f.ref is None else place[f.ref]) for f in axis) for axis in left)
    return (value.node, tuple(place[r] for r in range(len(every)))), [every[r] for r in gone], [every[r] for r in kept], out


def sum_axes(context: Context, value: Field, axes: Sequence[int]) -> Value:
    """Sum over whole axes."""
    pool = context.pool
    scale = float(np.prod([f.size for a in axes for f in value.axes[a] if f.ref is None], dtype=float))
    child, summed, dims, out_axes = without(value, axes)
    node = pool.sum(child, summed, dims) if summed else pool._lift(child, dims)
    out = settle(node, dims, out_axes)
    if scale == 1.0:
        return out
    return Known(out.array * scale, out.note) if isinstance(out, Known) else mul(context, None, out, Known(np.asarray(scale)))[0]


def permute(value: Value, order: Sequence[int]) -> Value:
    if isinstance(value, Known):
        return Known(value.array.transpose(order), value.note)
    assert isinstance(value, Field)
    return Field(value.node, tuple(value.axes[k] for k in order))


def sum_any(context: Context, value: Value, axes: Sequence[int]) -> Value:
    """The same of any value."""
    if isinstance(value, Known):
        return Known(value.array.sum(axis=tuple(axes)), value.note)
    assert isinstance(value, Field)
    return sum_axes(context, value, axes)


def product_sum(context: Context, left: Value, right: Value, axes: Sequence[int]) -> Value:
    """Sum over ``axes`` of the broadcast product of two values of equal rank."""
    out = sum_any(context, mul(context, None, left, right)[0], axes)
    if isinstance(out, Field) and any(isinstance(v, Field) and parameter_only(v.node) for v in (left, right)):
        context.pool.means.weigh(out.node)
    return out


def dot_general(context: Context, op: Op, left: Value, right: Value) -> Sequence[Value]:
    (lc, rc), (lb, rb) = op.params["dimension_numbers"]
    lf = [a for a in range(len(left.shape)) if a not in (*lc, *lb)]
    rf = [a for a in range(len(right.shape)) if a not in (*rc, *rb)]
    nb, nl, nr, nc = len(lb), len(lf), len(rf), len(lc)
    left = expand(permute(left, [*lb, *lf, *lc]), range(nb + nl, nb + nl + nr))
    right = expand(permute(right, [*rb, *rf, *rc]), range(nb, nb + nl))
    return [product_sum(context, left, right, range(nb + nl + nr, nb + nl + nr + nc))]


def taps(size: int, kernel: int, stride: int, padding: Sequence[int], lhs_dilation: int, rhs_dilation: int) -> np.ndarray:
    """Input position read by each (output position, tap); -1 where it reads padding or a hole of the dilated input."""
    low, high = padding
    spread = (size - 1) * lhs_dilation + 1 if size else 0
    count = (spread + low + high - ((kernel - 1) * rhs_dilation + 1)) // stride + 1
    where = np.arange(count)[:, None] * stride + np.arange(kernel)[None, :] * rhs_dilation - low
    valid = (where >= 0) & (where < spread) & (where % lhs_dilation == 0)
    return np.where(valid, where // lhs_dilation, -1)


def conv(context: Context, op: Op, image: Value, kernel: Value) -> Sequence[Value]:
    p = op.params
    numbers, groups = p["dimension_numbers"], p["feature_group_count"] * p["batch_group_count"]  # at most one of them is not 1
    spatial = len(p["window_strides"])
    x = permute(image, numbers.lhs_spec)  # batch, channel, *sites
    w = permute(kernel, numbers.rhs_spec)  # out, in / groups, *taps
    sizes, widths = x.shape[2:], w.shape[2:]
    for k in range(spatial):  # each site axis becomes (position, tap)
        table = taps(sizes[k], widths[k], p["window_strides"][k], p["padding"][k], p["lhs_dilation"][k], p["rhs_dilation"][k])
        x = window_axis(context, x, 2 + 2 * k, table)
    places = x.shape[2::2]
    if p["batch_group_count"] > 1:  # the groups lie along the batch axis: the gradient of a grouped kernel
        x = shaped(context, x, (groups, x.shape[0] // groups, *x.shape[1:]))
        x = permute(x, [1, 0, *range(2, len(x.shape))])
    else:
        x = shaped(context, x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    w = shaped(context, w, (groups, w.shape[0] // groups, *w.shape[1:]))
    # common order: batch, group, out, *positions, in, *taps
    x = permute(x, [0, 1, *range(3, 3 + 2 * spatial, 2), 2, *range(4, 3 + 2 * spatial, 2)])
    x = expand(x, [2])
    w = expand(w, [0, *range(3, 3 + spatial)])
    first = 3 + spatial
    out = product_sum(context, x, w, range(first, first + 1 + spatial))
    out = permute(out, [0, *range(3, 3 + spatial), 1, 2])
    out = shaped(context, out, (out.shape[0], *places, out.shape[-1] * out.shape[-2]))
    back = [0, 1 + spatial, *range(1, 1 + spatial)]  # to batch, channel, *sites
    return [permute(permute(out, back), [int(k) for k in np.argsort(numbers.out_spec)])]


def shaped(context: Context, value: Value, shape: Sequence[int]) -> Value:
    if isinstance(value, Known):
        return Known(value.array.reshape(shape), value.note)
    assert isinstance(value, Field)
    return regroup(context, value, shape)


def reduce_sum(context: Context, op: Op, value: Field) -> Sequence[Value]:
    return [sum_axes(context, value, op.params["axes"])]


def reduce_window_sum(context: Context, op: Op, value: Value) -> Sequence[Value]:
    p = op.params
    for axis, width in enumerate(p["window_dimensions"]):
        k = axis
        size, stride = value.shape[axis], p["window_strides"][k]
        padding, base, window = p["padding"][k], p["base_dilation"][k], p["window_dilation"][k]
        if (width, stride, tuple(padding), base) != (1, 1, (0, 0), 1):
            table = taps(size, width, stride, padding, base, window)
            value = window_axis(context, value, axis, table)
            assert isinstance(value, Field)
            value = sum_axes(context, value, [axis + 1])
    return [value]


def cumsum(context: Context, op: Op, value: Field) -> Sequence[Value]:
    axis, n = op.params["axis"], value.shape[op.params["axis"]]
    steps = np.arange(n)[:, None] - np.arange(n)[None, :]
    table = np.where(steps >= 0, steps, -1)
    if op.params["reverse"]:
        table = np.where(table[::-1] >= 0, n - 1 - table[::-1], -1)
    seen = window_axis(context, value, axis, table)
    assert isinstance(seen, Field)
    return [sum_axes(context, seen, [axis + 1])]


RULES: dict[str, Any] = {
    "dot_general": dot_general, "conv_general_dilated": conv, "reduce_sum": reduce_sum,
    "reduce_window_sum": reduce_window_sum, "cumsum": cumsum,
}
