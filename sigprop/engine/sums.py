"""Sums over dims in normal form: taken term by term, constant factors outside, before a limit theorem is applied to what is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from sigprop.engine.limits import independent_channels, limit
from sigprop.engine.means import NARROW
from sigprop.engine.nodes import Add, Concat, Const, Dim, Mul, Node, Occurrence, Sum, Take, opened, parameter_only, placed, whole
from sigprop.engine.reuse import independent_copies, original, turns

if TYPE_CHECKING:
    from sigprop.engine.build import Pool


def build_sum(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    """Sum ``child`` over the index positions past ``len(dims)``; remembered, since sums of sums share their terms."""
    key = (child[0].id, tuple(child[1]), summed, dims)
    if key not in pool.sums:
        made = pool.sums[key] = _build(pool, child, summed, dims)
        pool.means.inherit(made, pool.means.order(child[0]))
        pending = [pool.means.pending(n) for n, _ in made.children] if isinstance(made, Add) else []
        if any(pending) and not all(pending) and pool.shared_sign(made):
            pool.affine.add(made.id)
    return pool.sums[key]


def _build(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    node, index = child
    count = len(dims)
    absent = [k for k in range(len(summed)) if count + k not in index]
    if absent:
        scale = float(np.prod([summed[k].size for k in absent], dtype=float))
        kept = [k for k in range(len(summed)) if k not in absent]
        place = {count + k: count + j for j, k in enumerate(kept)}
        inner = (node, tuple(place.get(i, i) for i in index))
        body = build_sum(pool, inner, tuple(summed[k] for k in kept), dims) if kept else pool._lift(inner, dims)
        return pool.mul([(pool.const(np.asarray(scale), ()), ()), whole(body)], dims)
    if isinstance(node, Const):
        return _sum_const(pool, node, index, dims)
    if isinstance(node, Concat):
        return _sum_concat(pool, node, index, summed, dims)
    if isinstance(node, Add) and not (node.gaussian and node.parity.odd):  # a centred Gaussian field is summed as one field
        return _sum_terms(pool, node, index, summed, dims)
    if isinstance(node, Mul):
        outside = placed(node.children, index)
        copied, added = independent_copies(pool, outside, dims, summed, NARROW)
        if copied != outside:
            every = [*dims, *summed]
            made = build_sum(pool, pool.over(copied, every, pool.mul), summed, dims)
            return pool.add([whole(made), *map(whole, added)], dims) if added else made
        turned = _turned(pool, outside, summed, dims)
        if turned is not None:
            return turned
        free = [c for c in outside if all(j < count for j in c[1])]
        tied = [c for c in outside if any(j >= count for j in c[1])]
        if free and (len([c for c in tied if not isinstance(c[0], Const)]) or not tied):
            every = [*dims, *summed]
            inner = pool.over(tied, every, pool.mul)
            body = build_sum(pool, inner, summed, dims)
            made = pool.mul([*free, whole(body)], dims, within=True)
            if isinstance(body, Const) and prod(d.size for d in summed if d.kind == "chan") >= NARROW:
                pool.means.restored(made, [n for n, _ in free])
            return made
    return _sum_random(pool, (node, tuple(index)), summed, dims)


def _turned(pool: Pool, factors: Sequence[Occurrence], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node | None:
    """``sum_i a_i sum_j W_ij u_j`` is ``sum_j u_j sum_i W_ij a_i``: the derivative along few inputs, as forward mode takes it.

    Each ``sum_j W_ij u_j`` is in the limit independent of the forward pass ``z_j = sum_i W_ij h_i``, but their sum over ``i``, of the
    same order, is not where ``a`` and ``h`` are correlated. With the sums exchanged that is a covariance of Gaussian fields.
    """
    count = len(dims)
    factors = [f for c in factors for f in (opened(c) if turns(pool, c[0]) else [c])]
    wide = {count + k for k, d in enumerate(summed) if d.kind == "chan"}
    carried = [(k, c) for k, c in enumerate(factors) if wide & set(c[1]) and turns(pool, c[0])]
    if len(carried) != 1 or not any(wide & set(c[1]) for c in factors if c is not carried[0][1]):
        return None
    (k, (node, index)), = carried
    others = [c for j, c in enumerate(factors) if j != k]
    behind = _union(n for n, _ in others if not pool.shared_sign(n))
    if not any(behind >> number & 1 and least < NARROW for number, least in pool.fewest.items()):
        return None  # wide all through: a mean of it vanishes either way, and weights of many inputs are fields of their own
    if any(parameter_only(n) and not n.leaves & _union(c[0] for c in factors if c[0] is not n) for n, _ in others):
        return None  # weights of their own make the sum a new field
    if isinstance(node, Add):
        every = (*dims, *summed)
        return build_sum(pool, whole(pool.distributed(others, carried[0][1], every)), summed, dims)
    assert isinstance(node, Sum)
    inner, where = node.child
    room = len(node.summed)
    moved = tuple((index[w] if index[w] < count else index[w] + room) if w < len(node.dims) else count + w - len(node.dims) for w in where)
    shifted = [(n, tuple(j if j < count else j + room for j in i)) for n, i in others]
    middle = (*dims, *node.summed)
    every = (*middle, *summed)
    body = build_sum(pool, pool.over([(original(pool, inner), moved), *shifted], every, pool.mul), summed, middle)
    return build_sum(pool, whole(body), node.summed, dims)


def _union(nodes: Iterable[Node]) -> int:
    out = 0
    for node in nodes:
        out |= node.leaves
    return out


def _sum_terms(pool: Pool, node: Add, index: Sequence[int], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    """Term by term; sums of zero-mean fields over channels, of order sqrt(n), are dropped beside those of order n."""
    moved = placed(node.children, index)
    terms = [build_sum(pool, child, summed, dims) for child in moved]
    channels = {len(dims) + k for k, d in enumerate(summed) if d.kind == "chan"}
    if not parameter_only(node) and any(not t.parity.odd for t, (_, i) in zip(terms, moved, strict=True) if channels & set(i)):
        terms = [t for t in terms if not pool.means.pending(t)]
    return pool.add([whole(t) for t in terms], dims)


def _sum_const(pool: Pool, node: Const, index: Sequence[int], dims: Sequence[Dim]) -> Node:
    axes = tuple(k for k, i in enumerate(index) if i >= len(dims))
    kept = [i for i in index if i < len(dims)]
    array = node.array.sum(axis=axes)
    return pool._lift((pool.const(array, [dims[i] for i in kept], node.note), tuple(kept)), dims)


def _sum_concat(pool: Pool, node: Concat, index: Sequence[int], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    axis = index[node.axis]
    moved = placed(node.parts, index)
    if axis < len(dims):
        parts = []
        for part, size in zip(moved, node.sizes, strict=True):
            local = tuple(Dim(d.kind, size) if k == axis else d for k, d in enumerate(dims))
            parts.append(whole(build_sum(pool, part, summed, local)))
        return pool.concat(parts, node.sizes, axis, dims)
    terms = []
    for part, size in zip(moved, node.sizes, strict=True):
        local = tuple(Dim(d.kind, size) if k == axis - len(dims) else d for k, d in enumerate(summed))
        terms.append(whole(build_sum(pool, part, local, dims)))
    return pool.add(terms, dims)


def _sum_random(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    found = None if independent_channels(child, summed, len(dims)) else _distributed(pool, child, summed, dims)
    return limit(pool, child, summed, dims) if found is None else found


def _distributed(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node | None:
    """A sum of terms that have no common sign symmetry, term by term.

    Weights with a mean, ``sum_j h_j (m + z_j)``, become ``m sum_j h_j``, with a mean, plus a Gaussian field.
    """
    node, index = child
    if isinstance(node, Sum):
        return _exchanged(pool, node, index, summed, dims)
    if isinstance(node, Take) and all(index[p] < len(dims) for p in node.position):
        return _beneath(pool, node, index, summed, dims)
    if isinstance(node, Add):
        return _sum_terms(pool, node, index, summed, dims)
    if not isinstance(node, Mul):
        return None
    factors = placed(node.children, index)
    for k, (factor, _) in enumerate(factors):
        alone = all(isinstance(n, Const) for j, (n, _) in enumerate(factors) if j != k)
        if isinstance(factor, Add) and not factor.parity.odd and (alone or parameter_only(factor)):
            every = (*dims, *summed)
            total = pool.distributed(factors[:k] + factors[k + 1:], factors[k], every)
            return build_sum(pool, whole(total), summed, dims)
    return None


def _exchanged(pool: Pool, node: Sum, index: Sequence[int], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node | None:
    """``sum_c sum_t w_t h_tc`` is ``sum_t w_t sum_c h_tc``: weights shared by all channels stay outside their mean."""
    inner, where = node.child
    beyond = {w for w in where if w < len(node.dims) and index[w] >= len(dims)}
    common = isinstance(inner, Mul) and any(parameter_only(c) and not any(where[j] in beyond for j in i) for c, i in inner.children)
    if any(node.iid) and not common:
        return None
    count = len(dims)
    place = {k: index[k] for k in range(len(node.dims))}
    moved = tuple((place[w] if place[w] < count else place[w] + len(node.summed)) if w < len(node.dims)
                  else count + w - len(node.dims) for w in where)
    middle = (*dims, *node.summed)
    body = build_sum(pool, (inner, moved), summed, middle)
    made = build_sum(pool, whole(body), node.summed, dims)
    if common and not node.unweighted:
        pool.means.weigh(made)
    return made


def _beneath(pool: Pool, node: Take, index: Sequence[int], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    """Sum before indexing another dim."""
    child, inner = node.child
    kept = [j for j in range(len(inner)) if j == node.axis or index[inner[j]] < len(dims)]
    place = tuple(kept.index(j) if j in kept else len(kept) + index[inner[j]] - len(dims) for j in range(len(inner)))
    local = tuple(child.dims[j] for j in kept)
    body = build_sum(pool, (child, place), summed, local)
    if len(body.dims) < len(local):
        return body
    where = tuple(-1 if j == node.axis else index[inner[j]] for j in kept)
    return pool.take((body, where), kept.index(node.axis), node.table, [index[p] for p in node.position], dims)
