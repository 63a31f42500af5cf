"""Fixed points of the maps of variance and correlation: what deep networks make of any input."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.errors import InvalidInput
from sigprop.init.activations import Activation
from sigprop.meanfield.blocks import Block, stacked, uniform
from sigprop.meanfield.maps import Layer, Maps
from sigprop.types import Estimate

_GRID = np.logspace(0.0, 12.0, 193)  # factors between mean squares among which a fixed point is looked for
_TOLERANCE = 1e-8  # relative error of a moment that is still used
AT_REST = 1e-9  # relative change per layer of what rounding cannot tell from a fixed point


class FixedPoint(NamedTuple):
    """Where variances and correlations go with depth.

    Attributes:
        q: mean square ``q*`` of the pre-activations; 0 and infinity where signals die out and explode.
        c: correlation ``c*`` of two inputs that were not the same; NaN where ``q`` is 0 or infinite.
        converged: whether ``q`` is finite.
        error: of ``q`` and ``c``, the larger one, from that of the expectations.
    """

    q: float
    c: float
    converged: bool
    error: float


def fixed_point(activation: Activation, weight_variance: float, bias_variance: float = 0.0, start: float = 1.0,
                block: Block = ()) -> FixedPoint:
    """Limits of the mean square and of the correlation in a deep wide network (Poole et al. 2016; Schoenholz et al. 2017).

    The mean square is the first fixed point that the map meets from ``start`` on, in the direction in which it first moves. Where it
    does not move, as that of ReLU with He's weights, ``q`` is ``start``. The map of correlations is a power series with non-negative
    coefficients (Daniely et al. 2016), hence has one fixed point in [0, 1) where ``chi_1 > 1``, which attracts, and else 1. Dropout
    and batch norm part even equal inputs.

    Args:
        activation, weight_variance, bias_variance: as in :class:`Maps`.
        start: mean square of the pre-activations in the first layer, above 0.
        block: parts around the layer, from the inside: ``[PreNorm(), Residual(0.5)]``.

    Raises:
        InvalidInput: as :class:`Maps`, and where E[f(z)^2] at ``start`` is infinite or not known to a relative error of 1e-8. Where it
            becomes so on the way to larger ``q``, signals explode.
    """
    if not np.isfinite(start) or start <= 0:
        raise InvalidInput(f"start: {start!r} given; it must be above 0")
    maps = stacked(Maps(activation, float(weight_variance), float(bias_variance)), uniform(block))
    q = _variance(maps, float(start))
    if not 0 < q < np.inf:
        return FixedPoint(q, np.nan, q == 0, 0.0)
    size, slope = maps.variance(q), maps.variance_slope(q)
    away = abs(1 - float(slope.value))
    error = float(size.error) / away if away > AT_REST else 0.0
    c, loose = _correlation(maps, q)
    return FixedPoint(q, c, True, max(error, loose))


def _variance(maps: Layer, start: float) -> float:
    from scipy.optimize import brentq  # slow to import

    first, exact = _moved(maps, np.array(start))
    if not exact:
        raise InvalidInput(f"activation: E[f(z)^2] of {maps.activation!r} is infinite or cannot be computed at a mean square of {start:g}")
    if abs(first) <= AT_REST:
        return start * (1 + float(first))
    path = start * _GRID ** np.sign(first)
    moved, exact = _moved(maps, path)
    beyond = np.flatnonzero((moved * first <= 0) | ~exact)
    if not beyond.size or not exact[beyond[0]]:
        return float(np.inf if first > 0 else 0.0)
    low, high = sorted((path[beyond[0] - 1], path[beyond[0]]))
    return float(brentq(lambda q: float(_moved(maps, np.array(q))[0]), low, high, xtol=1e-15 * low, rtol=1e-14))  # type: ignore[arg-type]


def _moved(maps: Layer, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative change of a mean square in one layer, and where it is known."""
    found = maps.variance(q)
    return np.asarray(found.value) / q - 1, known(found)


def known(found: Estimate) -> np.ndarray:
    """Where a moment is finite and known well enough to be used."""
    value = np.asarray(found.value)
    return np.isfinite(value) & (np.asarray(found.error) <= _TOLERANCE * value)


def _correlation(maps: Layer, q: float) -> tuple[float, float]:
    """The fixed point of correlations and its error."""
    from scipy.optimize import brentq

    def rest(c: float) -> float:
        return float(maps.covariance(c, q).value) / q - c

    slope = maps.correlation_slope(1.0, q)
    if rest(1.0) > -AT_REST and float(slope.value) <= 1 + max(AT_REST, float(slope.error)):
        return 1.0, 0.0
    middle = rest(0.0)
    if abs(middle) <= AT_REST:
        return 0.0, 0.0
    gap = 0.5
    while rest(1 - gap) >= 0 and gap > 1e-8:
        gap /= 2
    low, high = (0.0, 1 - gap) if middle > 0 else (-1.0, 0.0)
    c = float(brentq(rest, low, high, xtol=1e-15, rtol=1e-14))  # type: ignore[arg-type]
    return c, float(maps.covariance(c, q).error) / q / abs(1 - float(maps.correlation_slope(c, q).value))
