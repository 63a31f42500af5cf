"""Norms around or inside of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sigprop.arrays import namespace
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number, check_whole
from sigprop.meanfield.blocks import Around
from sigprop.meanfield.maps import Layer, affine
from sigprop.meanfield.sphere import BatchMoments, batch_moments
from sigprop.types import Estimate


@dataclass(frozen=True)
class _Norm:
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, 0.0)


@dataclass(frozen=True)
class PreNorm(_Norm):
    """What the block takes in is divided by its root mean square over the channels, or standardized: pre-activations have mean 0.

    Attributes:
        epsilon: added to the mean square.
    """

    def around(self, layer: Layer) -> Layer:
        return _PreNorm(layer, self.epsilon)


@dataclass(frozen=True)
class _PreNorm(Around):
    epsilon: float

    def _unit(self, q: Any) -> Any:
        return _share(q, q + self.epsilon)

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        return self.layer.variance(self._unit(q), c)

    def variance_slope(self, q: Any) -> Estimate:
        return affine(self.layer.variance_slope(self._unit(q)), self.epsilon / (q + self.epsilon) ** 2)

    def chi(self, q: Any) -> Estimate:
        return affine(self.layer.chi(self._unit(q)), 1 / (q + self.epsilon))

    def covariance(self, c: Any, q: Any) -> Estimate:
        return self.layer.covariance(c, self._unit(q))

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        return affine(self.layer.correlation_slope(c, self._unit(q)), 1 / (q + self.epsilon))


@dataclass(frozen=True)
class PostNorm(_Norm):
    """What the block gives is divided by its root mean square over the channels, or standardized: it has mean 0.

    Attributes:
        epsilon: added to the mean square.
    """

    def around(self, layer: Layer) -> Layer:
        return _PostNorm(layer, self.epsilon)


@dataclass(frozen=True)
class _PostNorm(Around):
    epsilon: float

    def _size(self, q: Any, c: Any = 1.0) -> Any:
        return self.layer.variance(q, c).value + self.epsilon

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        return affine(self.layer.variance(q, c), _share(1.0, self._size(q, c)))

    def variance_slope(self, q: Any) -> Estimate:
        return affine(self.layer.variance_slope(q), _share(self.epsilon, self._size(q) ** 2))

    def chi(self, q: Any) -> Estimate:
        return affine(self.layer.chi(q), _share(1.0, self._size(q)))

    def covariance(self, c: Any, q: Any) -> Estimate:
        return affine(self.layer.covariance(c, q), _share(1.0, self._size(q, c)))

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        """Where ``c`` is a fixed point of the map of correlations."""
        return affine(self.layer.correlation_slope(c, q), _share(1.0, self._size(q, c)))


@dataclass(frozen=True)
class ActivationNorm:
    """Layer norm between the activation and the weights: ``z -> W LN(f(z)) + b``, the mean over the channels taken off."""

    def around(self, layer: Layer) -> Layer:
        return _ActivationNorm(layer)


@dataclass(frozen=True)
class _ActivationNorm(Around):
    def _base(self, q: Any) -> Any:
        """``sigma_w^2 (E f)^2 + sigma_b^2``: the covariance of orthogonal inputs."""
        return self.layer.covariance(0.0, q).value

    def _gain(self, q: Any) -> Any:
        """One over the variance of ``f(z)``."""
        return _share(self.weight_variance, self.layer.variance(q).value - self._base(q))

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        return affine(self.layer.variance(q), 0.0, self.weight_variance + self.bias_variance)

    def variance_slope(self, q: Any) -> Estimate:
        return affine(self.layer.variance_slope(q), 0.0)

    def chi(self, q: Any) -> Estimate:
        return affine(self.layer.chi(q), self._gain(q))

    def covariance(self, c: Any, q: Any) -> Estimate:
        gain = self._gain(q)
        return affine(self.layer.covariance(c, q), gain, self.bias_variance - gain * self._base(q))

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        return affine(self.layer.correlation_slope(c, q), self._gain(q))


@dataclass(frozen=True)
class BatchNorm:
    """Batch norm between the layer before and the activation, on the statistics of the batch itself (Yang et al. 2019).

    ``c`` is the correlation of two examples of a batch, all pairs alike: the fixed point that the paper calls BSB1, which a layer
    reaches at once from a batch that is so. Norms make pre-activations points on a sphere, and moments integrals over it, exact for any
    batch. The slopes of ``q`` and ``c`` are 0; ``chi`` is the growth of gradients: (B-2)/(B-3) for a linear network, pi/(pi-1) for ReLU and
    large batches.

    Attributes:
        batch: number of examples, at least 4; ``None`` stands for the limit of large ones.
    """

    batch: int | None = None

    def __post_init__(self) -> None:
        if self.batch is not None:
            check_whole("batch", self.batch, 4)

    def around(self, layer: Layer) -> Layer:
        if isinstance(layer, Around):
            raise InvalidInput(f"block: {self!r} stands between weights and activation, and must be the first part")
        return _BatchNorm(layer, batch_moments(layer.activation, self.batch))


@dataclass(frozen=True)
class _BatchNorm(Around):
    moments: BatchMoments

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        return affine(self.moments.second, self.weight_variance + 0 * q, self.bias_variance)

    def variance_slope(self, q: Any) -> Estimate:
        return affine(self.moments.second, 0 * q)

    def chi(self, q: Any) -> Estimate:
        """Where ``q`` and ``c`` are those that a layer gives."""
        spread = self.moments.second.value - self.moments.pair.value
        return affine(self.moments.backward, _share(1 + 0 * q, spread))

    def covariance(self, c: Any, q: Any) -> Estimate:
        return affine(self.moments.pair, self.weight_variance + 0 * c * q, self.bias_variance)

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        return affine(self.moments.pair, 0 * c * q)


def _share(part: Any, whole: Any) -> Any:
    """``part / whole``, 0 where there is nothing."""
    xp = namespace(part, whole)
    some = whole > 0
    return xp.where(some, part / xp.where(some, whole, 1.0), 0.0)
