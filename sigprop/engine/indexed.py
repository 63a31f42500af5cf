"""Indexing pulled out of elementwise functions: what a window reads is a function at fewer places than there are windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sigprop.arrays import same_array
from sigprop.engine.nodes import Add, Const, Map, Mul, Node, Take

if TYPE_CHECKING:
    from sigprop.engine.build import Pool


class Indexed(NamedTuple):
    """A node as ``body[..., table, ...]``: the body's dims sit at ``places`` in the node, but for ``axis``, indexed by a table over
    the node's dims ``position``."""

    body: Node
    places: tuple[int, ...]
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
    moved = [None if f is None else f._replace(places=tuple(i[j] if k != f.axis else -1 for k, j in enumerate(f.places)),
                                               position=tuple(i[p] for p in f.position))
             for f, (_, i) in zip(found, node.children, strict=True)]
    first = next((f for f in moved if f is not None), None)
    if first is None:
        return None
    alike = [f is not None and f.position == first.position and same_array(f.table) == same_array(first.table) for f in moved]
    if any(set(i) & set(first.position) for (_, i), yes in zip(node.children, alike, strict=True) if not yes):
        return None
    # the body's dims in the order of those of its first argument, as where the function was applied before it was indexed
    order = list(dict.fromkeys([*first.places, *(d for d in range(len(node.dims)) if d not in first.position)]))
    dims = [first.body.dims[first.axis] if d == -1 else node.dims[d] for d in order]
    children = [(f.body, tuple(map(order.index, f.places))) if f is not None and yes else (n, tuple(map(order.index, i)))
                for f, yes, (n, i) in zip(moved, alike, node.children, strict=True)]
    if isinstance(node, Map):
        body = pool.map(node.name, node.function, children, dims, node.key, node.symmetry)
    else:
        body = (pool.add if isinstance(node, Add) else pool.mul)(children, dims)
    return Indexed(body, tuple(order), order.index(-1), first.table, first.position) if len(body.dims) == len(dims) else None
