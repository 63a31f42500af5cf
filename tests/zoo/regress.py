"""Regression of a measurement on its control variates."""

from __future__ import annotations

import numpy as np

PENALTIES = 10.0 ** np.arange(-9, 4)


def coefficients(controls, values, weights):
    """Ridge regression with intercept, ``[controls, values]``: the mean of two fits to half of the draws each.

    Each value's penalty is the one whose fits predict the other half best. A control of weight ``w`` is expected to contribute as ``w``:
    groups of many controls do not outweigh single ones.
    """
    spread = controls.std(axis=0)
    unit = np.where(spread > 1e-7, 1 / np.maximum(spread, 1e-7), 0) * weights  # what never varies is rounding
    half, left, fits = len(values) // 2, 0, []
    for own, other in ((slice(None, half), slice(half, None)), (slice(half, None), slice(None, half))):
        fits.append(_ridge(controls[own] * unit, values[own]))
        left = left + np.stack([(values[other] - (controls[other] * unit) @ fits[-1](p)).var(axis=0) for p in PENALTIES])
    best = PENALTIES[np.argmin(left, axis=0)]
    return unit[:, None] * np.mean([fit(best) for fit in fits], axis=0)


def _ridge(z, y):
    """``penalties -> slopes``, through the Gram matrix of the draws: there may be more controls than draws."""
    z, y = z - z.mean(axis=0), y - y.mean(axis=0)
    size, basis = np.linalg.eigh(z @ z.T / len(z))
    rotated = basis.T @ y
    return lambda penalties: z.T @ (basis @ (rotated / (np.maximum(size, 0)[:, None] + penalties))) / len(z)


def corrected(controls, values, weights, slopes):
    """Mean and standard error of values less the controls: unbiased, since no draw meets coefficients that it had a part in.

    ``slopes`` come from other draws, at another width if need be; what they leave is regressed once more, each half of the draws with
    coefficients of the other half.
    """
    left, half = values - controls @ slopes, len(values) // 2
    clean = np.empty_like(left)
    first, second = slice(None, half), slice(half, None)
    for own, other in ((first, second), (second, first)):
        clean[own] = left[own] - controls[own] @ coefficients(controls[other], left[other], weights)
    return clean.mean(axis=0), clean.std(axis=0, ddof=1) / len(values) ** 0.5
