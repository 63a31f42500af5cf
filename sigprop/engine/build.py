"""Constructors: the only way to make nodes. They hash-cons and keep a normal form.

Normal form: constants are gathered at the front of products, indexing is pushed towards the leaves, elementwise operations are pushed
into concatenations, sums over channels with a mean are replaced by that mean (law of large numbers).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.arrays import concrete, host, namespace, same_array
from sigprop.engine import parity
from sigprop.engine.draws import Draw
from sigprop.engine.elementwise import is_variable, variables
from sigprop.engine.factoring import factored
from sigprop.engine.means import Means
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
    Tails,
    Take,
    joint_tails,
    opened,
    placed,
    whole,
)
from sigprop.engine.parity import Parity, Slice
from sigprop.engine.reuse import entries_read
from sigprop.types import EXACT, Note

if TYPE_CHECKING:
    from sigprop.engine.query import Query


EVEN = Parity()
TAME = Tails()


def _seen(children: Sequence[Occurrence]) -> list[Parity]:
    """Parities of the children in terms of the parent's dims."""
    return [node.parity.moved(index) for node, index in children]


def _over(node: Node, index: Sequence[int], used: Sequence[int], dims: Sequence[Dim]) -> Any:
    """The array of a constant with one axis for each of the dims ``used``."""
    assert isinstance(node, Const)
    xp = namespace(node.array)
    return xp.reshape(xp.transpose(node.array, np.argsort(index)), [dims[d].size if d in index else 1 for d in used])


def _terms(child: Occurrence) -> list[Occurrence]:
    return placed(child[0].children, child[1]) if isinstance(child[0], Add) else [child]


def _like(terms: Sequence[tuple[Occurrence, int]]) -> list[list[tuple[Occurrence, int]]]:
    """Terms in groups that differ by a constant factor only; constants are left apart."""
    groups: dict[Any, list[tuple[Occurrence, int]]] = {}
    for term in terms:
        rest = sorted((n.id, i) for n, i in opened(term[0]) if not isinstance(n, Const))
        groups.setdefault(tuple(rest) if rest else len(groups), []).append(term)
    return list(groups.values())


class Pool:
    """Owns the nodes of one interpretation; ``query`` answers the means that the law of large numbers asks for."""

    def __init__(self) -> None:
        self.nodes: dict[Any, Node] = {}
        self.flips: dict[Any, int] = {}  # number of each sign that can be flipped: of a leaf, or of several at once
        self.sums: dict[Any, Node] = {}
        self.parts: dict[Node, tuple[Occurrence, Occurrence]] = {}
        self.signs = 0  # those of several leaves, as bits
        self.fewest: dict[int, int] = {}  # size of the smallest axis of a leaf by number, 0 for a vector
        self.means = Means()
        self.affine: set[int] = set()  # sums with a term of another order in the width (a deterministic one), however deep
        self.originals: dict[Node, Node] = {}  # of copies of weights that are used again, transposed
        self.transposed: dict[Leaf, Leaf] = {}  # those copies
        self.uses: dict[Leaf, list[Leaf]] = {}  # of leaves that are used again, as they were: with copies tied to them
        self.alive: list[Any] = []  # traced constants are keyed by identity and must outlive the key
        self.multiples: dict[Node, tuple[Occurrence, float]] = {}  # traced constants that are a number times another one
        self.query: Query

    def _intern(self, kind: type, identity: tuple, dims: Sequence[Dim], *, parity: Parity = EVEN, gaussian: bool = False,
                tails: Tails = TAME, **fields: Any) -> Any:
        full = (kind, tuple(dims), identity)
        if full not in self.nodes:
            leaves = 1 << fields["number"] if kind is Leaf else 0
            for node, _ in fields.get("children") or fields.get("parts") or [c for c in [fields.get("child")] if c]:
                leaves |= node.leaves
            self.nodes[full] = kind(len(self.nodes), tuple(dims), leaves, parity, gaussian, tails, **fields)
        return self.nodes[full]

    # leaves and constants

    def leaf(self, key: Any, shape: Sequence[int], draw: Draw, sign: str | None = None, sites: int = 0) -> Node:
        """Independent draws, of which the first dims are ``sites``.

        Leaves of one ``sign`` are also flipped all at once, a symmetry that outlives any number of them.
        """
        number = self.flips.setdefault((key, *shape), len(self.flips))
        common = None if sign is None else self.flips.setdefault(sign, len(self.flips))
        self.signs |= 0 if common is None else 1 << common
        self.fewest[number] = 0 if len(shape) < 2 else min(shape)
        dims = [Dim("site" if k < sites else "chan", n) for k, n in enumerate(shape)]
        return self._intern(Leaf, (key,), dims, parity=parity.leaf(number, len(shape), common), gaussian=True, number=number, draw=draw)

    def transposed_copy(self, leaf: Leaf) -> Leaf:
        """Independent draws like ``leaf``, for where it is used again, transposed."""
        made = self.leaf(("transposed", leaf.number), [d.size for d in leaf.dims], leaf.draw)
        assert isinstance(made, Leaf)
        self.originals[made] = leaf
        self.transposed[leaf] = made
        return made

    def tied_copies(self, leaf: Leaf) -> Iterator[Leaf]:
        """``leaf``, and the copies of it for each time that it is used again."""
        original = leaf.tied or leaf
        uses = self.uses.setdefault(original, [original])
        for level in itertools.count():
            if level == len(uses):
                key = ("again", original.number, level)
                number = self.flips.setdefault(key, len(self.flips))
                uses.append(self._intern(Leaf, key, original.dims, parity=original.parity, gaussian=True, number=number,
                                         draw=original.draw, tied=original))
                if original in self.originals:
                    self.originals[uses[-1]] = self.originals[original]
            yield uses[level]

    def uses_of(self, leaf: Leaf) -> list[Leaf]:
        """The copies made so far."""
        return self.uses.get(leaf.tied or leaf, [leaf])

    def const(self, array: Any, dims: Sequence[Dim], note: Note = EXACT) -> Node:
        array = host(array)
        if not concrete(array):
            self.alive.append(array)
        return self._intern(Const, (same_array(array),), dims, array=array, note=note)

    # elementwise operations

    def add(self, children: Sequence[Occurrence], dims: Sequence[Dim]) -> Node:
        return self._sum([c for c in children if not self.is_zero(c[0])], dims)

    def _sum(self, children: Sequence[Occurrence], dims: Sequence[Dim], distributed: bool = False) -> Node:
        """A sum; what has been ``distributed`` over its terms stays so."""
        children = self._collected(self._gathered(children, dims), dims)
        children = self.means.kept(children if distributed else factored(self, children, dims), dims, self.signs)
        if any(isinstance(c[0], Concat) for c in children):
            return self.into_concat(children, dims, self.add)
        if not children:
            return self.const(np.zeros(()), ())
        if len(children) == 1 and (self._identity(children[0], dims) or isinstance(children[0][0], Const)):
            return self._lift(children[0], dims)
        children = sorted(children, key=lambda c: c[0].id)
        random = [c for c in children if not isinstance(c[0], Const)]
        key = tuple((c[0].id, c[1]) for c in children)
        made = self._intern(Add, key, dims, parity=parity.total(_seen(children)), gaussian=all(c[0].gaussian for c in random),
                            tails=joint_tails(random), children=tuple(children))
        if len(random) < len(children) or any(c[0].id in self.affine for c in random):
            self.affine.add(made.id)
        return made

    def mul(self, children: Sequence[Occurrence], dims: Sequence[Dim], within: bool = False) -> Node:
        """A product; ``within`` a sum its constants are not what makes a mean of the sum."""
        # a function of one variable stays whole beside other random factors: its expectation is one integral
        many = sum(not isinstance(c[0], Const) for c in children) > 1
        # and a field scaled site by site under a number, so that functions of it and of its multiples have one variable
        plain = not many and all(not c[0].dims for c in children if isinstance(c[0], Const))

        def factors(child: Occurrence) -> list[Occurrence]:
            node, index = child
            if not isinstance(node, Mul) or (many and len(variables(node) or ()) == 1) or (plain and node.gaussian and is_variable(node)):
                return [child]
            return [f for c in placed(node.children, index) for f in factors(c)]

        flat = [f for child in children for f in factors(child)]
        if any(isinstance(c[0], Concat) for c in flat):
            made = self.into_concat(flat, dims, self.mul)
            for part, _ in getattr(made, "parts", ()):
                self.means.inherit(part, sum(self.means.order(n) for n, _ in children))
            return made
        random = sorted((c for c in flat if not isinstance(c[0], Const)), key=lambda c: c[0].id)
        consts = [c for c in flat if isinstance(c[0], Const)]
        if any(self.is_zero(c[0]) for c in consts):
            return self.const(np.zeros(()), ())
        head = [self._merge(consts, dims)] if consts else []
        if head and not head[0][0].dims and self._is_one(head[0][0]):
            head = []
        if not random:
            return self._lift(head[0], dims) if head else self.const(np.ones(()), ())
        if not head and len(random) == 1 and self._identity(random[0], dims):
            return random[0][0]
        if head and len(random) == 1 and random[0][0].id in self.affine:
            parts = placed(self.separated(random[0][0]), random[0][1])  # type: ignore[arg-type]
            if any(n is random[0][0] for n, _ in parts):  # no constant in it: its terms are of different orders
                return self.distributed(head, random[0], dims)
            return self.add([self.over([*head, part], dims, self.mul) for part in parts], dims)
        key = tuple((c[0].id, c[1]) for c in head + random)
        made = self._intern(Mul, key, dims, parity=parity.product(_seen(random)),
                            gaussian=len(random) == 1 and random[0][0].gaussian,
                            tails=joint_tails(random), children=tuple(head + random))
        self.means.product(made, [n for n, _ in children], within)
        return made

    def separated(self, node: Add) -> tuple[Occurrence, Occurrence]:
        """The deterministic terms of a sum, however deep, and the sum without them."""
        if node not in self.parts:
            consts, others = [], []
            for child, index in node.children:
                inner = self.separated(child) if isinstance(child, Add) and child.id in self.affine else (whole(child),)
                for part in placed(inner, index):
                    (consts if isinstance(part[0], Const) else others).append(part)
            rest = self.add(others, node.dims)
            self.parts[node] = (self.over(consts, node.dims, self.add), (rest, tuple(range(len(node.dims)))))
        return self.parts[node]

    def distributed(self, factors: Sequence[Occurrence], total: Occurrence, dims: Sequence[Dim]) -> Node:
        """The product of ``factors`` and of a sum, as a sum of products."""
        node, index = total
        assert isinstance(node, Add)
        return self._sum([self.over([*factors, term], dims, self.mul) for term in placed(node.children, index)], dims, distributed=True)

    def _gathered(self, children: Sequence[Occurrence], dims: Sequence[Dim]) -> list[Occurrence]:
        """Constants hidden in nested sums join those of this one, so that ``u + c - c`` is ``u`` and keeps its sign symmetry."""
        consts = [c for c in children if isinstance(c[0], Const)]
        random = [c for c in children if not isinstance(c[0], Const)]
        if not consts:
            return list(children)
        out = []
        for node, index in random:
            if isinstance(node, Add) and any(isinstance(n, Const) for n, _ in node.children):
                moved = placed(node.children, index)
                consts += [c for c in moved if isinstance(c[0], Const)]
                out.append(self.over([c for c in moved if not isinstance(c[0], Const)], dims, self.add))
            else:
                out.append((node, tuple(index)))
        if len(consts) == 1:
            return [*out, *consts]
        used = sorted({d for _, index in consts for d in index})
        total: Any = 0.0
        for node, index in consts:
            total = total + _over(node, index, used, dims)
        note = Note.of(c.note for c, _ in consts)  # type: ignore[attr-defined]
        size = max(float(np.max(np.abs(c.array))) if concrete(c.array) else 0.0 for c, _ in consts)  # type: ignore[attr-defined]
        if concrete(total) and float(np.max(np.abs(total))) <= 1e-7 * size:  # float32 constants that cancel
            return out
        return [*out, (self.const(np.broadcast_to(total, [dims[d].size for d in used]) if concrete(total) else total,
                                  [dims[d] for d in used], note), tuple(used))]

    def _collected(self, children: Sequence[Occurrence], dims: Sequence[Dim]) -> list[Occurrence]:
        """Like terms as one, so that what cancels is gone: the squared mean in a variance ``E x^2 - (E x)^2``.

        Sums among the children are opened only where a term of theirs cancels.
        """
        like = _like([(c, k) for k, c in enumerate(children)])
        every = [(t, k) for k, c in enumerate(children) for t in (_terms(c) if len(children) > 1 else [c])]
        if len(every) > len(children):
            found = _like(every)
            gone = {k for group in found for _, k in group if len(group) > 1 and self._combined([t for t, _ in group], dims) is None}
            if gone:
                return self._collected([t for t, k in every if k in gone] + [c for k, c in enumerate(children) if k not in gone], dims)
        out = []
        for group in like:
            total = self._combined([c for c, _ in group], dims) if len(group) > 1 else group[0][0]
            out += [] if total is None else [total]
        return out

    def _combined(self, like: Sequence[Occurrence], dims: Sequence[Dim]) -> Occurrence | None:
        """The sum of terms that differ by a constant factor, ``None`` where it vanishes."""
        one = (self.const(np.ones(()), ()), ())
        parts = [opened(c) for c in like]
        coefficients = [self._merge([one, *(f for f in factors if isinstance(f[0], Const))], dims) for factors in parts]
        total = self._gathered(coefficients, dims)
        if not total or self.is_zero(total[0][0]):
            return None
        found = self.over([*total, *(f for f in parts[0] if not isinstance(f[0], Const))], dims, self.mul)
        self.means.inherit(found[0], min(self.means.order(n) for n, _ in like))
        return found

    def map(self, name: str, function: Callable[..., Any], children: Sequence[Occurrence], dims: Sequence[Dim],
            key: Any, symmetry: str | None = None) -> Node:
        if any(isinstance(c[0], Concat) for c in children):
            return self.into_concat(children, dims, lambda c, d: self.map(name, function, c, d, key, symmetry))
        random = [c for c in children if not isinstance(c[0], Const)]
        if not random:
            return self._constant(function, children, dims)
        found = parity.product(_seen(random)) if len(random) == 1 else parity.total([p.unknown() for p in _seen(random)])
        if len(random) == 1 and symmetry != "odd":
            found = _seen(random)[0].even() if symmetry == "even" else found.unknown()
        full = (name, key, *((c[0].id, c[1]) for c in children))
        return self._intern(Map, full, dims, parity=found, tails=joint_tails(random),
                            name=name, function=function, children=tuple(children), key=key, symmetry=symmetry)

    def _constant(self, function: Callable[..., Any], consts: Sequence[Occurrence], dims: Sequence[Dim]) -> Node:
        """A function of constants alone, such as the deterministic part of a concatenation."""
        every = range(len(dims))
        array = function(*(_over(node, index, every, dims) for node, index in consts))
        xp = namespace(array)
        return self.const(xp.broadcast_to(array, [d.size for d in dims]), dims, Note.of(c.note for c, _ in consts))  # type: ignore[attr-defined]

    # indexing

    def take(self, child: Occurrence, axis: int, table: Any, position: Sequence[int], dims: Sequence[Dim]) -> Node:
        """Index dim ``axis`` of ``child`` by ``table``; the child's other dims sit at ``child[1]`` in the new node."""
        node, index = child
        position = tuple(position)
        if isinstance(node, Add | Mul | Map):
            moved = []
            for sub, where in node.children:
                if axis in where:
                    moved.append(self._take_in(sub, where, index, axis, table, position, dims))
                else:
                    moved.append((sub, tuple(index[j] for j in where)))
            if isinstance(node, Map):
                return self.map(node.name, node.function, moved, dims, node.key, node.symmetry)
            made = (self.add if isinstance(node, Add) else self.mul)(moved, dims)
            self.means.inherit(made, self.means.order(node))
            return made
        if isinstance(node, Const):
            return self._take_const(node, index, axis, table, position, dims)
        if isinstance(node, Concat) and axis != node.axis:
            along = index[node.axis]
            parts = []
            for (part, where), size in zip(node.parts, node.sizes, strict=True):
                local = [d._replace(size=size) if k == along else d for k, d in enumerate(dims)]
                parts.append(self._take_in(part, where, index, axis, table, position, local) if axis in where
                             else (part, tuple(index[j] for j in where)))
            return self.concat(parts, node.sizes, along, dims)
        if isinstance(node, Concat):
            return self._take_concat(node, index, axis, np.asarray(table), position, dims)
        if isinstance(node, Reduce) or (isinstance(node, Sum) and not (node.gaussian or node.shared or any(node.iid))):
            every = [*dims, *node.summed]
            moved = (*index, *range(len(dims), len(every)))
            inner = self._take_in(*node.child, moved, axis, table, position, every)
            return self.reduce(node.name, node.function, inner, node.summed, dims) if isinstance(node, Reduce) else (
                self.sum(inner, node.summed, dims))
        if isinstance(node, Take) and axis in node.position and concrete(node.table) and concrete(table):
            joined = self._retaken(node, index, axis, table, position, dims)
            if joined is not None:
                return joined
        key = (node.id, index, axis, same_array(table), position)
        distinct = concrete(table) and np.unique(np.asarray(table)).size == np.size(table)
        self.alive.append(table)
        found = self._sliced(node, axis, np.asarray(table)) if distinct and np.size(table) < node.dims[axis].size else node.parity
        return self._intern(Take, key, dims, parity=found.indexed(index, axis, position, distinct), gaussian=node.gaussian,
                            tails=node.tails.indexed(index, axis, position), child=(node, tuple(index)), axis=axis, table=table,
                            position=position)

    def _sliced(self, node: Node, axis: int, table: np.ndarray) -> Parity:
        """Parity of some entries along ``axis``, with slices in the place of the leaves whose entries they read."""
        found = node.parity
        for leaf, where, entries in entries_read(node, axis, table):
            number = (leaf.tied or leaf).number
            if axis in found.dims.get(number, ()):
                part = Slice(number, where, np.unique(entries).astype(np.int64).tobytes())
                found = found.sliced(number, self.flips.setdefault(part, len(self.flips)), part)
        return found

    def _retaken(self, node: Take, index: Sequence[int], axis: int, table: Any, position: tuple[int, ...],
                 dims: Sequence[Dim]) -> Node | None:
        """Indexing of what was indexed, as one look-up; none at all where it undoes the first."""
        child, inner = node.child
        if any(j == axis for k, j in enumerate(inner) if k != node.axis):
            return None  # the dim is also that of another axis of the child
        places = [(k, index[p]) for k, p in enumerate(node.position) if p != axis]
        out = sorted({p for _, p in places} | set(position))
        grids: list[Any] = [None] * len(node.position)
        for k, p in places:
            grids[k] = np.arange(node.table.shape[k]).reshape([-1 if d == p else 1 for d in out])
        grids[node.position.index(axis)] = np.transpose(table, np.argsort(position)).reshape(
            [dims[d].size if d in position else 1 for d in out])
        combined = np.asarray(node.table)[tuple(grids)]
        where = tuple(index[j] if j >= 0 else -1 for j in inner)
        if combined.ndim == 1 and np.array_equal(combined, np.arange(child.dims[node.axis].size)):
            return self._lift((child, tuple(out[0] if k == node.axis else w for k, w in enumerate(where))), dims)
        return self.take((child, where), node.axis, combined, out, dims)

    def _take_in(self, sub: Node, where: tuple[int, ...], index: Sequence[int], axis: int, table: Any,
                 position: Sequence[int], dims: Sequence[Dim]) -> Occurrence:
        """Index a child of an elementwise node: build it over the parent's dims that it varies along."""
        own = where.index(axis)
        outer = [index[j] if j != axis else None for j in where]
        used = sorted({o for o in outer if o is not None} | set(position))
        local = {d: k for k, d in enumerate(used)}
        inner = tuple(-1 if o is None else local[o] for o in outer)
        node = self.take((sub, inner), own, table, [local[p] for p in position], [dims[d] for d in used])
        return self._occurrence(node, used)

    def _occurrence(self, node: Node, used: Sequence[int]) -> Occurrence:
        assert len(node.dims) in (0, len(used))
        return node, tuple(used[:len(node.dims)])

    def _take_const(self, node: Const, index: Sequence[int], axis: int, table: Any, position: Sequence[int],
                    dims: Sequence[Dim]) -> Node:
        xp = namespace(node.array, table)
        array = xp.take(xp.asarray(node.array), xp.asarray(table), axis=axis)
        places = [*index[:axis], *position, *index[axis + 1:]]  # a place may be that of another dim too: then both are equal
        out = sorted(set(places))
        return self.const(xp.einsum(array, places, out), [dims[p] for p in out], node.note)

    def _take_concat(self, node: Concat, index: Sequence[int], axis: int, table: np.ndarray, position: Sequence[int],
                     dims: Sequence[Dim]) -> Node:
        edges = np.cumsum([0, *node.sizes])
        flat = table.reshape(-1)
        part = int(np.searchsorted(edges, flat[0], side="right") - 1)
        if flat.min() >= edges[part] and flat.max() < edges[part + 1]:
            sub, where = node.parts[part]
            if axis not in where:
                return self._lift((sub, tuple(index[j] for j in where)), dims)
            if flat.size == node.sizes[part] and table.ndim == 1 and np.array_equal(flat, np.arange(edges[part], edges[part + 1])):
                return self._lift((sub, tuple(position[0] if j == axis else index[j] for j in where)), dims)
            return self._lift(self._take_in(sub, where, index, axis, table - edges[part], position, dims), dims)
        terms = []
        for p, (sub, where) in enumerate(node.parts):
            inside = (table >= edges[p]) & (table < edges[p + 1])
            if not inside.any():
                continue
            mask = self.const(inside.astype(float), [dims[d] for d in position])
            clipped = np.clip(table - edges[p], 0, node.sizes[p] - 1)
            body = (self._take_in(sub, where, index, axis, clipped, position, dims) if axis in where
                    else (sub, tuple(index[j] for j in where)))
            terms.append(self.over([(mask, tuple(position)), body], dims, self.mul))
        return self.add(terms, dims)

    def over(self, children: Sequence[Occurrence], dims: Sequence[Dim], build: Callable[..., Node]) -> Occurrence:
        """Build a node over just the dims of ``dims`` that its children vary along."""
        used = sorted({d for _, index in children for d in index})
        local = {d: k for k, d in enumerate(used)}
        node = build([(n, tuple(local[d] for d in i)) for n, i in children], [dims[d] for d in used])
        return self._occurrence(node, used) if len(node.dims) == len(used) else (node, tuple(used[: len(node.dims)]))

    # concatenation

    def concat(self, parts: Sequence[Occurrence], sizes: Sequence[int], axis: int, dims: Sequence[Dim]) -> Node:
        key = (tuple((n.id, i) for n, i in parts), tuple(sizes), axis)
        others = [d for d in range(len(dims)) if d != axis]
        return self._intern(Concat, key, dims, parity=parity.total(_seen(parts)).kept(others),
                            tails=joint_tails(parts), parts=tuple(parts), sizes=tuple(sizes),
                            axis=axis)

    def into_concat(self, children: Sequence[Occurrence], dims: Sequence[Dim], build: Callable[..., Node]) -> Node:
        node, index = next(c for c in children if isinstance(c[0], Concat))
        assert isinstance(node, Concat)
        axis, edges = index[node.axis], np.cumsum([0, *node.sizes])
        parts = []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            local = list(dims)
            local[axis] = Dim(dims[axis].kind, int(high - low))
            sliced = []
            for sub, where in children:
                if axis in where:
                    own = where.index(axis)
                    sub_dims = [Dim(d.kind, int(high - low)) if k == own else d for k, d in enumerate(sub.dims)]
                    sub_node = self.take((sub, tuple(range(len(where)))), own, np.arange(low, high), [own], sub_dims)
                    where = where if len(sub_node.dims) == len(where) else tuple(w for w in where if w != axis)
                    sliced.append((sub_node, where[: len(sub_node.dims)]))
                else:
                    sliced.append((sub, where))
            parts.append(self.over(sliced, local, build))
        return self.concat(parts, node.sizes, axis, dims)

    # sums

    def sum(self, child: Occurrence, summed: Sequence[Dim], dims: Sequence[Dim]) -> Node:
        """Sum ``child`` over the index positions past ``len(dims)``."""
        from sigprop.engine.sums import build_sum  # it needs this class

        return build_sum(self, child, tuple(summed), tuple(dims))

    def reduce(self, name: str, function: Callable[..., Any], child: Occurrence, summed: Sequence[Dim], dims: Sequence[Dim]) -> Node:
        """``function(array, axes)`` over the index positions past ``len(dims)``."""
        node, index = child
        return self._intern(Reduce, (name, node.id, tuple(index), tuple(summed)), dims, parity=node.parity.moved(index).unknown(),
                            tails=node.tails.moved(index).kept(range(len(dims))), child=(node, tuple(index)), summed=tuple(summed),
                            name=name, function=function)

    # small helpers

    def _lift(self, occurrence: Occurrence, dims: Sequence[Dim]) -> Node:
        """A node whose dims are exactly ``dims`` (or fewer when it does not vary): permute if needed."""
        node, index = occurrence
        if self._identity(occurrence, dims):
            return node
        if isinstance(node, Const):
            order = np.argsort(index)
            shape = [dims[d].size if d in index else 1 for d in range(len(dims))]
            xp = namespace(node.array)
            array = xp.reshape(xp.transpose(node.array, order), shape)
            return self.const(xp.broadcast_to(array, [d.size for d in dims]), dims, node.note)
        made = self._intern(Add, ((node.id, tuple(index)),), dims, parity=node.parity.moved(index), gaussian=node.gaussian,
                            tails=node.tails.moved(index), children=((node, tuple(index)),))
        if node.id in self.affine:
            self.affine.add(made.id)
        return made

    def _identity(self, occurrence: Occurrence, dims: Sequence[Dim]) -> bool:
        return tuple(occurrence[1]) == tuple(range(len(dims)))

    def is_zero(self, node: Node) -> bool:
        return isinstance(node, Const) and concrete(node.array) and not np.any(np.asarray(node.array))

    def _is_one(self, node: Node) -> bool:
        return isinstance(node, Const) and concrete(node.array) and bool(np.all(np.asarray(node.array) == 1))

    def _merge(self, consts: Sequence[Occurrence], dims: Sequence[Dim]) -> Occurrence:
        used = sorted({d for _, index in consts for d in index})
        xp = namespace(*(c.array for c, _ in consts))  # type: ignore[attr-defined]
        out: Any = 1.0
        for node, index in consts:
            out = out * _over(node, index, used, dims)
        out = xp.broadcast_to(out, [dims[d].size for d in used])
        note = Note.of(c.note for c, _ in consts)  # type: ignore[attr-defined]
        made = self.const(out, [dims[d] for d in used], note)
        self._note_multiple(made, used, consts)
        return made, tuple(used)

    def _note_multiple(self, made: Node, used: Sequence[int], consts: Sequence[Occurrence]) -> None:
        """Remember a traced constant that is a number times one that was there before."""
        traced = [c for c in consts if not concrete(c[0].array)]  # type: ignore[attr-defined]
        numbers = [c[0].array for c in consts if concrete(c[0].array)]  # type: ignore[attr-defined]
        if len(traced) == 1 and made is not traced[0][0] and all(np.size(a) == 1 for a in numbers):
            ((node, index),) = traced
            base, scale = self.multiples.get(node, (whole(node), 1.0))
            where = tuple(used.index(index[j]) for j in base[1])
            self.multiples[made] = (base[0], where), scale * float(np.prod([np.float64(a).item() for a in numbers]))

    def shared_sign(self, node: Node) -> bool:
        """Whether the node depends on leaves that are flipped all at once, as derivatives do."""
        return bool(parity.leaves(node.parity) & self.signs)
