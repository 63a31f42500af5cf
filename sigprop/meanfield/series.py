"""Truncated power series, as arrays of coefficients."""

from __future__ import annotations

import numpy as np


def power(a: np.ndarray, exponent: int, size: int) -> np.ndarray:
    """The first ``size`` coefficients of ``a^exponent``, ``exponent`` any whole number, ``a[0]`` not 0 (Euler's recursion)."""
    a = np.concatenate([a, np.zeros(max(size - len(a), 0))])
    out = np.zeros(size)
    out[0] = a[0] ** exponent
    for n in range(1, size):
        k = np.arange(1, n + 1)
        out[n] = np.sum((k * (exponent + 1) - n) * a[k] * out[n - k]) / (n * a[0])
    return out


def inverse(a: np.ndarray) -> np.ndarray:
    """Coefficients of ``y, y^2, ...`` of the inverse function of ``a[0] x + a[1] x^2 + ...``, by Lagrange's formula."""
    size = len(a)
    return np.array([power(a, -k, k)[k - 1] / k for k in range(1, size + 1)])
