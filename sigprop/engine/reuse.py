"""Weights that are used again: transposed by a backward pass, or as they were, as a recurrence does.

A backward pass sums ``sum_j W_ij u_j`` over the index that the forward pass ``z_j = sum_i W_ij x_i`` left free, with ``u`` a function of
``z``. In the limit this is ``sum_j V_ij u_j + v x_i sum_j E[du_j/dz_j]`` with ``V`` an independent copy of ``W`` and ``v`` its variance
(Yang 2020, Tensor Programs III, Theorem 4.3; by Stein's lemma). The second term vanishes where ``u`` changes sign under flips that leave
``z`` as it is: those of the cotangent, or of a read-out drawn independently. That is decided by parity; elsewhere it is added (see
``stein``), or the sum is refused. So it is where ``W`` meets what ``V`` has made. Sums with few inputs ``i`` keep ``W``: one entry is then
correlated with ``z_j``.

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
from sigprop.engine.nodes import Add, Const, Dim, Leaf, Map, Mul, Node, Occurrence, Sum, Take, below, parameter_only, placed
from sigprop.engine.stein import Inexpressible, reaction
from sigprop.errors import Unsound

if TYPE_CHECKING:
    from sigprop.engine.build import Pool


_DEPENDENT = ("weights are used again, transposed, and what they multiply depends on them without a sign of its own (tied weights, a "
              "read-out that the forward pass uses) and not entry by entry: gradient independence fails. Draw the weights independently.")


def independent_copies(pool: Pool, factors: Sequence[Occurrence], dims: Sequence[Dim], summed: Sequence[Dim],
                       narrow: int) -> tuple[list[Occurrence], list[Node]]:
    """``factors`` of a sum over the positions past ``dims``, with copies of the weights that the other factors hold, and what is to be
    added to their sum.

    Args:
        narrow: number of terms below which a sum is not wide.

    Raises:
        Unsound: where transposed weights are not independent of what they multiply, and how they depend on it is not known.
    """
    out, added = list(factors), []
    for k, (weight, index) in enumerate(factors):
        if isinstance(weight, Const) or not parameter_only(weight):
            continue
        beside = [f for j, f in enumerate(factors) if j != k]
        for leaf in _leaves(weight):
            copy, met = _copy(pool, leaf, (weight, index), beside, len(dims), narrow)
            if copy is not leaf:
                out[k] = _replaced(pool, out[k][0], leaf, copy), index
            terms = _reaction(pool, (weight, index), met, beside, dims, summed) if met else []
            if terms and copy is leaf:
                raise Unsound(_DEPENDENT)  # what is added stands beside an independent copy
            added += terms
    return out, added


def _reaction(pool: Pool, weight: Occurrence, leaves: set[Leaf], beside: Sequence[Occurrence], dims: Sequence[Dim],
              summed: Sequence[Dim]) -> list[Node]:
    try:
        return reaction(pool, weight, leaves, beside, dims, summed)
    except Inexpressible:
        raise Unsound(_DEPENDENT) from None


def _copy(pool: Pool, leaf: Leaf, weight: Occurrence, beside: Sequence[Occurrence], count: int, narrow: int) -> tuple[Leaf, set[Leaf]]:
    """The leaf that counts as independent of what is ``beside`` it, and the leaves whose sums there depend on it all the same."""
    node, index = weight
    where = _axes(node, leaf)
    summed = {axis for dim, axis in where.items() if index[dim] >= count and leaf.dims[axis].size >= narrow}
    others = [f for f in beside if not isinstance(f[0], Const)]
    uses = _uses_of(pool, leaf, node, others) if summed else []
    if uses and _folded(node, leaf):
        raise Unsound("a weight that is added to or multiplied by its own transpose is used more than once: its entries are not "
                      "independent of each other, and gradient independence fails. Draw both parts independently.")
    opposite = pool.transposed.get(leaf)
    met: set[Leaf] = set()
    if _transposed(leaf, summed, uses, narrow):
        made = pool.transposed_copy(leaf)
        met = _dependent(uses, others)
        leaf, node = made, _replaced(pool, node, leaf, made)
        uses = _uses_of(pool, leaf, node, others)
    elif opposite is not None and summed:
        turned = _uses_of(pool, opposite, _replaced(pool, node, leaf, opposite), others)
        met = _dependent(turned, others) if _transposed(leaf, summed, turned, narrow) else met
    seen = 0
    for other, _ in others:
        seen |= other.leaves
    if not uses or pool.shared_sign(leaf) or not _again(leaf, summed, uses, narrow):
        return leaf, met
    return next(c for c in pool.tied_copies(leaf) if not seen >> c.number & 1), met


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


def _transposed(leaf: Leaf, summed: set[int], uses: Sequence[_Use], narrow: int) -> bool:
    """Whether the sum is over wide axes of ``leaf`` that all its uses leave free."""
    return bool(uses) and not any(use.field is None or summed & use.axes or prod(leaf.dims[a].size for a in use.axes) < narrow
                                  for use in uses)


def _dependent(uses: Sequence[_Use], others: Sequence[Occurrence]) -> set[Leaf]:
    """Leaves of ``uses``, unless ``others`` have a sign of their own."""
    fixed = 0
    for use in uses:
        assert use.field is not None
        fixed |= parity.leaves(use.field.parity)
    return set() if parity.product([node.parity for node, _ in others]).odd_beside(fixed) else {use.leaf for use in uses}


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


def _folded(weight: Node, leaf: Leaf) -> bool:
    """Whether a function of parameters combines entries of ``leaf`` with others of it, as ``W + W^T`` does."""
    if isinstance(weight, Leaf):
        return False
    found = [{index[dim]: axis for dim, axis in _axes(child, leaf).items()} for child, index in below(weight)
             if child.leaves >> leaf.number & 1 and not isinstance(weight, Take)]
    return any(f != found[0] for f in found) or any(_folded(child, leaf) for child, _ in below(weight))


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
