"""Moments of an activation as splines of mean square and angle, so that maps of layers cost little on large grids and under JAX."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from sigprop.errors import InvalidInput
from sigprop.init.activations import Activation
from sigprop.meanfield.fixed import known
from sigprop.meanfield.maps import Layer, Maps, affine, alike
from sigprop.meanfield.splines import Spline, curve, fitted, surface
from sigprop.types import METHODS, Estimate

STEP = 0.05  # of log q between points where the maps are integrated
_LOGS = STEP * np.arange(-552, 553)  # q from 1e-12 to 1e12
_START = 552  # number of q = 1 among them
_NODES = 33  # angles at which moments of pairs are integrated
_ANGLES = np.linspace(0.0, np.pi / 2, 193)  # arccos of correlations; maps are smooth in the angle, also at equal inputs
_COARSE = 0.1  # step of log q for maps of correlations
_MARGIN = 3  # of these steps around the mean squares that are asked for


@partial(jax.tree_util.register_dataclass, data_fields=("size", "slope", "chi", "mean", "ends", "means", "slopes"),
         meta_fields=("activation",))
@dataclass(frozen=True, eq=False)
class Curves:
    """Moments of an activation under unit weights by ``s = log q``: a pytree of arrays, usable under transformations of JAX.

    Attributes:
        activation: as in :class:`Maps`.
        size: of log E[f(z)^2].
        slope, chi: of the map of variances, and of gradients.
        mean: E[f(z)]^2.
        ends: least and largest ``s`` at which E[f(z)^2] is known, float64 ``[2]``.
        slopes: ``correlation_slope`` by angle and ``s``; ``None`` where it is not asked for.
        means: its mean over the correlations between that of the angle and 1, by which covariances differ.
    """

    activation: Activation
    size: Spline
    slope: Spline
    chi: Spline
    mean: Spline
    ends: Any
    means: Spline | None = None
    slopes: Spline | None = None

    def layer(self, weight_variance: Any, bias_variance: Any, asked: list[Any] | None = None) -> Layer:
        """Maps of a layer; they add to ``asked`` the ``s`` of pairs, where given, and their values mean nothing then."""
        return Interpolated(self, weight_variance, bias_variance, asked)


@dataclass(frozen=True, eq=False)
class Interpolated:
    """As :class:`Maps`, from splines, for arrays of JAX."""

    curves: Curves
    weight_variance: Any
    bias_variance: Any
    asked: list[Any] | None = None

    @property
    def activation(self) -> Activation:
        return self.curves.activation

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        return self._scaled(jnp.exp(self.curves.size(jnp.log(q))), self.bias_variance)

    def variance_slope(self, q: Any) -> Estimate:
        return self._scaled(self.curves.slope(jnp.log(q)))

    def chi(self, q: Any) -> Estimate:
        return self._scaled(self.curves.chi(jnp.log(q)))

    def covariance(self, c: Any, q: Any) -> Estimate:
        if alike(c):
            return self.variance(q)
        if isinstance(c, float) and c == 0.0:
            return self._scaled(self.curves.mean(jnp.log(q)), self.bias_variance)
        fall = self._scaled(q * (1 - c) * self._pair(self.curves.means, c, q))
        found = self.variance(q)
        return found._replace(value=found.value - fall.value)

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        if alike(c):
            return self.chi(q)
        return self._scaled(self._pair(self.curves.slopes, c, q))

    def _pair(self, spline: Spline | None, c: Any, q: Any) -> Any:
        s = jnp.log(q)
        if self.asked is not None:
            self.asked.append(s)
        return 0 * s if spline is None else spline(jnp.arccos(c), s)

    def _scaled(self, moment: Any, offset: Any = 0.0) -> Estimate:
        return affine(Estimate(moment, 0.0 * moment, METHODS[1]), self.weight_variance, offset)


@dataclass(eq=False)
class Tables:
    """What is integrated for an activation, on the host, when first asked for.

    Attributes:
        curves: of one mean square.
        error: largest relative difference between E[f(z)^2] and what is interpolated from every second value.

    Raises:
        InvalidInput: as :class:`Maps`, and where E[f(z)^2] is infinite, zero or not known at ``q = 1``.
    """

    activation: Activation
    curves: Curves = field(init=False)
    error: float = field(init=False)

    def __post_init__(self) -> None:
        self._maps = Maps(self.activation, 1.0)
        self._columns: dict[int, np.ndarray] = {}
        found = self._maps.variance(np.exp(_LOGS))
        value = np.asarray(found.value)
        good = known(found) & (value > 0)
        if not good[_START]:
            raise InvalidInput(f"activation: E[f(z)^2] of {self.activation!r} is infinite, zero or cannot be computed at a mean square "
                               "of 1")
        bad = np.flatnonzero(~good)
        low = max([0, *(bad[bad < _START] + 1)])
        high = min([len(good), *bad[bad > _START]])
        logs, sizes = _LOGS[low:high], np.log(value[low:high])
        self.error = float(np.max(np.abs(fitted(logs[::2], sizes[::2])(logs) - sizes)))
        q = np.exp(logs)
        self._maps.correlation_slope(1.0, np.ones(1))  # refuses jumps
        moments = (self._maps.variance_slope(q), self._maps.chi(q), self._maps.covariance(np.zeros(1), q))
        size, slope, chi, mean = (curve(logs, y) for y in (sizes, *(m.value for m in moments)))
        self.curves = Curves(self.activation, size, slope, chi, mean, logs[[0, -1]])

    def between(self, low: float, high: float) -> Curves:
        """With the curves of pairs for ``s`` from ``low`` to ``high``."""
        at = range(int(np.floor(low / _COARSE)) - _MARGIN, int(np.ceil(high / _COARSE)) + _MARGIN + 1)
        missing = [k for k in at if k not in self._columns]
        if missing:
            self._columns.update(zip(missing, self._pairs(np.exp(_COARSE * np.array(missing))), strict=True))
        means, slopes = np.stack([self._columns[k] for k in at], -1)
        logs = _COARSE * np.array(at)
        return replace(self.curves, means=surface(_ANGLES, logs, means), slopes=surface(_ANGLES, logs, slopes))

    def _pairs(self, q: np.ndarray) -> np.ndarray:
        """``[q, 2, angles]``: mean slopes and slopes.

        Chebyshev's series of the slopes in the angle are integrated term by term: of covariances, nearly equal at small angles, the
        differences would have few digits.
        """
        half = np.pi / 4
        x = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
        slopes = np.asarray(self._maps.correlation_slope(np.cos(half * (1 + x))[:, None], q).value)
        along = slopes * np.sin(half * (1 + x))[:, None]  # the slope by the angle, whose integral is the fall of the covariance over q
        series, rates = (chebyshev.chebfit(x, y, _NODES - 1) for y in (slopes, along))
        falls = half * chebyshev.chebint(rates, lbnd=-1)
        at = _ANGLES / half - 1
        slope, fall = chebyshev.chebval(at, series), chebyshev.chebval(at, falls)
        mean = np.where(_ANGLES > 0, fall / np.maximum(1 - np.cos(_ANGLES), 1e-300), slope)
        return np.stack([mean, slope], 1)


@lru_cache(maxsize=8)
def tabulated(activation: Activation) -> Tables:
    """Its tables, made when first asked for."""
    return Tables(activation)
