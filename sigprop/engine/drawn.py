"""Expectations by sampling that wait for the sums over them, so that what is summed is never formed entry by entry.

Attention is ``sum_s A_ts v_s`` with weights that are sampled and values that are independent of them: its covariance
``sum_ss' E[A_ts A_t's'] C_ss'`` is summed draw by draw, in the cubes of the number of tokens instead of its fourth power.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from sigprop.engine.elementwise import variables
from sigprop.engine.labels import AnyLabel, Label, Named, contract, renamed, union, unlinked
from sigprop.engine.nodes import Add, Map, Mul, Node, Reduce, Sum, below, per_node

_number = itertools.count(10_000_000)  # of labels that are summed over, used nowhere else


@dataclass(frozen=True)
class Drawn:
    """The expectation of a product of fields, times known arrays ``beside`` it, summed over some labels.

    ``sample(factors, beside, summed)`` gives its value.
    """

    sample: Callable[..., Named]
    factors: tuple[Any, ...]
    beside: tuple[Named, ...] = ()
    summed: tuple[AnyLabel, ...] = ()

    @property
    def entries(self) -> int:
        """Of its value."""
        return prod(la.size for la in union(labels for _, labels in self.factors) if la.kind == "site" and la not in self.summed)

    def value(self) -> Named:
        return self.sample(self.factors, self.beside, self.summed)

    def times(self, others: Sequence[Named], dummies: Sequence[AnyLabel]) -> Drawn:
        """With more arrays beside it, summed over ``dummies``: these get numbers of their own, since others may be given the old ones."""
        new: dict[AnyLabel, AnyLabel] = {la: Label(next(_number), la.kind, la.size) for la in dummies if isinstance(la, Label)}
        factors = tuple((n, tuple(renamed(la, new) for la in labels)) for n, labels in self.factors)
        beside = tuple(b._replace(labels=tuple(renamed(la, new) for la in b.labels),
                                  same=tuple((renamed(a, new), renamed(b, new)) for a, b in b.same)) for b in (*self.beside, *others))
        return replace(self, factors=factors, beside=beside, summed=(*self.summed, *new.values()))


def joined(product: Sequence[Named | Drawn], dummies: Sequence[AnyLabel]) -> Named:
    """The product summed over ``dummies``."""
    if any(isinstance(f, Drawn) for f in product):
        (found,) = waiting(product, dummies)
        return found.value() if isinstance(found, Drawn) else found
    return contract(product, dummies) if dummies or len(product) > 1 else product[0]  # type: ignore[arg-type, return-value]


def waiting(product: Sequence[Named | Drawn], dummies: Sequence[AnyLabel]) -> list[Named | Drawn]:
    """The same as a product that waits for the sums over it: what is sampled, and arrays of which none is an outer product of others."""
    drawn = [f for f in product if isinstance(f, Drawn)]
    if not drawn:
        return [*unlinked(product, dummies)] if dummies else list(product)  # type: ignore[arg-type]
    first, *rest = sorted(drawn, key=lambda f: -f.entries)  # the others are small, and asked for again
    known = [f for f in product if isinstance(f, Named)] + [f.value() for f in rest]
    return [first.times(known, dummies) if known or dummies else first]


def mixes_sites(factors: Sequence[tuple[Node, tuple[AnyLabel, ...]]]) -> bool:
    """Whether some factor is a function that mixes sites, which is sampled."""
    return any(isinstance(n, Map | Mul | Reduce) and variables(n) is None for n, _ in factors)


@per_node
def drawn_terms(node: Node) -> int:
    """Number of terms over sites of a sum of products with functions that mix sites; zero for what is no such sum."""
    if node.gaussian or not isinstance(node, Add | Mul | Sum) or (isinstance(node, Sum) and (node.unweighted or node.shared)):
        return 0
    children = [n for n, _ in below(node)]
    found = max(map(drawn_terms, children))
    own = prod(d.size for d in node.summed if d.kind == "site") if isinstance(node, Sum) else 1
    return own * max(found, int(any(isinstance(n, Map | Reduce) and variables(n) is None for n in children)))
