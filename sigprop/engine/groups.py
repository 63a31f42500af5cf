"""Connected groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def connected(items: Iterable[T], meet: Callable[[T, T], object]) -> list[list[T]]:
    """``items`` in groups such that those of different groups do not ``meet``."""
    groups: list[list[T]] = []
    for item in items:
        apart, joint = [], []
        for group in groups:
            if any(meet(item, other) for other in group):
                joint += group
            else:
                apart.append(group)
        groups = [*apart, [*joint, item]]
    return groups
