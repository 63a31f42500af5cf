"""Continuous piecewise linear functions with any number of kinks (clipped ReLUs, hard tanh and sigmoid), and their closed forms.

A ramp is ``c + s x + sum_i d_i (x - k_i)+``, with parameters ``(c, s, k_1, d_1, k_2, d_2, ...)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import ndtr, owens_t

_MOST = 8  # kinks
_TINY = 1e-150  # in place of zero in a denominator; the product of two is still a number


def fit(f: Callable[[np.ndarray], np.ndarray | None], kinks: tuple[float, ...], tolerance: float) -> tuple[float, ...] | None:
    """Parameters of the ramp that ``f`` is, if it is one."""
    if not 0 < len(kinks) <= _MOST:
        return None
    edges = np.array([min(kinks[0], -4.0) - 8.0, *kinks, max(kinks[-1], 4.0) + 8.0])
    inside = (edges[:-1] + np.outer([0.2, 0.4, 0.6, 0.8], np.diff(edges))).ravel(order="F")
    y = f(inside)
    if y is None or not np.all(np.isfinite(y)):
        return None
    x, y = inside.reshape(-1, 4), y.reshape(-1, 4)
    slopes = (y[:, -1] - y[:, 0]) / (x[:, -1] - x[:, 0])
    start = float(y[0, 0] - slopes[0] * x[0, 0])
    found = (start, float(slopes[0]), *(v for pair in zip(kinks, map(float, np.diff(slopes)), strict=True) for v in pair))
    return found if np.all(np.abs(value(found, x) - y) <= tolerance * np.max(np.abs(y))) else None


def value(parameters: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    c, s, *rest = parameters
    return c + s * x + sum(d * np.maximum(x - k, 0.0) for k, d in zip(rest[::2], rest[1::2], strict=True))


def _density(z: Any) -> Any:
    with np.errstate(under="ignore", over="ignore"):
        return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def _hinge(k: float, s: Any) -> Any:
    """E[(u - k)+], u of standard deviation ``s``."""
    return s * _density(k / s) - k * ndtr(-k / s)


def _both(h: Any, k: Any, rho: Any, sine: Any) -> Any:
    """P(x > h, y > k) of a standard pair of correlation ``rho`` (Owen 1956, eq. 3.1)."""
    h, k = (np.where(np.abs(z) < _TINY, _TINY, z) for z in (h, k))
    with np.errstate(over="ignore", under="ignore"):
        found = (ndtr(-h) + ndtr(-k)) / 2 - owens_t(h, (k - rho * h) / h / sine) - owens_t(k, (h - rho * k) / k / sine)
    return np.maximum(found - np.where((h > 0) == (k > 0), 0.0, 0.5), 0.0)


def _hinges(k: float, m: float, s1: Any, s2: Any, rho: Any, sine: Any) -> Any:
    """E[(u - k)+ (v - m)+], from the moments of a truncated pair (Rosenbaum 1961)."""
    a, b = k / s1, m / s2
    with np.errstate(over="ignore", under="ignore"):
        p, q = (b - rho * a) / sine, (a - rho * b) / sine
        edge = sine * _density(a) * _density(p)
    both = _both(a, b, rho, sine)
    return s1 * s2 * (rho * both + edge) + k * m * both - s1 * m * _density(a) * ndtr(-p) - s2 * k * _density(b) * ndtr(-q)


def moment(one: tuple[float, ...], two: tuple[float, ...], k11: Any, k22: Any, k12: Any) -> Any:
    """E[f(u) g(v)] of two ramps, with variances ``k11``, ``k22`` and covariance ``k12``."""
    s1, s2 = (np.maximum(np.sqrt(np.maximum(k, 0.0)), _TINY) for k in (k11, k22))
    rho = np.clip(k12 / s1 / s2, -1.0, 1.0)
    sine = np.maximum(np.sqrt((1 - rho) * (1 + rho)), _TINY)
    (c, s, *f), (e, t, *g) = one, two
    first, second = (list(zip(r[::2], r[1::2], strict=True)) for r in (f, g))
    found = c * e + s * t * k12 + 0.0 * (k11 + k22)
    for k, d in first:
        found = found + d * (e * _hinge(k, s1) + t * k12 * ndtr(-k / s1))
    for m, d in second:
        found = found + d * (c * _hinge(m, s2) + s * k12 * ndtr(-m / s2))
    for k, d in first:
        for m, w in second:
            found = found + d * w * _hinges(k, m, s1, s2, rho, sine)
    return found
