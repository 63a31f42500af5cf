"""Weights that are used again: transposed by a backward pass, or as they were, as a recurrence does.

A backward pass sums ``sum_j W_ij u_j`` over the index that the forward pass ``z_j = sum_i W_ij x_i`` left free, with ``u`` a function of
``z``. In the limit this is ``sum_j V_ij u_j + v x_i sum_j E[du_j/dz_j]`` with ``V`` an independent copy of ``W`` and ``v`` its variance
(Yang 2020, Tensor Programs III, Theorem 4.3; by Stein's lemma). The second term vanishes where ``u`` changes sign under flips that leave
``z`` as it is: those of the cotangent, or of a read-out drawn independently. That is decided by parity; where it cannot be, the sum is
refused. Sums with few inputs ``i`` keep ``W``: one entry is then correlated with ``z_j``.

A recurrence sums ``sum_i W_ij h_i`` over the same index again, with ``h`` a function of earlier such sums. All of them are jointly
Gaussian in the limit, of covariance ``v sum_i E[h_i h'_i]``, as if ``W`` were independent of ``h`` (Yang 2019, Tensor Programs I,
Theorem 5.4). Each use beyond the first has a *tied* copy of ``W``: another leaf to what it multiplies, the same one to its other uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sigprop.arrays import concrete
from sigprop.engine import parity
from sigprop.engine.nodes import Add, Const, Leaf, Map, Mul, Node, Occurrence, Sum, Take, below, parameter_only, placed
from sigprop.errors import Unsound

if TYPE_CHECKING:
    from sigprop.engine.build import Pool


def independent_copies(pool: Pool, factors: Sequence[Occurrence], count: int, narrow: int) -> list[Occurrence]:
    """``factors`` of a sum over the positions from ``count`` on, with copies of the weights that the other factors hold.

    Args:
        narrow: number of terms below which a sum is not wide.

    Raises:
        Unsound: where transposed weights are not independent of what they multiply.
    """
    out = list(factors)
    for k, (weight, index) in enumerate(factors):
        if isinstance(weight, Const) or not parameter_only(weight):
            continue
        others = [f for j, f in enumerate(factors) if j != k and not isinstance(f[0], Const)]
        for leaf in _leaves(weight):
            copy = _copy(pool, leaf, weight, index, others, count, narrow)
            if copy is not leaf:
                out[k] = weight, index = _replaced(pool, weight, leaf, copy), index
    return out


def _copy(pool: Pool, leaf: Leaf, weight: Node, index: Sequence[int], others: Sequence[Occurrence], count: int, narrow: int) -> Leaf:
    """The leaf that counts as independent of ``others``."""
    where = _axes(weight, leaf)
    summed = {axis for dim, axis in where.items() if index[dim] >= count and leaf.dims[axis].size >= narrow}
    uses = _uses_of(pool, leaf, weight, others) if summed else []
    if _transposed(leaf, summed, uses, others, narrow):
        made = pool.leaf(("transposed", leaf.number), [d.size for d in leaf.dims], leaf.draw)
        assert isinstance(made, Leaf)
        pool.originals[made] = leaf
        leaf, weight = made, _replaced(pool, weight, leaf, made)
        uses = _uses_of(pool, leaf, weight, others)
    seen = 0
    for node, _ in others:
        seen |= node.leaves
    if not uses or pool.shared_sign(leaf) or not _again(leaf, summed, uses, narrow):
        return leaf
    return next(c for c in pool.tied_copies(leaf) if not seen >> c.number & 1)


Factor = tuple[Node, tuple[Any, ...]]


class _Use(NamedTuple):
    """A sum weighted by ``leaf``, or (``field`` is none) a use as anything else.

    Attributes:
        axes: of ``leaf`` that it sums over.
    """

    field: Sum | None
    weight: Node
    leaf: Leaf
    axes: frozenset[int] = frozenset()


def _transposed(leaf: Leaf, summed: set[int], uses: Sequence[_Use], others: Sequence[Occurrence], narrow: int) -> bool:
    """Whether the sum is over wide axes of ``leaf`` that all its uses behind ``others`` leave free."""
    fixed = 0
    for use in uses:
        if use.field is None or summed & use.axes or prod(leaf.dims[a].size for a in use.axes) < narrow:
            return False
        fixed |= parity.leaves(use.field.parity)
    if uses and not parity.product([node.parity for node, _ in others]).odd_beside(fixed):
        raise Unsound("weights are used again, transposed, and what they multiply depends on them without a sign of its own (tied "
                      "weights, a read-out that the forward pass uses): gradient independence fails. Draw the weights independently.")
    return bool(uses)


def _again(leaf: Leaf, summed: set[int], uses: Sequence[_Use], narrow: int) -> bool:
    """Whether uses behind a sum over the axes ``summed`` of ``leaf`` are sums over the same axes, and leave a wide one free."""
    free = prod(d.size for a, d in enumerate(leaf.dims) if a not in summed)
    return bool(uses) and free >= narrow and all(u.field is not None and any(u.field.iid) and u.axes == summed for u in uses)


def turns(pool: Pool, node: Node) -> bool:
    """Whether the field is a sum weighted by copies, or made of some by sums and products that are linear in it."""
    if isinstance(node, Add | Mul):
        return any(turns(pool, n) for n, _ in node.children)
    if not isinstance(node, Sum):
        return False
    weights = node.child[0].children if isinstance(node.child[0], Mul) else [node.child]
    if any(leaf in pool.originals for n, _ in weights if parameter_only(n) for leaf in _leaves(n)):
        return True
    return not any(node.iid) and turns(pool, node.child[0])


def original(pool: Pool, product: Node) -> Node:
    """The terms of such a sum, with the weights that were copied."""
    if not isinstance(product, Mul):
        return _restored(pool, product)
    return pool.mul([(_restored(pool, n) if parameter_only(n) else n, i) for n, i in product.children], product.dims)


def _restored(pool: Pool, weight: Node) -> Node:
    for leaf in _leaves(weight):
        if leaf in pool.originals:
            weight = _replaced(pool, weight, leaf, pool.originals[leaf])
    return weight


def reused(pool: Pool, factors: Sequence[Factor]) -> tuple[list[Factor], list[Factor]]:
    """Weights of which some are tied, as the draws that they are, and the other factors; no weights where none is."""
    family = {leaf.tied for n, _ in factors if parameter_only(n) for leaf in _leaves(n)} - {None}
    weights, rest = [], []
    for node, labels in factors:
        found = [leaf for leaf in _leaves(node) if (leaf.tied or leaf) in family] if family and parameter_only(node) else []
        for leaf in found:
            node = _replaced(pool, node, leaf, leaf.tied or leaf)
        (weights if found else rest).append((node, labels))
    return weights, rest


def _leaves(weight: Node) -> list[Leaf]:
    if isinstance(weight, Leaf):
        return [weight]
    return [leaf for child, _ in below(weight) for leaf in _leaves(child)]


def _axes(weight: Node, leaf: Leaf) -> dict[int, int]:
    """Axis of ``leaf`` that each dim of a function of parameters ranges over."""
    if weight is leaf:
        return {k: k for k in range(len(leaf.dims))}
    found: dict[int, int] = {}
    for child, index in below(weight):
        for dim, axis in _axes(child, leaf).items():
            if isinstance(weight, Take) and dim == weight.axis:
                found.update(dict.fromkeys(weight.position, axis))
            else:
                found[index[dim]] = axis
    return found


def _uses_of(pool: Pool, leaf: Leaf, weight: Node, others: Sequence[Occurrence]) -> list[_Use]:
    """Of ``leaf`` and of its tied copies behind ``others``, but for slices that do not meet ``weight``: those of other stacked layers."""
    found = [use for member in pool.uses_of(leaf) for node, _ in others for use in _uses(node, member)]
    return [use for use in found if not _disjoint(weight, leaf, use)]


def _uses(node: Node, leaf: Leaf) -> Iterator[_Use]:
    waiting, seen = [node], {node}
    while waiting:
        here = waiting.pop()
        if not here.leaves >> leaf.number & 1:
            continue
        if parameter_only(here):
            yield _Use(None, here, leaf)
            continue
        children = below(here)
        if isinstance(here, Sum):
            terms, index = here.child
            children = placed(terms.children, index) if isinstance(terms, Mul) else [here.child]
            for part, where in children:
                if parameter_only(part) and leaf in _leaves(part):
                    axes = {axis for dim, axis in _axes(part, leaf).items() if where[dim] >= len(here.dims)}
                    yield _Use(here, part, leaf, frozenset(axes))
            children = [c for c in children if not parameter_only(c[0])]
        for child, _ in children:
            if child not in seen:
                seen.add(child)
                waiting.append(child)


def _disjoint(weight: Node, leaf: Leaf, use: _Use) -> bool:
    """Whether two weights read slices of one leaf that never meet."""
    one, two = _read(weight, leaf), _read(use.weight, use.leaf)
    return any(not np.intersect1d(one[a], two[a]).size for a in one.keys() & two.keys())


def _read(weight: Node, leaf: Leaf) -> dict[int, np.ndarray]:
    """Entries read along axes of ``leaf`` that a weight indexes."""
    found: dict[int, np.ndarray] = {}
    for child, _ in below(weight):
        inner = _read(child, leaf)
        if isinstance(weight, Take) and child is leaf and concrete(weight.table):
            inner = {weight.axis: np.asarray(weight.table)}
        found |= inner
    return found


def entries_read(node: Node, axis: int, table: np.ndarray) -> Iterator[tuple[Leaf, int, np.ndarray]]:
    """Leaves, axes and entries along them that a leaf, or a sum weighted by one, reads where its ``axis`` is indexed by ``table``."""
    weights: Sequence[Occurrence] = [(node, tuple(range(len(node.dims))))]
    if isinstance(node, Sum):
        terms, index = node.child
        weights = placed(terms.children, index) if isinstance(terms, Mul) else [node.child]
    for weight, where in weights:
        if isinstance(weight, Leaf) and axis in where:
            yield weight, where.index(axis), table
        elif isinstance(weight, Take) and concrete(weight.table) and axis in where:
            place, (leaf, inner) = where.index(axis), weight.child
            if isinstance(leaf, Leaf) and place in weight.position:
                yield leaf, weight.axis, np.take(np.asarray(weight.table), table, weight.position.index(place))
            elif isinstance(leaf, Leaf):
                yield leaf, inner.index(place), table


def _replaced(pool: Pool, weight: Node, leaf: Leaf, copy: Node) -> Node:
    if weight is leaf:
        return copy
    if isinstance(weight, Take):
        child, index = weight.child
        return pool.take((_replaced(pool, child, leaf, copy), index), weight.axis, weight.table, weight.position, weight.dims)
    children = [(_replaced(pool, n, leaf, copy), i) for n, i in below(weight)]
    if isinstance(weight, Map):
        return pool.map(weight.name, weight.function, children, weight.dims, weight.key, weight.symmetry)
    if isinstance(weight, Add | Mul):
        return (pool.add if isinstance(weight, Add) else pool.mul)(children, weight.dims)
    return weight
