"""Regression of a measurement on its control variates."""

from __future__ import annotations

import numpy as np

POWERS = (1, 3)
PENALTIES = 10.0 ** np.arange(-10, 4, 1.5)


def coefficients(controls, values, weights):
    """Ridge regression with intercept, ``[controls, values]``: the mean of two fits to half of the draws each.

    Each value's penalty is the one whose fits predict the other half best, and so is the power of the weights that a control is expected
    to contribute with: a high one lets single controls, such as averages over sites, go before groups of many. All of it happens in the
    Gram matrix of the draws: there may be more controls than draws.
    """
    spread = controls.std(axis=0)
    unit = np.where(spread > 1e-7, 1 / np.maximum(spread, 1e-7), 0)  # what never varies is rounding
    half, count = len(values) // 2, values.shape[1]
    halves = slice(None, half), slice(half, None)
    best, slopes = np.full(count, np.inf), np.zeros((controls.shape[1], count))
    for power in POWERS:
        scale = unit * weights**power
        z = controls * scale
        gram = z @ z.T
        duals = np.zeros_like(values)  # slopes are ``z.T @ duals``
        fits = [_ridge(gram[own, own], values[own]) for own in halves]
        better = np.zeros(count, bool)
        for penalty in PENALTIES:
            found = [fit(penalty) for fit in fits]
            left = sum((values[other] - gram[other, own] @ f).var(axis=0)
                       for own, other, f in zip(halves, halves[::-1], found, strict=True))
            better |= left < best
            duals = np.where(left < best, np.concatenate(found), duals)
            best = np.minimum(left, best)
        slopes[:, better] = scale[:, None] * (z.T @ duals[:, better]) / 2
    return slopes


def _ridge(gram, y):
    """``penalty -> duals`` of these draws, which sum to zero: the means of the controls need not be taken off."""
    count = len(y)
    centre = np.eye(count) - 1 / count
    size, basis = np.linalg.eigh(centre @ gram @ centre / count)
    rotated = basis.T @ (y - y.mean(axis=0))
    return lambda penalty: centre @ basis @ (rotated / (np.maximum(size, 0)[:, None] + penalty)) / count


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
