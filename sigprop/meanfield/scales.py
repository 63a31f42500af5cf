"""How many layers information and gradients survive."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sigprop.errors import InvalidInput
from sigprop.init import critical_point
from sigprop.init.activations import Activation
from sigprop.meanfield.fixed import FixedPoint, fixed_point
from sigprop.meanfield.maps import Maps


class DepthScales(NamedTuple):
    """Numbers of layers over which deviations fall by a factor of e.

    Attributes:
        xi_q: of the mean square from its fixed point; 0 where one layer is enough, infinite where it stays where it is.
        xi_c: of the correlation of two inputs from its fixed point; infinite at the edge of chaos.
        xi_gradient: of the mean square of gradients, ``-1 / ln chi_1``: negative where they explode towards the input.
    """

    xi_q: float
    xi_c: float
    xi_gradient: float


def chi1(activation: Activation, weight_variance: float, bias_variance: float = 0.0) -> float:
    """``sigma_w^2 E[f'(z)^2]`` at the fixed point ``q*``: below 1 ordered, above 1 chaotic (Poole et al. 2016; Schoenholz et al. 2017).

    Raises:
        InvalidInput: as :func:`fixed_point`, and where signals explode, so that there is no fixed point.
    """
    maps, point = _point(activation, weight_variance, bias_variance)
    return float(maps.chi(point.q or _VANISHING).value)


def depth_scales(activation: Activation, weight_variance: float, bias_variance: float = 0.0) -> DepthScales:
    """``-1 / ln`` of the slopes of the maps of variance, correlation and gradients at their fixed points (Schoenholz et al. 2017).

    Raises:
        InvalidInput: as :func:`chi1`.
    """
    maps, point = _point(activation, weight_variance, bias_variance)
    q, c = (point.q, point.c) if point.q else (_VANISHING, 1.0)
    return DepthScales(*(float(layers(slope.value)) for slope in (maps.variance_slope(q), maps.correlation_slope(c, q), maps.chi(q))))


def critical_weight_variance(activation: Activation, bias_variance: float = 0.0) -> float:
    """``sigma_w^2`` on the edge of chaos, of :func:`sigprop.init.critical_point`.

    Raises:
        InvalidInput: as there.
    """
    return critical_point(activation, bias_variance).weight_variance


_VANISHING = 1e-20  # a mean square that stands for the limit 0


def _point(activation: Activation, weight_variance: float, bias_variance: float) -> tuple[Maps, FixedPoint]:
    point = fixed_point(activation, weight_variance, bias_variance)
    if not point.converged:
        raise InvalidInput(f"weight_variance: with {weight_variance!r} and {activation!r} signals explode, there is no fixed point; "
                           "lower it")
    return Maps(activation, float(weight_variance), float(bias_variance)), point


def layers(slope: Any, at_rest: float = 1e-12) -> Any:
    """``-1 / ln |slope|``, infinite where the slope is 1 up to ``at_rest``."""
    size = np.abs(slope)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(size - 1) <= at_rest, np.inf, -1 / np.log(size))
