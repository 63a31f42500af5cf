"""Joint sampling of the Gaussian fields behind any expression, for expectations that neither a closed form nor quadrature covers.

Dims along which an expression mixes entries (pooling windows, statistics over pixels) are sampled as one block; along all others the
same points serve every entry (common random numbers), so that the cost is that of one small matrix root per entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from sigprop.arrays import concrete, namespace
from sigprop.engine.draws import probability
from sigprop.engine.elementwise import is_variable, skewed
from sigprop.engine.groups import connected
from sigprop.engine.labels import (
    AnyLabel,
    Label,
    Named,
    add,
    aligned,
    bases,
    contract,
    dense,
    derived,
    own_labels,
    relabelled,
    renamed,
    resolve,
    stack,
    union,
    varying,
)
from sigprop.engine.nodes import Add, Concat, Const, Leaf, Map, Mul, Node, Reduce, Sum, Take, below, whole
from sigprop.engine.tails import covariance_note
from sigprop.errors import Unsound
from sigprop.gaussian import normal_points, square_root
from sigprop.types import METHODS, Note

Factor = tuple[Node, tuple[AnyLabel, ...]]
Variable = tuple[Node, tuple[AnyLabel | None, ...]]
_BUDGET = 1 << 25  # numbers drawn for one expectation
_MIXED = 1 << 23  # where whole images or sequences are drawn
REPLICATES = 8
_FEWER = 4  # times fewer points where it is repeated with other scramblings
_LARGEST_BLOCK = 2048
_SINGLE = 1 << 13  # numbers drawn for one point beyond which all entries share the fields of whole images
_ENTRIES = 1 << 25  # entries of all covariance matrices together
_REMEMBERED = 1 << 29  # bytes of what was drawn from the last joint laws
_FREE = 1_000_000  # numbers of labels that only this file uses


class Replicates(NamedTuple):
    """An expectation by each of several independent scramblings of the points, and the note of the laws that were sampled."""

    rows: tuple[Named, ...]
    note: Note

    def average(self, beside: Sequence[Named] = (), summed: Sequence[AnyLabel] = ()) -> Named:
        """Their mean, times the known arrays ``beside`` it and summed over ``summed``; the error is the standard error over scramblings."""
        found = [dense(contract([row, *beside], summed)) for row in self.rows] if beside or summed else self.rows
        labels = found[0].labels
        xp = namespace(*(f.array for f in found))
        rows = xp.stack([aligned(f, labels) for f in found])
        mean = xp.mean(rows, 0)
        error = xp.max(xp.std(rows, 0, ddof=1)) / np.sqrt(REPLICATES)
        scale = xp.max(xp.abs(mean))
        relative = error / xp.where(scale > 0, scale, 1.0)
        own = Note(float(relative) if xp is np else relative, METHODS.index("sampled"))
        return Named(labels, mean, found[0].exponent, Note.of((self.note, *(b.note for b in beside), own)))


def replicates(query: Any, factors: Sequence[Factor], beside: Sequence[Named] = (), summed: Sequence[AnyLabel] = ()) -> Replicates:
    """E of the product of ``factors`` by scrambled Sobol' points.

    The product with the known arrays ``beside`` is summed over ``summed`` point by point, so that the expectation of all entries is
    never formed.
    """
    sampler = Sampler(query, factors)
    count = sampler.budgeted()
    found = []
    for replicate in range(REPLICATES):
        evaluated = [sampler.at(n, labels, count, replicate) for n, labels in factors]
        product = dense(contract([*evaluated, *beside], [sampler.point(count), *summed]))
        found.append(product._replace(array=product.array / count))
    return Replicates(tuple(found), sampler.note)


class Group(NamedTuple):
    """Correlated variables: their rows side by side, as a linear map of normal numbers, for each of the independent ``copies``.

    ``root`` is ``[*layout, copies, rows, rows]`` and ``mean`` ``[*layout, copies, rows]``, with one copy for all where they have one law.
    """

    variables: tuple[Variable, ...]
    sizes: tuple[int, ...]
    copies: tuple[Label, ...]
    root: Any
    mean: Any

    @property
    def numbers(self) -> int:
        """Drawn for one point."""
        return sum(self.sizes) * prod(label.size for label in self.copies)

    def draw(self, z: np.ndarray) -> Any:
        """``[count, *layout, rows, copies]`` at standard normal ``[count, numbers]``."""
        xp = namespace(self.root, self.mean)
        z = z.reshape(len(z), sum(self.sizes), -1)
        if self.root.shape[-3] == 1:
            found = xp.moveaxis(xp.tensordot(self.root[..., 0, :, :], z, axes=((-1,), (1,))), -2, 0)
        else:
            found = xp.einsum("...cij,pjc->p...ic", self.root, z)
        return xp.swapaxes(self.mean, -1, -2) + found


class Joint(NamedTuple):
    """The joint law of some variables; what was drawn from it, by number of points and replicate, and what fields are there."""

    copied: dict[Variable, tuple[int, ...]]
    groups: list[Group]
    layout: tuple[AnyLabel, ...]
    note: Note
    draws: dict[tuple[int, int], dict[Any, Named]]
    fields: dict[tuple[int, int, Node, tuple[AnyLabel, ...]], Named]

    @property
    def bytes(self) -> int:
        return sum(n.array.nbytes for n in (*(n for values in self.draws.values() for n in values.values()), *self.fields.values()))


class Sampler:
    """The Gaussian variables behind ``factors``: which they are, their joint covariance, and the factors' values on samples.

    Moments need the joint law of what is multiplied only; ``joint`` gives that of all entries, channels too.
    """

    def __init__(self, query: Any, factors: Sequence[Factor], joint: bool = False) -> None:
        self.query, self.joint = query, joint
        self.note = Note()
        self.whole = False
        self._collect(factors)
        outer = 1 if joint else prod(label.size for label in union(labels for _, labels in factors) if label.kind == "site")
        if outer * self.size > _SINGLE or outer * self._rows() ** 2 > _ENTRIES or self._combinations():
            self.whole = True
            self._collect(factors)
        self.widest = max(prod(label.size for label in labels if label.kind == "site") for _, labels in factors)
        self._join()

    def _combinations(self) -> bool:
        """Whether a field is drawn beside all entries of what it combines, as deviations from a mean beside the variance are."""
        entire = {node for node, mixed in self.mixed.items() if mixed and mixed >= {k for k, d in enumerate(node.dims) if d.kind == "site"}}
        for node in self.mixed.keys() - entire:
            behind: Occurrences = {}
            _walk(node, own_labels(node), primitive, behind)
            if any(n in entire for n, _ in behind):
                return True
        return False

    def _collect(self, factors: Sequence[Factor]) -> None:
        """Find the variables: one by one entry of the sites, or (``whole``) all sites of the primitive fields at once."""
        occurrences: dict[tuple[Node, tuple[AnyLabel | None, ...]], None] = {}
        for node, labels in factors:
            _walk(node, labels, self._variable, occurrences)
        self.mixed: dict[Node, set[int]] = {}
        for node, labels in occurrences:
            self.mixed.setdefault(node, set()).update(
                k for k, label in enumerate(labels) if label is None or self.joint or (self.whole and node.dims[k].kind == "site"))
        self.variables = list(dict.fromkeys((node, self._passive(node, labels)) for node, labels in occurrences))
        self.copied = {v: _copied(v[0], self.mixed[v[0]]) for v in self.variables}
        self._label()

    def _label(self) -> None:
        """Labels of the entries of each variable: correlated ones, and (``copies``) channels that are independent copies."""
        self.blocks = {v: self._block(v, 500 * k) for k, v in enumerate(self.variables)}
        self.rows = {v: tuple(la for la in self.blocks[v] if la.number < 2 * _FREE) for v in self.variables}
        self.copies = {v: tuple(la for la in self.blocks[v] if la.number >= 2 * _FREE) for v in self.variables}
        self.size = sum(prod(label.size for label in self.blocks[v]) for v in self.variables)

    def _rows(self) -> int:
        return sum(prod(label.size for label in rows) for rows in self.rows.values())

    def _variable(self, node: Node) -> bool:
        """Where sampling starts."""
        if self.whole:
            return primitive(node)
        return is_variable(node) and (isinstance(node, Leaf) or not skewed(node))

    def _passive(self, node: Node, labels: Sequence[AnyLabel | None]) -> tuple[AnyLabel | None, ...]:
        return tuple(None if k in self.mixed[node] else label for k, label in enumerate(labels))

    def _block(self, variable: Variable, start: int) -> tuple[Label, ...]:
        node, copied = variable[0], self.copied[variable]
        return tuple(Label(2 * _FREE + copied.index(k) if k in copied else _FREE + start + k, *node.dims[k])
                     for k in sorted(self.mixed[node]))

    def _labelled(self, variable: Variable, block: Sequence[Label]) -> Factor:
        free = iter(block)
        return variable[0], tuple(next(free) if label is None else label for label in variable[1])

    def _join(self) -> None:
        """Groups of correlated variables, the covariance and mean of each: found once for expectations that ask for the same ones."""
        known, key = self.query.joint, (tuple(self.variables), tuple(self.blocks.values()))
        if key not in known:
            self._correlate()
            known[key] = Joint(self.copied, self.groups, self.layout, self.note, {}, {})
        known[key] = known.pop(key)  # the last one used is forgotten last
        while len(known) > 1 and sum(j.bytes for j in known.values()) > _REMEMBERED:
            del known[next(iter(known))]
        self.copied, self.groups, self.layout, self.note, self.draws, self.fields = known[key]
        self._label()

    def _correlate(self) -> None:
        cov, mean = self._covariances()
        known = [n for n in (*cov.values(), *mean.values()) if n is not None]
        errors = [covariance_note(n, cov[i, i], cov[j, j]) for (i, j), n in cov.items() if n is not None]
        self.note = Note.largest([*errors, *(n.note for n in mean.values() if n is not None)])
        block = {label for v in self.variables for label in (*self.blocks[v], *_shifted(self.blocks[v]))}
        self.layout = tuple(label for label in union(n.labels for n in known) if label not in block)
        groups = connected(range(len(self.variables)), lambda i, j: cov[i, j] is not None)
        self.groups = [self._group(members, cov, mean) for members in groups]
        largest = max((g.root.shape[-1] for g in self.groups), default=0)
        if largest > _LARGEST_BLOCK:
            raise Unsound(f"an expression couples {largest} entries of Gaussian fields; at most {_LARGEST_BLOCK} can be sampled "
                          "jointly. Use a smaller input or batch, or put a weighted layer in between.")

    def _covariances(self) -> tuple[dict[tuple[int, int], Named | None], dict[int, Named | None]]:
        """Of all pairs of variables. Channels are copies only if no other channel of a variable is correlated with them."""
        cov, mean = {}, {}
        for i, v in enumerate(self.variables):
            centre = self.query.mean(self._labelled(v, self.blocks[v]))
            mean[i] = None if centre is None else varying(centre)
            for j, w in enumerate(self.variables[: i + 1]):
                alike = [la.size for la in self.copies[v]] == [la.size for la in self.copies[w]]
                found = self.query.covariance(self._labelled(v, self.blocks[v]), self._labelled(w, _shifted(self.blocks[w], alike)))
                cov[i, j] = None if found is None else varying(dense(found))
                copies = (*self.copies[v], *self.copies[w])
                if found is not None and copies and i != j and not (alike and self._separate(v, w)):
                    self.copied[v] = self.copied[w] = ()
                    self._label()
                    return self._covariances()
        return cov, mean

    def _separate(self, v: Variable, w: Variable) -> bool:
        """Whether different channels of two variables are uncorrelated."""
        apart = [la._replace(number=la.number + _FREE // 2, kind="apart") if la in self.copies[w] else la
                 for la in _shifted(self.blocks[w], True)]
        found = self.query.covariance(self._labelled(v, self.blocks[v]), self._labelled(w, apart))
        return found is None or (concrete(found.array) and not np.any(found.array))

    def _group(self, members: Sequence[int], cov: dict[tuple[int, int], Named | None], mean: dict[int, Named | None]) -> Group:
        """Covariance ``[*layout, copies, size, size]`` and mean ``[*layout, copies, size]`` of some variables."""
        found = [self.variables[i] for i in members]
        sizes = [prod(label.size for label in self.rows[v]) for v in found]
        pairs = [cov[max(i, j), min(i, j)] for i in members for j in members]
        xp = namespace(*(n.plain() for n in (*pairs, *(mean[i] for i in members)) if n is not None))
        rows = []
        for i, v, one in zip(members, found, sizes, strict=True):
            row = []
            for j, w, two in zip(members, found, sizes, strict=True):
                sides = (*self.rows[v], *_shifted(self.rows[w])) if i >= j else (*_shifted(self.rows[v]), *self.rows[w])
                row.append(self._flat(xp, cov[max(i, j), min(i, j)], self.copies[v], sides, (one, two)))
            rows.append(row)
        shape = np.broadcast_shapes(*(a.shape[:-2] for row in rows for a in row))
        array = xp.concatenate([xp.concatenate([xp.broadcast_to(a, (*shape, *a.shape[-2:])) for a in row], -1) for row in rows], -2)
        centres = [self._flat(xp, mean[i], self.copies[v], self.rows[v], (size,)) for i, v, size in zip(members, found, sizes, strict=True)]
        lead = np.broadcast_shapes(*(c.shape[:-1] for c in centres))
        centre = xp.concatenate([xp.broadcast_to(a, (*lead, a.shape[-1])) for a in centres], -1)
        return Group(tuple(found), tuple(sizes), self.copies[found[0]], square_root(array), centre)

    def _flat(self, xp: Any, named: Named | None, copies: Sequence[Label], sides: Sequence[Label], shape: tuple[int, ...]) -> Any:
        if named is None:
            return xp.zeros((1,) * (len(self.layout) + 1) + shape)
        full = aligned(named._replace(array=named.plain()), (*self.layout, *copies, *sides))
        lead = full.shape[: len(self.layout)]
        alike = prod(full.shape[len(lead):len(lead) + len(copies)]) == 1  # not under rotary positions: each channel has its angle
        each = [1 if alike else label.size for label in copies]
        return xp.broadcast_to(full, (*lead, *each, *(label.size for label in sides))).reshape(*lead, prod(each), *shape)

    def samples(self, budget: int, least: int = 64) -> int:
        """A power of two of points such that their values fit ``budget``."""
        entries = max(sum(g.numbers * prod(g.root.shape[:-3]) for g in self.groups), self.widest)
        return 1 << int(np.clip(np.log2(max(budget / max(entries, 1), 1.0)), np.log2(least), 11 if self.whole else 13))

    def budgeted(self) -> int:
        """Points of one of the ``REPLICATES`` of an expectation."""
        budget = (_MIXED if self.whole else _BUDGET) // REPLICATES
        return self.samples(budget // _FEWER if self.query.scrambling else budget)

    def points(self, count: int, replicate: int) -> np.ndarray:
        return normal_points(count, self.size, replicate + REPLICATES * self.query.scrambling)

    def drawn(self, count: int, replicate: int) -> dict[Any, Named]:
        """Values of each variable at the points of a replicate."""
        if (count, replicate) not in self.draws:
            self.draws[count, replicate] = self.draw(self.points(count, replicate))
        return self.draws[count, replicate]

    def point(self, count: int) -> Label:
        return Label(2 * _FREE - 1, "site", count)

    def draw(self, z: np.ndarray) -> dict[Any, Named]:
        """Values of each variable at standard normal points ``[count, size]``."""
        values, low = {}, 0
        for group in self.groups:
            found = group.draw(z[:, low:low + group.numbers])
            low += group.numbers
            start = 0
            for v, size in zip(group.variables, group.sizes, strict=True):
                part = found[..., start:start + size, :]
                start += size
                lead = part.shape[1:-2]
                kept = [k for k, label in enumerate(self.layout) if lead[k] == label.size and label.size > 1]
                labels = (self.point(len(z)), *(self.layout[k] for k in kept), *self.rows[v], *self.copies[v])
                if isinstance(v[0], Leaf) and v[0].draw.quantile is not None:
                    part = v[0].draw.quantile(probability(part / v[0].variance**0.5))
                values[v] = Named(labels, part.reshape([label.size for label in labels]))
        return values

    # values of expressions on samples

    def at(self, node: Node, labels: tuple[AnyLabel, ...], count: int, replicate: int) -> Named:
        """The field at the points of a replicate, evaluated once for all labels that do not tell variables apart."""
        fixed = {b for _, passive in self.variables for label in passive if label is not None for b in bases(label)}
        free = [b for b in union(bases(label) for label in labels) if b not in fixed]
        names: dict[AnyLabel, AnyLabel] = {b: b._replace(number=6 * _FREE + k) for k, b in enumerate(free)}  # type: ignore[union-attr]
        key = (count, replicate, node, tuple(renamed(label, names) for label in labels))
        if key not in self.fields:
            self.fields[key] = self.evaluate(node, key[-1], self.drawn(count, replicate))
        back = {new: old for old, new in names.items()}
        found = self.fields[key]
        return relabelled(found, [renamed(label, back) for label in found.labels])

    def evaluate(self, node: Node, labels: tuple[AnyLabel, ...], values: dict[Any, Named]) -> Named:
        """The field at the given labels; the first axis ranges over the points."""
        return self._evaluate(node, labels, values, {})

    def _evaluate(self, node: Node, labels: tuple[AnyLabel, ...], values: dict[Any, Named], memo: dict) -> Named:
        key = (node, labels)
        if key not in memo:
            memo[key] = resolve(self._value(node, labels, values, memo))
        return memo[key]

    def _value(self, node: Node, labels: tuple[AnyLabel, ...], values: dict[Any, Named], memo: dict) -> Named:
        if isinstance(node, Const):
            return Named(labels, node.array)
        if self._variable(node):
            variable = (node, self._passive(node, labels))
            names = dict(zip(self.blocks[variable], [labels[k] for k in sorted(self.mixed[node])], strict=True))
            found = values[variable]
            return relabelled(found, [names.get(la, la) for la in found.labels])  # type: ignore[call-overload]
        if isinstance(node, Add | Mul | Map):
            args = [self._evaluate(n, tuple(labels[j] for j in i), values, memo) for n, i in node.children]
            return _combined(node, args)
        if isinstance(node, Sum | Reduce):
            fresh = self._fresh(labels, [d.size for d in node.summed])
            every = (*labels, *fresh)
            child, where = node.child[0], tuple(every[i] for i in node.child[1])
            if isinstance(node, Reduce):
                return _reduced(node, self._evaluate(child, where, values, memo), fresh)
            factors = child.children if isinstance(child, Mul) else [whole(child)]
            return contract([self._evaluate(n, tuple(where[j] for j in i), values, memo) for n, i in factors], fresh)
        if isinstance(node, Take):
            child, index = node.child
            (fresh,) = self._fresh(labels, [child.dims[node.axis].size])
            inner = self._evaluate(child, tuple(fresh if j == node.axis else labels[index[j]] for j in range(len(index))), values, memo)
            taken = derived(node.table, [labels[p] for p in node.position], fresh.size)
            return inner._replace(labels=tuple(taken if la == fresh else la for la in inner.labels))
        assert isinstance(node, Concat)
        pieces = []
        for (part, index), size in zip(node.parts, node.sizes, strict=True):
            (fresh,) = self._fresh(labels, [size])
            inner = self._evaluate(part, tuple(fresh if j == node.axis else labels[j] for j in index), values, memo)
            pieces.append((fresh, inner))
        return stack(labels[node.axis], pieces)

    def _fresh(self, labels: Sequence[AnyLabel], sizes: Sequence[int]) -> list[Label]:
        """Numbers that neither the field nor what was drawn beside it has."""
        used = [b.number for la in (*labels, *self.layout) for b in bases(la) if b.number >= 3 * _FREE]
        start = max(used, default=3 * _FREE) + 1
        return [Label(start + k, "site", n) for k, n in enumerate(sizes)]


def _reduced(node: Reduce, found: Named, over: Sequence[Label]) -> Named:
    found = resolve(found)
    kept = tuple(label for label in found.labels if label not in over)
    array = aligned(found._replace(array=found.plain()), (*kept, *(la for la in over if la in found.labels)))
    return Named(kept, node.function(array, tuple(range(len(kept), array.ndim))), note=found.note)


def _copied(node: Node, mixed: set[int]) -> tuple[int, ...]:
    """Those of the dims ``mixed`` along which entries are independent copies."""
    return tuple(k for k in sorted(mixed) if node.dims[k].kind == "chan" and node.parity.odd_along(k))


def _shifted(labels: Sequence[Label], alike: bool = True) -> tuple[Label, ...]:
    """Of a second variable in a covariance: other rows, the same copies if they are ``alike``."""
    return tuple(la._replace(number=la.number + (_FREE // 2 if la.number < 2 * _FREE else 0 if alike else 1000)) for la in labels)


def primitive(node: Node) -> bool:
    """A Gaussian field that is no combination of others; indexing of channels gives another field."""
    channels = isinstance(node, Take) and all(node.dims[p].kind == "chan" for p in node.position)
    return node.gaussian and (isinstance(node, Sum | Leaf) or channels)


Occurrences = dict[tuple[Node, tuple[AnyLabel | None, ...]], None]


def _walk(node: Node, labels: tuple[AnyLabel | None, ...], stop: Callable[[Node], bool], found: Occurrences) -> None:
    """Fields behind ``node`` at which to ``stop``; the label ``None`` stands for an index that ranges over the whole dim."""
    if isinstance(node, Const):
        return
    if stop(node):
        found[node, labels] = None
        return
    every = (*labels, *[None] * len(getattr(node, "summed", ())))
    cut = node.axis if isinstance(node, Take | Concat) else None  # of a part it is where the parent's is
    for child, index in below(node):
        mixed = [j == cut if isinstance(node, Take) else i == cut for j, i in enumerate(index)]
        _walk(child, tuple(None if m else every[i] for m, i in zip(mixed, index, strict=True)), stop, found)


def sources(node: Node, labels: tuple[AnyLabel, ...]) -> tuple[Factor, ...]:
    """The Gaussian fields behind ``node``, with labels of their own along dims that it mixes."""
    found: Occurrences = {}
    _walk(node, labels, is_variable, found)
    out = []
    for n, (field, own) in enumerate(found):
        free = (Label(4 * _FREE + 100 * n + k, d.kind, d.size) for k, d in enumerate(field.dims))
        out.append((field, tuple(f if label is None else label for f, label in zip(free, own, strict=True))))
    return tuple(out)


def shares(node: Node, channels: Sequence[int]) -> bool:
    """Whether some Gaussian field or draw behind ``node`` is not independent between its dims ``channels``."""
    labels = own_labels(node)
    found: Occurrences = {}
    _walk(node, labels, primitive, found)
    return any(not any(isinstance(la, Label) and la.number in channels and n.parity.odd_along(k) for k, la in enumerate(own))
               for n, own in found)


def _combined(node: Add | Mul | Map, args: list[Named]) -> Named:
    if isinstance(node, Add):
        return add(args)
    labels = union(a.labels for a in args)
    arrays = [aligned(a, labels) for a in args]
    if isinstance(node, Map):
        return Named(labels, node.function(*arrays))
    out = arrays[0]
    for a in arrays[1:]:
        out = out * a
    return Named(labels, out)
