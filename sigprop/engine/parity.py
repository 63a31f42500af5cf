"""Sign-flip parity: the only ground on which a mean is exactly zero.

Every random leaf ``W`` has the law of ``-W``, entry by entry. A field is odd if some set of leaves can be flipped together so that it
changes sign: ``tanh(x @ W + b)`` is, under ``W`` and ``b`` at once. A term of the field changes sign under a set ``S`` of flips when
``S`` has an odd overlap with the term's *mask* of leaves; the field is odd if one ``S`` does so for all of its masks, a linear system
over GF(2). Leaves that the field depends on in an unknown way are *mixed* and are never flipped.

A *slice* of a leaf, as the queries in a kernel that makes queries, keys and values, has a sign of its own, beside those of slices that it
does not meet. Where slices meet, or the whole leaf is there too, they have that of the leaf.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

_MOST = 6  # masks kept before they are given up


class Slice(NamedTuple):
    """Entries (int64, as bytes) along an axis of a leaf."""

    leaf: int
    axis: int
    entries: bytes


@dataclass(frozen=True)
class Parity:
    """``dims`` maps each leaf of a mask to the field's dims along which its sign can be flipped entry by entry.

    ``slices`` tells which of the leaves, by number, are slices.
    """

    masks: tuple[int, ...] = (0,)
    mixed: int = 0
    dims: Mapping[int, frozenset[int]] = field(default_factory=dict)
    slices: Mapping[int, Slice] = field(default_factory=dict)

    @cached_property
    def odd(self) -> bool:
        return _solvable(self.masks, ~self.mixed)

    def odd_along(self, dim: int) -> bool:
        """Whether single entries along ``dim`` can be flipped."""
        allowed = sum(1 << leaf for leaf, dims in self.dims.items() if dim in dims)
        return _solvable(self.masks, allowed & ~self.mixed)

    def odd_beside(self, fixed: int) -> bool:
        """Whether flips of leaves other than ``fixed`` (as bits) change its sign."""
        met = sum(1 << number for number, part in self.slices.items() if fixed >> part.leaf & 1)
        return _solvable(self.masks, ~(self.mixed | fixed | met))

    def moved(self, index: Sequence[int]) -> Parity:
        """As seen from a parent in which dim ``j`` is at ``index[j]``."""
        return Parity(self.masks, self.mixed, {leaf: frozenset(index[d] for d in dims) for leaf, dims in self.dims.items()},
                      self.slices)

    def indexed(self, index: Sequence[int], axis: int, position: Sequence[int], distinct: bool) -> Parity:
        """After indexing ``axis``: entries along it can still be flipped singly where no entry is read twice (``distinct``)."""
        new = position if distinct else ()
        return Parity(self.masks, self.mixed, {leaf: indexed_dims(dims, index, axis, new) for leaf, dims in self.dims.items()},
                      self.slices)

    def kept(self, dims: Iterable[int]) -> Parity:
        """Without the dims that are not in ``dims``."""
        keep = frozenset(dims)
        return Parity(self.masks, self.mixed, {leaf: found & keep for leaf, found in self.dims.items()}, self.slices)

    def sliced(self, leaf: int, number: int, part: Slice) -> Parity:
        """With ``number``, a slice, in the place of its leaf."""
        return self._renamed({leaf: number}, {**self.slices, number: part})

    def coarse(self, leaves: Iterable[int]) -> Parity:
        """With some leaves in the place of their slices."""
        gone = {number: part.leaf for number, part in self.slices.items() if part.leaf in leaves}
        return self._renamed(gone, {n: part for n, part in self.slices.items() if n not in gone}) if gone else self

    def _renamed(self, new: Mapping[int, int], slices: Mapping[int, Slice]) -> Parity:
        dims: dict[int, frozenset[int]] = {}
        for number, found in self.dims.items():
            number = new.get(number, number)
            dims[number] = dims[number] & found if number in dims else found
        masks = tuple(sorted({_renamed(m, new, xor=True) for m in self.masks}))
        return Parity(masks, _renamed(self.mixed, new), dims, slices)

    def even(self) -> Parity:
        """Of an even function."""
        return product([self, self])

    def unknown(self) -> Parity:
        """Of a function without symmetry."""
        return Parity((0,), self.mixed | _either(self.masks), slices=self.slices)


def indexed_dims(dims: frozenset[int], index: Sequence[int], axis: int, position: Sequence[int]) -> frozenset[int]:
    """Dims of a field as seen after indexing its ``axis``, which becomes the dims ``position``."""
    return frozenset(index[d] for d in dims if d != axis) | frozenset(position if axis in dims else ())


def leaf(number: int, rank: int, sign: int | None = None) -> Parity:
    """``sign`` is the number of a sign that it shares with other leaves: all of them can be flipped together, but not entry by entry."""
    common = 0 if sign is None else 1 << sign
    return Parity((1 << number | common,), 0, {number: frozenset(range(rank))})


def leaves(p: Parity) -> int:
    """All leaves that the field is known to depend on, as bits; those of slices too."""
    return p.mixed | _either(p.masks) | sum(1 << leaf for leaf in {part.leaf for part in p.slices.values()})


def product(parities: Sequence[Parity]) -> Parity:
    parities = _compatible(parities)
    masks: tuple[int, ...] = (0,)
    mixed = 0
    for p in parities:
        mixed |= p.mixed
        masks = tuple(sorted({m ^ p.masks[0] for m in masks} | {masks[0] ^ m for m in p.masks}))
    return _settled(masks, mixed, parities)


def total(parities: Sequence[Parity]) -> Parity:
    """Of a sum, or of parts side by side."""
    parities = _compatible(parities)
    masks = tuple(sorted({m for p in parities for m in p.masks})) or (0,)
    mixed = 0
    for p in parities:
        mixed |= p.mixed
    if not _solvable(masks, ~mixed):
        masks, mixed = _given_up(masks, mixed)
    return _settled(masks, mixed, parities)


def _settled(masks: tuple[int, ...], mixed: int, parities: Sequence[Parity]) -> Parity:
    if len(masks) > _MOST:
        masks, mixed = _given_up(masks, mixed)
    kept = _either(masks) & ~mixed
    dims: dict[int, frozenset[int]] = {}
    for p in parities:
        for number, found in p.dims.items():
            if kept >> number & 1:
                dims[number] = dims[number] & found if number in dims else found
    used = _either(masks) | mixed
    return Parity(masks, mixed, dims, {n: part for p in parities for n, part in p.slices.items() if used >> n & 1})


def _compatible(parities: Sequence[Parity]) -> Sequence[Parity]:
    """With leaves in the place of slices that meet, and of slices beside the leaf as a whole."""
    slices = {n: part for p in parities for n, part in p.slices.items()}
    if not slices:
        return parities
    used = 0
    for p in parities:
        used |= p.mixed | _either(p.masks)
    gone = {part.leaf for part in slices.values() if used >> part.leaf & 1}
    numbers = sorted(slices)
    gone |= {slices[m].leaf for k, m in enumerate(numbers) for n in numbers[:k] if _meet(slices[m], slices[n])}
    return [p.coarse(gone) for p in parities] if gone else parities


@lru_cache(maxsize=4096)
def _meet(one: Slice, two: Slice) -> bool:
    if one.leaf != two.leaf:
        return False
    first, second = (np.frombuffer(part.entries, np.int64) for part in (one, two))
    return one.axis != two.axis or bool(np.intersect1d(first, second).size)


def _renamed(bits: int, new: Mapping[int, int], xor: bool = False) -> int:
    for old, number in new.items():
        if bits >> old & 1:
            bits ^= 1 << old
            bits = bits ^ 1 << number if xor else bits | 1 << number
    return bits


def _given_up(masks: Sequence[int], mixed: int) -> tuple[tuple[int, ...], int]:
    """Keep the leaves that all masks share; the others become mixed."""
    common = masks[0]
    for m in masks[1:]:
        common &= m
    return (common & ~mixed,), mixed | (_either(masks) & ~common)


def _either(masks: Sequence[int]) -> int:
    out = 0
    for m in masks:
        out |= m
    return out


def _solvable(masks: Sequence[int], allowed: int) -> bool:
    """Whether a set of flips within ``allowed`` overlaps oddly with every mask."""
    basis: list[tuple[int, int]] = []
    for mask in masks:
        rest, side = mask & allowed, 1
        for row, value in basis:
            if rest ^ row < rest:
                rest, side = rest ^ row, side ^ value
        if rest:
            basis.append((rest, side))
            basis.sort(reverse=True)
        elif side:
            return False
    return True
