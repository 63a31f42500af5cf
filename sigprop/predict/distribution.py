"""The law of one number, as a mixture of uniform laws: probabilities, quantiles and expectations of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

from sigprop.errors import InvalidInput

REACH = 8.5  # standard deviations of a Gaussian variable; the mass beyond is 2e-17
CELLS = 4096  # of its axis
_DECADES, _RATIO, _EVEN = 12, 1.02, 1024  # segments: by size below the largest, and even ones
_FEW = 2 * CELLS  # segments that are kept as they are
_ATOM = 1e-3  # share of the mass from which equal numbers count as one


class Distribution(NamedTuple):
    """A mixture of uniform laws on segments: atoms where a segment has no length, exact where the density is constant on each.

    Attributes:
        low, high, mass: float64 ``[segments]``; the masses add up to 1.
        samples: independent draws behind it: a probability ``p`` has the standard error ``sqrt(p (1 - p) / samples)``; infinite where it
            comes from quadrature or a closed form.
    """

    low: np.ndarray
    high: np.ndarray
    mass: np.ndarray
    samples: float = inf

    def average(self, function: Callable[[np.ndarray], Any], integral: Callable[[np.ndarray], Any]) -> float:
        """E of ``function``, whose antiderivative is ``integral``."""
        width = self.high - self.low
        atom = width == 0
        slope = (integral(self.high) - integral(self.low)) / np.where(atom, 1.0, width)
        return float(np.sum(self.mass * np.where(atom, function(self.low), slope)))

    def beyond(self, size: float) -> float:
        """P(|x| > size)."""
        return self.average(lambda x: (np.abs(x) > size) * 1.0, lambda x: np.sign(x) * np.maximum(np.abs(x) - size, 0.0))

    @property
    def nonzero(self) -> float:
        """P(x != 0)."""
        return float(np.sum(self.mass[(self.low != 0) | (self.high != 0)]))

    @property
    def mean(self) -> float:
        return float(np.sum(self.mass * (self.low + self.high) / 2))

    @property
    def mean_square(self) -> float:
        return float(np.sum(self.mass * (self.low**2 + self.low * self.high + self.high**2) / 3))

    @property
    def variance(self) -> float:
        return max(self.mean_square - self.mean**2, 0.0)

    @property
    def largest(self) -> float:
        """The largest size."""
        return float(np.max(np.maximum(np.abs(self.low), np.abs(self.high))[self.mass > 0]))

    @property
    def one_sided(self) -> bool:
        """Whether no number is negative."""
        return bool(np.all(self.low[self.mass > 0] >= 0))

    def size(self) -> Distribution:
        """The law of ``|x|``."""
        low, high = np.abs(self.low), np.abs(self.high)
        across = self.low * self.high < 0
        share = np.where(across, low / np.where(across, low + high, 1.0), 1.0)
        parts = [(np.where(across, 0.0, np.minimum(low, high)), np.where(across, low, np.maximum(low, high)), self.mass * share),
                 (0 * low, high, self.mass * (1 - share))]
        low, high, mass = (np.concatenate(p) for p in zip(*parts, strict=True))
        return Distribution(low, high, mass, self.samples)

    def quantile(self, probability: float) -> float:
        """The smallest number that is exceeded with a probability of at most ``1 - probability``, by bisection."""
        def below(bound: float) -> float:
            return self.average(lambda x: (x <= bound) * 1.0, lambda x: np.minimum(x, bound))

        low, high = float(self.low.min()), float(self.high.max())
        if below(low) >= probability:
            return low
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if below(middle) >= probability else (middle, high)
        return high

    def expected_largest(self, count: float) -> float:
        """E of the largest size of ``count`` independent numbers: the integral of ``1 - P(|x| <= t)^count``."""
        law, top = self.size(), self.largest
        at = np.unique(np.concatenate([[0.0], top * np.geomspace(1e-6, 1.0, 400), top * np.linspace(0.0, 1.0, 400)]))
        width = law.high - law.low
        share = np.clip((law.high - at[:, None]) / np.where(width > 0, width, 1.0), 0.0, 1.0)
        beyond = np.minimum(np.where(width > 0, share, law.high > at[:, None]) @ law.mass, 1.0)
        some = -np.expm1(count * np.log1p(-np.minimum(beyond, 1 - 1e-16)))
        return float(np.sum((some[1:] + some[:-1]) / 2 * np.diff(at)))

    def draw(self, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
        """Independent numbers."""
        random = np.random.default_rng(seed)
        which = random.choice(len(self.mass), shape, p=self.mass / self.mass.sum())
        return self.low[which] + (self.high - self.low)[which] * random.random(shape)

    def scaled(self, factor: float) -> Distribution:
        """The law of ``factor x``."""
        low, high = self.low * factor, self.high * factor
        return self._replace(low=np.minimum(low, high), high=np.maximum(low, high))


def normal(std: float = 1.0, mean: float = 0.0) -> Distribution:
    """The Gaussian law.

    Raises:
        InvalidInput: for numbers that are not finite, or a negative ``std``.
    """
    if not (np.isfinite(std) and np.isfinite(mean) and std >= 0):
        raise InvalidInput(f"std, mean: {std!r}, {mean!r} given; they must be finite, and std not negative")
    edges = grid()
    return _binned([_pushed(mean + std * edges)], inf)


def rectified(std: float = 1.0, mean: float = 0.0) -> Distribution:
    """The law of ``max(z, 0)`` for Gaussian ``z``: half of it is at zero where the mean vanishes.

    Raises:
        InvalidInput: as :func:`normal`.
    """
    found = normal(std, mean)
    low, high = np.maximum(found.low, 0.0), np.maximum(found.high, 0.0)
    return found._replace(low=low, high=high)


def of_samples(values: Any) -> Distribution:
    """The law of the numbers in an array.

    Raises:
        InvalidInput: where there are none, or some are not finite.
    """
    flat = np.ravel(np.asarray(values, np.float64))
    if not flat.size or not np.all(np.isfinite(flat)):
        raise InvalidInput("values: none, or some that are NaN or infinite; a law needs finite numbers")
    return _binned([(flat, flat, np.full(flat.size, 1.0 / flat.size))], flat.size)


def grid(cells: int = CELLS) -> np.ndarray:
    """Edges of the cells of a standard normal variable; zero is one of them, where activations have their kinks."""
    return np.linspace(-REACH, REACH, cells + 1)


def of_cells(parts: Sequence[tuple[np.ndarray, float]]) -> Distribution:
    """Of functions of a standard normal variable, given at the edges of :func:`grid` on axis 0; other axes, and parts of the weights
    given, are pooled."""
    found = [_pushed(values, weight) for values, weight in parts]
    return _binned(found, inf)


def pooled(parts: Sequence[tuple[Distribution, float]]) -> Distribution:
    """The mixture of laws with weights that add up to 1."""
    if len(parts) == 1:
        return parts[0][0]
    return _binned([(d.low, d.high, w * d.mass) for d, w in parts], min(d.samples for d, _ in parts))


def _pushed(values: np.ndarray, weight: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = values.reshape(len(values), -1)
    mass = np.diff(ndtr(grid(len(values) - 1)))
    mass = np.broadcast_to((mass / mass.sum() * weight / values.shape[1])[:, None], (len(mass), values.shape[1]))
    ends = (values[:-1], values[1:])
    return np.minimum(*ends).ravel(), np.maximum(*ends).ravel(), mass.ravel()


def _binned(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], samples: float) -> Distribution:
    """Segments on a grid that is fine by size and by difference, and atoms of some weight apart."""
    low, high, mass = (np.concatenate(p) for p in zip(*parts, strict=True))
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise InvalidInput("a law with numbers that are not finite: nothing represents it")
    point = low == high
    atoms, where = np.unique(low[point], return_inverse=True)
    weight = np.bincount(where, mass[point], len(atoms))
    kept = (weight > _ATOM) | (atoms == 0)
    top = max(float(np.max(np.abs(low), initial=0.0)), float(np.max(np.abs(high), initial=0.0)))
    if top == 0:
        return Distribution(np.zeros(1), np.zeros(1), np.ones(1), samples)
    if len(mass) <= _FEW:
        low, high, mass = (np.concatenate([a, b[~point]]) for a, b in ((atoms, low), (atoms, high), (weight, mass)))
        return Distribution(low, high, mass, samples)  # as they are
    sizes = np.geomspace(10.0**-_DECADES, 1.0, int(_DECADES * np.log(10) / np.log(_RATIO)))
    side = top * np.union1d(sizes, np.arange(1, _EVEN + 1) / _EVEN)
    edges = np.concatenate([-side[::-1], [0.0], side])
    total = np.zeros(len(edges) - 1)
    np.add.at(total, _bin(edges, atoms[~kept]), weight[~kept])
    low, high, mass = low[~point], high[~point], mass[~point]
    first = _bin(edges, low)
    last = np.maximum(np.clip(np.searchsorted(edges, high, "left") - 1, 0, len(edges) - 2), first)
    inside = first == last
    np.add.at(total, first[inside], mass[inside])
    low, high, mass, first, last = (a[~inside] for a in (low, high, mass, first, last))
    count = last - first + 1
    which = np.repeat(np.arange(len(count)), count)
    target = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    overlap = np.minimum(edges[target + 1], high[which]) - np.maximum(edges[target], low[which])
    np.add.at(total, target, mass[which] * overlap / (high - low)[which])
    live = total > 0
    return Distribution(np.concatenate([atoms[kept], edges[:-1][live]]), np.concatenate([atoms[kept], edges[1:][live]]),
                        np.concatenate([weight[kept], total[live]]), samples)


def _bin(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(edges, values, "right") - 1, 0, len(edges) - 2)


__all__ = ["CELLS", "Distribution", "grid", "normal", "of_cells", "of_samples", "pooled", "rectified"]
