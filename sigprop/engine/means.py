"""Means over channels of zero-mean fields: how many of them a field is made of, and what they vanish beside.

A sum of ``n`` zero-mean fields over channels, without weights, is of order ``sqrt(n)``. *Pending* until the division by its number of
terms is met, it is then a mean, of order ``1/sqrt(n)``, whatever its size: what it is multiplied by before and after, a normalizer's
scale say, is of order one. The *order* of a field is the number of such means in it: they add up in products, and the least of its
terms is that of a sum. A term of a sum is dropped beside terms of lower order, with two exceptions. Parameters are summed again later,
and keep their means: what these are multiplied by then may be a sum of as many terms. Derivatives, whose scales differ from tangent to
tangent, and biases have no order that a mean could be compared with: beside them it is dropped only where they vary along channels over
which it is a mean, else it may be all that is read out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from sigprop.arrays import concrete
from sigprop.engine import parity
from sigprop.engine.nodes import Add, Const, Dim, Mul, Node, Occurrence, Sum, Take, below, opened, parameter_only, per_node, placed

NARROW = 8  # channels below which neither the law of large numbers nor the central limit theorem is applied
GROUPED = 64  # the same for statistics of a group or a head, whose size need not grow with the width
_DIVISION = 1.5  # largest factor, in units of one over the number of terms, that makes a mean of a sum


def least(node: Node, dims: Sequence[Dim]) -> int:
    """Number of terms, in channels and sites, from which a mean of ``node`` over channels has a limit where it leaves ``dims``.

    The statistics of a weight over its inputs are no less than these: drawn apart from the sums that the weight makes, they would be
    taken for independent of these.
    """
    return GROUPED if any(d.kind == "chan" for d in dims) and not _weight(node) else NARROW


class Means:
    """Orders and pending sums by node. Normalized products do not tell what they were made from, hence the tables."""

    def __init__(self) -> None:
        self.orders: dict[Node, int] = {}
        self.sums: dict[Node, int] = {}
        self.counted: set[Node] = set()

    def order(self, node: Node) -> int:
        """Number of means over channels of zero-mean fields that the node is a product of."""
        if node not in self.orders:
            children = _children(node)
            orders = [self.order(n) for n in children]
            self.orders[node] = 0 if not orders else sum(orders) if isinstance(node, Mul) else min(orders)
        return self.orders[node]

    def pending(self, node: Node) -> int:
        """Number of terms of a sum over channels of zero-mean fields, or of a multiple of one, that is not yet divided by it; else 0."""
        if node not in self.sums:
            found = [self.pending(n) for n in _children(node)]
            if isinstance(node, Mul):
                self.sums[node] = min(filter(None, found), default=0)
            else:
                self.sums[node] = _terms(node) or min(found, default=0)
        return self.sums[node]

    def product(self, made: Node, factors: Sequence[Node], within: bool) -> None:
        """Note what ``made`` is the product of. Constants from ``within`` a sum do not divide it: they are scales of draws."""
        fields = [n for n in factors if not isinstance(n, Const)]
        scale = prod(_largest(n) for n in factors if isinstance(n, Const) and not within)
        order, left = sum(map(self.order, fields)), []
        for terms in sorted(filter(None, map(self.pending, fields))):
            if not within and scale * terms <= _DIVISION:
                order, scale = order + 1, scale * terms
            else:
                left.append(terms)
        self.orders[made] = max(order, self.orders.get(made, 0))
        self.sums.setdefault(made, min(left, default=0))

    def inherit(self, made: Node, order: int) -> None:
        """``made`` is another form of something of this order."""
        if isinstance(made, Mul) and made not in self.counted:
            self.orders[made] = max(order, self.order(made))

    def restored(self, made: Node, factors: Sequence[Node]) -> None:
        """``made`` is a product of ``factors`` and of a sum of ``n`` terms with a mean, of order ``n``.

        The mean of ``n`` draws ``w`` among the factors is then of the order of ``sum_j x_j w_j``.
        """
        drawn = [self.order(n) for n in factors if _drawn(n)]
        if any(drawn) and made not in self.counted:
            self.orders[made] = max(self.order(made) - sum(drawn), 0)
            self.counted.add(made)

    def weigh(self, made: Node) -> None:
        """``made`` is a sum with weights, which have a scale of their own: no division makes a mean of it."""
        self.sums[made] = 0

    def kept(self, children: Sequence[Occurrence], dims: Sequence[Dim], signs: int) -> list[Occurrence]:
        """The terms of a sum that matter; ``signs`` are the bits of the leaves that derivatives depend on."""
        least = min((self.order(n) for n, _ in children), default=0)
        large = [c for c in children if self.order(c[0]) == least]
        if len(large) == len(children) or (any(parameter_only(n) for n, _ in large) and all(_drawn(n) for n, _ in children)):
            return list(children)
        biases = all(parameter_only(n) for n, _ in large)
        moves = [biases or bool(parity.leaves(n.parity) & signs) for n, _ in children]
        return [c for c, m in zip(children, moves, strict=True) if c in large or (m and not self._averages(c, large, dims))]

    def _averages(self, child: Occurrence, beside: Sequence[Occurrence], dims: Sequence[Dim]) -> bool:
        """Whether a term beside varies along channels that the means in ``child`` lack."""
        if isinstance(child[0], Add):
            return all(self._averages(c, beside, dims) for c in placed(child[0].children, child[1]))
        means = [i for n, i in opened(child) if self.pending(n) or self.order(n)]
        where = set(range(len(dims))).intersection(*means)
        return bool({d for _, i in beside for d in i if dims[d].kind == "chan"} - where)


def _children(node: Node) -> list[Node]:
    if isinstance(node, Add | Mul):
        return [n for n, _ in node.children if not (isinstance(node, Mul) and isinstance(n, Const))]
    return [node.child[0]] if isinstance(node, Take | Sum) else []


@per_node
def _drawn(node: Node) -> bool:
    """Whether the node is made of parameters and of sums over them."""
    return isinstance(node, Const) or parameter_only(node) or (bool(found := _children(node)) and all(map(_drawn, found)))


@per_node
def _weight(node: Node) -> bool:
    """Whether the node is made of draws and of constants along their own axes alone, without inputs."""
    return all(_weight(n) if not isinstance(n, Const) else all(d.kind == "chan" for d in n.dims) for n, _ in below(node))


def _terms(node: Node) -> int:
    count = prod(d.size for d in node.summed) if isinstance(node, Sum) and node.unweighted else 0
    return count if count >= least(node, node.dims) else 0


def _largest(node: Const) -> float:
    return float(np.max(np.abs(node.array))) if concrete(node.array) else np.inf
