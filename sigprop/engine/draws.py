"""Families of random draws: what of their law outlives the first two moments."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, sqrt
from typing import Any, NamedTuple

import jax.scipy.special as jsp
from scipy import special

from sigprop.arrays import concrete, namespace
from sigprop.gaussian import Function, truncated_moments


class Draw(NamedTuple):
    """Law of one entry of a draw, centred.

    Attributes:
        family: its name.
        mean, variance: of the draw; the mean is taken off.
        excess: excess kurtosis, zero for a normal draw.
        quantile: the centred entry as a function of its probability; ``None`` for a normal draw.
    """

    family: str
    mean: float = 0.0
    variance: float = 1.0
    excess: float = 0.0
    quantile: Callable[[Any], Any] | None = None


def _library(u: Any) -> Any:
    return special if concrete(u) else jsp


def probability(z: Any) -> Any:
    """Of a standard normal variable, kept off 0 and 1."""
    return _library(z).ndtr(z).clip(1e-12, 1 - 1e-7 if not concrete(z) else 1 - 1e-12)


def of_normal(f: Function, draw: Draw) -> Function:
    """``f`` of a draw, as a function of a standard normal variable."""
    key = None if f.key is None else ("of a draw", draw.family, draw.mean, draw.variance, f.key)
    quantile = draw.quantile
    return f if quantile is None else Function(lambda z: f(quantile(probability(z))), key, f.opaque)


def normal() -> Draw:
    return Draw("normal")


def uniform(low: float, high: float) -> Draw:
    return Draw("uniform", (low + high) / 2, (high - low) ** 2 / 12, -1.2, lambda u: (u - 0.5) * (high - low))


def truncated_normal(low: float, high: float) -> Draw:
    """A standard normal variable conditioned on ``low < z < high``."""
    ca, cb = ((1 + erf(t / sqrt(2))) / 2 for t in (low, high))
    moments = truncated_moments(low, high)
    mean = 0.0 if low == -high else moments[1]
    variance = moments[2] - mean**2
    fourth = moments[4] - 4 * mean * moments[3] + 6 * mean**2 * moments[2] - 3 * mean**4
    return Draw("truncated normal", mean, variance, fourth / variance**2 - 3,
                lambda u: _library(u).ndtri(ca + u * (cb - ca)) - mean)


def bernoulli(p: float) -> Draw:
    spread = p * (1 - p)
    return Draw("bernoulli", p, spread, (1 - 6 * spread) / spread if spread else 0.0, lambda u: (u > 1 - p) * 1.0 - p)


def laplace() -> Draw:
    def quantile(u: Any) -> Any:
        xp = namespace(u)
        return -xp.sign(u - 0.5) * xp.log1p(-2 * abs(u - 0.5))

    return Draw("laplace", 0.0, 2.0, 3.0, quantile)


def integers(low: float, high: float) -> Draw:
    count, mean = high - low, (low + high - 1) / 2
    excess = -1.2 * (count**2 + 1) / (count**2 - 1) if count > 1 else 0.0
    return Draw("randint", mean, (count**2 - 1) / 12, excess, lambda u: (u * count) // 1 + low - mean)


def gamma(shape: float) -> Draw:
    return Draw("gamma", shape, shape, 6 / shape, lambda u: special.gammaincinv(shape, u) - shape)


def orthogonal(variance: float) -> Draw:
    """An entry of a Haar matrix, nearly normal; dependent on the others beyond the second moment."""
    return Draw("orthogonal", 0.0, variance)


def standard(family: str) -> Draw:
    """A family by name, scaled to unit variance."""
    found = {"uniform": uniform(-sqrt(3), sqrt(3)), "truncated normal": truncated_normal(-2, 2), "laplace": laplace()}.get(family)
    if found is None:
        return Draw(family)
    scale, quantile = sqrt(found.variance), found.quantile
    assert quantile is not None
    return Draw(family, 0.0, 1.0, found.excess, lambda u: quantile(u) / scale)
