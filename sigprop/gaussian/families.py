"""Numerical recognition of scalar functions, so that any spelling of an activation gets its closed form.

A function is probed in float64 at trace time and fitted to a family; the fit is accepted only where it reproduces every probe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from sigprop.arrays import scaled
from sigprop.gaussian import ramps
from sigprop.gaussian.functions import Function, piecewise, steps

_CACHE: dict[Any, Any] = {}
_ASYMPTOTIC = 96  # power of two of a variance beyond which a function is its asymptote
_TOLERANCE = 3e-7  # float32 constants inside an activation are this wrong
_LOCATED = 1e-7  # how far second differences may put a kink from where it is


class Family(NamedTuple):
    """``name`` with its parameters: linear (a x+ - b x-), step, erf (A + B erf(cx)), gelu (A x Phi(cx)), bell
    (A exp(-c x^2)), ramp (see ``ramps``)."""

    name: str
    parameters: tuple[float, ...]


class Shape(NamedTuple):
    """What is known of a function.

    Attributes:
        family: its closed family, if any.
        kinks: where it has kinks or jumps.
        near, far: the homogeneous functions that it approaches at the origin and far from it, if any.
    """

    family: Family | None
    kinks: tuple[float, ...]
    near: Function | None = None
    far: Function | None = None


def probe(f: Callable[[Any], Any], x: np.ndarray) -> np.ndarray | None:
    """Values of ``f`` at ``x`` in float64, ``None`` where ``f`` is not a function of a scalar."""
    try:
        with jax.enable_x64(True), jax.ensure_compile_time_eval(), np.errstate(all="ignore"):
            out = np.asarray(f(x), np.float64)
    except (TypeError, ValueError, jax.errors.JAXTypeError):
        return None
    return out if out.shape == x.shape else (np.broadcast_to(out, x.shape) if out.ndim == 0 else None)


def recognize(f: Callable[[Any], Any]) -> Shape:
    """What is known of an elementwise function; remembered under its ``key``, if it has one."""
    key = getattr(f, "key", None)
    if getattr(f, "opaque", False):
        return Shape(None, ())
    if key is None:
        return _recognize(f)
    if key not in _CACHE:
        _CACHE[key] = _recognize(f)
    return _CACHE[key]


def rescale(f: Function, exponent: Any) -> tuple[Function, int]:
    """``f(s z)`` for ``s = 2**(exponent / 2)`` as a function of ``z`` times a power of ``s``, 0 or 1.

    Homogeneous functions give up their power. Others are replaced by their asymptote where ``s`` is so small or so large that they
    differ from it by less than rounding.
    """
    if isinstance(exponent, int) and exponent == 0:
        return f, 0
    if not homogeneous(f):
        shape = recognize(f)
        limit = None if abs(exponent) <= _ASYMPTOTIC else shape.near if exponent < 0 else shape.far
        if limit is None:
            return _stretched(f, exponent), 0
        f = limit
    family = recognize(f).family
    return f, int(family is not None and family.name == "linear")


def homogeneous(f: Function) -> bool:
    """Whether ``f(s x)`` is ``f(x)`` times a power of ``s``, for positive ``s``."""
    family = recognize(f).family
    return family is not None and family.name in ("linear", "step")


def _stretched(f: Function, exponent: int) -> Function:
    key = None if f.key is None else ("stretched", exponent, f.key)
    return Function(lambda z: f(scaled(z, exponent >> 1)), key, f.opaque)


def _recognize(f: Callable[[Any], Any]) -> Shape:
    x = np.array([0.0137, 0.11, 0.37, 0.73, 1.01, 1.43, 2.17, 3.3, 4.9, 7.7])
    both = np.concatenate([x, -x])
    y = probe(f, both)
    if y is None:
        return Shape(None, ())
    for fit in (_linear, _step, _erf, _gelu, _bell):
        family = fit(x, y[: len(x)], y[len(x):])
        if family is not None and np.all(np.isfinite(family.parameters)):
            return Shape(family, (), _asymptote(f, -1), _asymptote(f, 1))
    size = float(np.max(np.abs(y)))  # thresholds are those of functions of order one
    kinks = _kinks(f if not 0 < size < 1 else lambda u: f(u) / size)
    found = ramps.fit(lambda points: probe(f, points), kinks, _TOLERANCE)
    return Shape(None if found is None else Family("ramp", found), kinks, _asymptote(f, -1), _asymptote(f, 1))


def _asymptote(f: Callable[[Any], Any], side: int) -> Function | None:
    """The homogeneous function that ``f`` equals to rounding at arguments of size 2**-48 (side -1) or 2**48 (side 1)."""
    x = 2.0 ** (side * _ASYMPTOTIC / 2) * np.array([0.25, 1.0, 3.0])
    y = probe(f, np.concatenate([x, -x]))
    if y is None or not np.all(np.isfinite(y)):
        return None
    up, down = y[:3], y[3:]
    a, b = up[1] / x[1], -down[1] / x[1]
    if max(abs(a), abs(b)) > 1e-9 and np.allclose(up, a * x, rtol=1e-11, atol=0) and np.allclose(down, -b * x, rtol=1e-11, atol=0):
        return piecewise(float(a), float(b))
    if np.ptp(up) <= 1e-12 * abs(up[0]) and np.ptp(down) <= 1e-12 * abs(down[0]) and side > 0:
        return steps(float(up[0]), float(down[0]))
    return None


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    scale = max(float(np.max(np.abs(b))), 1e-300)
    return bool(np.all(np.abs(a - b) <= _TOLERANCE * np.maximum(np.abs(b), 1e-3 * scale)))


def _linear(x: np.ndarray, up: np.ndarray, down: np.ndarray) -> Family | None:
    a, b = up[-1] / x[-1], -down[-1] / x[-1]
    return Family("linear", (float(a), float(b))) if _close(up, a * x) and _close(down, -b * x) else None


def _step(x: np.ndarray, up: np.ndarray, down: np.ndarray) -> Family | None:
    flat = np.all(up == up[0]) and np.all(down == down[0])
    return Family("step", (float(up[0]), float(down[0]))) if flat else None


def _erf(x: np.ndarray, up: np.ndarray, down: np.ndarray) -> Family | None:
    from math import erf as exact

    offset = (up[-1] + down[-1]) / 2
    scale = up[-1] - offset
    if scale == 0:
        return None
    ratio = (up[0] - offset) / scale
    low, high = 1e-4, 50.0
    if not 0 < ratio < 1:
        return None
    for _ in range(200):
        mid = np.sqrt(low * high)
        low, high = (mid, high) if exact(mid * x[0]) < ratio else (low, mid)
    c = float(np.sqrt(low * high))
    c = _refine(c, lambda c: np.array([exact(c * v) for v in x]), (up - offset) / scale)
    fit = np.array([exact(c * v) for v in x])
    good = _close(offset + scale * fit, up) and _close(offset - scale * fit, down)
    return Family("erf", (float(offset), float(scale), c)) if good else None


def _refine(c: float, model: Callable[[float], np.ndarray], target: np.ndarray) -> float:
    """A few Gauss-Newton steps on all probes."""
    for _ in range(8):
        h = 1e-6 * c
        slope = (model(c + h) - model(c - h)) / (2 * h)
        c -= float(slope @ (model(c) - target) / max(slope @ slope, 1e-300))
    return c


def _gelu(x: np.ndarray, up: np.ndarray, down: np.ndarray) -> Family | None:
    a = (up - down)[-1] / x[-1]  # A (Phi + Phi(-)) x = A x
    if a == 0 or not _close(up - down, a * x):
        return None
    found = _erf(x, up / (a * x), -down / (a * x))
    if found is None or abs(found.parameters[0] - 0.5) > 1e-6 or abs(found.parameters[1] - 0.5) > 1e-6:
        return None
    return Family("gelu", (float(a), float(np.sqrt(2) * found.parameters[2])))


def _bell(x: np.ndarray, up: np.ndarray, down: np.ndarray) -> Family | None:
    with np.errstate(all="ignore"):
        c = np.log(up[0] / up[3]) / (x[3] ** 2 - x[0] ** 2)
        a = up[0] * np.exp(c * x[0] ** 2)
        fit = a * np.exp(-c * x**2)
    return Family("bell", (float(a), float(c))) if c > 0 and _close(up, fit) and _close(down, fit) else None


def _kinks(f: Callable[[Any], Any]) -> tuple[float, ...]:
    """Points where the second difference shrinks slower than h^2: kinks (as h) and jumps (as 1)."""
    h = 0.01
    x = np.arange(-12.0, 12.0, h) + 0.00237
    fine, coarse = _second(f, x, h), _second(f, x, 2 * h)
    if fine is None or coarse is None:
        return ()
    with np.errstate(all="ignore"):
        scale = np.nanmax(np.abs(fine)) if np.any(np.isfinite(fine)) else 0.0
        suspect = (np.abs(coarse) < 3.0 * np.abs(fine)) & (np.abs(fine) > max(1e-4 * scale, 1e-7))
    found: list[float] = []
    for start in x[suspect]:
        point = _zoom(f, float(start), h)
        if point is not None and all(abs(point - p) > 1e-5 for p in found):
            found.append(point)
    return tuple(sorted(found)) if len(found) <= 48 else ()


def _second(f: Callable[[Any], Any], x: np.ndarray, h: float) -> np.ndarray | None:
    values = [probe(f, x + s * h) for s in (-1, 0, 1)]
    if any(v is None for v in values):
        return None
    return values[0] - 2 * values[1] + values[2]  # type: ignore[operator]


def _zoom(f: Callable[[Any], Any], x: float, h: float) -> float | None:
    first = None
    for _ in range(6):
        grid = x + h * np.linspace(-1.2, 1.2, 25)
        h = h / 10
        second = _second(f, grid, h)
        if second is None:
            return None
        k = int(np.argmax(np.abs(second)))
        first = np.abs(second[k]) if first is None else first
        x = float(grid[k])
    rounded = round(x, 4)
    point = rounded if abs(rounded - x) < _LOCATED else x
    around = probe(f, point + 1e-4 * np.array([-2, -1, 1, 2])), probe(f, point + 10 * _LOCATED * np.array([-1, 1]))
    if around[0] is None or around[1] is None:
        return None
    (far_left, left, right, far_right), near = around[0], abs(np.diff(around[1])[0])
    change = abs(left - right)
    if change > 1e-3 and near > 0.5 * change:
        return _jump(f, point)
    return point if abs((left - far_left) - (far_right - right)) / 1e-4 > 1e-3 or change > 1e-3 else None


def _jump(f: Callable[[Any], Any], point: float) -> float:
    """Where ``f`` changes most, to the last digit: an expectation is as wrong as the place of a jump, and nodes do not tell."""
    low, high = point - 10 * _LOCATED, point + 10 * _LOCATED
    for _ in range(8):
        grid = np.linspace(low, high, 33)
        values = probe(f, grid)
        if values is None:
            return point
        k = int(np.argmax(np.abs(np.diff(values))))
        low, high = float(grid[k]), float(grid[k + 1])
    return point if low <= point <= high else (low + high) / 2


__all__ = ["Family", "Shape", "probe", "homogeneous", "recognize", "rescale"]
