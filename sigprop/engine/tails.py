"""What sums of few terms, taken as Gaussian, and errors of covariances make of a prediction's error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sigprop.arrays import concrete, namespace
from sigprop.engine.labels import Label, Named, aligned, contract
from sigprop.engine.nodes import Const, Mul, Node, Occurrence, parameter_only
from sigprop.gaussian import Function, moment1
from sigprop.types import Note


def gram_charlier(excess: float, functions: Sequence[Function], mean: Any, var: Any, several: bool) -> Note:
    """The first term of a variable of this excess kurtosis: ``excess / 24 E[He_4(z) f(z)]`` beside ``E f(z)``.

    Exact to first order for ``f`` of one variable (Cramér 1946, 17.6). A product of functions of ``several`` is taken to be as wrong as
    the square of either, and at least a twelfth of the excess: squares of ramps are exact, products of independent ones off by
    ``1 / (4 pi)`` of it.
    """
    if not excess or not functions:
        return Note()
    scale, fourth = (moment1([*functions] * (1 + several), mean, var, degree).value for degree in (0, 4))
    xp = namespace(scale, fourth)
    known = (scale != 0) & xp.isfinite(scale)  # a moment that does not exist is refused where it is asked for
    worst = xp.max(xp.where(known, abs(fourth), 0.0) / xp.where(known, abs(scale), 1.0)) / 24
    return Note.systematic(excess * (max(float(worst), several / 12) if xp is np else xp.maximum(worst, several / 12)))


def normalised_excess(node: Node) -> float:
    """Excess kurtosis, in size, that a norm of the weights takes off: they count as divided by its mean.

    Weights ``v_j / |v|`` of exchangeable symmetric entries with excess ``k`` keep their variance ``1 / n``. With ``|v|^2 / n = 1 + d`` a
    sum ``z`` of such weights has ``E z^4 = E[(x v)^4 (1 - 2 d + 3 d^2)]``, to leading order ``3 + k sum_j x_j^4 - 3 Var d`` for
    ``|x| = 1``, where ``Var d = (2 + k) / n`` (for normal draws ``z`` is a coordinate on a sphere, of excess ``-6 / (n + 2)``).
    """
    return 3.0 * sum(c.note.spread for c, _ in node.children if isinstance(c, Const)) if isinstance(node, Mul) else 0.0


def fluctuation(query: Any, child: Occurrence, count: int) -> float:
    """Relative variance of a sum of independent functions of draws, such as ``d`` above; zero where it vanishes in wide layers.

    ``child`` is summed over its index positions from ``count`` on.
    """
    node, index = child
    if not parameter_only(node):
        return 0.0
    labels = tuple(Label(i, d.kind, d.size) for i, d in zip(index, node.dims, strict=True))
    over, kept = ([la for la in labels if (la.number >= count) is summed] for summed in (True, False))
    mean, second = (query.moment([(node, labels)] * k) for k in (1, 2))
    total, first, square = (contract(a, over) for a in ([mean], [mean, mean], [second]))
    if not concrete(total.array):
        return 0.0
    total, first, square = (aligned(a._replace(array=a.plain()), kept) for a in (total, first, square))
    return float(np.max((square - first) / np.where(total > 0, total**2, 1.0)))


def covariance_note(cov: Named, *variances: Named | None) -> Note:
    """The note of a covariance with its error relative to the two variances: what is nearly zero has no relative error."""
    found = [cov, *variances]
    if any(n is None or not concrete(n.array) or not isinstance(n.exponent, int) for n in found):
        return cov.note
    top, one, two = (float(np.max(np.abs(n.plain()), initial=0.0)) for n in found if n is not None)
    share = top / (one * two) ** 0.5 if one * two > 0 else 1.0
    return cov.note.scaled(min(share, 1.0))
