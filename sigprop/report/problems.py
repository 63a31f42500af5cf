"""What a report can find, and the order in which it says it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

KINDS = {
    "dying": True, "exploding": True, "vanishing-gradient": True, "exploding-gradient": True, "epsilon": True, "zero-head": True,
    "fan-mismatch": True,
    "zero-branch": False, "narrow": False, "approximate": False, "disagreement": False,
}
_ROUNDING = -math.log10(0.9995)  # from here on three digits round up to the next power of ten


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        kind: a key of ``KINDS``.
        node: name of the row (or of the parameter) responsible.
        sentence: what is wrong, and how much.
        remedy: what to change.
        alike: further rows or parameters with the same finding.
    """

    kind: str
    node: str
    sentence: str
    remedy: str
    alike: tuple[str, ...] = ()

    @property
    def severe(self) -> bool:
        """Whether ``--strict`` fails on it; the others are remarks."""
        return KINDS[self.kind]


def gathered(found: Iterable[Problem]) -> list[Problem]:
    """Severe ones first; one problem for findings that differ in names and numbers only, as those of equal blocks do."""
    groups: dict[Any, list[Problem]] = {}
    for p in found:
        groups.setdefault((p.kind, re.sub(r"[\d.e+-]+", "", p.sentence.replace(p.node, ""))), []).append(p)
    joined = [_likewise(group[0], tuple(dict.fromkeys(p.node for p in group[1:]))) for group in groups.values()]
    return sorted(joined, key=lambda p: not p.severe)


def _likewise(first: Problem, others: tuple[str, ...]) -> Problem:
    if not others:
        return first
    named = ", ".join(f"'{name}'" for name in others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return replace(first, sentence=f"{first.sentence} Likewise {named}.", alike=others)


def power(log10: float) -> str:
    """A positive number given by its decimal logarithm, to three digits, in any range."""
    if not math.isfinite(log10):
        return {-math.inf: "0", math.inf: "infinity"}.get(log10, "unknown")
    if -4 <= log10 <= 5:
        return f"{10**log10:.3g}"
    exponent = math.floor(log10 + _ROUNDING)
    return f"{max(10 ** (log10 - exponent), 1):.2f}e{exponent:+03d}"
