"""Sign-flip parity: the only ground on which a mean is exactly zero.

Every random leaf ``W`` has the law of ``-W``, entry by entry. A field is odd if some set of leaves can be flipped together so that it
changes sign: ``tanh(x @ W + b)`` is, under ``W`` and ``b`` at once. A term of the field changes sign under a set ``S`` of flips when
``S`` has an odd overlap with the term's *mask* of leaves; the field is odd if one ``S`` does so for all of its masks, a linear system
over GF(2). Leaves that the field depends on in an unknown way are *mixed* and are never flipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

_MOST = 6  # masks kept before they are given up


@dataclass(frozen=True)
class Parity:
    """``dims`` maps each leaf of a mask to the field's dims along which its sign can be flipped entry by entry."""

    masks: tuple[int, ...] = (0,)
    mixed: int = 0
    dims: Mapping[int, frozenset[int]] = field(default_factory=dict)

    @cached_property
    def odd(self) -> bool:
        return _solvable(self.masks, ~self.mixed)

    def odd_along(self, dim: int) -> bool:
        """Whether single entries along ``dim`` can be flipped."""
        allowed = sum(1 << leaf for leaf, dims in self.dims.items() if dim in dims)
        return _solvable(self.masks, allowed & ~self.mixed)

    def odd_beside(self, fixed: int) -> bool:
        """Whether flips of leaves other than ``fixed`` (as bits) change its sign."""
        return _solvable(self.masks, ~(self.mixed | fixed))

    def moved(self, index: Sequence[int]) -> Parity:
        """As seen from a parent in which dim ``j`` is at ``index[j]``."""
        return Parity(self.masks, self.mixed, {leaf: frozenset(index[d] for d in dims) for leaf, dims in self.dims.items()})

    def indexed(self, index: Sequence[int], axis: int, position: Sequence[int], distinct: bool) -> Parity:
        """After indexing ``axis``: entries along it can still be flipped singly where no entry is read twice (``distinct``)."""
        new = position if distinct else ()
        return Parity(self.masks, self.mixed, {leaf: indexed_dims(dims, index, axis, new) for leaf, dims in self.dims.items()})

    def kept(self, dims: Iterable[int]) -> Parity:
        """Without the dims that are not in ``dims``."""
        keep = frozenset(dims)
        return Parity(self.masks, self.mixed, {leaf: found & keep for leaf, found in self.dims.items()})

    def even(self) -> Parity:
        """Of an even function."""
        return product([self, self])

    def unknown(self) -> Parity:
        """Of a function without symmetry."""
        return Parity((0,), self.mixed | _either(self.masks))


def indexed_dims(dims: frozenset[int], index: Sequence[int], axis: int, position: Sequence[int]) -> frozenset[int]:
    """Dims of a field as seen after indexing its ``axis``, which becomes the dims ``position``."""
    return frozenset(index[d] for d in dims if d != axis) | frozenset(position if axis in dims else ())


def leaf(number: int, rank: int, sign: int | None = None) -> Parity:
    """``sign`` is the number of a sign that it shares with other leaves: all of them can be flipped together, but not entry by entry."""
    common = 0 if sign is None else 1 << sign
    return Parity((1 << number | common,), 0, {number: frozenset(range(rank))})


def leaves(p: Parity) -> int:
    """All leaves that the field is known to depend on, as bits."""
    return p.mixed | _either(p.masks)


def product(parities: Sequence[Parity]) -> Parity:
    masks: tuple[int, ...] = (0,)
    mixed = 0
    for p in parities:
        mixed |= p.mixed
        masks = tuple(sorted({m ^ p.masks[0] for m in masks} | {masks[0] ^ m for m in p.masks}))
    return _settled(masks, mixed, parities)


def total(parities: Sequence[Parity]) -> Parity:
    """Of a sum, or of parts side by side."""
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
    return Parity(masks, mixed, dims)


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
