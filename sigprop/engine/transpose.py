"""Weights that a backward pass uses again, transposed: gradient independence, where it holds.

A backward pass sums ``sum_j W_ij u_j`` over the index that the forward pass ``z_j = sum_i W_ij x_i`` left free, with ``u`` a function of
``z``. In the limit this is ``sum_j V_ij u_j + v x_i sum_j E[du_j/dz_j]`` with ``V`` an independent copy of ``W`` and ``v`` its variance
(Yang 2020, Tensor Programs III, Theorem 4.3; by Stein's lemma). The second term vanishes where ``u`` changes sign under flips that leave
``z`` as it is: those of the cotangent, or of a read-out drawn independently. That is decided by parity; where it cannot be, the sum is
refused. Sums with few inputs ``i`` keep ``W``: one entry is then correlated with ``z_j``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from sigprop.engine import parity
from sigprop.engine.nodes import Add, Const, Leaf, Map, Mul, Node, Occurrence, Sum, Take, below, parameter_only
from sigprop.errors import Unsound

if TYPE_CHECKING:
    from sigprop.engine.build import Pool


def independent_copies(pool: Pool, factors: Sequence[Occurrence], count: int, narrow: int) -> list[Occurrence]:
    """``factors`` of a sum over the positions from ``count`` on, with copies of the weights that the other factors hold transposed.

    Args:
        narrow: number of terms below which a sum is not wide.

    Raises:
        Unsound: where the transposed weights are not independent of what they multiply.
    """
    out = list(factors)
    for k, (weight, index) in enumerate(factors):
        if isinstance(weight, Const) or not parameter_only(weight):
            continue
        others = [f for j, f in enumerate(factors) if j != k and not isinstance(f[0], Const)]
        seen = 0
        for node, _ in others:
            seen |= node.leaves
        for leaf in _leaves(weight):
            if seen >> leaf.number & 1 and _transposed(leaf, weight, index, others, count, narrow):
                copy = pool.leaf(("transposed", leaf.number), [d.size for d in leaf.dims], leaf.draw)
                pool.originals[copy] = leaf
                out[k] = weight, index = _replaced(pool, weight, leaf, copy), index
    return out


def _transposed(leaf: Leaf, weight: Node, index: Sequence[int], others: Sequence[Occurrence], count: int, narrow: int) -> bool:
    """Whether the sum is over wide axes of ``leaf`` that all its uses behind ``others`` leave free."""
    where = _axes(weight, leaf)
    summed = {axis for dim, axis in where.items() if index[dim] >= count and leaf.dims[axis].size >= narrow}
    uses = [use for node, _ in others for use in _uses(node, leaf)]
    if not summed or not uses or any(parameter_only(n) and n.leaves >> leaf.number & 1 for n, _ in others):
        return False
    if any(summed & axes for _, axes in uses) or any(prod(leaf.dims[a].size for a in axes) < narrow for _, axes in uses):
        return False
    fixed = 0
    for field, _ in uses:
        fixed |= parity.leaves(field.parity)
    if not parity.product([node.parity for node, _ in others]).odd_beside(fixed):
        raise Unsound("weights are used again, transposed, and what they multiply depends on them without a sign of its own (tied "
                      "weights, a read-out that the forward pass uses): gradient independence fails. Draw the weights independently.")
    return True


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


def _uses(node: Node, leaf: Leaf) -> Iterator[tuple[Sum, set[int]]]:
    """Sums weighted by ``leaf`` behind ``node``, and the axes of ``leaf`` that they sum over."""
    waiting, seen = [node], {node}
    while waiting:
        here = waiting.pop()
        if isinstance(here, Sum):
            weight, index = here.child
            parts = [(n, tuple(index[j] for j in i)) for n, i in weight.children] if isinstance(weight, Mul) else [here.child]
            for part, where in parts:
                if parameter_only(part) and leaf in _leaves(part):
                    yield here, {axis for dim, axis in _axes(part, leaf).items() if where[dim] >= len(here.dims)}
        for child, _ in below(here):
            if child not in seen and child.leaves >> leaf.number & 1:
                seen.add(child)
                waiting.append(child)


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
