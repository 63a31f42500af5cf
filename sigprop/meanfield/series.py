"""Truncated power series, as arrays of coefficients on the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """As many coefficients as ``a`` and ``b`` have, which broadcast on the axes before."""
    size = a.shape[-1]
    out = np.zeros(np.broadcast_shapes(a.shape, b.shape))
    for k in range(size):
        out[..., k:] += a[..., k:k + 1] * b[..., :size - k]
    return out


def power(a: np.ndarray, exponent: float, size: int) -> np.ndarray:
    """The first ``size`` coefficients of ``a^exponent``, ``a[..., 0]`` not 0 (Euler's recursion)."""
    a = np.concatenate([a, np.zeros((*a.shape[:-1], max(size - a.shape[-1], 0)))], -1)
    out: Any = np.zeros((*a.shape[:-1], size))
    out[..., 0] = a[..., 0] ** exponent
    for n in range(1, size):
        k = np.arange(1, n + 1)
        out[..., n] = np.sum((k * (exponent + 1) - n) * a[..., k] * out[..., n - k], -1) / (n * a[..., 0])
    return out


def inverse(a: np.ndarray) -> np.ndarray:
    """Coefficients of ``y, y^2, ...`` of the inverse function of ``a[0] x + a[1] x^2 + ...``, by Lagrange's formula."""
    size = len(a)
    return np.array([power(a, -k, k)[k - 1] / k for k in range(1, size + 1)])
