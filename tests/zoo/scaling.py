"""How the gap between prediction and measurement falls with the width."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Gap(NamedTuple):
    """Relative gap (measured - predicted) / predicted of each node's second moment, and its standard error, ``[nodes]``."""

    gap: np.ndarray
    error: np.ndarray


class Line(NamedTuple):
    """``gap = limit + slope / width`` fitted to each node, with standard errors, ``[nodes]``."""

    limit: np.ndarray
    limit_error: np.ndarray
    slope: np.ndarray
    slope_error: np.ndarray


def gap(predicted, measured):
    """Relative gaps of two datasets with equal nodes."""
    return relative(*(np.asarray(a, np.float64) for a in (predicted.second_moment, measured.second_moment, measured.second_moment_stderr)))


def relative(predicted, measured, error):
    """Gap relative to the prediction; nodes that are exactly zero in both have none."""
    safe = np.where(predicted > 0, predicted, 1.0)
    return Gap(np.where((predicted > 0) | (measured > 0), (measured - predicted) / safe, 0.0), error / safe)


def fit(widths, gaps):
    """Weighted least squares over widths, node by node; exact normal theory, since the errors are known."""
    x = 1 / np.asarray(widths, np.float64)[:, None]
    y = np.stack([g.gap for g in gaps])
    w = 1 / np.maximum(np.stack([g.error for g in gaps]), 1e-7) ** 2  # float32 sums are good to about 1e-7
    s0, s1, s2 = w.sum(0), (w * x).sum(0), (w * x**2).sum(0)
    t0, t1 = (w * y).sum(0), (w * x * y).sum(0)
    det = s0 * s2 - s1**2
    return Line((s2 * t0 - s1 * t1) / det, np.sqrt(s2 / det), (s0 * t1 - s1 * t0) / det, np.sqrt(s0 / det))
