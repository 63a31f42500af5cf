"""Index labels of a query and arrays whose axes carry them.

Asking for the moment of fields means giving each dim of each field a label: a repeated label is the same index, distinct labels
range independently (the outer product). An array that does not vary along a label simply lacks it.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sigprop.engine.nodes import same_array


class Label(NamedTuple):
    """A plain index: ``number`` tells labels of one query apart."""

    number: int
    kind: str
    size: int


class Derived:
    """The index ``table[bases]`` into a dim of ``size``; equal tables on equal bases are the same index."""

    __slots__ = ("bases", "key", "kind", "size", "table")

    def __init__(self, table: Any, bases: tuple[Label, ...], size: int) -> None:
        self.table, self.bases, self.size = table, bases, size
        self.kind = "chan" if bases and all(b.kind == "chan" for b in bases) else "site"
        self.key = (same_array(table), bases, size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Derived) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


AnyLabel = Label | Derived


class Named(NamedTuple):
    """An array whose axis ``i`` is indexed by ``labels[i]``."""

    labels: tuple[AnyLabel, ...]
    array: Any


def bases(label: AnyLabel) -> tuple[Label, ...]:
    return label.bases if isinstance(label, Derived) else (label,)


def union(groups: Iterable[Sequence[AnyLabel]]) -> tuple[AnyLabel, ...]:
    """All labels, each once, in order of appearance."""
    return tuple(dict.fromkeys(label for group in groups for label in group))


def aligned(named: Named, labels: Sequence[AnyLabel]) -> Any:
    """The array with axes in the order of ``labels``, of length 1 where it does not vary."""
    if not named.labels:
        return jnp.reshape(named.array, (1,) * len(labels))
    order = [label for label in labels if label in named.labels]
    array = jnp.transpose(named.array, [named.labels.index(label) for label in order])
    sizes = iter(array.shape)
    return array.reshape([next(sizes) if label in named.labels else 1 for label in labels])


def multiply(factors: Sequence[Named]) -> Named:
    labels = union(f.labels for f in factors)
    out: Any = 1.0
    for factor in factors:
        out = out * aligned(factor, labels)
    return Named(labels, out if factors else jnp.ones(()))


NOTHING = Named((), np.zeros(()))  # the moment that vanishes identically


def is_nothing(named: Named) -> bool:
    return named.array is NOTHING.array


def add(terms: Sequence[Named]) -> Named:
    if not terms:
        return NOTHING
    labels = union(t.labels for t in terms)
    out: Any = 0.0
    for term in terms:
        out = out + aligned(term, labels)
    shape = tuple(label.size for label in labels)
    return Named(labels, jnp.broadcast_to(out, shape))


def contract(factors: Sequence[Named], summed: Sequence[AnyLabel]) -> Named:
    """Sum the product of ``factors`` over labels in one planned einsum, never forming the outer product first."""
    present = set(union(f.labels for f in factors))
    scale = float(np.prod([label.size for label in summed if label not in present], dtype=float))
    summed_set = set(summed)
    keep = tuple(label for label in union(f.labels for f in factors) if label not in summed_set)
    if not factors:
        return Named((), jnp.asarray(scale))
    if len(factors) == 1:
        axes = tuple(i for i, label in enumerate(factors[0].labels) if label in summed_set)
        return Named(keep, (jnp.sum(factors[0].array, axis=axes) if axes else factors[0].array) * scale)
    letter = {label: string.ascii_letters[i] for i, label in enumerate(present)}
    terms = ["".join(letter[label] for label in f.labels) for f in factors]
    spec = ",".join(terms) + "->" + "".join(letter[label] for label in keep)
    return Named(keep, jnp.einsum(spec, *(f.array for f in factors), optimize="optimal", precision="highest") * scale)


def resolve(named: Named) -> Named:
    """Replace derived labels by their bases, by indexing."""
    if not any(isinstance(label, Derived) for label in named.labels):
        return named
    out = union(bases(label) for label in named.labels)
    indices = []
    for label in named.labels:
        own = bases(label)
        table = label.table if isinstance(label, Derived) else np.arange(label.size)
        index = Named(own, table)
        indices.append(aligned(index, out))
    return Named(out, named.array[tuple(indices)])


def unit(labels: Sequence[AnyLabel], others: Sequence[AnyLabel]) -> Named | None:
    """Product of Kronecker deltas between two index tuples, or ``None`` where it vanishes identically.

    Two different channel indices never coincide; two site indices may.
    """
    factors = []
    for a, b in zip(labels, others, strict=True):
        if a == b:
            continue
        if a.kind == "chan" or b.kind == "chan":
            return None
        out = union([bases(a), bases(b)])
        left, right = (
            aligned(Named(bases(x), x.table if isinstance(x, Derived) else np.arange(x.size)), out) for x in (a, b)
        )
        factors.append(Named(out, (left == right) * jnp.ones(())))
    return multiply(factors) if factors else Named((), jnp.ones(()))
