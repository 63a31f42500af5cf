"""Joint sampling of the Gaussian fields behind any expression, for expectations that neither a closed form nor quadrature covers.

Dims along which an expression mixes entries (pooling windows, statistics over pixels) are sampled as one block; along all others the
same points serve every entry (common random numbers), so that the cost is that of one small matrix root per entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from sigprop.arrays import namespace
from sigprop.engine.draws import probability
from sigprop.engine.elementwise import is_variable, skewed
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
    resolve,
    stack,
    union,
    varying,
)
from sigprop.engine.nodes import Add, Concat, Const, Leaf, Map, Mul, Node, Sum, Take
from sigprop.errors import Unsound
from sigprop.gaussian import normal_points, square_root
from sigprop.types import METHODS, Note

Factor = tuple[Node, tuple[AnyLabel, ...]]
_BUDGET = 1 << 25  # numbers drawn for one expectation
_REPLICATES = 8
_LARGEST_BLOCK = 2048
_SINGLE = 1 << 13  # numbers drawn for one point beyond which all entries share the fields of whole images
_ENTRIES = 1 << 25  # entries of all covariance matrices together
_FREE = 1_000_000  # numbers of labels that only this file uses


def expectation(query: Any, factors: Sequence[Factor]) -> Named:
    """E of the product of ``factors`` by scrambled Sobol' points; the error is the standard error over independent scramblings."""
    sampler = Sampler(query, factors)
    count = sampler.samples(_BUDGET // _REPLICATES)
    found = []
    for replicate in range(_REPLICATES):
        values = sampler.draw(sampler.points(count, replicate))
        product = contract([sampler.evaluate(n, labels, values) for n, labels in factors], [sampler.point(count)])
        found.append(product._replace(array=product.array / count))
    labels = found[0].labels
    xp = namespace(*(f.array for f in found))
    rows = xp.stack([aligned(f, labels) for f in found])
    mean = xp.mean(rows, 0)
    error = xp.max(xp.std(rows, 0, ddof=1)) / np.sqrt(_REPLICATES)
    scale = xp.max(xp.abs(mean))
    relative = error / xp.where(scale > 0, scale, 1.0)
    return Named(labels, mean, 0, Note.of((sampler.note, Note(float(relative) if xp is np else relative, METHODS.index("sampled")))))


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
        if outer * self.size > _SINGLE or outer * self.size**2 > _ENTRIES:
            self.whole = True
            self._collect(factors)
        if self.size > _LARGEST_BLOCK:
            raise Unsound(f"an expression couples {self.size} entries of Gaussian fields; at most {_LARGEST_BLOCK} can be sampled "
                          "jointly. Use a smaller input or batch, or put a weighted layer in between.")
        self._join()

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
        self.blocks = {v: self._block(v[0], 500 * k) for k, v in enumerate(self.variables)}
        self.sizes = [prod(label.size for label in self.blocks[v]) for v in self.variables]
        self.size = sum(self.sizes)

    def _variable(self, node: Node) -> bool:
        """Where sampling starts."""
        if self.whole:
            return primitive(node)
        return is_variable(node) and (isinstance(node, Leaf) or not skewed(node))

    def _passive(self, node: Node, labels: Sequence[AnyLabel | None]) -> tuple[AnyLabel | None, ...]:
        return tuple(None if k in self.mixed[node] else label for k, label in enumerate(labels))

    def _block(self, node: Node, start: int) -> tuple[Label, ...]:
        dims = [node.dims[k] for k in sorted(self.mixed[node])]
        return tuple(Label(_FREE + start + k, d.kind, d.size) for k, d in enumerate(dims))

    def _labelled(self, variable: tuple[Node, tuple[AnyLabel | None, ...]], block: Sequence[Label]) -> Factor:
        free = iter(block)
        return variable[0], tuple(next(free) if label is None else label for label in variable[1])

    def _join(self) -> None:
        """Covariance ``[*layout, size, size]`` and mean ``[*layout, size]`` of all variables."""
        second = {v: tuple(Label(label.number + _FREE, label.kind, label.size) for label in self.blocks[v]) for v in self.variables}
        cov, mean = {}, {}
        for i, v in enumerate(self.variables):
            centre = self.query.mean(self._labelled(v, self.blocks[v]))
            mean[i] = None if centre is None else varying(centre)
            for j, w in enumerate(self.variables[: i + 1]):
                found = self.query.covariance(self._labelled(v, self.blocks[v]), self._labelled(w, second[w]))
                cov[i, j] = None if found is None else varying(dense(found))
        known = [n for n in (*cov.values(), *mean.values()) if n is not None]
        self.note = Note.largest(n.note for n in known)
        block = {label for v in self.variables for label in (*self.blocks[v], *second[v])}
        self.layout = tuple(label for label in union(n.labels for n in known) if label not in block)
        xp = namespace(*(n.plain() for n in known))
        rows = []
        for i, v in enumerate(self.variables):
            row = []
            for j, w in enumerate(self.variables):
                named = cov[max(i, j), min(i, j)]
                sides = (*self.blocks[v], *second[w]) if i >= j else (*second[v], *self.blocks[w])
                row.append(self._flat(xp, named, sides, (self.sizes[i], self.sizes[j])))
            rows.append(row)
        shape = np.broadcast_shapes(*(a.shape[:-2] for row in rows for a in row))
        self.cov = xp.concatenate([xp.concatenate([xp.broadcast_to(a, (*shape, *a.shape[-2:])) for a in row], -1) for row in rows], -2)
        centres = [self._flat(xp, mean[i], self.blocks[v], (self.sizes[i],)) for i, v in enumerate(self.variables)]
        self.mean = xp.concatenate([xp.broadcast_to(a, (*np.broadcast_shapes(*(c.shape[:-1] for c in centres)), a.shape[-1]))
                                    for a in centres], -1)
        self.root = square_root(self.cov)

    def _flat(self, xp: Any, named: Named | None, sides: Sequence[Label], shape: tuple[int, ...]) -> Any:
        if named is None:
            return xp.zeros((1,) * len(self.layout) + shape)
        full = aligned(named._replace(array=named.plain()), (*self.layout, *sides))
        lead = full.shape[: len(self.layout)]
        return xp.broadcast_to(full, (*lead, *(label.size for label in sides))).reshape(*lead, *shape)

    def samples(self, budget: int, least: int = 64) -> int:
        """A power of two of points such that their values fit ``budget``."""
        entries = int(np.prod(self.cov.shape[:-1], dtype=int))
        return 1 << int(np.clip(np.log2(max(budget / entries, 1.0)), np.log2(least), 11 if self.whole else 13))

    def points(self, count: int, replicate: int) -> np.ndarray:
        return normal_points(count, self.size, replicate)

    def point(self, count: int) -> Label:
        return Label(2 * _FREE - 1, "site", count)

    def draw(self, z: np.ndarray) -> dict[Any, Named]:
        """Values of each variable at standard normal points ``[count, size]``."""
        xp = namespace(self.root, self.mean)
        u = self.mean + xp.moveaxis(xp.tensordot(self.root, z, axes=((-1,), (1,))), -1, 0)
        values, low = {}, 0
        for v, size in zip(self.variables, self.sizes, strict=True):
            part = u[..., low:low + size]
            part = part.reshape(*part.shape[:-1], *(label.size for label in self.blocks[v]))
            kept = [k for k, label in enumerate(self.layout) if part.shape[1 + k] == label.size and label.size > 1]
            shape = (len(z), *(self.layout[k].size for k in kept), *part.shape[1 + len(self.layout):])
            if isinstance(v[0], Leaf) and v[0].draw.quantile is not None:
                part = v[0].draw.quantile(probability(part / v[0].variance**0.5))
            values[v] = Named((self.point(len(z)), *(self.layout[k] for k in kept), *self.blocks[v]), part.reshape(shape))
            low += size
        return values

    # values of expressions on samples

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
            return found._replace(labels=tuple(names.get(la, la) for la in found.labels))  # type: ignore[call-overload]
        if isinstance(node, Add | Mul | Map):
            args = [self._evaluate(n, tuple(labels[j] for j in i), values, memo) for n, i in node.children]
            return _combined(node, args)
        if isinstance(node, Sum):
            fresh = self._fresh(labels, [d.size for d in node.summed])
            every = (*labels, *fresh)
            inner = self._evaluate(node.child[0], tuple(every[i] for i in node.child[1]), values, memo)
            return contract([inner], fresh)
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
        used = [b.number for la in labels for b in bases(la) if b.number >= 3 * _FREE]
        start = max(used, default=3 * _FREE) + 1
        return [Label(start + k, "site", n) for k, n in enumerate(sizes)]


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
    elif isinstance(node, Add | Mul | Map):
        for child, index in node.children:
            _walk(child, tuple(labels[j] for j in index), stop, found)
    elif isinstance(node, Sum):
        every = (*labels, *[None] * len(node.summed))
        _walk(node.child[0], tuple(every[i] for i in node.child[1]), stop, found)
    elif isinstance(node, Take):
        child, index = node.child
        _walk(child, tuple(None if j == node.axis else labels[index[j]] for j in range(len(index))), stop, found)
    else:
        assert isinstance(node, Concat)
        for part, index in node.parts:
            _walk(part, tuple(None if j == node.axis else labels[j] for j in index), stop, found)


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
