"""How an answer was obtained, and refusing the ones that are approximate."""

from __future__ import annotations

from sigprop.engine.nodes import Tails
from sigprop.errors import Unsound
from sigprop.types import METHODS, Note

_ROUGH = 0.02  # dropped excess kurtosis that is worth a word


def method_of(note: Note, tails: Tails) -> str:
    """``closed form``, ``quadrature`` or ``sampled``, with ``+ Gaussian approximation`` where a field is not quite Gaussian."""
    return METHODS[note.how] + (" + Gaussian approximation" if tails.excess > _ROUGH else "")


def demand_exact(name: str, method: str) -> None:
    """Refuse a method other than closed forms and quadrature.

    Raises:
        Unsound: naming what is not exact.
    """
    if method not in ("deterministic", "closed form", "quadrature"):
        raise Unsound(f"{name}: {method}, but exact_only=True allows closed forms and quadrature only. Without it the answer carries its "
                      "error; propagate(...).method shows where approximations begin.")
