"""Gaussian expectations of scalar functions: closed form where recognised, else quadrature split at kinks, else sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from sigprop.gaussian.closed import closed_form
from sigprop.gaussian.families import recognize
from sigprop.types import Estimate

_REACH = 8.5  # standard deviations; the mass beyond is 2e-17
_PANELS = 6
_CHUNK = 1 << 24  # function values held at once


def _rule(order: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2


def _composite(edges: Any, order: int) -> tuple[Any, Any]:
    """Nodes and normal-density weights of composite Gauss-Legendre; ``edges`` has the breakpoints on axis 0."""
    base = jnp.linspace(-_REACH, _REACH, _PANELS + 1).reshape((-1,) + (1,) * (edges.ndim - 1))
    base = jnp.broadcast_to(base, (_PANELS + 1, *edges.shape[1:])).astype(edges.dtype)
    every = jnp.sort(jnp.concatenate([base, jnp.clip(edges, -_REACH, _REACH)]), axis=0)
    nodes, weights = _rule(order)
    width = every[1:] - every[:-1]
    tail = (1,) * (edges.ndim - 1)
    z = every[:-1, None] + width[:, None] * nodes.reshape(1, -1, *tail)
    w = width[:, None] * weights.reshape(1, -1, *tail) * jnp.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return z.reshape(-1, *edges.shape[1:]), w.reshape(-1, *edges.shape[1:])


def _breaks(kinks: tuple[float, ...], mean: Any, scale: Any) -> Any:
    safe = jnp.where(scale > 0, scale, 1.0)
    rows = [jnp.where(scale > 0, (k - mean) / safe, 0.0) for k in kinks]
    return jnp.stack(rows) if rows else jnp.zeros((0, *jnp.shape(scale)), jnp.result_type(scale))


def moment1(f: Callable[[Any], Any], mean: Any, var: Any, degree: int = 0) -> Estimate:
    """E[(u - mean)^degree f(u)] for u ~ N(mean, var).

    Args:
        f: elementwise function; it is called with the nodes on a new leading axis.
        mean, var: broadcastable arrays, ``var >= 0``.
    """
    var = jnp.asarray(var)
    mean = jnp.broadcast_to(jnp.asarray(mean, var.dtype), jnp.broadcast_shapes(jnp.shape(mean), var.shape))
    var = jnp.broadcast_to(var, mean.shape)
    scale = jnp.sqrt(jnp.maximum(var, 0.0))
    kinks = recognize(f).kinks or (0.0,)

    def integral(order: int) -> Any:
        z, w = _composite(_breaks(kinks, mean, scale), order)
        return jnp.sum(w * f(mean + scale * z) * (scale * z) ** degree, axis=0)

    value = integral(16)
    return Estimate(value, jnp.abs(value - integral(12)), "quadrature")


def moment2(f: Callable[[Any], Any], g: Callable[[Any], Any], var1: Any, var2: Any, cov: Any, mean1: Any = 0.0,
            mean2: Any = 0.0) -> Estimate:
    """E[f(u) g(v)] for a Gaussian pair; arrays broadcast; any correlation in [-1, 1] and zero variances allowed."""
    var1, var2, cov = (jnp.asarray(a) for a in (var1, var2, cov))
    one, two = recognize(f), recognize(g)
    centred = isinstance(mean1, float) and mean1 == 0 and isinstance(mean2, float) and mean2 == 0
    if centred and one.family is not None and two.family is not None:
        value = closed_form(one.family, two.family, var1, var2, cov)
        if value is not None:
            return Estimate(value, jnp.finfo(value.dtype).eps * 4 * jnp.abs(value), "closed form")
    shape = jnp.broadcast_shapes(*(jnp.shape(a) for a in (var1, var2, cov, mean1, mean2)))
    args = [jnp.broadcast_to(jnp.asarray(a, cov.dtype), shape) for a in (var1, var2, cov, mean1, mean2)]
    kinks = (one.kinks or (0.0,), two.kinks or (0.0,))
    return _chunked(f, g, kinks, args)


def _chunked(f: Any, g: Any, kinks: tuple, args: list[Any]) -> Estimate:
    """Quadrature over rows of the leading axis when the whole would not fit."""
    shape = args[0].shape
    nodes = ((_PANELS + sum(map(len, kinks)) + len(kinks[1])) * 16) ** 2
    size = int(np.prod(shape, dtype=np.int64))
    if size * nodes <= _CHUNK or _closes_over(f, g):
        value = _double(f, g, kinks, args, 16)
        return Estimate(value, jnp.abs(value - _double(f, g, kinks, args, 12)), "quadrature")
    flat = [a.reshape(-1) for a in args]

    def one(row: Any) -> Any:
        row = [r[None] for r in row]
        value = _double(f, g, kinks, row, 16)
        return value[0], jnp.abs(value - _double(f, g, kinks, row, 12))[0]

    value, error = jax.lax.map(one, tuple(flat), batch_size=max(1, _CHUNK // nodes))
    return Estimate(value.reshape(shape), error.reshape(shape), "quadrature")


def _closes_over(f: Any, g: Any) -> bool:
    """Whether the functions carry arrays of their own (then they cannot be cut into rows)."""
    from sigprop.gaussian.families import probe

    x = np.array([0.5, 1.5, 2.5])
    return probe(f, x) is None or probe(g, x) is None


def _double(f: Any, g: Any, kinks: tuple, args: list[Any], order: int) -> Any:
    var1, var2, cov, mean1, mean2 = args
    s1 = jnp.sqrt(jnp.maximum(var1, 0.0))
    slope = jnp.where(s1 > 0, cov / jnp.where(s1 > 0, s1, 1.0), 0.0)
    rest = jnp.sqrt(jnp.maximum(var2 - slope**2, 0.0))
    edges = jnp.concatenate([_breaks(kinks[0], mean1, s1), _breaks(kinks[1], mean2, slope), -_breaks(kinks[1], -mean2, -slope)])
    z1, w1 = _composite(edges, order)
    middle = mean2 + slope * z1
    z2, w2 = _composite(_breaks(kinks[1], middle, jnp.broadcast_to(rest, middle.shape)), order)
    inner = jnp.sum(w2 * g(middle + rest * z2), axis=0)
    return jnp.sum(w1 * f(mean1 + s1 * z1) * inner, axis=0)


def moment_many(f: Callable[[Any], Any], mean: Any, cov: Any, samples: int = 4096, shifts: int = 8) -> Estimate:
    """E[f(u)] for u ~ N(mean, cov), ``mean`` [..., p], ``cov`` [..., p, p], by a randomly shifted Kronecker lattice.

    The same points serve every entry; the error is the standard error over the fixed shifts.
    """
    p = mean.shape[-1]
    values, vectors = jnp.linalg.eigh(cov)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]
    lead = (slice(None),) + (None,) * (mean.ndim - 1)
    offsets = np.random.default_rng(0).random((shifts, p))
    estimates = []
    for offset in offsets:
        z = jnp.asarray(_lattice(samples, p, offset), mean.dtype)
        u = jnp.einsum("...ij,nj->n...i", root, z)
        estimates.append((jnp.mean(f(mean + u), axis=0) + jnp.mean(f(mean - u), axis=0)) / 2)
    del lead
    stack = jnp.stack(estimates)
    return Estimate(jnp.mean(stack, 0), jnp.std(stack, 0, ddof=1) / np.sqrt(shifts), "sampled")


def _lattice(samples: int, p: int, offset: np.ndarray) -> np.ndarray:
    """Normal points of the additive recurrence with the generalised golden ratio (Roberts 2018)."""
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (p + 1))
    steps = ratio ** -np.arange(1, p + 1)
    points = (offset + np.arange(1, samples + 1)[:, None] * steps) % 1.0
    with jax.ensure_compile_time_eval():
        clipped = np.clip(points, 1e-7, 1 - 1e-7)
        return np.asarray(ndtri(jnp.asarray(clipped)))


def quantiles(f: Callable[[Any], Any], mean: Any, var: Any, probs: Any) -> Any:
    """Quantiles of f(u), u ~ N(mean, var), pooled over all entries; accurate to about 1e-3 standard deviations."""
    z = jnp.linspace(-5.0, 5.0, 4001)
    mean, var = jnp.broadcast_arrays(jnp.atleast_1d(mean), jnp.atleast_1d(var))
    grid = z.reshape((-1,) + (1,) * mean.ndim)
    values = jnp.broadcast_to(f(mean + jnp.sqrt(jnp.maximum(var, 0.0)) * grid), (len(z), *mean.shape)).reshape(-1)
    weights = jnp.broadcast_to(jnp.exp(-(grid**2) / 2), (len(z), *mean.shape)).reshape(-1)
    order = jnp.argsort(values)
    mass = jnp.cumsum(weights[order])
    index = jnp.searchsorted(mass, jnp.asarray(probs) * mass[-1])
    return values[order][jnp.clip(index, 0, values.size - 1)]
