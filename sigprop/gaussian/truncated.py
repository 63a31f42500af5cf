"""Moments of a standard normal variable between two bounds."""

from __future__ import annotations

from math import erf, exp, pi, sqrt


def truncated_moments(low: float, high: float) -> tuple[float, float, float, float, float]:
    """E[z^n] for n = 0 ... 4 given ``low < z < high``, by integration by parts; infinite bounds are allowed."""
    (a, pa, ca), (b, pb, cb) = ((t, exp(-(t**2) / 2) / sqrt(2 * pi), (1 + erf(t / sqrt(2))) / 2) for t in (low, high))
    moments = [1.0, (pa - pb) / (cb - ca)]
    for n in (2, 3, 4):
        edge = (a ** (n - 1) * pa if pa else 0.0) - (b ** (n - 1) * pb if pb else 0.0)
        moments.append((n - 1) * moments[n - 2] + edge / (cb - ca))
    return moments[0], moments[1], moments[2], moments[3], moments[4]
