"""Regression of a measurement on its control variates."""

from __future__ import annotations

import numpy as np

POWERS = (1, 3)
PENALTIES = 10.0 ** np.arange(-10, 4, 1.5)


def coefficients(controls, values, weights):
    """Ridge regression with intercept, ``[controls, values]``: the mean of two fits to half of the draws each.

    Each value's penalty is the one whose fits predict the other half best, and so is the power of the weights that a control is expected
    to contribute with: a high one lets single controls, such as averages over sites, go before groups of many.
    """
    spread = controls.std(axis=0)
    unit = np.where(spread > 1e-7, 1 / np.maximum(spread, 1e-7), 0)  # what never varies is rounding
    halves = slice(None, len(values) // 2), slice(len(values) // 2, None)
    best, slopes = np.full(values.shape[1], np.inf), np.zeros((controls.shape[1], values.shape[1]))
    for power in POWERS:
        scale = unit * weights**power
        z = controls * scale
        fits = [_ridge(z[own], values[own]) for own in halves]
        for penalty in PENALTIES:
            found = [fit(penalty) for fit in fits]
            left = sum((values[other] - z[other] @ f).var(axis=0) for other, f in zip(halves[::-1], found, strict=True))
            slopes = np.where(left < best, scale[:, None] * (found[0] + found[1]) / 2, slopes)
            best = np.minimum(left, best)
    return slopes


def _ridge(z, y):
    """``penalty -> slopes``, through the Gram matrix of the draws: there may be more controls than draws."""
    z, y = z - z.mean(axis=0), y - y.mean(axis=0)
    size, basis = np.linalg.eigh(z @ z.T / len(z))
    rotated = basis.T @ y
    return lambda penalty: z.T @ (basis @ (rotated / (np.maximum(size, 0)[:, None] + penalty))) / len(z)


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
