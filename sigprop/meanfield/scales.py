"""How many layers information and gradients survive."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sigprop.arrays import namespace
from sigprop.errors import InvalidInput
from sigprop.init import critical_point
from sigprop.init.activations import Activation
from sigprop.init.checks import check_number
from sigprop.meanfield.blocks import Block, stacked
from sigprop.meanfield.fixed import FixedPoint, fixed_point
from sigprop.meanfield.maps import Layer, Maps


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


def chi1(activation: Activation, weight_variance: float, bias_variance: float = 0.0, block: Block = ()) -> float:
    """Growth of the mean square of gradients at the fixed point ``q*``, for a layer ``sigma_w^2 E[f'(z)^2]``: below 1 ordered, above 1
    chaotic (Poole et al. 2016; Schoenholz et al. 2017).

    Args:
        activation, weight_variance, bias_variance, block: as in :func:`fixed_point`.

    Raises:
        InvalidInput: as :func:`fixed_point`, and where signals explode, so that there is no fixed point.
    """
    maps, point = _point(activation, weight_variance, bias_variance, block)
    return float(maps.chi(point.q or _VANISHING).value)


def depth_scales(activation: Activation, weight_variance: float, bias_variance: float = 0.0, block: Block = ()) -> DepthScales:
    """``-1 / ln`` of the slopes of the maps of variance, correlation and gradients at their fixed points (Schoenholz et al. 2017).

    Args:
        activation, weight_variance, bias_variance, block: as in :func:`fixed_point`; with a :class:`Convolution` of the Fourier mode.

    Raises:
        InvalidInput: as :func:`chi1`.
    """
    maps, point = _point(activation, weight_variance, bias_variance, block)
    q, c = (point.q, point.c) if point.q else (_VANISHING, 1.0)
    return DepthScales(*(float(layers(slope.value)) for slope in (maps.variance_slope(q), maps.correlation_slope(c, q), maps.chi(q))))


def trainability_length(activation: Activation, weight_variance: float, bias_variance: float = 0.0, block: Block = (),
                        multiple: float = 6.0) -> float:
    """Number of layers up to which a network can be trained: ``multiple`` times the shorter of ``xi_c`` and ``|xi_gradient|``.

    Beyond, the outputs of different inputs are alike (or equally unlike), and gradients have vanished or exploded. Schoenholz et al. 2017
    (section 5.1) saw networks on MNIST and CIFAR10 train up to six times ``xi_c``; the multiple grows slowly with the training time.

    Raises:
        InvalidInput: as :func:`chi1`.
    """
    check_number("multiple", multiple, above=0.0)
    found = depth_scales(activation, weight_variance, bias_variance, block)
    return multiple * min(found.xi_c, abs(found.xi_gradient))


def critical_weight_variance(activation: Activation, bias_variance: float = 0.0, block: Block = ()) -> float:
    """``sigma_w^2`` at which gradients neither vanish nor explode: of a layer the edge of chaos, :func:`sigprop.init.critical_point`.

    With a ``block`` it is the largest root of ``chi1 = 1`` between 0.01 and 100 that has a fixed point.

    Raises:
        InvalidInput: as there, and where there is no such variance.
    """
    if not block:
        return critical_point(activation, bias_variance).weight_variance
    from scipy.optimize import brentq  # slow to import

    def growth(log: float) -> float:
        weight = float(np.exp(log))
        point = fixed_point(activation, weight, bias_variance, block=block)
        return chi1(activation, weight, bias_variance, block) - 1 if point.converged else np.nan

    found = np.array([growth(log) for log in _LOGS])
    with np.errstate(invalid="ignore"):
        crossing = np.flatnonzero(found[:-1] * found[1:] <= 0)
    if not crossing.size:
        raise InvalidInput(f"bias_variance: {bias_variance!r} has no critical weight variance between 0.01 and 100 with {activation!r} in "
                           f"{list(block)!r}; phase_diagram shows chi1")
    at = crossing[-1]
    return float(np.exp(brentq(growth, _LOGS[at], _LOGS[at + 1], xtol=1e-13, rtol=1e-13)))  # type: ignore[arg-type]


_VANISHING = 1e-20  # a mean square that stands for the limit 0
_LOGS = np.log(10.0) * np.linspace(-2, 2, 33)


def _point(activation: Activation, weight_variance: float, bias_variance: float, block: Block) -> tuple[Layer, FixedPoint]:
    point = fixed_point(activation, weight_variance, bias_variance, block=block)
    if not point.converged:
        raise InvalidInput(f"weight_variance: with {weight_variance!r} and {activation!r} signals explode, there is no fixed point; "
                           "lower it, or follow them with trajectory")
    return stacked(Maps(activation, float(weight_variance), float(bias_variance)), block), point


def layers(slope: Any, at_rest: float = 1e-12) -> Any:
    """``-1 / ln |slope|``, infinite where the slope is 1 up to ``at_rest``."""
    xp = namespace(slope)
    size = abs(slope)
    flat, rest = size == 0, abs(size - 1) <= at_rest  # apart, so that derivatives are finite
    return xp.where(flat, 0.0, xp.where(rest, np.inf, -1 / xp.log(xp.where(flat | rest, 2.0, size))))
