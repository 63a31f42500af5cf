"""Fixed points and depth scales from splines of the moments: the formulas of one pair of variances, as a program of JAX.

Searches take a fixed number of steps. What they find is not differentiated but its equation: of the zero ``x`` of ``f(x, w)`` the
derivative is ``-f_w / f_x`` (:func:`_implicit`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sigprop.meanfield.blocks import Block, stacked, uniform
from sigprop.meanfield.fixed import AT_REST
from sigprop.meanfield.maps import Layer
from sigprop.meanfield.scales import layers
from sigprop.meanfield.tables import STEP, Curves

_STEPS = 12  # of the search for a zero in an interval, far beyond rounding where the function is nearly linear
_NEAREST = 1e-3  # angle below which two inputs count as one
_ROUNDING = 1e-12  # relative change of a mean square that says nothing about its direction

Curve = Callable[[Any], Any]


class Size(NamedTuple):
    """Of one pair of variances, every number a float64 or bool ``[]``.

    Attributes:
        s: logarithm of ``q*``, infinite where there is none.
        apart: whether ``q*`` is finite and equal inputs part.
        low, high: logarithms of the least and largest mean square of which the maps ask moments of pairs, ``None`` where they ask none.
    """

    s: Any
    apart: Any
    low: Any
    high: Any


class Phase(NamedTuple):
    """The columns of :func:`sigprop.meanfield.phase_diagram` of one pair of variances, float64 ``[]``."""

    q: Any
    c: Any
    chi1: Any
    xi_q: Any
    xi_c: Any
    xi_gradient: Any


def size(curves: Curves, block: Block, weight: Any, bias: Any) -> Size:
    """The fixed point ``q*`` at which the mean square arrives that starts at 1; constant under differentiation."""
    weight, bias = lax.stop_gradient((weight, bias))
    even, asked = uniform(block), []
    maps = stacked(curves.layer(weight, bias), even)
    s = _log_q(curves, maps)
    q = _inside(curves, s)
    slope, gap = maps.correlation_slope(1.0, q).value - 1, maps.covariance(1.0, q).value / q - 1
    stacked(curves.layer(weight, bias, asked), even).covariance(0.5 + 0 * q, q)
    low, high = (f(jnp.stack(asked)) if asked else None for f in (jnp.min, jnp.max))
    return Size(s, jnp.isfinite(s) & ((slope > AT_REST) | (gap < -AT_REST)), low, high)


def phase(curves: Curves, block: Block, weight: Any, bias: Any, found: Size) -> Phase:
    """Everything else, for the same pair of variances; ``curves`` hold those of pairs, unless no two inputs part."""
    even, mode = (stacked(curves.layer(weight, bias), parts) for parts in (uniform(block), block))
    inside = jnp.isfinite(found.s)
    s = jnp.where(inside, _implicit(_moved(even), jnp.where(inside, found.s, 0.0)), found.s)
    q = _inside(curves, s)
    fixed = stacked(curves.layer(*lax.stop_gradient((weight, bias))), uniform(block))
    angle = _angle(fixed, lax.stop_gradient(q))
    c = jnp.where(found.apart, jnp.cos(_implicit(_rest(even, q), jnp.where(found.apart, angle, jnp.pi / 2))), 1.0)
    apart = mode.correlation_slope(jnp.where(found.apart, c, 0.5), q).value
    pair = jnp.where(found.apart, apart, mode.correlation_slope(1.0, q).value)
    scales = (layers(jnp.where(s < jnp.inf, slope, jnp.nan), AT_REST) for slope in (mode.variance_slope(q).value, pair, mode.chi(q).value))
    return Phase(jnp.where(inside, q, jnp.exp(lax.stop_gradient(s))), jnp.where(inside, c, jnp.nan),
                 jnp.where(s < jnp.inf, mode.chi(q).value, jnp.nan), *scales)


def _inside(curves: Curves, s: Any) -> Any:
    """A mean square at which all moments are known, ``exp(s)`` where that is one."""
    return jnp.exp(jnp.clip(s, curves.ends[0], curves.ends[1]))


def _moved(maps: Layer) -> Curve:
    """Relative change of a mean square in one layer, by its logarithm."""
    return lambda s: maps.variance(jnp.exp(s)).value * jnp.exp(-s) - 1


def _rest(maps: Layer, q: Any) -> Curve:
    """Change of a correlation, by its angle."""
    return lambda angle: maps.covariance(jnp.cos(angle), q).value / q - jnp.cos(angle)


def _log_q(curves: Curves, maps: Layer) -> Any:
    """First fixed point from q = 1 on, in the direction in which that moves; infinite where there is none."""
    moved = _moved(maps)
    first = moved(0.0)
    up = first > 0
    steps = STEP * jnp.arange(1, curves.size.coefficients.shape[0] + 1)
    nodes = jnp.clip(steps, None, curves.ends[1]), jnp.clip(-steps, curves.ends[0], None)

    def walk(high: Any, nodes: tuple[Any, Any]) -> tuple[Any, None]:
        above, below = nodes
        crossed = jnp.where(up, -moved(above), moved(below)) > _ROUNDING
        return jnp.where(jnp.isnan(high) & crossed, jnp.where(up, above, below), high), None

    high = lax.scan(walk, first * jnp.nan, nodes)[0]
    crossed = ~jnp.isnan(high)
    high = jnp.where(crossed, high, 0.0)
    s = _zero(moved, high - jnp.where(up, STEP, -STEP), high)
    return jnp.where(abs(first) <= AT_REST, 0.0, jnp.where(crossed, s, jnp.where(up, jnp.inf, -jnp.inf)))


def _angle(maps: Layer, q: Any) -> Any:
    """That of ``c*`` below 1."""
    rest = _rest(maps, q)
    right = jnp.pi / 2 + 0 * q
    middle = rest(right)
    fixed = maps.covariance(1.0, q).value >= q * (1 - AT_REST)  # at 1 too, where the rest has a zero of its own

    def reduced(angle: Any) -> Any:
        return rest(angle) / jnp.where(fixed, jnp.sin(angle) ** 2, 1.0)

    ends = jnp.where(middle >= 0, _NEAREST, jnp.pi - _NEAREST)  # batch norm has negative correlations
    return jnp.where(abs(middle) <= AT_REST, right, _zero(reduced, ends, right))  # no bias, and an odd activation


def _zero(function: Curve, low: Any, high: Any) -> Any:
    """Of a function that increases or decreases in between, by false position with halved weights (Dowell & Jarratt 1971)."""
    def step(_: int, state: tuple[Any, ...]) -> tuple[Any, ...]:
        low, one, high, two, _last = state
        same = one == two
        middle = jnp.where(same, high, (low * two - high * one) / jnp.where(same, 1.0, two - one))
        found = function(middle)
        left = found * two <= 0  # the zero is between the middle and what was high
        return jnp.where(left, high, low), jnp.where(left, two, one / 2), middle, found, middle

    return lax.fori_loop(0, _STEPS, step, (low, function(low), high, function(high), high))[-1]


def _implicit(function: Curve, zero: Any) -> Any:
    """The zero, with the derivative that the equation gives it by all that the function depends on."""
    zero = lax.stop_gradient(zero)
    value, slope = jax.jvp(function, (zero,), (jnp.ones_like(zero),))
    slope = lax.stop_gradient(slope)
    return zero - (value - lax.stop_gradient(value)) / jnp.where(abs(slope) <= AT_REST, jnp.inf, slope)
