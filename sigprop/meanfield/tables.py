"""Moments of an activation as splines of mean square and angle, so that maps of layers cost little on large grids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from sigprop.errors import InvalidInput
from sigprop.init.activations import Activation
from sigprop.meanfield.fixed import known
from sigprop.meanfield.maps import Maps, affine, alike
from sigprop.types import METHODS, Estimate

STEP = 0.05  # of log q between points where the maps are integrated
_LOGS = STEP * np.arange(-552, 553)  # q from 1e-12 to 1e12
_START = 552  # number of q = 1 among them
_ANGLES = np.linspace(0.0, np.pi / 2, 49)  # arccos of correlations; maps are smooth in the angle, also at equal inputs
_COARSE = 0.2  # step of log q for maps of correlations

Curve = Callable[[np.ndarray], np.ndarray]


class Tables:
    """Moments of an activation under unit weights.

    Attributes:
        logs: of ``q`` around 1 at which E[f(z)^2] is known.
        error: largest relative difference between the moments and what is interpolated from every second value.

    Raises:
        InvalidInput: as :class:`Maps`, and where E[f(z)^2] is infinite, zero or not known at ``q = 1``.
    """

    def __init__(self, activation: Activation) -> None:
        self.maps = Maps(activation, 1.0)
        found = self.maps.variance(np.exp(_LOGS))
        value = np.asarray(found.value)
        good = known(found) & (value > 0)
        if not good[_START]:
            raise InvalidInput(f"activation: E[f(z)^2] of {activation!r} is infinite, zero or cannot be computed at a mean square of 1")
        bad = np.flatnonzero(~good)
        low = max([0, *(bad[bad < _START] + 1)])
        high = min([len(good), *bad[bad > _START]])
        self.logs, sizes = _LOGS[low:high], np.log(value[low:high])
        self.size = _spline(self.logs, sizes)
        half = _spline(self.logs[::2], sizes[::2])
        self.error = float(np.max(np.abs(half(self.logs) - sizes)))
        self._pairs: dict[str, tuple[float, float, Any]] = {}

    @cached_property
    def chi(self) -> Curve:
        return self._curve(self.maps.chi)

    @cached_property
    def slope(self) -> Curve:
        return self._curve(self.maps.variance_slope)

    def _curve(self, moment: Callable[[np.ndarray], Any]) -> Curve:
        return _spline(self.logs, np.asarray(moment(np.exp(self.logs)).value))

    def pair(self, name: str, angle: np.ndarray, s: np.ndarray) -> np.ndarray:
        """``covariance`` over ``q``, or ``correlation_slope``, at these angles and logarithms of ``q``."""
        from scipy.interpolate import RectBivariateSpline

        live = s[np.isfinite(s)]
        low, high, spline = self._pairs.get(name, (np.inf, -np.inf, None))
        if spline is None or live.size and not (low <= live.min() and live.max() <= high):
            low, high = (float(f([*([bound] if np.isfinite(bound) else []), *[float(f(live))] * bool(live.size)]))
                         for f, bound in ((np.min, low), (np.max, high)))
            logs = np.arange(low - 3 * _COARSE, high + 3.5 * _COARSE, _COARSE)
            q = np.exp(logs)
            found = np.asarray(getattr(self.maps, name)(np.cos(_ANGLES)[:, None], q).value)
            spline = RectBivariateSpline(_ANGLES, logs, found / q if name == "covariance" else found, kx=5, ky=5)
            self._pairs[name] = low, high, spline
        angle, s = np.broadcast_arrays(angle, s)
        return spline(angle, s, grid=False)

    def layer(self, weight_variance: Any, bias_variance: Any) -> Interpolated:
        """Maps of layers with arrays of variances, which broadcast with ``q``."""
        return Interpolated(self, weight_variance, bias_variance)


@dataclass(frozen=True, eq=False)
class Interpolated:
    """As :class:`Maps`, from splines and for arrays of variances."""

    tables: Tables
    weight_variance: Any
    bias_variance: Any

    @property
    def activation(self) -> Activation:
        return self.tables.maps.activation

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        return self._scaled(np.exp(self.tables.size(np.log(q))), self.bias_variance)

    def variance_slope(self, q: Any) -> Estimate:
        return self._scaled(self.tables.slope(np.log(q)))

    def chi(self, q: Any) -> Estimate:
        return self._scaled(self.tables.chi(np.log(q)))

    def covariance(self, c: Any, q: Any) -> Estimate:
        if alike(c):
            return self.variance(q)
        return self._scaled(q * self.tables.pair("covariance", np.arccos(c), np.log(q)), self.bias_variance)

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        if alike(c):
            return self.chi(q)
        return self._scaled(self.tables.pair("correlation_slope", np.arccos(c), np.log(q)))

    def _scaled(self, moment: Any, offset: Any = 0.0) -> Estimate:
        return affine(Estimate(moment, 0.0 * moment, METHODS[1]), self.weight_variance, offset)


@lru_cache(maxsize=8)
def tabulated(activation: Activation) -> Tables:
    """Its tables, made when first asked for."""
    return Tables(activation)


def _spline(x: np.ndarray, y: np.ndarray) -> Curve:
    from scipy.interpolate import make_interp_spline  # slow to import

    return make_interp_spline(x, y, k=min(5, len(x) - 1))
