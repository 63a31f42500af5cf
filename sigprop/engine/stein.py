"""What a weight makes of itself when it is used again, transposed.

A sum ``sum_j W_ij u_j`` over the index that ``z_j = sum_i W_ij x_i`` left free, with ``u`` a function of ``z``, is in the limit
``sum_j V_ij u_j + v x_i sum_j E[du_j/dz_j]``, ``V`` an independent copy of ``W`` and ``v`` its variance (Yang 2020, Tensor Programs III,
Theorem 4.3; by Stein's lemma). This file makes the second term, the reaction of Onsager, by differentiating the graph: it serves tied
weights and power iteration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sigprop.engine import parity
from sigprop.engine.elementwise import variables
from sigprop.engine.nodes import Add, Const, Dim, Leaf, Mul, Node, Occurrence, Sum, below, opened, parameter_only, placed
from sigprop.engine.slopes import slopes

if TYPE_CHECKING:
    from sigprop.engine.build import Pool


class Inexpressible(Exception):
    """A derivative is not an elementwise function."""


class Slope(NamedTuple):
    """The derivative of a product by ``field``, which sits at ``where``, as a product; ``jumps`` where it lacks what a jump adds to it."""

    field: Sum
    where: tuple[int, ...]
    factors: list[Occurrence]
    jumps: bool = False

    def beside(self, factors: Sequence[Occurrence], jumps: bool = False) -> Slope:
        return self._replace(factors=[*self.factors, *factors], jumps=self.jumps or jumps)


def reaction(pool: Pool, weight: Occurrence, leaves: Collection[Leaf], others: Sequence[Occurrence], dims: Sequence[Dim],
             summed: Sequence[Dim]) -> list[Node]:
    """Terms ``v x_i sum_j E[du_j/dz_j]`` of the sum of ``weight``, a leaf, and ``others`` over ``summed``.

    Args:
        leaves: the weight as it is in the fields ``z``.

    Raises:
        Inexpressible: where ``u`` mixes entries of ``z`` or jumps, or weights are functions of draws.
    """
    found = []
    for field, index, slope, jumps in _slopes(pool, others, leaves):
        (leaf, entry), scales = _split(opened(weight))
        extra, terms = _terms(field, index, entry, leaves, [*dims, *summed])
        every = (*dims, *summed, *extra)
        variance = (pool.const(np.asarray(leaf.variance), ()), ())
        body = pool.over([variance, *scales, *slope, *terms], every, pool.mul)
        if parity.product([n.parity for n, i in [*slope, *terms] if max(i, default=0) >= len(dims)]).odd:
            continue  # its mean vanishes
        if jumps:
            raise Inexpressible
        found.append(pool.sum(body, (*summed, *extra), dims))
    return found


def _split(factors: Sequence[Occurrence]) -> tuple[tuple[Leaf, tuple[int, ...]], list[Occurrence]]:
    """The one leaf among factors of a weight, and the numbers that scale it."""
    own = [(n, tuple(i)) for n, i in factors if isinstance(n, Leaf)]
    if len(own) != 1 or any(not isinstance(n, Leaf | Const) for n, _ in factors):
        raise Inexpressible
    return own[0], [f for f in factors if isinstance(f[0], Const)]


def _terms(field: Sum, index: Sequence[int], entry: Sequence[int], leaves: Collection[Leaf],
           every: Sequence[Dim]) -> tuple[list[Dim], list[Occurrence]]:
    """The terms of ``field``, which sits at ``index``, without the weight, at the ``entry`` of the weight that is summed outside; and the
    dims that are summed beside those of the weight."""
    numbers = _bits(leaves)
    parts = opened(field.child)
    (_, inner), scales = _split([p for p in parts if parameter_only(p[0]) and p[0].leaves & numbers])
    parts = [p for p in parts if not (parameter_only(p[0]) and p[0].leaves & numbers)] + scales
    place = dict(enumerate(index))
    for axis, where in zip(entry, inner, strict=True):
        if place.setdefault(where, axis) != axis:
            raise Inexpressible  # another entry of the weight
    rest = [k for k in range(len(field.summed)) if len(field.dims) + k not in place]
    place |= {len(field.dims) + k: len(every) + n for n, k in enumerate(rest)}
    return [field.summed[k] for k in rest], [(n, tuple(place[j] for j in i)) for n, i in parts]


def _slopes(pool: Pool, factors: Sequence[Occurrence], leaves: Collection[Leaf]) -> Iterator[Slope]:
    """Derivatives of a product by the sums weighted by ``leaves`` among its variables."""
    for k, (node, index) in enumerate(factors):
        beside = [f for j, f in enumerate(factors) if j != k]
        if not _reached(node, leaves):
            continue
        if _weighted(node, leaves):
            assert isinstance(node, Sum)
            yield Slope(node, tuple(index), beside)
        elif not node.gaussian and variables(node) is not None:
            for field, slope, jumps in slopes(pool, node):
                for found in _slopes(pool, placed([field], index), leaves):
                    yield found.beside([*placed([slope], index), *beside], jumps)
        elif isinstance(node, Add):
            for term in placed(node.children, index):
                yield from (found.beside(beside) for found in _slopes(pool, [term], leaves))
        elif isinstance(node, Mul):
            yield from (found.beside(beside) for found in _slopes(pool, placed(node.children, index), leaves))
        else:
            raise Inexpressible


def _weighted(node: Node, leaves: Collection[Leaf]) -> bool:
    if not isinstance(node, Sum) or not any(node.iid):
        return False
    return any(parameter_only(n) and n.leaves & _bits(leaves) for n, _ in opened(node.child))


def _bits(leaves: Collection[Leaf]) -> int:
    return sum(1 << leaf.number for leaf in leaves)


def _reached(node: Node, leaves: Collection[Leaf]) -> bool:
    """Whether a sum weighted by ``leaves`` is met without passing another sum with weights, whose entries do not follow single ones."""
    waiting, seen = [node], {node}
    while waiting:
        here = waiting.pop()
        if _weighted(here, leaves):
            return True
        if not here.leaves & _bits(leaves) or (isinstance(here, Sum) and any(here.iid)):
            continue
        for child, _ in below(here):
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return False
