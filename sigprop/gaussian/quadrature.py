"""One- and two-dimensional quadrature against the normal density, split at kinks, and the Hermite series of a pair."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from sigprop.arrays import namespace

_REACH = 8.5  # standard deviations; the mass beyond is 2e-17
_PANELS = 6
_TERMS = (32, 96)
FEATURES = (-8.0, -4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # arguments between which activations are smooth at any variance


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


def features(var: Any) -> tuple[float, ...]:
    """Those of ``FEATURES`` that lie in the first panels."""
    return tuple(t for t in FEATURES if abs(t) < 1.5 * float(np.sqrt(np.max(var, initial=0.0))))


def double(f: Callable[[Any], Any], g: Callable[[Any], Any], kinks: tuple, args: list[Any], order: int) -> Any:
    """E[f(u) g(v)] by iterated quadrature: v given u is Gaussian. ``args`` are var1, var2, cov, mean1, mean2 of one shape."""
    var1, var2, cov, mean1, mean2 = args
    xp = namespace(*args)
    s1 = xp.sqrt(xp.maximum(var1, 0.0))
    slope = xp.where(s1 > 0, cov / xp.where(s1 > 0, s1, 1.0), 0.0)
    rest = xp.sqrt(xp.maximum(var2 - slope**2, 0.0))
    edges = xp.concatenate([_breaks(kinks[0], mean1, s1), _breaks(kinks[1], mean2, slope), -_breaks(kinks[1], -mean2, -slope)])
    z1, w1 = _composite(edges, order)
    middle = mean2 + slope * z1
    z2, w2 = composite(kinks[1], middle, xp.broadcast_to(rest, middle.shape), order)
    inner = xp.sum(w2 * g(middle + rest * z2), axis=0)
    return xp.sum(w1 * f(mean1 + s1 * z1) * inner, axis=0)


def _coefficients(f: Callable[[Any], Any], kinks: tuple[float, ...], mean: Any, var: Any, terms: int) -> tuple[Any, Any]:
    """Hermite coefficients E[f(mean + sd z) he_n(z)], orthonormal ``he_n``, on axis 0, and E[f^2] beyond them."""
    scale = np.sqrt(np.maximum(var, 0.0))
    z, w = composite((*kinks, *FEATURES), mean, scale, 24)
    values = np.broadcast_to(f(mean + scale * z), np.broadcast_shapes(np.shape(f(mean + scale * z)), z.shape))
    weighted = w * values
    before, here = np.zeros_like(z), np.ones_like(z)
    found = []
    for n in range(terms):
        found.append(np.sum(weighted * here, axis=0))
        before, here = here, (z * here - np.sqrt(n) * before) / np.sqrt(n + 1)
    stack = np.stack(found)
    total = np.sum(weighted * values, axis=0)
    return stack, np.maximum(total - np.sum(stack**2, axis=0), 1e-16 * np.abs(total))


def series(f: Callable[[Any], Any], g: Callable[[Any], Any], kinks: tuple, var1: Any, var2: Any, cov: Any, mean1: Any,
           mean2: Any) -> tuple[Any, Any]:
    """E[f(u) g(v)] = sum_n f_n g_n rho^n (Mehler 1866) and a bound of its error.

    The tail is at most ``|rho|^N sqrt(tail_f tail_g)`` by Cauchy and Schwarz, with the tails of E[f^2] and E[g^2] known exactly.
    """
    root = np.sqrt(np.maximum(var1, 0.0)) * np.sqrt(np.maximum(var2, 0.0))
    rho = np.clip(np.where(root > 0, cov / np.where(root > 0, root, 1.0), 0.0), -1.0, 1.0)
    value = error = np.zeros(())
    for terms in _TERMS:
        a, rest_a = _coefficients(f, kinks[0], mean1, var1, terms)
        b, rest_b = _coefficients(g, kinks[1], mean2, var2, terms)
        value = np.zeros(np.broadcast_shapes(rho.shape, a.shape[1:], b.shape[1:]))
        for n in reversed(range(terms)):
            value = value * rho + a[n] * b[n]
        error = np.broadcast_to(np.abs(rho) ** terms * np.sqrt(rest_a * rest_b), value.shape)
        if np.all(error <= 1e-13 * np.max(np.abs(value), initial=0.0)):
            break
    return value, error
