"""Regression of a measurement on its control variates."""

from __future__ import annotations

import numpy as np

PENALTIES = 10.0 ** np.arange(-9, 1)


def coefficients(controls, values, weights):
    """Ridge regression with intercept, ``[controls, values]``; each value's penalty is the best one on a held-out half of the draws.

    A control of weight ``w`` is expected to contribute as ``w``: groups of many controls do not outweigh single ones.
    """
    spread = controls.std(axis=0)
    unit = np.where(spread > 1e-7, 1 / np.maximum(spread, 1e-7), 0) * weights  # what never varies is rounding
    half = len(values) // 2
    tried = [_ridge(controls[:half] * unit, values[:half], [p] * values.shape[1]) for p in PENALTIES]
    left = [(values[half:] - (controls[half:] * unit) @ slopes).var(axis=0) for slopes in tried]
    return unit[:, None] * _ridge(controls * unit, values, PENALTIES[np.argmin(left, axis=0)])


def _ridge(z, y, penalties):
    """Through the Gram matrix of the draws: there may be more controls than draws."""
    z, y = z - z.mean(axis=0), y - y.mean(axis=0)
    size, basis = np.linalg.eigh(z @ z.T / len(z))
    solved = (basis.T @ y) / (np.maximum(size, 0)[:, None] + np.asarray(penalties))
    return z.T @ (basis @ solved) / len(z)


def corrected(controls, values, slopes):
    """Mean and standard error of values less the controls, with coefficients found on other draws: unbiased whatever they are."""
    left = values - controls @ slopes
    return left.mean(axis=0), left.std(axis=0, ddof=1) / len(left) ** 0.5
