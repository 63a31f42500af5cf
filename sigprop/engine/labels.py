"""Index labels of a query and arrays whose axes carry them.

Asking for the moment of fields means giving each dim of each field a label: a repeated label is the same index, distinct labels
range independently (the outer product). An array that does not vary along a label simply lacks it. Kronecker deltas stay symbolic
until somebody needs the whole array: between channels of two wide layers they would not fit. A common power of two is kept
apart from the array, so that a thousand layers neither overflow nor underflow, and with it how the numbers were obtained.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import opt_einsum

from sigprop.arrays import concrete, namespace, power, same_array, scaled
from sigprop.engine.groups import connected
from sigprop.engine.nodes import Node
from sigprop.errors import Unsound
from sigprop.types import EXACT, Note

_LARGEST = 1 << 28  # entries of one array of moments


class Label(NamedTuple):
    """A plain index: ``number`` tells labels of one query apart.

    ``kind`` is that of the dim, or ``"apart"``: two such labels stand for channels that never coincide.
    """

    number: int
    kind: str
    size: int


class Derived:
    """The index ``table[bases]`` into a dim of ``size``; equal tables on equal bases are the same index."""

    __slots__ = ("bases", "key", "kind", "size", "table")

    def __init__(self, table: Any, bases: tuple[Label, ...], size: int) -> None:
        self.table, self.bases, self.size = table, bases, size
        kinds = {b.kind for b in bases}
        self.kind = "apart" if "apart" in kinds else "chan" if kinds == {"chan"} else "site"
        self.key = (same_array(table), bases, size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Derived) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


AnyLabel = Label | Derived


def own_labels(node: Node) -> tuple[Label, ...]:
    """A label for each dim of a field, numbered in their order."""
    return tuple(Label(k, d.kind, d.size) for k, d in enumerate(node.dims))


def derived(table: Any, labels: Sequence[AnyLabel], size: int) -> Derived:
    """The index ``table[labels]``, where the labels may be derived themselves."""
    if all(isinstance(label, Label) for label in labels):
        return Derived(table, tuple(labels), size)  # type: ignore[arg-type]
    out = union(bases(label) for label in labels)
    places = [aligned(Named(bases(la), la.table if isinstance(la, Derived) else np.arange(la.size)), out) for la in labels]
    xp = namespace(table, *places)
    return Derived(xp.asarray(table)[tuple(places)], out, size)  # type: ignore[arg-type]


def renamed(label: AnyLabel, names: Mapping[AnyLabel, AnyLabel]) -> AnyLabel:
    if isinstance(label, Derived):
        return derived(label.table, [names.get(b, b) for b in label.bases], label.size)
    return names.get(label, label)


class Named(NamedTuple):
    """``array * 2**exponent``, whose axis ``i`` is indexed by ``labels[i]``; ``note`` holds its relative error and its method.

    ``same`` are pairs of labels: the numbers vanish unless the two indices of each pair are equal. The second is never in ``labels``.
    """

    labels: tuple[AnyLabel, ...]
    array: Any
    exponent: Any = 0
    note: Note = EXACT
    same: tuple[tuple[AnyLabel, AnyLabel], ...] = ()

    def plain(self) -> Any:
        """The array itself; may overflow or underflow."""
        return scaled(self.array, self.exponent)


def bases(label: AnyLabel) -> tuple[Label, ...]:
    return label.bases if isinstance(label, Derived) else (label,)


def union(groups: Iterable[Sequence[AnyLabel]]) -> tuple[AnyLabel, ...]:
    """All labels, each once, in order of appearance."""
    return tuple(dict.fromkeys(label for group in groups for label in group))


def aligned(named: Named, labels: Sequence[AnyLabel]) -> Any:
    """The array, without its exponent, with axes in the order of ``labels``, of length 1 where it does not vary."""
    named = dense(named)
    xp = namespace(named.array)
    if not named.labels:
        return xp.reshape(named.array, (1,) * len(labels))
    order = [label for label in labels if label in named.labels]
    array = xp.transpose(named.array, [named.labels.index(label) for label in order])
    sizes = iter(array.shape)
    return array.reshape([next(sizes) if label in named.labels else 1 for label in labels])


def total(exponents: Sequence[Any]) -> Any:
    """Their sum; one that is alone stays the same object, by which traced exponents are known to be equal."""
    some = [e for e in exponents if not (isinstance(e, int) and e == 0)]
    return some[0] if len(some) == 1 else sum(some)


def difference(one: Any, two: Any) -> Any:
    return 0 if one is two else one - two


def multiply(factors: Sequence[Named]) -> Named:
    factors, _, same = _merged(factors, ())
    labels = union(f.labels for f in factors)
    _fits(labels)
    out: Any = np.ones(())
    for factor in factors:
        out = out * aligned(factor, labels)
    return Named(labels, out, total([f.exponent for f in factors]), Note.of(f.note for f in factors), same)


def _fits(labels: Sequence[AnyLabel]) -> None:
    if prod(label.size for label in labels) > _LARGEST:
        sizes = " x ".join(str(label.size) for label in labels)
        raise Unsound(f"moments between all pairs of entries would take an array of {sizes} numbers: ask with a smaller batch, "
                      "image or width, or put a weighted layer in between")


# deltas

def _merged(factors: Sequence[Named], summed: Iterable[AnyLabel]) -> tuple[list[Named], set[AnyLabel], tuple]:
    """Factors without deltas, since labels that are equal became one; with the labels left to sum, and the deltas left over."""
    gone, same, name = set(summed), [], {}
    for group in _classes(pair for f in factors for pair in f.same):
        kept = [label for label in group if label not in gone] or group[:1]
        name.update((label, kept[0]) for label in group)
        gone -= set(group) - {kept[0]}
        same += [(kept[0], label) for label in kept[1:]]
    return [_renamed(f, name) for f in factors] if name else list(factors), gone, tuple(same)


def _classes(pairs: Iterable[tuple[AnyLabel, AnyLabel]]) -> list[list[AnyLabel]]:
    """Sets of labels that the pairs make equal, each in one order whatever that of the pairs."""
    groups = [set().union(*g) for g in connected(pairs, lambda a, b: not set(a).isdisjoint(b))]
    return [sorted(g) for g in groups]  # type: ignore[type-var]


def _renamed(named: Named, name: dict[AnyLabel, AnyLabel]) -> Named:
    return relabelled(named._replace(same=()), [name.get(label, label) for label in named.labels])


def relabelled(named: Named, labels: Sequence[AnyLabel], same: Iterable[tuple[AnyLabel, AnyLabel]] = ()) -> Named:
    """With other labels and deltas; axes of one label become one, its diagonal."""
    labels, array = list(labels), named.array
    for label in set(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            array = array.diagonal(axis1=first, axis2=second)
            labels = [la for k, la in enumerate(labels) if k not in (first, second)] + [label]
    return named._replace(labels=tuple(labels), array=array, same=tuple((a, b) for a, b in same if a != b))


def dense(named: Named) -> Named:
    """The same numbers with no delta left: an axis for each label.

    Raises:
        Unsound: where the array would be too large to hold.
    """
    if not named.same:
        return named
    deltas = [_delta(*pair) for pair in named.same]
    return multiply([named._replace(same=()), *deltas])


def varying(named: Named) -> Named:
    """Without the channel labels along which concrete numbers are all the same, as indexing leaves them."""
    if not concrete(named.array):
        return named
    constant = [k for k, la in enumerate(named.labels) if la.kind != "site" and (named.array == named.array.take([0], k)).all()]
    labels = tuple(la for k, la in enumerate(named.labels) if k not in constant)
    return named._replace(labels=labels, array=named.array[tuple(0 if k in constant else slice(None) for k in range(named.array.ndim))])


def _delta(a: AnyLabel, b: AnyLabel) -> Named:
    out = union([bases(a), bases(b)])
    _fits(out)
    left, right = (aligned(Named(bases(x), x.table if isinstance(x, Derived) else np.arange(x.size)), out) for x in (a, b))
    return Named(out, (left == right) * 1.0)


NOTHING = Named((), np.zeros(()))  # the moment that vanishes identically


def is_nothing(named: Named) -> bool:
    return named.array is NOTHING.array


def add(terms: Sequence[Named]) -> Named:
    terms = [t for t in terms if not is_nothing(t)]
    if not terms:
        return NOTHING
    if len(terms) == 1:
        return terms[0]
    if any(set(t.labels) != set(terms[0].labels) for t in terms):
        terms = [resolve(t) for t in terms]
    same = terms[0].same
    if any(t.same != same for t in terms):
        terms, same = [dense(t) for t in terms], ()
    terms = [t._replace(same=()) for t in terms]
    labels = union(t.labels for t in terms)
    _fits(labels)
    exponent = _largest([t.exponent for t in terms])
    arrays = [scaled(aligned(t, labels), difference(t.exponent, exponent)) for t in terms]
    out: Any = 0.0
    for array in arrays:
        out = out + array
    shape = tuple(label.size for label in labels)
    return Named(labels, namespace(out).broadcast_to(out, shape), exponent, _note_of_sum([t.note for t in terms], arrays, out), same)


def _note_of_sum(notes: Sequence[Note], arrays: Sequence[Any], total: Any) -> Note:
    """Absolute errors add, entry by entry; where the terms are traced, relative ones are compared as if the terms were alike."""
    rough = Note.largest(notes)
    if not all(isinstance(note.error, float) for note in notes) or not all(map(concrete, arrays)) or rough.error == 0:
        return rough
    top = float(np.max(np.abs(total), initial=0.0))
    if top == 0:
        return rough
    sizes = list(map(np.abs, arrays))
    error, bias = (float(np.max(sum(e * size for e, size in zip(errors, sizes, strict=True)), initial=0.0)) / top
                   for errors in ([n.error for n in notes], [n.bias for n in notes]))
    return rough._replace(error=error, bias=bias)


def _largest(exponents: Sequence[Any]) -> Any:
    if all(isinstance(e, int) for e in exponents):
        return max(exponents)
    out = exponents[0]
    for e in exponents[1:]:
        out = out if e is out else jnp.maximum(out, e)
    return out


def normalised(named: Named) -> Named:
    """The same numbers with a largest entry near 1. Exponents are even, so that standard deviations have one too."""
    array, old = named.array, named.exponent
    if concrete(array) and isinstance(old, int):
        top = float(np.max(np.abs(array), initial=0.0))
        if not 0 < top < np.inf:
            return named._replace(exponent=0)
        size = int(np.frexp(top)[1]) + old
        new = 0 if abs(size) < 64 else 2 * (size // 2)
        return named if new == old else named._replace(array=scaled(array, old - new), exponent=new)
    top = jnp.max(jnp.abs(array))
    size = jnp.log2(jnp.maximum(top, jnp.finfo(top.dtype).tiny)).astype(int)  # rounded: any power of two near the top will do
    new = jnp.where(top > 0, (size + old) >> 1 << 1, 0)
    return named._replace(array=array * power(old - new, array.dtype), exponent=new)


def contract(factors: Sequence[Named], summed: Sequence[AnyLabel]) -> Named:
    """Sum the product of ``factors`` over labels in one planned einsum, never forming the outer product first.

    Labels derived from others stay as they are where nothing else has a part in these.
    """
    return NOTHING if any(map(is_nothing, factors)) else _contracted(*_plain(factors, summed))


def unlinked(factors: Sequence[Named], summed: Sequence[AnyLabel]) -> list[Named]:
    """The same sum as a product of arrays, of which none is an outer product of others: what shares no summed label stays apart."""
    if any(map(is_nothing, factors)):
        return [NOTHING]
    plain, left, same = _plain(factors, summed)
    groups = connected(plain, lambda f, g: left & set(f.labels) & set(g.labels))
    within = [left & set(union(f.labels for f in group)) for group in groups]
    found = [_contracted(group, labels, ()) for group, labels in zip(groups, within, strict=True)]
    lost = left.difference(*within)  # labels that nothing has: a number, which stays apart as all numbers do
    return [*found, _contracted([], lost, same)] if lost or same or not found else found


def _plain(factors: Sequence[Named], summed: Sequence[AnyLabel]) -> tuple[list[Named], set[AnyLabel], tuple]:
    """Factors without windows or deltas, the labels left to sum, and the deltas left over."""
    from sigprop.engine.windows import without_windows  # it needs ``contract``

    factors, summed = without_windows(_apart(factors), summed)
    return _merged(_settled(factors, summed), summed)


def _contracted(factors: Sequence[Named], summed: set[AnyLabel], same: tuple) -> Named:
    present = union(f.labels for f in factors)
    note, exponent = Note.of(f.note for f in factors), total([f.exponent for f in factors])
    scale: Any = float(np.prod([label.size for label in summed if label not in present], dtype=float))
    keep = tuple(label for label in present if label not in summed)
    _fits(keep)
    for factor in factors:
        if not factor.labels:
            scale = scale * factor.array
    arrays = [f for f in factors if f.labels]
    if not arrays:
        return Named((), np.ones(()) * scale, exponent, note, same)
    if len(arrays) == 1:
        axes = tuple(i for i, label in enumerate(arrays[0].labels) if label in summed)
        out = _summed(arrays[0].array, axes) if axes else arrays[0].array
        kept = tuple(label for label in arrays[0].labels if label not in summed)
        return Named(kept, _times(out, scale), exponent, note, same)
    widest = max(arrays, key=lambda f: len(f.labels)).labels
    if len(widest) < len(present):  # the order in which matrix products are made; others leave the largest array as it lies
        keep = tuple(sorted(keep, key=lambda label: -sum(label in f.labels for f in arrays)))
    else:
        keep = tuple(label for label in widest if label in keep)
    letter = {label: string.ascii_letters[i] for i, label in enumerate(present)}
    spec = ",".join("".join(letter[label] for label in f.labels) for f in arrays)
    spec += "->" + "".join(letter[label] for label in keep)
    return Named(keep, _times(_einsum(spec, [f.array for f in arrays]), scale), exponent, note, same)


def _einsum(spec: str, values: list[Any]) -> Any:
    """Pair by pair in opt_einsum's order."""
    if len(values) > 2:
        for taken, _, step, *_ in opt_einsum.contract_path(spec, *values, optimize="auto")[1].contraction_list:
            values.append(_pair(step, [values.pop(k) for k in taken]))
        return values[0]
    return _pair(spec, values)


def _pair(spec: str, values: list[Any]) -> Any:
    """As matrix products, batch axes and all, but where they would only be products with vectors: a plain loop copies nothing."""
    sides, kept = spec.split("->")
    one, *two = sides.split(",")
    matrices = bool(two) and set(kept) - set(two[0]) and set(kept) - set(one)
    if namespace(*values) is np:
        return np.einsum(spec, *values, optimize=bool(matrices))
    if matrices:
        return jnp.einsum(spec, *values, precision="highest")
    every = kept + "".join(dict.fromkeys(a for a in one + "".join(two) if a not in kept))
    wide = [_spread(a, side, every) for a, side in zip(values, (one, *two), strict=True)]
    return _summed(wide[0] * wide[1] if two else wide[0], tuple(range(len(kept), len(every))))


def _spread(array: Any, own: str, every: str) -> Any:
    """With its axes ``own`` in the order of ``every``, of length 1 where it has none."""
    order = [own.index(a) for a in every if a in own]
    return jnp.expand_dims(jnp.transpose(array, order), [k for k, a in enumerate(every) if a not in own])


def _summed(array: Any, axes: tuple[int, ...]) -> Any:
    """Over the first axis alone as a product with ones where it is traced, which XLA does many times faster on CPUs."""
    if axes != (0,) or concrete(array):
        return array.sum(axis=axes)
    return jnp.tensordot(jnp.ones(array.shape[:1], array.dtype), array, ((0,), (0,)), precision="highest")


def _times(array: Any, scale: Any) -> Any:
    return array if isinstance(scale, float) and scale == 1 else array * scale


def _apart(factors: Sequence[Named]) -> Sequence[Named]:
    """Without deltas of derived labels."""
    return [resolve(f) if any(isinstance(la, Derived) for pair in f.same for la in pair) else f for f in factors]


def _settled(factors: Sequence[Named], summed: Iterable[AnyLabel]) -> list[Named]:
    """Without the derived labels in whose bases something else has a part: an axis, a delta, a sum."""
    found = []
    for f in factors:
        own = {b for la in f.labels if isinstance(la, Derived) for b in la.bases}
        axes = {b for g in factors for la in g.labels if la not in f.labels or isinstance(la, Label) for b in bases(la)}
        deltas = {b for g in factors for pair in g.same for la in pair for b in bases(la)}
        found.append(resolve(f) if own & (axes | deltas | set(summed)) else f)
    return found


def stack(label: AnyLabel, blocks: Sequence[tuple[Label, Named]]) -> Named:
    """Join blocks along ``label``."""
    blocks = [(fresh, dense(block)) for fresh, block in blocks]
    kept = tuple(la for la in union([b.labels for _, b in blocks]) if la not in {f for f, _ in blocks})
    exponent = _largest([b.exponent for _, b in blocks])
    arrays = []
    for fresh, block in blocks:
        order = (*kept, fresh)
        full = scaled(aligned(block, order), difference(block.exponent, exponent))
        arrays.append(namespace(full).broadcast_to(full, tuple(la.size for la in order)))
    joined = namespace(*arrays).concatenate(arrays, axis=-1)
    return Named((*kept, label), joined, exponent, Note.largest(b.note for _, b in blocks))


def resolve(named: Named) -> Named:
    """Replace derived labels by their bases, by indexing."""
    if named.same:
        named = multiply([named._replace(same=()), *(unit((a,), (b,)) or NOTHING for a, b in named.same)])
    if not any(isinstance(label, Derived) for label in named.labels):
        return named
    out = union(bases(label) for label in named.labels)
    indices = []
    for label in named.labels:
        table = label.table if isinstance(label, Derived) else np.arange(label.size)
        indices.append(aligned(Named(bases(label), table), out))
    array = named.array if namespace(named.array, *indices) is np else jnp.asarray(named.array)
    found = named._replace(labels=out, array=array[tuple(indices)], same=())
    return multiply([found, Named((), np.ones(()), same=named.same)]) if named.same else found


def _alike(a: AnyLabel, b: AnyLabel) -> bool:
    """Whether two derived labels agree exactly where their bases do: one table, with no number twice, as a reshape makes it."""
    if not (isinstance(a, Derived) and isinstance(b, Derived)) or not isinstance(a.table, np.ndarray):
        return False
    return same_array(a.table) == same_array(b.table) and len(np.unique(a.table)) == a.table.size


def unit(labels: Sequence[AnyLabel], others: Sequence[AnyLabel]) -> Named | None:
    """Product of Kronecker deltas between two index tuples, or ``None`` where it vanishes identically."""
    factors = [Named((), np.ones(()))]
    for a, b in zip(labels, others, strict=True):
        if a == b:
            continue
        if "apart" in (a.kind, b.kind):
            return None
        if isinstance(a, Label) and isinstance(b, Label):
            factors.append(Named((), np.ones(()), same=((a, b),)))
            continue
        if _alike(a, b):
            inner = unit(bases(a), bases(b))
            if inner is None:
                return None
            factors.append(inner)
            continue
        delta = _delta(a, b)
        if concrete(delta.array) and not np.any(delta.array):
            return None
        factors.append(delta)
    return multiply(factors)
