"""Phase diagrams: fixed points and depth scales over grids of weight and bias variances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from sigprop.errors import InvalidInput
from sigprop.init.activations import Activation
from sigprop.meanfield.fixed import AT_REST, known
from sigprop.meanfield.maps import Maps
from sigprop.meanfield.scales import layers

_STEP = 0.05  # of log q between points where the maps are integrated
_LOGS = _STEP * np.arange(-552, 553)  # q from 1e-12 to 1e12
_START = 552  # number of q = 1 among them
_ANGLES = np.linspace(0.0, np.pi / 2, 49)  # arccos of correlations; maps are smooth in the angle, also at equal inputs
_COARSE = 0.2  # step of log q for maps of correlations
_STEPS = 12  # of the search for a zero in an interval, far beyond rounding where the function is nearly linear
_NEAREST = 1e-3  # angle below which two inputs count as one

Curve = Callable[[np.ndarray], np.ndarray]


def phase_diagram(activation: Activation, weight_variances: Any, bias_variances: Any = 0.0) -> xr.Dataset:
    """Fixed points, chi_1 and depth scales of a fully connected network for every pair of variances.

    What the maps make of a mean square is integrated once for each of 1,105 values, of a pair of inputs for 49 angles, and interpolated
    by splines of degree five; a million pairs take twenty seconds. Single points, without interpolation, are :func:`fixed_point`,
    :func:`chi1` and :func:`depth_scales`. The mean square starts at 1.

    Args:
        activation: as in :class:`Maps`.
        weight_variances, bias_variances: ``sigma_w^2`` and ``sigma_b^2``, one-dimensional or numbers.

    Returns:
        Dataset over ``weight_variance`` and ``bias_variance``: ``q``, 0 or infinite where signals die out and explode; ``chi1``, below 1 in
        the ordered and above 1 in the chaotic phase; ``c``; ``xi_q``, ``xi_c`` and ``xi_gradient`` as in :class:`DepthScales`. NaN where
        there is no finite fixed point. ``attrs["error"]`` is the largest relative difference between the moments and what is
        interpolated from every second value.

    Raises:
        InvalidInput: for variances that are negative or not finite, and as :class:`Maps`.
    """
    weights, biases = _variances("weight_variances", weight_variances), _variances("bias_variances", bias_variances)
    maps = Maps(activation, 1.0)
    logs, size, error = _usable(maps)
    w, b = np.broadcast_arrays(weights[:, None], biases)
    s = np.stack([_log_q(logs, size, weights, bias) for bias in biases], -1)
    inside, at = np.isfinite(s), np.clip(s, logs[0], logs[-1])
    q = np.exp(s)  # of minus infinity is 0
    alive = q < np.inf
    chi, slope = (np.where(alive, w * _curve(logs, moment)(at), np.nan) for moment in (maps.chi, maps.variance_slope))
    c, pair = _correlations(maps, np.where(inside, at, np.nan), w, b, chi)
    c = np.where(inside, c, np.nan)
    columns = {"q": q, "c": c, "chi1": chi, "xi_q": layers(slope, AT_REST),
               "xi_c": layers(np.where(np.isfinite(pair), pair, chi), AT_REST), "xi_gradient": layers(chi, AT_REST)}
    return xr.Dataset({name: (("weight_variance", "bias_variance"), values) for name, values in columns.items()},
                      {"weight_variance": weights, "bias_variance": biases}, {"activation": str(activation), "error": error})


def _variances(name: str, given: Any) -> np.ndarray:
    found = np.atleast_1d(np.asarray(given, np.float64))
    if found.ndim != 1 or not found.size or not np.all(np.isfinite(found)) or np.any(found < 0):
        raise InvalidInput(f"{name}: numbers in one dimension, finite and at least 0, are needed")
    return found


def _usable(maps: Maps) -> tuple[np.ndarray, Curve, float]:
    """Logarithms of q around 1 at which E[f(z)^2] is known, the logarithm of it as a spline, and the error of that."""
    found = maps.variance(np.exp(_LOGS))
    value = np.asarray(found.value)
    good = known(found) & (value > 0)
    if not good[_START]:
        raise InvalidInput(f"activation: E[f(z)^2] of {maps.activation!r} is infinite, zero or cannot be computed at a mean square of 1")
    bad = np.flatnonzero(~good)
    low = max([0, *(bad[bad < _START] + 1)])
    high = min([len(good), *bad[bad > _START]])
    logs, sizes = _LOGS[low:high], np.log(value[low:high])
    half = _spline(logs[::2], sizes[::2])
    return logs, _spline(logs, sizes), float(np.max(np.abs(half(logs) - sizes)))


def _spline(x: np.ndarray, y: np.ndarray) -> Curve:
    from scipy.interpolate import make_interp_spline  # slow to import

    return make_interp_spline(x, y, k=min(5, len(x) - 1))


def _curve(logs: np.ndarray, moment: Callable[[np.ndarray], Any]) -> Curve:
    return _spline(logs, np.asarray(moment(np.exp(logs)).value))


def _log_q(logs: np.ndarray, size: Curve, weights: np.ndarray, bias: float) -> np.ndarray:
    """For each weight variance the first fixed point from q = 1 on, in the direction in which that moves; infinite where there is none."""
    def moved(w: np.ndarray, s: np.ndarray) -> np.ndarray:
        return (w * np.exp(size(s)) + bias) * np.exp(-s) - 1

    start = int(np.searchsorted(logs, -_STEP / 2))
    every = moved(weights[:, None], logs)
    first = every[:, start]
    found = np.where(first > 0, np.inf, -np.inf)
    for sign, path in ((1, np.arange(start, len(logs))), (-1, np.arange(start, -1, -1))):
        beyond = every[:, path] * sign <= 0
        cross = np.argmax(beyond, 1)
        mine = (sign * first > 0) & beyond.any(1)
        low, high = logs[path[np.maximum(cross - 1, 0)]], logs[path[cross]]
        found = np.where(mine, _zero(lambda s: moved(weights, s), low, high), found)
    return np.where(np.abs(first) <= AT_REST, 0.0, found)


def _zero(function: Curve, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Of increasing or decreasing functions, one each interval, by false position with halved weights (Dowell & Jarratt 1971)."""
    one, two = function(low), function(high)
    middle = high
    for _ in range(_STEPS):
        with np.errstate(invalid="ignore", divide="ignore"):
            middle = np.where(one == two, high, (low * two - high * one) / (two - one))
        found = function(middle)
        left = found * two <= 0  # the zero is between the middle and what was high
        low, one = np.where(left, high, low), np.where(left, two, one / 2)
        high, two = middle, found
    return middle


def _correlations(maps: Maps, s: np.ndarray, w: np.ndarray, b: np.ndarray, chi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``c*`` and the slope of the map of correlations there, NaN where it is 1."""
    from scipy.interpolate import RectBivariateSpline

    c, slope = np.ones(s.shape), np.full(s.shape, np.nan)
    chaotic = np.isfinite(s) & (chi > 1 + AT_REST)
    if not chaotic.any():
        return c, slope
    t, w, b = s[chaotic], w[chaotic], b[chaotic]
    logs = np.arange(t.min() - 3 * _COARSE, t.max() + 3.5 * _COARSE, _COARSE)
    cosines, q = np.cos(_ANGLES)[:, None], np.exp(logs)
    pair, slopes = (RectBivariateSpline(_ANGLES, logs, np.asarray(moment(cosines, q).value) / scale, kx=5, ky=5)
                    for moment, scale in ((maps.covariance, q), (maps.correlation_slope, 1.0)))

    def rest(angle: np.ndarray) -> np.ndarray:
        return w * pair(angle, t, grid=False) + b * np.exp(-t) - np.cos(angle)

    right = np.full(t.shape, np.pi / 2)
    odd = rest(right) <= AT_REST  # no bias, and an odd activation
    angle = np.where(odd, right, _zero(lambda a: rest(a) / np.sin(a) ** 2, np.full(t.shape, _NEAREST), right))
    c[chaotic], slope[chaotic] = np.where(odd, 0.0, np.cos(angle)), w * slopes(angle, t, grid=False)
    return c, slope
