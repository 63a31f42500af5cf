"""What stands around a layer: residual branches, norms, dropout, windows, averages over tokens.

A part takes the maps of a layer and gives those of a block, so that all that is known of layers holds for blocks: parts are listed from
the inside, ``[PreNorm(), Residual(0.5)]`` is a pre-norm residual block, ``[Residual(0.5), PostNorm()]`` a post-norm one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from sigprop.errors import InvalidInput
from sigprop.init.activations import Activation
from sigprop.init.checks import check_number, check_whole
from sigprop.meanfield.maps import Layer, affine
from sigprop.types import Estimate


class Part(Protocol):
    """Something around a layer. Parts are hashable, and their maps take arrays of NumPy as well as traced ones."""

    def around(self, layer: Layer) -> Layer:
        """Maps of the block that consists of ``layer`` and this part."""
        ...


Block = Sequence[Part]


def stacked(layer: Layer, block: Block) -> Layer:
    """Maps of the block of ``layer`` and the parts around it, from the inside.

    Raises:
        InvalidInput: where something else than a part is given.
    """
    for part in block:
        if not hasattr(part, "around"):
            raise InvalidInput(f"block: {part!r} is no part; give a sequence of Residual(), PreNorm(), PostNorm(), Dropout(), ...")
        layer = part.around(layer)
    return layer


def uniform(block: Block) -> Block:
    """The block as it acts on what is the same on all pixels."""
    return [replace(part, frequency=0.0) if isinstance(part, Convolution) else part for part in block]


@dataclass(frozen=True)
class Around:
    """The maps of ``layer`` as they are; those around it differ in some."""

    layer: Layer

    @property
    def activation(self) -> Activation:
        return self.layer.activation

    @property
    def weight_variance(self) -> Any:
        return self.layer.weight_variance

    @property
    def bias_variance(self) -> Any:
        return self.layer.bias_variance

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        return self.layer.variance(q, c)

    def variance_slope(self, q: Any) -> Estimate:
        return self.layer.variance_slope(q)

    def chi(self, q: Any) -> Estimate:
        return self.layer.chi(q)

    def covariance(self, c: Any, q: Any) -> Estimate:
        return self.layer.covariance(c, q)

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        return self.layer.correlation_slope(c, q)


@dataclass(frozen=True)
class Residual:
    """``z -> skip z + alpha (W f(z) + b)`` (Yang & Schoenholz 2017, the reduced residual network).

    With ``skip = 1`` the mean square grows without end: there is no fixed point, and :func:`trajectory` tells how. With
    ``skip^2 + alpha^2 = 1`` fixed points are those of the layer, and depth scales longer.

    Attributes:
        alpha: factor of the branch.
        skip: factor of the stream.
    """

    alpha: float = 1.0
    skip: float = 1.0

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha)
        check_number("skip", self.skip)

    def around(self, layer: Layer) -> Layer:
        return _Residual(layer, self.alpha**2, self.skip**2)


@dataclass(frozen=True)
class _Residual(Around):
    branch: float
    stream: float

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        return affine(self.layer.variance(q, c), self.branch, self.stream * q)

    def variance_slope(self, q: Any) -> Estimate:
        return affine(self.layer.variance_slope(q), self.branch, self.stream)

    def chi(self, q: Any) -> Estimate:
        return affine(self.layer.chi(q), self.branch, self.stream)

    def covariance(self, c: Any, q: Any) -> Estimate:
        return affine(self.layer.covariance(c, q), self.branch, self.stream * c * q)

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        return affine(self.layer.correlation_slope(c, q), self.branch, self.stream)


@dataclass(frozen=True)
class Dropout:
    """Units dropped between the activation and the weights, independently for each input (Schoenholz et al. 2017, section 5).

    What is kept is divided by ``keep``. Even equal inputs part then, so that there is no edge of chaos: ``c*`` is below 1.

    Attributes:
        keep: probability that a unit is kept.
    """

    keep: float

    def __post_init__(self) -> None:
        check_number("keep", self.keep, above=0.0, high=1.0)

    def around(self, layer: Layer) -> Layer:
        return _Dropout(layer, 1 / self.keep)


@dataclass(frozen=True)
class _Dropout(Around):
    factor: float

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        return affine(self.layer.variance(q, c), self.factor, (1 - self.factor) * self.bias_variance)

    def variance_slope(self, q: Any) -> Estimate:
        return affine(self.layer.variance_slope(q), self.factor)

    def chi(self, q: Any) -> Estimate:
        return affine(self.layer.chi(q), self.factor)


@dataclass(frozen=True)
class Convolution:
    """A window with periodic borders: what is the same on all pixels moves as in a fully connected layer, and a deviation with a
    frequency is averaged over the window too (Xiao et al. 2018, section 2.2).

    Slopes, and the depth scales that follow, are those of the Fourier mode; at frequency 0, the slowest, those of the layer. Covariances
    of two pixels of one image that keep their distance, and of two images, have the same modes.

    Attributes:
        taps: share of the weights' variance that each tap of the window has; as an array of as many dimensions as the window. A
            delta-orthogonal kernel is ``(0, 1, 0)``, under which all modes are alike.
        frequency: of the mode, radians per pixel, one number for each dimension of the window or one for all.
    """

    taps: Any = (1 / 3, 1 / 3, 1 / 3)
    frequency: Any = 0.0

    def __post_init__(self) -> None:
        taps = np.asarray(self.taps, np.float64)
        if not taps.ndim or not np.all(taps >= 0) or not np.isclose(taps.sum(), 1):
            raise InvalidInput(f"taps: {self.taps!r} given; shares of a variance are at least 0 and sum to 1")
        if np.shape(self.frequency) not in ((), (taps.ndim,)) or not np.all(np.isfinite(self.frequency)):
            raise InvalidInput(f"frequency: {self.frequency!r} given; one finite number for each of {taps.ndim} dimensions is needed")
        object.__setattr__(self, "taps", _tuples(taps))
        object.__setattr__(self, "frequency", _tuples(np.asarray(self.frequency, np.float64)))

    @property
    def eigenvalue(self) -> float:
        """What the average over the window makes of the mode, in absolute value."""
        taps = np.asarray(self.taps, np.float64)
        phase = np.tensordot(np.broadcast_to(self.frequency, taps.ndim), np.indices(taps.shape), 1)
        return float(abs(np.sum(taps * np.exp(1j * phase))))

    def around(self, layer: Layer) -> Layer:
        return _Convolution(layer, self.eigenvalue)


def _tuples(array: np.ndarray) -> Any:
    """Hashable, as parts are."""
    return tuple(map(_tuples, array)) if array.ndim else float(array)


@dataclass(frozen=True)
class _Convolution(Around):
    eigenvalue: float

    def variance_slope(self, q: Any) -> Estimate:
        return affine(self.layer.variance_slope(q), self.eigenvalue)

    def chi(self, q: Any) -> Estimate:
        return affine(self.layer.chi(q), self.eigenvalue)

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        return affine(self.layer.correlation_slope(c, q), self.eigenvalue)


@dataclass(frozen=True)
class Attention:
    """Uniform attention: the layer's results averaged over the tokens of a sequence, as with small logits at initialization.

    ``c`` is the correlation of two tokens of one sequence, all pairs alike. One such layer makes all tokens one, and a residual stream
    slows that to a rate (rank collapse; Dong et al. 2021, Noci et al. 2022, section 3.1). Slopes are those at collapsed tokens, and
    ``chi`` that of gradients which are alike on all tokens: where those of a deep network go.

    Attributes:
        tokens: of a sequence, at least 2.
    """

    tokens: int

    def __post_init__(self) -> None:
        check_whole("tokens", self.tokens, 2)

    def around(self, layer: Layer) -> Layer:
        return _Attention(layer, 1 / self.tokens)


@dataclass(frozen=True)
class _Attention(Around):
    share: float

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        one, two = self.layer.variance(q), self.layer.covariance(c, q)
        value, error = (self.share * a + (1 - self.share) * b for a, b in zip(one[:2], two[:2], strict=True))
        return Estimate(value, error, two.method)

    def covariance(self, c: Any, q: Any) -> Estimate:
        return self.variance(q, c)

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        """Variance and covariance move together: the map of correlations is flat, and so is this where tokens have collapsed."""
        return affine(self.layer.correlation_slope(c, q), (1 - c) * (1 - self.share))
