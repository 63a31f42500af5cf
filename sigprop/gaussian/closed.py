"""Closed forms of E[f(u) g(v)] for a centred Gaussian pair."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np

from sigprop.arrays import namespace
from sigprop.gaussian import ramps
from sigprop.gaussian.angles import angle, apart, arcsin, segment
from sigprop.gaussian.families import Family

ONE = Family("step", (1.0, 1.0))


def second_moment(f: Family, g: Family, var: Any) -> Any | None:
    """E[f(u) g(u)], or ``None`` where no closed form is known here."""
    if f.name == g.name == "linear":
        (a, b), (c, d) = f.parameters, g.parameters
        return (a * c + b * d) / 2 * var
    return closed_form(f, g, var, var, var)


def closed_form(f: Family, g: Family, k11: Any, k22: Any, k12: Any) -> Any | None:
    """E[f(u) g(v)] with variances ``k11``, ``k22`` and covariance ``k12``, or ``None`` where none is known here."""
    pair = (f.name, g.name)
    if pair == ("linear", "linear"):
        return _linear_linear(f.parameters, g.parameters, k11, k22, k12)
    if pair == ("step", "step"):
        return _step_step(f.parameters, g.parameters, k11, k22, k12)
    if pair == ("linear", "step"):
        return _linear_step(f.parameters, g.parameters, k11, k22, k12)
    if pair == ("erf", "erf"):
        return _erf_erf(f.parameters, g.parameters, k11, k22, k12)
    if pair == ("gelu", "gelu"):
        return _gelu_gelu(f.parameters, g.parameters, k11, k22, k12)
    if g.name == "bell":
        return _times_bell(f, g.parameters, k11, k22, k12)
    if f.name == "bell" or pair == ("step", "linear"):
        return closed_form(g, f, k22, k11, k12)
    if "erf" in pair and ONE.parameters in (f.parameters, g.parameters):  # odd but for its offset
        return (f if f.name == "erf" else g).parameters[0] + 0 * k12
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


def _linear_linear(p: tuple, q: tuple, k11: Any, k22: Any, k12: Any) -> Any:
    """Piecewise linear ``a x+ - b x-``: the arc-cosine kernel of degree one (Cho & Saul 2009, eq. 6), exact where u = v."""
    (a, b), (c, d) = p, q
    half = (a * c + b * d) / 2 * k12
    if a == b or c == d:
        return half + 0 * k11 * k22
    rest, gap = apart(k11, k22, k12)
    chord = rest * segment(gap) / (2 * pi) + namespace(k12).maximum(-k12, 0.0) / 2
    return half + (a - b) * (c - d) * chord


def _step_step(p: tuple, q: tuple, k11: Any, k22: Any, k12: Any) -> Any:
    """The arc-cosine kernel of degree zero (Cho & Saul 2009, eq. 6)."""
    xp = namespace(k11, k22, k12)
    (a, b), (c, d) = p, q
    between = xp.where(k11 * k22 > 0, angle(apart(k11, k22, k12)[1], k12), pi / 2)
    return (a * c + b * d) / 2 - (a - b) * (c - d) / (2 * pi) * between


def _linear_step(p: tuple, q: tuple, k11: Any, k22: Any, k12: Any) -> Any:
    """E[u+ 1(v>0)] = (sqrt(k11) + k12/sqrt(k22)) / (2 sqrt(2 pi)), by conditioning on v."""
    xp = namespace(k11, k22, k12)
    (a, b), (c, d) = p, q
    s1 = xp.sqrt(k11)
    s2 = xp.where(k22 > 0, k12 / xp.sqrt(xp.where(k22 > 0, k22, 1.0)), 0.0)
    high, low = (s1 + s2) / (2 * sqrt(2 * pi)), (s1 - s2) / (2 * sqrt(2 * pi))
    return a * (c * high + d * low) - b * (c * low + d * high)


def _erf_erf(p: tuple, q: tuple, k11: Any, k22: Any, k12: Any) -> Any:
    """Williams 1997, eq. 10."""
    xp = namespace(k11, k22, k12)
    (a, b, c), (d, e, h) = p, q
    s1, s2 = 1 / xp.sqrt(1 + 2 * c * c * k11), 1 / xp.sqrt(1 + 2 * h * h * k22)
    return a * d + b * e * 2 / pi * arcsin(2 * c * h * k12 * s1 * s2)


def _gelu_gelu(p: tuple, q: tuple, k11: Any, k22: Any, k12: Any) -> Any:
    """E[u Phi(u) v Phi(v)] by repeated Gaussian integration by parts (same result as Tsuchida et al. 2021)."""
    xp = namespace(k11, k22, k12)
    (a, c), (b, d) = p, q
    k11, k22, k12 = c * c * k11, d * d * k22, c * d * k12
    inverse = 1 / xp.sqrt((1 + k11) * (1 + k22) - k12**2)
    both = 0.25 + arcsin(k12 / xp.sqrt((1 + k11) * (1 + k22))) / (2 * pi)
    rest = k11 * k22 + k12**2 * (1 - k11 / (1 + k11) - k22 / (1 + k22))
    return a * b / (c * d) * (k12 * both + inverse / (2 * pi) * rest)


def _times_bell(f: Family, q: tuple, k11: Any, k22: Any, k12: Any) -> Any | None:
    """``A exp(-c v^2)`` times the density of (u, v) is that of a pair with a smaller variance of u: E[f(u) g(v)] is a mean of f."""
    a, c = q
    share = 1 / (1 + 2 * c * k22)
    rest = k11 - 2 * c * share * k12**2
    mean = _bell(f.parameters, rest) if f.name == "bell" else closed_form(f, ONE, rest, rest, rest)
    return None if mean is None else a * namespace(share).sqrt(share) * mean


def _bell(p: tuple, var: Any) -> Any:
    a, c = p
    return a / namespace(var).sqrt(1 + 2 * c * var)
