"""Angles of correlations, in polynomials that XLA fuses and vectorises: for arc functions it calls the C library entry by entry.

With ``q = 1 - cos t`` the angle is ``sqrt(q) P(q)`` and ``sin t - t cos t``, its integral over ``q``, is ``q^(3/2) R(q)``. The power
series of P and R in ``q`` converge up to 2, and so do, faster, those in Chebyshev polynomials on [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev, polynomial

from sigprop.arrays import namespace

_COUNT = np.arange(64)  # terms that reach float64 at q = 1
_SERIES = np.array([2**0.5 * comb(2 * n, n) / 8**n / (2 * n + 1) for n in range(64)])  # of arccos(1 - q) / sqrt(q)
_ORDER = 32  # of Chebyshev series, beyond float64


def _angle(q: Any) -> Any:
    return polynomial.polyval(q, _SERIES)


def _segment(q: Any) -> Any:
    return polynomial.polyval(q, _SERIES / (_COUNT + 1.5))


def _slope(s: Any) -> Any:
    """arctan(t) / t at ``s = t^2``."""
    return np.arctan(np.sqrt(s)) / np.sqrt(s)


@lru_cache
def _coefficients(function: Callable[[Any], Any], kind: np.dtype) -> list[float]:
    """Of a function on [0, 1] in powers of ``2 x - 1``, highest first, as many as its numbers can tell."""
    found = chebyshev.chebinterpolate(lambda z: function((z + 1) / 2), _ORDER)
    small = abs(found) < np.finfo(kind).eps / 4 * abs(found[0])
    return chebyshev.cheb2poly(found[: int(small.argmax())])[::-1].tolist()


def _polynomial(function: Callable[[Any], Any], x: Any) -> Any:
    first, *rest = _coefficients(function, np.dtype(x.dtype))
    z, found = 2 * x - 1, first
    for coefficient in rest:
        found = found * z + coefficient
    return found


def apart(k11: Any, k22: Any, k12: Any) -> tuple[Any, Any]:
    """``sqrt(k11 k22) - |k12|``, without cancellation beyond that of its inputs, and ``1 - |rho|``; zero without a variance."""
    xp = namespace(k11, k22, k12)
    one, two = (xp.where(k > 0, 1 / xp.sqrt(xp.where(k > 0, k, 1.0)), 0.0) for k in (k11, k22))
    rest = xp.maximum(xp.sqrt(k11 * k22) - abs(k12), 0.0)
    return rest, rest * one * two


def angle(gap: Any, k12: Any) -> Any:
    """Between u and v, from ``gap = 1 - |rho|`` and the sign of their covariance."""
    xp = namespace(gap, k12)
    acute = xp.sqrt(gap) * _polynomial(_angle, gap)
    return xp.where(k12 >= 0, acute, np.pi - acute)


def segment(gap: Any) -> Any:
    """``(sin t - t cos t) / (1 - cos t)`` for the angle ``t`` below pi/2 with ``gap = 1 - cos t``."""
    return namespace(gap).sqrt(gap) * _polynomial(_segment, gap)


def arcsin(x: Any) -> Any:
    xp = namespace(x)
    half = x / (1 + xp.sqrt(xp.maximum((1 - x) * (1 + x), 0.0)))
    return 2 * half * _polynomial(_slope, half * half)
