"""Moments of what batch norm on its own statistics makes of a batch: integrals over a sphere.

A Gaussian vector of ``B`` examples that are alike in pairs, centred and divided by its root mean square, is a uniform point ``u`` of the
sphere of radius ``sqrt(B)`` among the vectors whose entries sum to 0. One entry is ``sqrt(B-1) sin(t)`` with density ``cos(t)^(B-3)``;
given it, the rest is such a point again, of one dimension less. Both integrals are split where the activation has a kink.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from sigprop.gaussian import moment1, recognize
from sigprop.init.activations import Activation, derivative, exactly, function
from sigprop.types import METHODS, Estimate

_REACH = 9.0  # standard deviations of a coordinate
_PANELS = np.linspace(-1.0, 1.0, 13)
_ORDERS = (16, 12)

Integrand = Callable[[Any, Any], Any]


class BatchMoments(NamedTuple):
    """Of an activation ``f`` behind batch norm.

    Attributes:
        second: ``E[f(u1)^2]``.
        pair: ``E[f(u1) f(u2)]`` for two examples.
        backward: growth of gradients times ``second - pair``.
    """

    second: Estimate
    pair: Estimate
    backward: Estimate


@lru_cache(maxsize=64)
def batch_moments(activation: Activation, batch: int | None) -> BatchMoments:
    """Moments for a batch of so many examples, ``None`` for the limit of large ones, in which they are independent Gaussians.

    Gradients pass the norm as ``sqrt(B)/|z| P``, ``P`` projecting on what is orthogonal to ``u`` and to the constants, and the weights
    make them isotropic among vectors whose entries sum to 0. Their mean square is hence multiplied by ``E[B/|z|^2] E tr(P D G D)/(B-1)``
    with the derivatives ``D`` and the centring ``G``; ``E[1/|z|^2] = 1/((B-3) q(1-c))`` is that of a chi-squared variable, independent of
    the direction (for a linear network Yang et al. 2019, theorem on gradient explosion).
    """
    f = function(activation)
    value, slope = exactly(f, "activation"), exactly(derivative(f), "derivative of activation", f)
    if batch is None:
        second, mean, chi = (moment1(factors, 0.0, np.array(1.0)) for factors in ([value] * 2, [value], [slope] * 2))
        return BatchMoments(second, mean._replace(value=mean.value**2, error=2 * abs(mean.value) * mean.error), chi)
    size, kinks = float(batch), tuple(sorted({0.0, *recognize(value).kinks, *recognize(slope).kinks}))

    def sphere(integrand: Integrand) -> Estimate:
        fine, rough = (_integral(integrand, batch, kinks, order) for order in _ORDERS)
        return Estimate(fine, abs(fine - rough), METHODS[1])

    def backward(u: Any, v: Any) -> Any:
        d, e = slope(u), slope(v)
        centred = (1 - 1 / size) ** 2 * d**2 + (size - 1) / size**2 * d * e
        along = u**2 * d**2 / size - (u**2 * d**2 + (size - 1) * u * d * v * e) / size**2
        return (centred - along) * size**2 / ((size - 1) * (size - 3))

    return BatchMoments(sphere(lambda u, v: value(u) ** 2), sphere(lambda u, v: value(u) * value(v)), sphere(backward))


def _integral(integrand: Integrand, batch: int, kinks: tuple[float, ...], order: int) -> Any:
    """Mean of a function of two entries."""
    radius = np.sqrt(batch - 1.0)
    second = np.sqrt(batch * (batch - 2.0) / (batch - 1.0))  # radius of the second entry about its mean -u / (B-1), times cos(t)
    size, tilt = np.hypot(second, 1 / radius), np.arctan2(1 / radius, second)
    ends = [sign * (turn * np.arccos(np.clip(sign * k / size, -1, 1)) - tilt) for k in kinks for sign in (1, -1) for turn in (1, -1)]
    # the first entries from which on the second reaches a kink are edges too
    t, weight = _nodes(np.array([*(np.array(kinks) / radius), *np.sin(ends)])[None], batch - 3, order)
    u, weight = radius * np.sin(t[0]), weight[0]
    rest = second * np.cos(t[0])
    inner = np.array(kinks) + u[:, None] / (batch - 1)
    s, theirs = _nodes(inner / rest[:, None], batch - 4, order)
    v = rest[:, None] * np.sin(s) - u[:, None] / (batch - 1)
    return np.sum(weight[:, None] * theirs * integrand(np.broadcast_to(u[:, None], v.shape), v))


def _nodes(sines: np.ndarray, power: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Angles and weights ``[rows, nodes]`` of a mean with density ``cos^power``, split at the angles of these sines ``[rows, kinks]``."""
    reach = min(np.pi / 2, _REACH / max(power, 1) ** 0.5)
    edges = np.concatenate([np.broadcast_to(reach * _PANELS, (len(sines), len(_PANELS))),
                            np.clip(np.arcsin(np.clip(sines, -1, 1)), -reach, reach)], -1)
    edges = np.sort(edges, -1)
    x, w = np.polynomial.legendre.leggauss(order)
    middle, half = (edges[:, 1:] + edges[:, :-1]) / 2, (edges[:, 1:] - edges[:, :-1]) / 2
    t = (middle[..., None] + half[..., None] * x).reshape(len(sines), -1)
    density = (half[..., None] * w).reshape(len(sines), -1) * np.exp(power * np.log(np.cos(t)))
    return t, density / density.sum(-1, keepdims=True)
