"""Splines on equal cells as arrays: fitted on the host, evaluated under JAX."""

from __future__ import annotations

from math import factorial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_DEGREE = 5


class Spline(NamedTuple):
    """Piecewise polynomial of one variable or two.

    Attributes:
        low, step: start and size of the cells, float64 ``[variables]``.
        coefficients: of powers of the distance to a cell's start: ``[cells, 6]`` or ``[cells, cells, 6, 6]``, float64.
    """

    low: Any
    step: Any
    coefficients: Any

    def __call__(self, *x: Any) -> Any:
        """At these numbers, one for each variable; beyond the last cells their polynomials go on."""
        cells, away = [], []
        for at, low, step, count in zip(x, self.low, self.step, self.coefficients.shape, strict=False):
            cell = jnp.clip(jnp.floor((at - low) / step), 0, count - 1)
            cells.append(cell.astype(int))
            away.append(at - low - step * cell)
        value = self.coefficients[tuple(cells)]
        for t in reversed(away):
            powers = jnp.stack([t**k for k in range(_DEGREE + 1)], -1)
            value = jnp.sum(value * jnp.expand_dims(powers, range(powers.ndim - 1, value.ndim - 1)), -1)
        return value


def fitted(x: np.ndarray, y: Any) -> Any:
    """SciPy's spline through ``y [points, ...]`` at increasing ``x``."""
    from scipy.interpolate import make_interp_spline  # slow to import

    return make_interp_spline(x, y, k=min(_DEGREE, len(x) - 1))


def curve(x: np.ndarray, y: Any) -> Spline:
    """Through ``y [points]`` at equally spaced ``x``."""
    return Spline(x[:1], x[1:2] - x[:1], _taylor(x, np.asarray(y)))


def surface(x1: np.ndarray, x2: np.ndarray, y: np.ndarray) -> Spline:
    """Through ``y [points1, points2]`` at equally spaced ``x1`` and ``x2``."""
    both = _taylor(x2, np.moveaxis(_taylor(x1, y), 1, 0))  # [cells2, cells1, 6, 6]
    return Spline(np.array([x1[0], x2[0]]), np.array([x1[1] - x1[0], x2[1] - x2[0]]), np.moveaxis(both, 0, 1))


def _taylor(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients of powers of the distance to each point but the last, on a new last axis."""
    spline = fitted(x, y)
    return np.stack([spline(x[:-1], nu=k) / factorial(k) for k in range(_DEGREE + 1)], -1)
