"""Windows: sums over the taps of a convolution as sums of shifted slices, and indexing pulled out of elementwise functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jax import lax

from sigprop.arrays import concrete, namespace
from sigprop.engine.nodes import Add, Const, Map, Mul, Node, Take, same_array

if TYPE_CHECKING:
    from sigprop.engine.build import Pool


class Indexed(NamedTuple):
    """A node as ``body[..., table, ...]``: the body's dims sit at ``index`` in the node, but for ``axis``, indexed by a table over
    the node's dims ``position``."""

    body: Node
    index: tuple[int, ...]
    axis: int
    table: Any
    position: tuple[int, ...]


def reads_windows(node: Node) -> bool:
    """Whether an elementwise function has arguments that are indexed along sites."""
    if isinstance(node, Take):
        return _sites(node)
    return isinstance(node, Add | Mul | Map) and any(reads_windows(n) for n, _ in node.children)


def _sites(node: Take) -> bool:
    child = node.child[0]
    return child.dims[node.axis].kind == "site" and all(node.dims[p].kind == "site" for p in node.position)


def indexed(pool: Pool, node: Node) -> Indexed | None:
    """The elementwise function of what is not indexed yet, if all arguments that vary along the table's dims are indexed by it."""
    if isinstance(node, Take):
        return Indexed(*node.child, node.axis, node.table, node.position) if _sites(node) else None
    if not isinstance(node, Add | Mul | Map):
        return None
    found = [None if isinstance(n, Const) else indexed(pool, n) for n, _ in node.children]
    moved = [None if f is None else f._replace(index=tuple(i[j] if k != f.axis else -1 for k, j in enumerate(f.index)),
                                               position=tuple(i[p] for p in f.position))
             for f, (_, i) in zip(found, node.children, strict=True)]
    first = next((f for f in moved if f is not None), None)
    if first is None:
        return None
    alike = [f is not None and f.position == first.position and same_array(f.table) == same_array(first.table) for f in moved]
    if any(set(i) & set(first.position) for (_, i), yes in zip(node.children, alike, strict=True) if not yes):
        return None
    # the body's dims in the order of those of its first argument, as where the function was applied before it was indexed
    order = list(dict.fromkeys([*first.index, *(d for d in range(len(node.dims)) if d not in first.position)]))
    dims = [first.body.dims[first.axis] if d == -1 else node.dims[d] for d in order]
    children = [(f.body, tuple(map(order.index, f.index))) if f is not None and yes else (n, tuple(map(order.index, i)))
                for f, yes, (n, i) in zip(moved, alike, node.children, strict=True)]
    if isinstance(node, Map):
        body = pool.map(node.name, node.function, children, dims, node.key, node.symmetry)
    else:
        body = (pool.add if isinstance(node, Add) else pool.mul)(children, dims)
    return Indexed(body, tuple(order), order.index(-1), first.table, first.position) if len(body.dims) == len(dims) else None


def shifted(array: Any, axis: int, column: np.ndarray, weights: np.ndarray) -> Any | None:
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
