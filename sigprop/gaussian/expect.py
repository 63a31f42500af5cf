"""Gaussian expectations of scalar functions: closed form where recognised, else a Hermite series or split quadrature, else sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from sigprop.arrays import namespace
from sigprop.gaussian.closed import ONE, closed_form, second_moment
from sigprop.gaussian.families import recognize
from sigprop.gaussian.functions import Function, product, remembered
from sigprop.gaussian.quadrature import FEATURES, beyond, composite, double, features, hermite, series, single, triangular
from sigprop.types import METHODS, Estimate

_CHUNK = 1 << 22  # function values held at once
_WIDE = 16.0  # variance beyond which panels are wider than what a function of a scale of order one does near the origin
_SOBOL = 1024  # dimensions of a Sobol' sequence, at most
_SAME = 1e-7  # relative standard deviation of v given u, whose square a smooth function does not see
_DISTINCT = 256  # pairs of a mean and a variance in one quadrature


def _zero(mean: Any) -> bool:
    return isinstance(mean, float) and mean == 0


def rounding(kind: Any) -> float:
    """Relative error of a closed form in numbers of this type."""
    return 4 * float(np.finfo(np.dtype(kind)).eps)


def _exact(value: Any) -> Estimate:
    return Estimate(value, rounding(value.dtype) * abs(value), METHODS[0])


@np.errstate(invalid="ignore", over="ignore", divide="ignore")
def moment1(functions: Sequence[Function], mean: Any, var: Any, degree: int = 0) -> Estimate:
    """E[He_degree(z) f1(u) f2(u) ...] for u = mean + sqrt(var) z, z standard normal.

    Args:
        functions: elementwise; they are called with the nodes on a new leading axis.
        mean, var: broadcastable arrays, ``var >= 0``.
    """
    families = [recognize(f).family for f in functions]
    if not degree and _zero(mean) and len(functions) <= 2 and None not in families:
        pair = [*families, ONE][:2]
        value = second_moment(pair[0], pair[1], var)  # type: ignore[arg-type]
        if value is not None:
            return _exact(value)
    f = product(functions)
    xp = namespace(mean, var)
    if xp is np and f.key is not None and max(np.size(mean), np.size(var)) > _DISTINCT:
        return _distinct(functions, mean, var, degree)
    scale = xp.sqrt(xp.maximum(var, 0.0))
    kinks = tuple(sorted({k for g in functions for k in recognize(g).kinks} | set(FEATURES)))

    def integral(order: int) -> Any:
        z, w = composite(kinks, mean, scale, order)
        return xp.sum(w * hermite(degree, z) * f(mean + scale * z), axis=0)

    value, error = _difference(integral)
    left_out = beyond(lambda z: abs(hermite(degree, z) * f(mean + scale * z)), max(np.ndim(mean), np.ndim(var)))
    return Estimate(value, error + left_out, METHODS[1])


def _distinct(functions: Sequence[Function], mean: Any, var: Any, degree: int) -> Estimate:
    """One by one pair of a mean and a variance: windows over sites repeat them."""
    pairs = np.broadcast_arrays(mean, var)
    found = _once([p.reshape(-1) for p in pairs], _DISTINCT, lambda r: moment1(functions, r[0], r[1], degree)[:2])
    value, error = (f.reshape(pairs[0].shape) for f in found)
    return Estimate(value, error, METHODS[1])  # type: ignore[arg-type]


def _once(args: Sequence[np.ndarray], size: int, better: Callable[[list[Any]], tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """``better`` of the entries of flat arrays, ``size`` at a time, those that are equal only once."""
    rows, back = np.unique(np.stack(args), axis=1, return_inverse=True)
    parts = [better([r[low:low + size] for r in rows]) for low in range(0, rows.shape[1], size)]
    value, error = (np.concatenate(column)[back] for column in zip(*parts, strict=True))
    return value, error


@np.errstate(invalid="ignore", over="ignore", divide="ignore")
def moment2(functions1: Sequence[Function], functions2: Sequence[Function], var1: Any, var2: Any, cov: Any, mean1: Any = 0.0,
            mean2: Any = 0.0, degrees: tuple[int, int] = (0, 0)) -> Estimate:
    """E[f(u) g(v)], f and g products of functions, for a Gaussian pair; times He_k(z1) He_l(z2) for ``degrees`` k and l.

    There ``u = mean1 + s1 z1`` and ``v = mean2 + slope z1 + rest z2`` with independent standard normal ``z1, z2``, as in
    :func:`sigprop.gaussian.quadrature.triangular`. Arrays broadcast; any correlation in [-1, 1] and zero variances are allowed.
    """
    f, g = product(functions1), product(functions2)
    one, two = recognize(f), recognize(g)
    if not any(degrees) and _zero(mean1) and _zero(mean2) and one.family is not None and two.family is not None:
        value = closed_form(one.family, two.family, var1, var2, cov)
        if value is not None:
            return _exact(value)
    kinks = (one.kinks or (0.0,), two.kinks or (0.0,))
    if namespace(var1, var2, cov, mean1, mean2) is np:
        found = _host(f, g, kinks, [var1, var2, cov, mean1, mean2], degrees)
    else:
        shape = np.broadcast_shapes(*(np.shape(a) for a in (var1, var2, cov, mean1, mean2)))
        args = [jnp.broadcast_to(jnp.asarray(a, jnp.result_type(cov)), shape) for a in (var1, var2, cov, mean1, mean2)]
        found = _traced(f, g, kinks, args, degrees)
    return found._replace(error=found.error + _left_out(f, mean1, var1, degrees[0]) * _left_out(g, mean2, var2, degrees[1]))


@remembered
def _left_out(f: Function, mean: Any, var: Any, degree: int) -> Any:
    """Root of the part of ``E[(He_degree(z) f(u))^2]`` beyond the nodes: by Cauchy and Schwarz a product of two bounds what is left out."""
    scale = namespace(var).sqrt(namespace(var).maximum(var, 0.0))
    return beyond(lambda z: (hermite(degree, z) * f(mean + scale * z)) ** 2, max(np.ndim(mean), np.ndim(var))) ** 0.5


def _host(f: Function, g: Function, kinks: tuple, args: list[Any], degrees: tuple[int, int]) -> Estimate:
    """Hermite series; the entries where its error bound is too large (correlations near 1) by split quadrature."""
    value, error, scale = series(f, g, kinks, *args, degrees=degrees)
    rough = error > 1e-13 * scale
    args = [np.broadcast_to(a, value.shape) for a in args]
    same = rough & (triangular(*args[:3])[2] <= _SAME * np.sqrt(np.maximum(args[1], 0.0)))
    apart = f.key is not None and g.key is not None  # else the functions carry arrays of their own, and entries cannot be taken alone
    if kinks == ((0.0,), (0.0,)) and recognize(f).family is recognize(g).family is None:
        value, error = _replaced(value, error, same, args, apart, 1000, lambda rows: _difference(lambda n: single(f, g, rows, n, degrees)))
        rough &= ~same

    def split(rows: list[Any]) -> tuple[Any, Any]:
        fine, theirs = _split(f, g, kinks if apart else _narrow(kinks, rows), rows, degrees)
        coarse = (theirs > 1e-13 * scale) | (np.maximum(rows[0], rows[1]) > _WIDE)
        if apart and np.any(coarse):
            some = [r[coarse] for r in rows]
            fine[coarse], theirs[coarse] = _split(f, g, _narrow(kinks, some), some, degrees)
        return fine, theirs

    return Estimate(*_replaced(value, error, rough, args, apart, 20_000, split), METHODS[1])


def _replaced(value: Any, error: Any, which: Any, args: list[Any], apart: bool, nodes: int,
              better: Callable[[list[Any]], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Value and error with the entries ``which`` computed by ``better``, that takes ``nodes`` points each, where its error is less.

    Equal entries are computed once: windows over sites repeat pairs of sites.
    """
    if not np.any(which):
        return value, error
    if not apart:
        fine, theirs = better(args)
        keep = ~which | (error <= theirs)
        return np.where(keep, value, fine), np.where(keep, error, theirs)
    fine, theirs = _once([a[which] for a in args], max(1, _CHUNK // nodes), better)
    keep = error[which] <= theirs
    value, error = (np.array(np.broadcast_to(a, which.shape)) for a in (value, error))
    value[which], error[which] = np.where(keep, value[which], fine), np.where(keep, error[which], theirs)
    return value, error


def _difference(integral: Callable[[int], Any]) -> tuple[Any, Any]:
    """A quadrature and its error."""
    value = integral(16)
    return value, abs(value - integral(12))


def _split(f: Function, g: Function, kinks: tuple, args: list[Any], degrees: tuple[int, int]) -> tuple[Any, Any]:
    """Split quadrature and its error."""
    return _difference(lambda order: double(f, g, kinks, args, order, degrees))


def _narrow(kinks: tuple, args: list[Any]) -> tuple:
    """More panels, for functions that are narrower than these."""
    return tuple((*k, *features(v)) for k, v in zip(kinks, args[:2], strict=True))


def _traced(f: Function, g: Function, kinks: tuple, args: list[Any], degrees: tuple[int, int]) -> Estimate:
    """Split quadrature, over rows of the flattened entries when the whole would not fit."""
    shape = args[0].shape
    size = int(np.prod(shape, dtype=np.int64))
    if size * 20_000 <= _CHUNK or f.key is None or g.key is None:
        return Estimate(*_split(f, g, kinks, args, degrees), METHODS[1])

    def one(row: Any) -> Any:
        row = [r[None] for r in row]
        value, error = _split(f, g, kinks, row, degrees)
        return value[0], error[0]

    value, error = jax.lax.map(one, tuple(a.reshape(-1) for a in args), batch_size=max(1, _CHUNK // 20_000))
    return Estimate(value.reshape(shape), error.reshape(shape), METHODS[1])


def square_root(cov: Any) -> Any:
    """A matrix ``a`` with ``a a^T = cov``, also where ``cov`` is singular."""
    xp = namespace(cov)
    values, vectors = xp.linalg.eigh(cov)
    return vectors * xp.sqrt(xp.maximum(values, 0.0))[..., None, :]


@lru_cache(maxsize=8)  # the replicates of one expectation, up to 32 MB each
def normal_points(samples: int, p: int, replicate: int) -> np.ndarray:
    """``[samples, p]`` standard normal points: scrambled Sobol' (Owen 1998), a power of two of them; replicates are independent.

    Beyond 1024 dimensions they are plain random numbers. The array is kept for who asks again, and read-only.
    """
    from scipy.stats import qmc  # slow to import

    if p == 0:
        return np.zeros((samples, 0))
    rng = np.random.default_rng(replicate)
    if p > _SOBOL:
        points = rng.standard_normal((samples, p))
    else:
        points = ndtri(np.clip(qmc.Sobol(p, rng=rng).random(samples), 1e-12, 1 - 1e-12))
    points.flags.writeable = False
    return points
