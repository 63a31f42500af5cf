"""Index labels of a query and arrays whose axes carry them.

Asking for the moment of fields means giving each dim of each field a label: a repeated label is the same index, distinct labels
range independently (the outer product). An array that does not vary along a label simply lacks it. A common power of two is kept
apart from the array, so that a thousand layers neither overflow nor underflow, and with it how the numbers were obtained.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import opt_einsum

from sigprop.arrays import concrete, namespace, scaled
from sigprop.engine.nodes import same_array
from sigprop.errors import Unsound
from sigprop.types import EXACT, Note

_LARGEST = 1 << 26  # entries of one delta between two indices


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


def derived(table: Any, labels: Sequence[AnyLabel], size: int) -> Derived:
    """The index ``table[labels]``, where the labels may be derived themselves."""
    if all(isinstance(label, Label) for label in labels):
        return Derived(table, tuple(labels), size)  # type: ignore[arg-type]
    out = union(bases(label) for label in labels)
    places = [aligned(Named(bases(la), la.table if isinstance(la, Derived) else np.arange(la.size)), out) for la in labels]
    xp = namespace(table, *places)
    return Derived(xp.asarray(table)[tuple(places)], out, size)  # type: ignore[arg-type]


class Named(NamedTuple):
    """``array * 2**exponent``, whose axis ``i`` is indexed by ``labels[i]``; ``note`` holds its relative error and its method."""

    labels: tuple[AnyLabel, ...]
    array: Any
    exponent: Any = 0
    note: Note = EXACT

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
    xp = namespace(named.array)
    if not named.labels:
        return xp.reshape(named.array, (1,) * len(labels))
    order = [label for label in labels if label in named.labels]
    array = xp.transpose(named.array, [named.labels.index(label) for label in order])
    sizes = iter(array.shape)
    return array.reshape([next(sizes) if label in named.labels else 1 for label in labels])


def multiply(factors: Sequence[Named]) -> Named:
    labels = union(f.labels for f in factors)
    out: Any = np.ones(())
    for factor in factors:
        out = out * aligned(factor, labels)
    return Named(labels, out, sum(f.exponent for f in factors), Note.of(f.note for f in factors))


NOTHING = Named((), np.zeros(()))  # the moment that vanishes identically


def is_nothing(named: Named) -> bool:
    return named.array is NOTHING.array


def add(terms: Sequence[Named]) -> Named:
    terms = [t for t in terms if not is_nothing(t)]
    if not terms:
        return NOTHING
    if len(terms) == 1:
        return terms[0]
    labels = union(t.labels for t in terms)
    exponent = _largest([t.exponent for t in terms])
    out: Any = 0.0
    for term in terms:
        out = out + scaled(aligned(term, labels), term.exponent - exponent)
    shape = tuple(label.size for label in labels)
    return Named(labels, namespace(out).broadcast_to(out, shape), exponent, _note_of_sum(terms, out, exponent))


def _note_of_sum(terms: Sequence[Named], total: Any, exponent: Any) -> Note:
    """Absolute errors add; where the terms are traced, relative ones are compared as if the terms were alike."""
    rough = Note.largest(t.note for t in terms)
    plain = all(isinstance(t.note.error, float) and isinstance(t.exponent, int) and concrete(t.array) for t in terms)
    if not plain or rough.error == 0:
        return rough
    top = float(np.max(np.abs(total), initial=0.0))
    errors = [t.note.error * float(np.max(np.abs(t.array), initial=0.0)) * 2.0 ** (t.exponent - exponent) for t in terms]
    return Note(sum(errors) / top if top > 0 else rough.error, rough.how)


def _largest(exponents: Sequence[Any]) -> Any:
    if all(isinstance(e, int) for e in exponents):
        return max(exponents)
    out = exponents[0]
    for e in exponents[1:]:
        out = jnp.maximum(out, e)
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
    new = jnp.where(top > 0, 2 * ((jnp.frexp(top)[1] + old) // 2), 0)
    return named._replace(array=scaled(array, old - new), exponent=new)


def contract(factors: Sequence[Named], summed: Sequence[AnyLabel]) -> Named:
    """Sum the product of ``factors`` over labels in one planned einsum, never forming the outer product first."""
    present = union(f.labels for f in factors)
    note, exponent = Note.of(f.note for f in factors), sum(f.exponent for f in factors)
    summed_set = set(summed)
    scale: Any = float(np.prod([label.size for label in summed_set if label not in present], dtype=float))
    keep = tuple(label for label in present if label not in summed_set)
    for factor in factors:
        if not factor.labels:
            scale = scale * factor.array
    arrays = [f for f in factors if f.labels]
    if not arrays:
        return Named((), np.ones(()) * scale, exponent, note)
    if len(arrays) == 1:
        axes = tuple(i for i, label in enumerate(arrays[0].labels) if label in summed_set)
        out = arrays[0].array.sum(axis=axes) if axes else arrays[0].array
        kept = tuple(label for label in arrays[0].labels if label not in summed_set)
        return Named(kept, out * scale, exponent, note)
    letter = {label: string.ascii_letters[i] for i, label in enumerate(present)}
    spec = ",".join("".join(letter[label] for label in f.labels) for f in arrays)
    spec += "->" + "".join(letter[label] for label in keep)
    values = [f.array for f in arrays]
    if namespace(*values) is np:
        out = opt_einsum.contract(spec, *values, optimize="auto")
    else:
        out = jnp.einsum(spec, *values, optimize="auto", precision="highest")
    return Named(keep, out * scale, exponent, note)


def stack(label: AnyLabel, blocks: Sequence[tuple[Label, Named]]) -> Named:
    """Join blocks along ``label``."""
    kept = tuple(la for la in union([b.labels for _, b in blocks]) if la not in {f for f, _ in blocks})
    exponent = _largest([b.exponent for _, b in blocks])
    arrays = []
    for fresh, block in blocks:
        order = (*kept, fresh)
        full = scaled(aligned(block, order), block.exponent - exponent)
        arrays.append(namespace(full).broadcast_to(full, tuple(la.size for la in order)))
    joined = namespace(*arrays).concatenate(arrays, axis=-1)
    return Named((*kept, label), joined, exponent, Note.largest(b.note for _, b in blocks))


def resolve(named: Named) -> Named:
    """Replace derived labels by their bases, by indexing."""
    if not any(isinstance(label, Derived) for label in named.labels):
        return named
    out = union(bases(label) for label in named.labels)
    indices = []
    for label in named.labels:
        table = label.table if isinstance(label, Derived) else np.arange(label.size)
        indices.append(aligned(Named(bases(label), table), out))
    array = named.array if namespace(named.array, *indices) is np else jnp.asarray(named.array)
    return named._replace(labels=out, array=array[tuple(indices)])


def unit(labels: Sequence[AnyLabel], others: Sequence[AnyLabel]) -> Named | None:
    """Product of Kronecker deltas between two index tuples, or ``None`` where it vanishes identically.

    Raises:
        Unsound: where two wide channel axes would need a matrix too large to hold.
    """
    factors = []
    for a, b in zip(labels, others, strict=True):
        if a == b:
            continue
        if "apart" in (a.kind, b.kind):
            return None
        out = union([bases(a), bases(b)])
        if prod(label.size for label in out) > _LARGEST:
            raise Unsound(f"the same weights meet at different indices of axes of {a.size} and {b.size}: too many pairs")
        left, right = (
            aligned(Named(bases(x), x.table if isinstance(x, Derived) else np.arange(x.size)), out) for x in (a, b)
        )
        equal = left == right
        if concrete(equal) and not np.any(equal):
            return None
        factors.append(Named(out, equal * 1.0))
    return multiply(factors) if factors else Named((), np.ones(()))
