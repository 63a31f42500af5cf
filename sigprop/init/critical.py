"""The edge of chaos: weight variances at which two nearby inputs neither merge nor part."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from sigprop.errors import InvalidInput
from sigprop.gaussian import Function, moment1
from sigprop.init.activations import Activation, derivative, exactly, function
from sigprop.init.checks import check_number
from sigprop.init.fans import PLAIN
from sigprop.init.scaling import FanSpec, VarianceScaling

_GRID = np.logspace(-8.0, 4.0, 97)  # mean squares among which fixed points are looked for
_ORIGIN, _NEAR = 1e-20, 1e-4  # mean squares that stand for the limit 0, and for signals that approach it or leave it
_TOLERANCE = 1e-8


class CriticalPoint(NamedTuple):
    """A point on the edge of chaos of a wide network.

    Attributes:
        weight_variance: ``sigma_w^2``, the variance of a weight times its fan-in.
        bias_variance: ``sigma_b^2``.
        fixed_point: mean square ``q`` of the pre-activations that a layer maps to itself; 0 in the limit of vanishing signals.
        slope: derivative there of the map of ``q`` by a layer; 1 in the limit of vanishing signals.
        stable: whether layers approach the fixed point, or stay where they are as ReLU does, rather than leave it.
    """

    weight_variance: float
    bias_variance: float
    fixed_point: float
    slope: float
    stable: bool


def critical_point(activation: Activation, bias_variance: float = 0.0) -> CriticalPoint:
    """The weight variance with ``sigma_w^2 E[f'(z)^2] = 1`` at ``q = E[z^2] = sigma_w^2 E[f(z)^2] + sigma_b^2``.

    That is chi_1 = 1 at the fixed point (Poole et al. 2016; Schoenholz et al. 2017). Of several solutions it is the stable one with the
    smallest ``q``, or the smallest where none is stable, as for GELU and SiLU with little bias.

    Args:
        activation: elementwise function of JAX, or its name as in :func:`sigprop.init.gain`.
        bias_variance: at least 0.

    Raises:
        InvalidInput: for unknown names, a negative variance, functions that JAX cannot differentiate, and where there is no solution for
            ``q`` between 1e-8 and 1e4, as for ReLU with biases.
    """
    check_number("bias_variance", bias_variance, 0.0)
    function(activation)
    return _solved(activation, float(bias_variance))


@lru_cache(maxsize=128)
def _solved(activation: Activation, bias_variance: float) -> CriticalPoint:
    f = function(activation)
    both = exactly(f, "activation"), exactly(derivative(f), "derivative of activation", f)
    points = [] if bias_variance else _vanishing(both)
    if points and points[0].stable:
        return points[0]
    bias, _ = _ratio(both, _GRID)
    with np.errstate(invalid="ignore"):
        crossing = np.flatnonzero((bias[:-1] - bias_variance) * (bias[1:] - bias_variance) < 0)
    if not crossing.size and not points:
        found = bias[np.isfinite(bias)]
        between = f"lies between {found.min():.3g} and {found.max():.3g}" if found.size else "cannot be computed"
        raise InvalidInput(f"bias_variance: {bias_variance!r} has no critical point with {activation!r}; the bias variance that goes with "
                           f"chi_1 = 1 {between} for mean squares from 1e-8 to 1e4")
    points += [_refined(both, bias_variance, _GRID[k], _GRID[k + 1]) for k in crossing]
    return next((p for p in points if p.stable), points[0])


def critical(activation: Activation, bias_variance: float = 0.0, fans: FanSpec = PLAIN, distribution: str = "normal") -> VarianceScaling:
    """Weights at the edge of chaos: variance ``sigma_w^2 / n``, to go with biases of the given variance.

    Args:
        activation, bias_variance: as in :func:`critical_point`.
        fans, distribution: as in :class:`VarianceScaling`.

    Raises:
        InvalidInput: as :func:`critical_point`, and where layers leave the fixed point, so that the network is critical nowhere.
    """
    point = critical_point(activation, bias_variance)
    if not point.stable:
        raise InvalidInput(f"bias_variance: with {bias_variance!r} and {activation!r} layers leave the fixed point q = "
                           f"{point.fixed_point:.4g} (slope {point.slope:.4g}), and away from it chi_1 is not 1; try a larger bias "
                           "variance")
    return VarianceScaling(point.weight_variance, "fan_in", distribution, fans)


def _ratio(both: tuple[Function, Function], q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bias variance for which ``q`` is a fixed point with chi_1 = 1, and E[f'(z)^2]; NaN where they cannot be computed."""
    f, slope = both
    size, chi = moment1([f, f], 0.0, q), moment1([slope, slope], 0.0, q)
    good = (size.error <= _TOLERANCE * size.value) & (chi.error <= _TOLERANCE * chi.value) & (chi.value > 0)
    with np.errstate(all="ignore"):
        bias = np.where(good, q - size.value / chi.value, np.nan)
    return bias, np.where(good, chi.value, np.nan)


def _vanishing(both: tuple[Function, Function]) -> list[CriticalPoint]:
    """The critical point without bias in the limit of vanishing signals, where zero maps to zero with a slope."""
    weight = 1 / float(_ratio(both, np.array(_ORIGIN))[1])
    if not np.isfinite(weight) or both[0](np.zeros(1))[0] != 0:
        return []
    near = weight * float(moment1([both[0]] * 2, 0.0, np.array(_NEAR)).value) / _NEAR
    return [CriticalPoint(weight, 0.0, 0.0, 1.0, near <= 1 + _TOLERANCE)]


def _refined(both: tuple[Function, Function], bias_variance: float, low: float, high: float) -> CriticalPoint:
    from scipy.optimize import brentq  # slow to import

    q: Any = brentq(lambda t: float(_ratio(both, np.array(t))[0]) - bias_variance, low, high, xtol=1e-14 * low)
    weight = 1 / float(_ratio(both, np.array(q))[1])
    growth = float(moment1(list(both), 0.0, np.array(q), degree=1).value) / q**0.5  # d E[f^2] / dq = E[f f' z] / sqrt(q)
    return CriticalPoint(weight, bias_variance, q, weight * growth, weight * growth <= 1)
