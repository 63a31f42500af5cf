"""How the gap between prediction and measurement falls with the width."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Gap(NamedTuple):
    """Relative gap (measured - predicted) / predicted of each node's second moment, and its standard error, ``[nodes]``."""

    gap: np.ndarray
    error: np.ndarray


class Line(NamedTuple):
    """``gap = limit + slope / width + ...`` fitted to each node, with standard errors, ``[nodes]``."""

    limit: np.ndarray
    limit_error: np.ndarray
    slope: np.ndarray
    slope_error: np.ndarray


class Decay(NamedTuple):
    """Exponent ``p`` of ``gap = limit + slope * width**p`` of each node and its standard error, ``[nodes]``; NaN where no gap falls."""

    exponent: np.ndarray
    error: np.ndarray


def gap(predicted, measured):
    """Relative gaps of two datasets with equal nodes."""
    return relative(*(np.asarray(a, np.float64) for a in (predicted.second_moment, measured.second_moment, measured.second_moment_stderr)))


def relative(predicted, measured, error):
    """Gap relative to the prediction; nodes that are exactly zero in both have none."""
    safe = np.where(predicted > 0, predicted, 1.0)
    return Gap(np.where((predicted > 0) | (measured > 0), (measured - predicted) / safe, 0.0), error / safe)


def fit(widths, gaps, order=1):
    """Least squares over widths up to ``1 / width**order``, node by node, weighted by the known errors."""
    x = np.asarray(widths, np.float64)[:, None] ** -np.arange(order + 1.0)
    y = np.stack([g.gap for g in gaps])
    error = np.maximum(np.stack([g.error for g in gaps]), 1e-7)  # float32 sums are good to about 1e-7
    normal = np.einsum("wi,wj,wn->nij", x, x, error**-2.0)
    cover = np.linalg.inv(normal)
    found = np.einsum("nij,wj,wn->ni", cover, x, y * error**-2.0)
    spread = np.sqrt(np.diagonal(cover, axis1=1, axis2=2))
    return Line(found[:, 0], spread[:, 0], found[:, 1], spread[:, 1])


def decay(widths, gaps, sigmas):
    """From three widths in geometric progression, through the differences of their gaps: there the limit drops out.

    NaN where one of the two differences is not clear of ``sigmas`` standard errors, or they have different signs.
    """
    gap, error = (np.stack([getattr(g, k) for g in gaps]) for k in ("gap", "error"))
    early, late = _clear(gap[:-1] - gap[1:], sigmas * np.hypot(error[:-1], error[1:]))
    spread = np.sqrt((error[0] / early) ** 2 + (error[1] * (1 / early + 1 / late)) ** 2 + (error[2] / late) ** 2)
    unit = np.log(widths[1] / widths[0])
    return Decay(np.log(late / early) / unit, spread / unit)


def decay_to_zero(widths, gaps, sigmas, declared):
    """From two widths, where both gaps clearly exceed what is ``declared`` to stay."""
    gap, error = (np.stack([getattr(g, k) for g in gaps]) for k in ("gap", "error"))
    early, late = _clear(gap, declared + sigmas * error)
    unit = np.log(widths[1] / widths[0])
    return Decay(np.log(late / early) / unit, np.hypot(error[0] / early, error[1] / late) / unit)


def _clear(pair, bound):
    early, late = pair
    clear = (early * late > 0) & (abs(pair) > bound).all(axis=0)
    return np.where(clear, early, np.nan), np.where(clear, late, np.nan)
