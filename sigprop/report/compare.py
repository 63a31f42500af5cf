"""Prediction against measurement: the difference that noise, finite width and the prediction's own error explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy.special import ndtri, stdtrit

FALSE_ALARM = 1e-4  # probability, per report, that noise alone raises a flag
_WIDTH = 2.0  # corrections of order 1/width per layer: this many times the sum of 1/fan-in over the layers passed
_MARGIN = 2.0  # decades between a mean square and where single entries leave the type's range


def log10_mean_square(data: xr.Dataset, quantity: str = "second_moment") -> np.ndarray:
    """log10 E[z²], or E[g²] for ``"grad_variance"``, ``[nodes]``: ``-inf`` where it is exactly zero, NaN where it is not known."""
    return np.asarray(data[f"log10_{quantity}"], np.float64)


def has_gradients(data: xr.Dataset) -> bool:
    """Whether gradients were asked for and could be had."""
    return not bool(np.isnan(np.asarray(data["grad_variance"], np.float64)).all())


def compare(predicted: xr.Dataset, measured: xr.Dataset, crowding: np.ndarray, dtypes: Sequence[Any],
            log_variance: np.ndarray | None = None) -> xr.Dataset:
    """Natural logarithm of measured over predicted mean square, and how large it may be; of signals, and of gradients where both are known.

    The noise is Student's t with groups - 1 degrees of freedom at a false alarm of 1e-4 per report (Bonferroni over rows), the standard
    error that of the logarithm. Zero agrees with zero. Numbers outside the range of the type they are computed in are not compared. A
    gradient has passed all layers, forwards and back.

    Finite width moves the mean square by a share of order 1/width, and makes its noise skewed: most draws are smaller than their mean, and
    so seems their spread. Twice ``crowding`` is allowed for both, either way. Both are known where ``log_variance`` is: the mean is exact,
    so that nothing more is allowed above it; one draw is about lognormal, its logarithm of mean ``-s^2 / 2`` and variance ``s^2``, and the
    logarithm of a mean is never below the mean of logarithms, so that ``s^2 / 2`` and the noise of that mean are allowed below, at most
    what is allowed otherwise. Gradients have the general allowance.

    Args:
        crowding: sum of 1/terms over the sums up to each node ``[nodes]``.
        dtypes: type that each node is computed in.
        log_variance: ``s^2``, of the logarithm of the mean square of one draw ``[nodes]``; NaN where it is not known, the default.

    Returns:
        Dataset over ``node``: ``log_ratio``, ``allowed`` (in its direction), ``flag`` (bool: larger than that), ``width`` (bool: not
        flagged, but larger than noise and the prediction's error, so that the allowance for finite width is needed) and ``range``, which is
        -1 where the prediction is too small for the type, 1 where it is too large, else 0; and the same of gradients with ``grad_`` before
        them. ``width_known``: whether ``log_variance`` is.
    """
    log_variance = np.full(predicted.sizes["node"], np.nan) if log_variance is None else log_variance
    columns = _judged(predicted, measured, "second_moment", "error", crowding, dtypes, log_variance)
    everything = np.full_like(log_variance, 2 * np.max(crowding, initial=0.0))
    gradients = _judged(predicted, measured, "grad_variance", "grad_error", everything, dtypes, np.full_like(log_variance, np.nan))
    for judged in ("flag", "width"):
        gradients[judged] &= ~np.isnan(gradients["log_ratio"])
    columns |= {f"grad_{name}": column for name, column in gradients.items()} | {"width_known": ~np.isnan(log_variance)}
    return xr.Dataset({name: ("node", value) for name, value in columns.items()}, {"node": predicted.node})


def _judged(predicted: xr.Dataset, measured: xr.Dataset, quantity: str, error: str, crowding: np.ndarray,
            dtypes: Sequence[Any], log_variance: np.ndarray) -> dict[str, np.ndarray]:
    p, m = log10_mean_square(predicted, quantity), log10_mean_square(measured, quantity)
    tests = (1 + has_gradients(predicted)) * max(len(p), 1)
    alarm = FALSE_ALARM / 2 / tests
    quantile = float(stdtrit(int(measured.attrs["groups"]) - 1, 1 - alarm))
    stderr = np.asarray(measured[f"log10_{quantity}_stderr"], np.float64) * np.log(10)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.asarray(predicted[error], np.float64) / np.asarray(predicted[quantity], np.float64)
        difference = np.where(p == m, 0.0, (m - p) * np.log(10))
        noise = quantile * _finite(stderr)
        infinite, general = noise + _finite(own), _WIDTH * crowding
        below = log_variance / 2 - ndtri(alarm) * np.sqrt(log_variance / int(measured.attrs["seeds"])) - noise
        exact = np.where(difference < 0, np.clip(below, 0.0, general), 0.0)
        allowed = infinite + np.where(np.isnan(log_variance), general, exact)
        outside = np.array([_range(size, dtype) for size, dtype in zip(p, dtypes, strict=True)])
        flag, beyond = (~(np.abs(difference) <= most + 1e-5) & (outside == 0) for most in (allowed, infinite))
    return {"log_ratio": difference, "allowed": allowed, "flag": flag, "width": beyond & ~flag, "range": outside}


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0.0)


def _range(log10: float, dtype: Any) -> int:
    if not (np.isfinite(log10) and jnp.issubdtype(dtype, jnp.floating)):
        return 0
    limits = jnp.finfo(dtype)
    return int(log10 > 2 * np.log10(float(limits.max)) - _MARGIN) - int(log10 < 2 * np.log10(float(limits.tiny)) + _MARGIN)
