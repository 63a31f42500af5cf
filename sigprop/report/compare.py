"""Prediction against measurement: the difference that noise, finite width and the prediction's own error explain."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import stdtrit

FALSE_ALARM = 1e-4  # probability, per report, that noise alone raises a flag
_WIDTH = 2.0  # corrections of order 1/width per layer: this many times the sum of 1/fan-in over the layers passed


def log10_mean_square(data: xr.Dataset) -> np.ndarray:
    """log10 E[z²] ``[nodes]``, ``-inf`` where it is exactly zero."""
    return np.asarray(data["log10_second_moment"], np.float64)


def completed(data: xr.Dataset) -> xr.Dataset:
    if "log10_second_moment" not in data:
        with np.errstate(divide="ignore", invalid="ignore"):
            data["log10_second_moment"] = ("node", np.log10(np.asarray(data.second_moment, float)))
            if "second_moment_stderr" in data:
                data["log10_second_moment_stderr"] = ("node", np.asarray(data.second_moment_stderr / data.second_moment) / np.log(10))
                data.attrs.setdefault("groups", data.attrs["seeds"] // 4)
    return data


def compare(predicted: xr.Dataset, measured: xr.Dataset, crowding: np.ndarray) -> xr.Dataset:
    """Natural logarithm of measured over predicted mean square, and how large it may be.

    The noise is Student's t with groups - 1 degrees of freedom at a false alarm of 1e-4 per report (Bonferroni over rows), the standard
    error that of the logarithm. Zero agrees with zero; a value below the smallest normal number of its type agrees with any such.

    Args:
        crowding: sum of 1/fan-in over the layers up to each node ``[nodes]``.

    Returns:
        Dataset over ``node``: ``log_ratio``, ``allowed``, ``flag`` (bool), ``underflow`` (bool: too small for the measurement's type).
    """
    p, m = log10_mean_square(predicted), log10_mean_square(measured)
    groups = int(measured.attrs["groups"])
    quantile = float(stdtrit(groups - 1, 1 - FALSE_ALARM / 2 / max(len(p), 1)))
    stderr = np.asarray(measured["log10_second_moment_stderr"], np.float64) * np.log(10)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.where(predicted.second_moment > 0, np.asarray(predicted.error) / np.asarray(predicted.second_moment), 0.0)
        difference = np.where(p == m, 0.0, (m - p) * np.log(10))
    allowed = quantile * np.where(np.isfinite(stderr), stderr, 0.0) + _WIDTH * crowding + np.where(np.isfinite(own), own, 0.0)
    small = _smallest(measured)
    underflow = (p < small) & np.isfinite(p)
    with np.errstate(invalid="ignore"):
        flag = ~(np.abs(difference) <= allowed + 1e-5) & ~underflow
    return xr.Dataset({name: ("node", value) for name, value in
                       {"log_ratio": difference, "allowed": allowed, "flag": flag, "underflow": underflow}.items()},
                      {"node": predicted.node})


def _smallest(measured: xr.Dataset) -> float:
    """log10 of the square of the smallest normal number of the type measured in."""
    return 2 * float(np.log10(np.finfo(measured.attrs.get("dtype", "float32")).tiny))
