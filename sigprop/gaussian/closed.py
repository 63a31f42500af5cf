"""Closed forms of E[f(u) g(v)] for a centred Gaussian pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from sigprop.arrays import namespace
from sigprop.gaussian import ramps
from sigprop.gaussian.families import Family


def closed_form(f: Family, g: Family, k11: Any, k22: Any, k12: Any) -> Any | None:
    """E[f(u) g(v)] with variances ``k11``, ``k22`` and covariance ``k12``, or ``None`` where none is known here."""
    pair = (f.name, g.name)
    if pair == ("linear", "linear"):
        return _linear_linear(f.parameters, g.parameters, k11, k22, k12)
    if pair == ("step", "step"):
        return _step_step(f.parameters, g.parameters, k11, k22, k12)
    if pair == ("linear", "step"):
        return _linear_step(f.parameters, g.parameters, k11, k22, k12)
    if pair == ("step", "linear"):
        return _linear_step(g.parameters, f.parameters, k22, k11, k12)
    if pair == ("erf", "erf"):
        return _erf_erf(f.parameters, g.parameters, k11, k22, k12)
    if pair == ("gelu", "gelu"):
        return _gelu_gelu(f.parameters, g.parameters, k11, k22, k12)
    if "ramp" in pair and namespace(k11, k22, k12) is np:  # JAX has no Owen's T
        one, two = _ramp(f), _ramp(g)
        return None if one is None or two is None else ramps.moment(one, two, k11, k22, k12)
    return None


def _ramp(f: Family) -> tuple[float, ...] | None:
    """The function as a ramp, if it is continuous and piecewise linear."""
    if f.name == "linear":
        a, b = f.parameters
        return (0.0, b, 0.0, a - b)
    if f.name == "step" and f.parameters[0] == f.parameters[1]:
        return (f.parameters[0], 0.0)
    return f.parameters if f.name == "ramp" else None


def _sine(k11: Any, k22: Any, k12: Any) -> Any:
    """sqrt(k11 k22 - k12^2), without cancellation beyond that of its inputs."""
    xp = namespace(k11, k22, k12)
    root = xp.sqrt(k11 * k22)
    return xp.sqrt(xp.maximum(root - k12, 0.0) * xp.maximum(root + k12, 0.0))


def _linear_linear(p: tuple, q: tuple, k11: Any, k22: Any, k12: Any) -> Any:
    """Piecewise linear ``a x+ - b x-``: the arc-cosine kernel of degree one (Cho & Saul 2009, eq. 6)."""
    xp = namespace(k11, k22, k12)
    (a, b), (c, d) = p, q
    if a == b and c == d:
        return a * c * k12 + 0 * k11 * k22
    sine = _sine(k11, k22, k12)
    angle = xp.arctan2(sine, k12)
    plus = (sine + (xp.pi - angle) * k12) / (2 * xp.pi)  # E[u+ v+]
    minus = (sine - angle * k12) / (2 * xp.pi)  # E[u+ v-]
    plus = xp.where(k11 * k22 > 0, plus, 0.0)
    minus = xp.where(k11 * k22 > 0, minus, 0.0)
    return (a * c + b * d) * plus - (a * d + b * c) * minus


def _angle(k11: Any, k22: Any, k12: Any) -> Any:
    xp = namespace(k11, k22, k12)
    return xp.where(k11 * k22 > 0, xp.arctan2(_sine(k11, k22, k12), k12), xp.pi / 2)


def _step_step(p: tuple, q: tuple, k11: Any, k22: Any, k12: Any) -> Any:
    xp = namespace(k11, k22, k12)
    (a, b), (c, d) = p, q
    angle = _angle(k11, k22, k12)
    same, other = (xp.pi - angle) / (2 * xp.pi), angle / (2 * xp.pi)
    return (a * c + b * d) * same + (a * d + b * c) * other


def _linear_step(p: tuple, q: tuple, k11: Any, k22: Any, k12: Any) -> Any:
    """E[u+ 1(v>0)] = (sqrt(k11) + k12/sqrt(k22)) / (2 sqrt(2 pi)), by conditioning on v."""
    xp = namespace(k11, k22, k12)
    (a, b), (c, d) = p, q
    s1 = xp.sqrt(k11)
    s2 = xp.where(k22 > 0, k12 / xp.sqrt(xp.where(k22 > 0, k22, 1.0)), 0.0)
    high, low = (s1 + s2) / (2 * xp.sqrt(2 * xp.pi)), (s1 - s2) / (2 * xp.sqrt(2 * xp.pi))
    return a * (c * high + d * low) - b * (c * low + d * high)


def _erf_erf(p: tuple, q: tuple, k11: Any, k22: Any, k12: Any) -> Any:
    """Williams 1997, eq. 10."""
    xp = namespace(k11, k22, k12)
    (a, b, c), (d, e, h) = p, q
    ratio = 2 * c * h * k12 / xp.sqrt((1 + 2 * c * c * k11) * (1 + 2 * h * h * k22))
    return a * d + b * e * 2 / xp.pi * xp.arcsin(ratio)


def _gelu_gelu(p: tuple, q: tuple, k11: Any, k22: Any, k12: Any) -> Any:
    """E[u Phi(u) v Phi(v)] by repeated Gaussian integration by parts (same result as Tsuchida et al. 2021)."""
    xp = namespace(k11, k22, k12)
    (a, c), (b, d) = p, q
    k11, k22, k12 = c * c * k11, d * d * k22, c * d * k12
    inverse = 1 / xp.sqrt((1 + k11) * (1 + k22) - k12**2)
    both = 0.25 + xp.arcsin(k12 / xp.sqrt((1 + k11) * (1 + k22))) / (2 * xp.pi)
    rest = k11 * k22 + k12**2 * (1 - k11 / (1 + k11) - k22 / (1 + k22))
    return a * b / (c * d) * (k12 * both + inverse / (2 * xp.pi) * rest)
