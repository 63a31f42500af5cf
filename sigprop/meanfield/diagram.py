"""Phase diagrams: fixed points and depth scales over grids of weight and bias variances."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from sigprop.errors import InvalidInput
from sigprop.init.activations import Activation
from sigprop.meanfield.blocks import Block, stacked, uniform
from sigprop.meanfield.fixed import AT_REST
from sigprop.meanfield.maps import Layer
from sigprop.meanfield.scales import layers
from sigprop.meanfield.tables import STEP, Curve, tabulated

_STEPS = 12  # of the search for a zero in an interval, far beyond rounding where the function is nearly linear
_NEAREST = 1e-3  # angle below which two inputs count as one


def phase_diagram(activation: Activation, weight_variances: Any, bias_variances: Any = 0.0, block: Block = ()) -> xr.Dataset:
    """Fixed points, chi_1 and depth scales of a network for every pair of variances.

    What the maps make of a mean square is integrated once for each of 1,105 values, of a pair of inputs for 49 angles, and interpolated
    by splines of degree five; a million pairs take half a minute. Single points, without interpolation, are :func:`fixed_point`,
    :func:`chi1` and :func:`depth_scales`. The mean square starts at 1.

    Args:
        activation: as in :class:`Maps`.
        weight_variances, bias_variances: ``sigma_w^2`` and ``sigma_b^2``, one-dimensional or numbers.
        block: parts around the layer, as in :func:`fixed_point`.

    Returns:
        Dataset over ``weight_variance`` and ``bias_variance``: ``q``, 0 or infinite where signals die out and explode; ``chi1``, below 1 in
        the ordered and above 1 in the chaotic phase; ``c``; ``xi_q``, ``xi_c`` and ``xi_gradient`` as in :class:`DepthScales`. NaN where
        there is no finite fixed point. ``attrs["error"]`` is the largest relative difference between the moments and what is
        interpolated from every second value.

    Raises:
        InvalidInput: for variances that are negative or not finite, and as :class:`Maps`.
    """
    weights, biases = _variances("weight_variances", weight_variances), _variances("bias_variances", bias_variances)
    tables = tabulated(activation)
    logs = tables.logs

    def maps(w: Any, b: Any) -> Layer:
        return stacked(tables.layer(w, b), uniform(block))

    w, b = np.broadcast_arrays(weights[:, None], biases)
    s = np.stack([_log_q(logs, maps(weights[:, None], bias), maps(weights, bias)) for bias in biases], -1)
    inside, at = np.isfinite(s), np.exp(np.clip(s, logs[0], logs[-1]))
    q = np.exp(s)  # of minus infinity is 0
    c, alike = np.where(inside, 1.0, np.nan), maps(w, b)
    apart = inside & ((alike.correlation_slope(1.0, at).value > 1 + AT_REST) | (alike.covariance(1.0, at).value < at * (1 - AT_REST)))
    mode = stacked(tables.layer(w, b), block)
    chi, slope, pair = (np.where(q < np.inf, found.value, np.nan)
                        for found in (mode.chi(at), mode.variance_slope(at), mode.correlation_slope(1.0, at)))
    if apart.any():
        c[apart] = _correlations(maps(w[apart], b[apart]), at[apart])
        pair[apart] = stacked(tables.layer(w[apart], b[apart]), block).correlation_slope(c[apart], at[apart]).value
    columns = {"q": q, "c": c, "chi1": chi, "xi_q": layers(slope, AT_REST), "xi_c": layers(pair, AT_REST),
               "xi_gradient": layers(chi, AT_REST)}
    return xr.Dataset({name: (("weight_variance", "bias_variance"), values) for name, values in columns.items()},
                      {"weight_variance": weights, "bias_variance": biases}, {"activation": str(activation), "error": tables.error})


def _variances(name: str, given: Any) -> np.ndarray:
    found = np.atleast_1d(np.asarray(given, np.float64))
    if found.ndim != 1 or not found.size or not np.all(np.isfinite(found)) or np.any(found < 0):
        raise InvalidInput(f"{name}: numbers in one dimension, finite and at least 0, are needed")
    return found


def _log_q(logs: np.ndarray, everywhere: Layer, each: Layer) -> np.ndarray:
    """For each weight variance the first fixed point from q = 1 on, in the direction in which that moves; infinite where there is none.

    The maps come twice: with the weights as a column, for all ``q``, and as a row, for one ``q`` each.
    """
    def moved(maps: Layer, s: np.ndarray) -> np.ndarray:
        return np.asarray(maps.variance(np.exp(s)).value) * np.exp(-s) - 1

    start = int(np.searchsorted(logs, -STEP / 2))
    every = moved(everywhere, logs)
    first = every[:, start]
    found = np.where(first > 0, np.inf, -np.inf)
    for sign, path in ((1, np.arange(start, len(logs))), (-1, np.arange(start, -1, -1))):
        beyond = every[:, path] * sign <= 0
        cross = np.argmax(beyond, 1)
        mine = (sign * first > 0) & beyond.any(1)
        low, high = logs[path[np.maximum(cross - 1, 0)]], logs[path[cross]]
        found = np.where(mine, _zero(lambda s: moved(each, s), low, high), found)
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


def _correlations(maps: Layer, q: np.ndarray) -> np.ndarray:
    """``c*`` below 1."""
    def rest(angle: np.ndarray) -> np.ndarray:
        c = np.cos(angle)
        return np.asarray(maps.covariance(c, q).value) / q - c

    right = np.full(q.shape, np.pi / 2)
    middle = rest(right)
    fixed = np.asarray(maps.covariance(1.0, q).value) >= q * (1 - AT_REST)  # at 1 too, where the rest has a zero of its own

    def reduced(angle: np.ndarray) -> np.ndarray:
        return rest(angle) / np.where(fixed, np.sin(angle) ** 2, 1.0)

    ends = np.where(middle >= 0, _NEAREST, np.pi - _NEAREST)  # batch norm has negative correlations
    return np.where(np.abs(middle) <= AT_REST, 0.0, np.cos(_zero(reduced, ends, right)))  # no bias, and an odd activation
