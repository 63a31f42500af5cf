"""Products with a common factor as one product.

Reverse mode makes ``g f1(u) + g f2(u) + ..`` of the derivative of an activation that is written in several operations, with a Gaussian
cotangent ``g``. As ``g (f1 + f2 + ..)(u)`` its second moment is one expectation, not one for each pair of terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sigprop.engine.elementwise import variables
from sigprop.engine.nodes import Const, Dim, Occurrence, opened, parameter_only, placed

if TYPE_CHECKING:
    from sigprop.engine.build import Pool


def factored(pool: Pool, children: Sequence[Occurrence], dims: Sequence[Dim]) -> list[Occurrence]:
    """Terms of a sum, those of one Gaussian factor and of functions of one other field together."""
    groups: dict[Any, list[Occurrence]] = {}
    for k, child in enumerate(children):
        groups.setdefault(_beside_function(child) or k, []).append(child)
    out = []
    for key, terms in groups.items():
        if len(terms) > 1:
            rests = [pool.over([f for f in opened(t) if f != key[0]], dims, pool.mul) for t in terms]
            terms = [pool.over([key[0], pool.over(rests, dims, pool.add)], dims, pool.mul)]
        out += terms
    return out


def _beside_function(child: Occurrence) -> tuple[Occurrence, Occurrence] | None:
    """``g`` and ``u`` of a product ``g f(u)`` with a nonlinear function of a field that is no parameter; ``None`` if it is none."""
    factors = [(f, variables(f[0])) for f in opened(child) if not isinstance(f[0], Const)]
    if any(found is None for _, found in factors):
        return None
    used = [(f, placed(found or (), f[1])) for f, found in factors]
    inner = {u for f, found in used if not f[0].gaussian for u in found}
    outer = [f for f, found in used if f[0].gaussian and not inner.issuperset(found)]
    if len(inner) != 1 or len(outer) != 1 or any(parameter_only(n) for n, _ in (*inner, *outer)):
        return None
    return outer[0], inner.pop()
