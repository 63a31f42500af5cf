"""One- and two-dimensional quadrature against the normal density, split at kinks, and the Hermite series of a pair."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from sigprop.arrays import namespace
from sigprop.gaussian.functions import Function, remembered

_REACH = 8.5  # standard deviations; the mass beyond is 2e-17
_END = np.exp(-(_REACH**2) / 2) / np.sqrt(2 * np.pi)  # density there
_PANELS = 6
_TERMS = (32, 96, 256)
FEATURES = (-8.0, -4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # arguments between which activations are smooth at any variance


def hermite(degree: int, z: Any) -> Any:
    """The Hermite polynomial ``He_degree`` (monic, orthogonal under the normal density)."""
    before, here = 0.0, 1.0
    for n in range(degree):
        before, here = here, z * here - n * before
    return here


@lru_cache
def _rule(order: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2


def _composite(edges: Any, order: int) -> tuple[Any, Any]:
    """Nodes and normal-density weights of composite Gauss-Legendre; ``edges`` has the breakpoints on axis 0."""
    xp = namespace(edges)
    base = xp.linspace(-_REACH, _REACH, _PANELS + 1).reshape((-1,) + (1,) * (edges.ndim - 1))
    base = xp.broadcast_to(base, (_PANELS + 1, *edges.shape[1:])).astype(edges.dtype)
    every = xp.sort(xp.concatenate([base, xp.clip(edges, -_REACH, _REACH)]), axis=0)
    nodes, weights = _rule(order)
    width = every[1:] - every[:-1]
    tail = (1,) * (edges.ndim - 1)
    z = every[:-1, None] + width[:, None] * nodes.reshape(1, -1, *tail)
    w = width[:, None] * weights.reshape(1, -1, *tail) * xp.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return z.reshape(-1, *edges.shape[1:]), w.reshape(-1, *edges.shape[1:])


def _breaks(kinks: tuple[float, ...], mean: Any, scale: Any) -> Any:
    """Positions of the kinks in standard deviations from the mean."""
    xp = namespace(mean, scale)
    safe = xp.where(scale > 0, scale, 1.0)
    rows = [xp.where(scale > 0, (k - mean) / safe, 0.0) for k in kinks]
    return xp.stack(xp.broadcast_arrays(*rows)) if len(rows) > 1 else rows[0][None]


def composite(kinks: tuple[float, ...], mean: Any, scale: Any, order: int) -> tuple[Any, Any]:
    """Nodes and weights for E[f(mean + scale z)], z standard normal, where ``f`` has ``kinks``."""
    return _composite(_breaks(kinks, mean, scale), order)


def beyond(size: Callable[[Any], Any], rank: int) -> Any:
    """Estimate of E[size(z)], ``size >= 0`` of standard normal ``z``, over what lies beyond the reach of the nodes.

    It is ``density(r) size(r) / (r - slope)`` at both ends (Mills' ratio) for ``size`` that grows like ``exp(slope z)`` there, and
    infinite where it grows as fast as the density falls. The slope is the smaller one of those over the last quarter and over the last
    two standard deviations: a zero of ``size`` raises one of them, a kink the other. ``size`` is called with ``z`` on a leading axis
    before ``rank`` others.
    """
    steps = np.concatenate([np.linspace(_REACH - 2, _REACH - 1, 9), np.linspace(_REACH - 1, _REACH, 9)])
    values = size(np.concatenate([-steps, steps]).reshape(-1, *[1] * rank))
    xp = namespace(values)
    total: Any = 0.0
    for tail in (values[:18], values[18:]):
        middle, end, before, last = xp.max(tail[:9], axis=0), xp.max(tail[9:], axis=0), tail[-3], tail[-1]
        slope = xp.minimum(xp.where(before > 0, 4 * xp.log(last / before), np.inf), xp.where(middle > 0, xp.log(end / middle), 0.0))
        room = _REACH - xp.maximum(slope, 0.0)
        total = total + xp.where(end > 0, _END * end / xp.where(room > 0.5, room, 0.0), 0.0)
    return total


def features(var: Any) -> tuple[float, ...]:
    """Those of ``FEATURES`` that lie in the first panels."""
    return tuple(t for t in FEATURES if abs(t) < 1.5 * float(np.sqrt(np.max(var, initial=0.0))))


def triangular(var1: Any, var2: Any, cov: Any) -> tuple[Any, Any, Any]:
    """``s1, slope, rest`` with ``u = s1 z1`` and ``v = slope z1 + rest z2`` for independent standard normal ``z1, z2``."""
    xp = namespace(var1, var2, cov)
    s1 = xp.sqrt(xp.maximum(var1, 0.0))
    slope = xp.where(s1 > 0, cov / xp.where(s1 > 0, s1, 1.0), 0.0)
    return s1, slope, xp.sqrt(xp.maximum(var2 - slope**2, 0.0))


def double(f: Callable[[Any], Any], g: Callable[[Any], Any], kinks: tuple, args: list[Any], order: int,
           degrees: tuple[int, int] = (0, 0)) -> Any:
    """E[He_k(z1) f(u) He_l(z2) g(v)] by iterated quadrature over the ``z1, z2`` of :func:`triangular`.

    ``args`` are var1, var2, cov, mean1, mean2 of one shape.
    """
    var1, var2, cov, mean1, mean2 = args
    xp = namespace(*args)
    s1, slope, rest = triangular(var1, var2, cov)
    edges = xp.concatenate([_breaks(kinks[0], mean1, s1), _breaks(kinks[1], mean2, slope), -_breaks(kinks[1], -mean2, -slope)])
    z1, w1 = _composite(edges, order)
    middle = mean2 + slope * z1
    z2, w2 = composite(kinks[1], middle, xp.broadcast_to(rest, middle.shape), order)
    inner = xp.sum(w2 * hermite(degrees[1], z2) * g(middle + rest * z2), axis=0)
    return xp.sum(w1 * hermite(degrees[0], z1) * f(mean1 + s1 * z1) * inner, axis=0)


def single(f: Callable[[Any], Any], g: Callable[[Any], Any], args: list[Any], order: int, degrees: tuple[int, int]) -> Any:
    """The same where ``v`` is a function of ``u``: its rest vanishes."""
    var1, var2, cov, mean1, mean2 = args
    s1, slope, _ = triangular(var1, var2, cov)
    z, w = _composite(np.concatenate([_breaks(FEATURES, mean1, s1), _breaks(FEATURES, mean2, slope)]), order)
    return np.sum(w * hermite(degrees[0], z) * f(mean1 + s1 * z) * g(mean2 + slope * z), axis=0) * (degrees[1] == 0)


@remembered  # a pair's moments of several degrees, and pairs that share a variable, ask for the same ones
def _coefficients(f: Function, kinks: tuple[float, ...], mean: Any, var: Any, terms: int, degree: int) -> tuple[Any, Any, Any]:
    """Of ``h = He_degree(z) f(mean + sd z)``: E[h he_n(z)] with orthonormal ``he_n`` on axis 0, E[h^2] beyond them, and E[h^2]."""
    scale = np.sqrt(np.maximum(var, 0.0))
    z, w = composite((*kinks, *FEATURES), mean, scale, 24)
    values = hermite(degree, z) * f(mean + scale * z)
    values = np.broadcast_to(values, np.broadcast_shapes(np.shape(values), z.shape))
    weighted = w * values
    before, here = np.zeros_like(z), np.ones_like(z)
    found = []
    for n in range(terms):
        found.append(np.einsum("i...,i...->...", weighted, here))
        before, here = here, (z * here - np.sqrt(n) * before) / np.sqrt(n + 1)
    stack = np.stack(found)
    total = np.sum(weighted * values, axis=0)
    return stack, np.maximum(total - np.sum(stack**2, axis=0), 1e-16 * np.abs(total)), total


def series(f: Function, g: Function, kinks: tuple, var1: Any, var2: Any, cov: Any, mean1: Any,
           mean2: Any, degrees: tuple[int, int] = (0, 0)) -> tuple[Any, Any, float]:
    """E[f(u) g(v)] = sum_n f_n g_n rho^n (Mehler 1866), a bound of its error, and the size that the value could have.

    The tail is at most ``|rho|^N sqrt(tail_f tail_g)`` by Cauchy and Schwarz, with the tails of E[f^2] and E[g^2] known exactly.
    With ``degrees`` k and l it is E[He_k(z1) f(u) He_l(z2) g(v)] as in :func:`double`: He_l(z2) takes l derivatives of ``g`` along
    ``z2`` (Stein), which in the series is ``g_{n+l} sqrt((n+l)! / n!) s^l`` with ``s^2 = 1 - rho^2``. The tail then has a factor
    ``sqrt(m+N)^l s^l |rho|^m``, at most ``(sqrt(N) s + sqrt(l))^l``.
    """
    k, shift = degrees
    root = np.sqrt(np.maximum(var1, 0.0)) * np.sqrt(np.maximum(var2, 0.0))
    rho = np.clip(np.where(root > 0, cov / np.where(root > 0, root, 1.0), 0.0), -1.0, 1.0)
    s = np.sqrt((1 - rho) * (1 + rho))
    value, error, size = np.zeros(()), np.zeros(()), 0.0
    for terms in _TERMS:
        a, rest_a, all_a = _coefficients(f, kinks[0], mean1, var1, terms, k)
        b, rest_b, all_b = _coefficients(g, kinks[1], mean2, var2, terms, 0)
        value = np.zeros(np.broadcast_shapes(rho.shape, a.shape[1:], b.shape[1:]))
        growth = np.sqrt(np.prod(np.arange(terms - shift)[:, None] + np.arange(1.0, shift + 1), axis=1))
        for n in reversed(range(terms - shift)):
            value = value * rho + a[n] * b[n + shift] * growth[n]
        value = value * s**shift
        bound = np.abs(rho) ** (terms - shift) * (np.sqrt(terms) * s + np.sqrt(shift)) ** shift
        error = np.broadcast_to(bound * np.sqrt(rest_a * rest_b), value.shape)
        size = float(np.max(np.sqrt(all_a * all_b), initial=0.0)) if any(degrees) else float(np.max(np.abs(value), initial=0.0))
        hopeless = np.abs(rho) ** (2 * terms) > 0.1  # more terms do not help where the two are nearly one variable
        if np.all((error <= 1e-13 * size) | hopeless):
            break
    return value, error, size
