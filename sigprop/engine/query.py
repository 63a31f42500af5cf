"""Moments of labelled fields: the question everything else asks.

``Query.moment([(node, labels), ...])`` is the expectation of the product of the fields, as an array over the distinct labels.
It is linear where the graph is linear (sums, indexing, constants) and an expectation over jointly Gaussian variables elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from copy import copy
from math import prod
from typing import Any

import numpy as np

from sigprop.arrays import concrete, namespace, scaled
from sigprop.engine import parity
from sigprop.engine.build import Pool
from sigprop.engine.drawn import Drawn, drawn_terms, joined, mixes_sites, waiting
from sigprop.engine.elementwise import atom_of, is_variable, rescaled, variables
from sigprop.engine.expectation import group_moment
from sigprop.engine.groups import connected
from sigprop.engine.indexed import Indexed, indexed, reads_windows
from sigprop.engine.labels import (
    AnyLabel,
    Derived,
    Label,
    Named,
    add,
    aligned,
    bases,
    contract,
    dense,
    derived,
    difference,
    is_nothing,
    normalised,
    relabelled,
    renamed,
    resolve,
    stack,
    union,
    unit,
)
from sigprop.engine.nodes import (
    Add,
    Concat,
    Const,
    Dim,
    Leaf,
    Map,
    Mul,
    Node,
    Occurrence,
    Reduce,
    Sum,
    Take,
    below,
    opened,
    parameter_only,
    per_node,
    whole,
)
from sigprop.engine.reuse import reused
from sigprop.engine.sampling import replicates
from sigprop.errors import Unsound
from sigprop.types import Note

Factor = tuple[Node, tuple[AnyLabel, ...]]
Products = list[list[Named | Drawn]]
_PAIRS = 1 << 14  # of terms of sums beyond which these are drawn as they are
_FEW = 1 << 18  # entries of a sampled expectation that is formed although only sums of it are asked for
_TERMS = 4  # of a moment that is left as a sum of products
_DEPTH = 30  # nested questions before the stack is unwound


class _Deep(Exception):
    """Carries a question met too far down the stack to the outermost one, which answers it first."""

    def __init__(self, factors: Sequence[Factor]) -> None:
        super().__init__("nested moments")
        self.factors = factors


class Query:
    """Second (and other) moments over one pool of nodes, memoised by pattern of labels."""

    def __init__(self, pool: Pool, scrambling: int = 0) -> None:
        self.pool = pool
        self.scrambling = scrambling
        self.memo: dict[Any, Any] = {}
        self.depth = 0
        self.leaf: Leaf | None = None
        self.units: dict[int, tuple[Named, Named]] = {}  # by identity of the array, which is kept alive
        self.other: dict[Any, Any] = {}  # with ``leaf``: what does not depend on it
        self.joint: dict[Any, Any] = {}  # the last laws that were sampled
        pool.query = self

    def along(self, leaf: Leaf) -> Query:
        """The same questions where, of the leaves that share a sign, only ``leaf`` is not zero: its share of a second moment."""
        found = copy(self)
        found.leaf, found.memo, found.other, found.joint = leaf, {}, self.memo, {}
        return found

    def moment(self, factors: Sequence[Factor]) -> Named:
        """Expectation of the product of the fields; axes are the plain labels."""
        return self._found(factors, self._answered if self.depth or _curved(factors) else self._indexed)

    def _found(self, factors: Sequence[Factor], ask: Callable[[Sequence[Factor]], Named]) -> Named:
        if self.depth:
            return resolve(ask(factors))
        waiting = [list(factors)]
        while True:
            try:
                found = ask(waiting[-1])
            except _Deep as deep:
                waiting.append(list(deep.factors))
                continue
            waiting.pop()
            if not waiting:
                return dense(resolve(found))

    def _answered(self, factors: Sequence[Factor]) -> Named:
        """The moment with variances on its diagonal, as it is asked for from outside, or by what is not linear in it."""
        key, back, plain, memo = self._asked(factors)
        if ("answered", key) not in memo:
            memo["answered", key] = self._with_diagonal(plain, self._indexed(plain))
        return _named(memo["answered", key], back)

    def _indexed(self, factors: Sequence[Factor]) -> Named:
        """The moment with labels that may still be derived from the plain ones."""
        key, back, plain, memo = self._asked(factors)
        if key not in memo:
            memo[key] = add([joined(p, ()) for p in self._open(plain)])
        return _named(memo[key], back)

    def _open(self, factors: Sequence[Factor]) -> Products:
        """The same, as a sum of products of two arrays where one lacks labels of the other: sums over these are then taken of the latter
        alone, once for all that it is multiplied with."""
        key, back, plain, memo = self._asked(factors)
        if ("open", key) not in memo:
            if self.depth >= _DEPTH:  # Python's stack is shallower than a network may be
                raise _Deep(factors)
            self.depth += 1
            try:
                products = self._products(plain)
                apart = len(products) == 1 and _multiple(products[0]) or len(products) <= _TERMS and all(map(_nested, products))
                memo["open", key] = products if apart else [[add([joined(p, ()) for p in products])]]
            finally:
                self.depth -= 1
        return [[_named(found, back) for found in product] for product in memo["open", key]]

    def sampled(self, factors: Sequence[Factor], beside: Sequence[Named] = (), summed: Sequence[AnyLabel] = ()) -> Named:
        """Expectation by sampling, times what is ``beside`` it and summed: drawn once for all sums, where it has few entries."""
        if (beside or summed) and prod(la.size for la in union(labels for _, labels in factors)) > _FEW:
            return replicates(self, factors, beside, summed).average()
        key, back, plain, memo = self._asked(factors)
        if ("sampled", key) not in memo:
            memo["sampled", key] = replicates(self, plain)
        found = memo["sampled", key]
        return found._replace(rows=tuple(_named(row, back) for row in found.rows)).average(beside, summed)

    def _asked(self, factors: Sequence[Factor]) -> tuple[Any, dict, list[Factor], dict[Any, Any]]:
        """A question in its canonical form, the way back, and where its answer is remembered."""
        key, back, plain = self._canonical(sorted(factors, key=lambda f: f[0].id))
        apart = self.leaf is not None and not any(self.pool.shared_sign(n) for n, _ in factors)
        return key, back, plain, self.other if apart else self.memo

    def _with_diagonal(self, factors: list[Factor], found: Named) -> Named:
        """Where both indices of a covariance agree it is the variance: else rounding would grow where chaos amplifies it."""
        if len(factors) != 2 or factors[0][0] is not factors[1][0] or isinstance(factors[0][0], Leaf | Const) or is_nothing(found):
            return found
        (node, one), (_, two) = factors
        pairs = [(a, b) for a, b in zip(one, two, strict=True) if a != b]
        labels = [label for pair in pairs for label in pair]
        plain = all(isinstance(label, Label) and label.kind == "site" for label in labels)
        if not pairs or not plain or len(set(labels)) != len(labels) or any(la not in found.labels for la in labels):
            return found
        variance = self._indexed([(node, one), (node, one)])
        if not set(variance.labels) <= set(found.labels):
            return found
        xp = namespace(found.array, variance.array)
        equal: Any = True
        for a, b in pairs:
            one, two = (aligned(Named((la,), xp.arange(la.size)), found.labels) for la in (a, b))
            equal = equal & (one == two)
        inner = aligned(variance, [la for la in found.labels if la not in {b for _, b in pairs}])
        shape = iter(inner.shape)
        seconds = {b for _, b in pairs}
        inner = inner.reshape([1 if la in seconds else next(shape) for la in found.labels])
        array = xp.where(equal, scaled(inner, difference(variance.exponent, found.exponent)), found.array)
        return found._replace(array=array, note=Note.largest((found.note, variance.note)))

    def mean_of_sum(self, child: tuple[Node, tuple[int, ...]], summed: Sequence[Dim],
                    dims: Sequence[Dim]) -> tuple[Any, tuple[int, ...], Note]:
        """Mean of a sum over dims as an array, the positions of its axes in ``dims``, and its note."""
        node, index = child
        every = (*dims, *summed)
        labels = [Label(i, every[i].kind, every[i].size) for i in index]
        mean = self.moment([(node, tuple(labels))])
        total = contract([mean], [label for label in labels if label.number >= len(dims)])
        order = sorted(label.number for label in total.labels if isinstance(label, Label))
        by_number = {label.number: label for label in total.labels if isinstance(label, Label)}
        return aligned(total._replace(array=total.plain()), [by_number[n] for n in order]), tuple(order), total.note

    # canonical patterns, so that equal questions are asked once

    def _canonical(self, factors: Sequence[Factor]) -> tuple[Any, dict, list[Factor]]:
        forward: dict[AnyLabel, Label] = {}
        parts = self._parts(factors)
        for _, labels in factors:
            for label in labels:
                if label not in forward:
                    forward[label] = Label(len(forward), "apart" if label in parts else label.kind, label.size)
        delta = len(factors) == 2 and isinstance(factors[0][0], Leaf) and factors[0][0] is factors[1][0]
        if delta:  # keep indices: comparing them beats a full identity matrix
            same = {label: label for label in forward}
            key = tuple((n.id, labels) for n, labels in factors)
            return key, same, list(factors)
        plain: list[Factor] = [(n, tuple(forward[label] for label in labels)) for n, labels in factors]
        return tuple((n.id, labels) for n, labels in plain), {v: k for k, v in forward.items()}, plain

    def _parts(self, factors: Sequence[Factor]) -> set[AnyLabel]:
        """Slices of one channel axis at the same index: channels that never coincide."""
        found = [la for _, labels in factors for la in labels if isinstance(la, Derived) and la.kind == "chan"]
        parts: set[AnyLabel] = set()
        for a, b in itertools.combinations(dict.fromkeys(found), 2):
            if a.size == b.size and a.bases == b.bases:
                if np.intersect1d(a.table, b.table).size:
                    raise Unsound("two overlapping but different slices of one channel axis are combined: channels are not "
                                  "independent then. Slice disjoint or equal ranges.")
                parts |= {a, b}
        return parts

    # the recursion

    def _products(self, factors: list[Factor]) -> Products:
        if _vanishes(factors):
            return []
        fixed, rest = self._fixed(factors)
        if fixed:  # off first, so that what remains is a question asked before
            if not rest:
                return [[*fixed]]
            whole = len(rest) > 1 and not _waits(rest)
            return [[*fixed, *p] for p in (self._open(rest) if whole else self._products(rest))]
        groups = connected(factors, lambda f, g: f[0].leaves & g[0].leaves)  # of different draws, hence independent
        if len(groups) > 1:
            if any(map(_vanishes, groups)):  # weights that are used again are alone although others depend on the same draws
                return []
            return [[f for product in found for f in product] for found in itertools.product(*map(self._factor, groups))]
        if self._costly(factors):
            return [[Drawn(self.sampled, tuple(factors))]]
        # the latest field first: what it adds to earlier ones has weights of its own, and is independent of them
        for i in sorted(range(len(factors)), key=lambda k: -factors[k][0].id):
            node, labels = factors[i]
            rest = factors[:i] + factors[i + 1:]
            reduced = self._reduce(node, labels, rest)
            if reduced is not None:
                return reduced
        taken = [n for n, _ in factors if isinstance(n, Take)]
        if taken and (self._pure(factors) or not all(n.gaussian for n in taken)):
            return [[self._indexed([self._untaken(n, labels) for n, labels in factors])]]
        if any(reads_windows(n) for n, _ in factors):
            found = [indexed(self.pool, n) if reads_windows(n) else None for n, _ in factors]
            if all(f is not None or not reads_windows(n) for f, (n, _) in zip(found, factors, strict=True)):
                return [[self._indexed([x if f is None else _beneath(f, x[1]) for f, x in zip(found, factors, strict=True)])]]
        return self._groups(factors)

    def _costly(self, factors: list[Factor]) -> bool:
        """Whether sums of what is drawn, such as the gradients of a softmax, have too many pairs of terms to be taken apart."""
        terms = [drawn_terms(n) for n, _ in factors]
        if not any(terms) or any(t and isinstance(n, Mul) for t, (n, _) in zip(terms, factors, strict=True)):  # products are opened first
            return False
        return prod(la.size for la in union(labels for _, labels in factors) if la.kind == "site") * prod(t or 1 for t in terms) > _PAIRS

    def _factor(self, group: list[Factor]) -> Products:
        """The moment of one of several independent groups; what is sampled, and products, wait for the others, and for sums over them."""
        waits = _waits(group)
        products = self._products(group) if waits or any(isinstance(n, Sum) and not n.gaussian for n, _ in group) else []
        return products if waits or len(products) == 1 else self._open(group)

    def _fixed(self, factors: Sequence[Factor]) -> tuple[list[Named], list[Factor]]:
        """Constants, also the site-dependent ones inside products, and the rest."""
        fixed: list[Named] = []
        rest: list[Factor] = []
        for node, labels in factors:
            consts, others = self._heads((node, tuple(range(len(labels)))))
            if consts:
                fixed += [f for n, i in consts for f in self._constant(n, tuple(labels[j] for j in i))]
                others = [self.pool.over(others, node.dims, self.pool.mul)] if others else []
            rest += [(n, tuple(labels[j] for j in i)) for n, i in others]
        return fixed, rest

    def _constant(self, node: Node, labels: tuple[AnyLabel, ...]) -> list[Named]:
        """A constant; of multiples of one traced array the number apart, so that products of that are formed once for all of them."""
        (base, where), scale = self.pool.multiples.get(node, (whole(node), None))
        found = Named(tuple(labels[j] for j in where), base.array, note=node.note)  # type: ignore[attr-defined]
        return [found] if scale is None else [found, Named((), np.asarray(scale))]

    def _heads(self, occurrence: Occurrence) -> tuple[list[Occurrence], list[Occurrence]]:
        """The constants among the factors of a product, but for numbers, which belong to what they multiply."""
        node, index = occurrence
        if isinstance(node, Const):
            return [occurrence], []
        if not isinstance(node, Mul) or node.gaussian:
            return [], [occurrence]
        consts, others = [], []
        for child, where in node.children:
            place = (child, tuple(index[j] for j in where))
            found, rest = ([], [place]) if isinstance(child, Const) and not child.dims else self._heads(place)
            consts, others = consts + found, others + rest
        return (consts, others) if consts else ([], [occurrence])

    def _untaken(self, node: Node, labels: tuple[AnyLabel, ...]) -> Factor:
        """Move indexing from the field to the label; done for all factors at once, so that equal slices keep equal labels."""
        if not isinstance(node, Take):
            return node, labels
        return _beneath(Indexed(*node.child, node.axis, node.table, node.position), labels)

    def _reduce(self, node: Node, labels: tuple[AnyLabel, ...], rest: list[Factor]) -> Products | None:
        """Take one linear operation off a factor, if it has one on top."""
        if isinstance(node, Concat):
            return self._split(node, labels, rest)
        opens = isinstance(node, Mul) and (node.gaussian or len(variables(node) or ()) != 1 or _polynomial(node) and self._pure(rest))
        if opens and (not node.gaussian or self._pure(rest) or not is_variable(node)):
            return self._products(rest + [(n, tuple(labels[j] for j in i)) for n, i in node.children])  # type: ignore[attr-defined]
        if node.gaussian and is_variable(node) and not self._pure(rest):
            return None  # stays whole: a variable of a nonlinear expectation
        if isinstance(node, Add) and (node.gaussian or len(variables(node) or ()) != 1):
            return [p for n, i in node.children for p in self._term([*rest, (n, tuple(labels[j] for j in i))])]
        if isinstance(node, Sum) and not any(node.iid):
            if not node.gaussian and any(mixes_sites([f]) and not node.leaves & ~f[0].leaves for f in rest):
                return None  # drawn with what is a function of the same fields
            if node.unweighted:
                raise Unsound("a mean over channels that vanishes as the width grows is all that is left: its size is not known here")
            fresh = self._fresh([labels, *(la for _, la in rest)], node.summed)
            if node.shared:
                fresh = tuple(la._replace(kind="apart") if la.kind == "chan" else la for la in fresh)
            every = (*labels, *fresh)
            inner_factor = (node.child[0], tuple(every[i] for i in node.child[1]))
            return [waiting(p, fresh) for p in self._products([*rest, inner_factor])]
        return None

    def _term(self, factors: list[Factor]) -> Products:
        """One term of a sum: what is sampled, and products, wait, all else is a question of its own."""
        return self._products(factors) if _waits(factors) else self._open(factors)

    def _pure(self, factors: list[Factor]) -> bool:
        """All factors Gaussian: the moment is linear in each of them."""
        return all(n.gaussian or isinstance(n, Const) for n, _ in factors)

    def _fresh(self, groups: Sequence[Sequence[AnyLabel]], dims: Sequence[Dim]) -> tuple[Label, ...]:
        used = [b.number for label in union(groups) for b in bases(label)]
        start = max(used, default=-1) + 1
        return tuple(Label(start + k, d.kind, d.size) for k, d in enumerate(dims))

    def _split(self, node: Concat, labels: tuple[AnyLabel, ...], rest: list[Factor]) -> Products:
        label = labels[node.axis]
        blocks, low = [], 0
        for (part, index), size in zip(node.parts, node.sizes, strict=True):
            (fresh,) = self._fresh([labels, *(la for _, la in rest)], [Dim(label.kind, size)])
            derived = Derived(np.arange(low, low + size), (fresh,), label.size)
            others = []
            for n, la in rest:
                others.append(self._restricted(n, la, label, fresh, derived, low, size))
            here = tuple(fresh if j == node.axis else labels[j] for j in range(len(labels)))
            blocks.append((fresh, self.moment([*others, (part, tuple(here[j] for j in index))])))
            low += size
        return [[stack(label, blocks)]]

    def _restricted(self, node: Node, labels: tuple[AnyLabel, ...], label: AnyLabel, fresh: Label, derived: Derived,
                    low: int, size: int) -> Factor:
        if label not in labels:
            return node, labels
        if labels.count(label) == 1:
            axis = labels.index(label)
            dims = [Dim(d.kind, size) if k == axis else d for k, d in enumerate(node.dims)]
            taken = self.pool.take((node, tuple(range(len(dims)))), axis, np.arange(low, low + size), [axis], dims)
            if len(taken.dims) == len(dims):
                return taken, tuple(fresh if la == label else la for la in labels)
            return taken, tuple(la for la in labels if la != label)[: len(taken.dims)]
        return node, tuple(derived if la == label else la for la in labels)

    # Gaussian groups

    def _groups(self, factors: list[Factor]) -> Products:
        scales, factors = rescaled(factors)
        if scales:
            return [[*scales, *p] for p in self._groups(factors)]
        atoms = [atom_of(n, labels) for n, labels in factors]
        if all(a.linear for a in atoms) and len(atoms) == 2:
            return self._pair(*factors)
        return group_moment(self, atoms)

    def covariance(self, a: Factor, b: Factor) -> Named | None:
        """Covariance of two Gaussian fields, ``None`` where it vanishes identically."""
        found = self._found([self._centred(a), self._centred(b)], self._answered)
        return None if is_nothing(found) else normalised(found) if concrete(found.array) else found

    def in_unit(self, variance: Named) -> Named:
        """A traced variance with a largest entry near 1: one unit for all covariances, which it bounds."""
        key = id(variance.array)
        if key not in self.units:
            self.units[key] = variance, normalised(variance)
        return self.units[key][1]._replace(labels=variance.labels)

    def mean(self, a: Factor) -> Named | None:
        """Mean of a Gaussian field, ``None`` where it vanishes identically, as that of a sum with weights of mean zero does."""
        if a[0].parity.odd or (isinstance(a[0], Sum) and any(a[0].iid)):
            return None
        found = self.moment([a])
        return None if is_nothing(found) else normalised(found)

    def _centred(self, factor: Factor) -> Factor:
        """A Gaussian field less its mean, which may sit in sums of sums."""
        node, labels = factor
        centred = self.pool.separated(node)[1][0] if isinstance(node, Add) and node.id in self.pool.affine else node
        if len(centred.dims) != len(node.dims):
            raise Unsound("a field and its mean vary along different axes")
        return centred, labels

    def _pair(self, a: Factor, b: Factor) -> Products:
        """Covariance of two primitive Gaussian fields."""
        (p, lp), (q, lq) = a, b
        if isinstance(p, Leaf) and isinstance(q, Leaf):
            if p is not q or (self.leaf is not None and p is not self.leaf and self.pool.shared_sign(p)):
                return []
            same = unit(lp, lq)
            return [] if same is None else [[same._replace(array=same.array * p.variance)]]
        if isinstance(p, Leaf) or isinstance(q, Leaf):
            leaf, other = (p, q) if isinstance(p, Leaf) else (q, p)
            assert isinstance(leaf, Leaf)
            known = parity.leaves(other.parity) >> leaf.number & 1
            return self._separate(a, b) if known and isinstance(other, Sum) else []
        if not (isinstance(p, Sum) and isinstance(q, Sum)):
            return []
        outer = _outer(p, q)
        if outer is not None:  # the other one is a field like its terms
            (rest,) = [f for f in (a, b) if f[0] is not outer]
            fresh = self._fresh([lp, lq], outer.summed)
            every = (*(lp if outer is p else lq), *fresh)
            return [[contract([self.moment([rest, (outer.child[0], tuple(every[i] for i in outer.child[1]))])], fresh)]]
        iid_p = [d for d, yes in zip(p.summed, p.iid, strict=True) if yes]
        iid_q = [d for d, yes in zip(q.summed, q.iid, strict=True) if yes]
        if [d.size for d in iid_p] != [d.size for d in iid_q]:
            return self._separate(a, b)
        first = self._fresh([lp, lq], p.summed)
        second = list(self._fresh([lp, lq, first], q.summed))
        shared = iter([la for la, yes in zip(first, p.iid, strict=True) if yes])
        second = [next(shared) if yes else la for la, yes in zip(second, q.iid, strict=True)]
        left = (p.child[0], tuple((*lp, *first)[i] for i in p.child[1]))
        right = (q.child[0], tuple((*lq, *second)[i] for i in q.child[1]))
        dummies = tuple(dict.fromkeys((*first, *second)))
        return [waiting(product, dummies) for product in self._weighted(left, right)]

    def _weighted(self, left: Factor, right: Factor) -> Products:
        """Moment of the terms of two sums. Weights that are used again are the same draws, independent of what both multiply."""
        factors = [(n, tuple(labels[j] for j in i)) for node, labels in (left, right) for n, i in opened(whole(node))]
        weights, rest = reused(self.pool, factors)
        if not weights:
            return self._products([left, right])
        return [[*one, *two] for one in self._products(weights) for two in self._products(rest)]

    def _separate(self, a: Factor, b: Factor) -> Products:
        """Covariance of sums (or of a leaf and a sum) over indices that range independently."""
        terms, groups, dummies = [], [a[1], b[1]], []
        for node, labels in (a, b):
            if isinstance(node, Sum):
                fresh = self._fresh([*groups, dummies], node.summed)
                every = (*labels, *fresh)
                terms.append((node.child[0], tuple(every[i] for i in node.child[1])))
                dummies += fresh
            else:
                terms.append((node, labels))
        return [waiting(product, dummies) for product in self._products(terms)]


def _named(found: Named, names: dict) -> Named:
    labels, *same = ([renamed(label, names) for label in group] for group in (found.labels, *found.same))
    return relabelled(found, labels, [(a, b) for a, b in same])


def _beneath(found: Indexed, labels: tuple[AnyLabel, ...]) -> Factor:
    taken = derived(found.table, [labels[p] for p in found.position], found.body.dims[found.axis].size)
    return found.body, tuple(taken if k == found.axis else labels[j] for k, j in enumerate(found.places))


def _curved(factors: Sequence[Factor]) -> bool:
    """Whether a function of fields is behind the factors; without one rounding stays rounding."""
    waiting, seen = [n for n, _ in factors], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, Map | Reduce):
            return True
        if node.id not in seen:
            seen.add(node.id)
            waiting += [n for n, _ in below(node)]
    return False


def _vanishes(factors: Sequence[Factor]) -> bool:
    return parity.product([node.parity for node, _ in factors]).odd


def _outer(p: Sum, q: Sum) -> Sum | None:
    """The one that sums Gaussian fields, channel by channel, where the other sums draws, or products with weights."""
    found = [s for s in (p, q) if s.child[0].gaussian and not _of_draws(s.child[0])]
    return found[0] if len(found) == 1 else None


def _of_draws(node: Node) -> bool:
    """Whether the node is linear in draws, with fixed coefficients."""
    return parameter_only(node) or (isinstance(node, Add | Mul) and all(isinstance(n, Const) or _of_draws(n) for n, _ in node.children))


def _nested(product: Sequence[Named | Drawn]) -> bool:
    """Whether a product is one of two arrays, beside numbers, and one lacks labels of the other."""
    if any(isinstance(f, Drawn) or f.same for f in product):
        return False
    arrays = [set(f.labels) for f in product if isinstance(f, Named) and f.labels]
    return len(arrays) == 2 and (arrays[0] < arrays[1] or arrays[1] < arrays[0])


def _multiple(product: Sequence[Named | Drawn]) -> bool:
    """Whether a product is one array and numbers, which stay outside of sums over it."""
    known = [f for f in product if isinstance(f, Named)]
    return len(product) > 1 and len(known) == len(product) and sum(bool(f.labels) for f in known) == 1


def _waits(factors: Sequence[Factor]) -> bool:
    """Whether the moment is better left open, for the sums over it: a sampled one, or one that is a product over fewer sites.

    That of multiples of draws is a product of constants, which are summed together: numbers among them stay outside of large sums.
    """
    nodes = [n for n, _ in factors]
    multiples = any(isinstance(n, Mul) for n in nodes) and all(map(_of_draws, nodes))
    return mixes_sites(factors) or (len(factors) == 2 and (multiples or all(map(_splits, nodes))))


@per_node
def _splits(node: Node) -> bool:
    """Whether a Gaussian field sums products of fields of fewer sites, as attention logits do, so that its covariance is one of these."""
    if not node.gaussian or not isinstance(node, Add | Mul | Sum):
        return False
    fields = [n for n, _ in below(node) if not isinstance(n, Const)]
    if isinstance(node, Add) or len(fields) == 1 and not isinstance(fields[0], Mul):
        return all(map(_splits, fields))
    (product,) = fields if len(fields) == 1 else (node,)
    return all(isinstance(n, Const) or (not parameter_only(n) and _sites(n) < _sites(product)) for n, _ in below(product))


def _sites(node: Node) -> int:
    return sum(d.kind == "site" for d in node.dims)


def _polynomial(node: Mul) -> bool:
    """A product of Gaussian fields and constants: its moments follow from covariances."""
    return all(n.gaussian or isinstance(n, Const) for n, _ in node.children)
