"""Variances that are a scale over a fan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

from jaxtyping import Array

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_choice, check_number
from sigprop.init.fans import PLAIN, Fans
from sigprop.init.independent import Normal, TruncatedNormal, Uniform
from sigprop.init.initializer import Initializer
from sigprop.types import Law

FanSpec = Fans | float | tuple[float, float]

_MODES: dict[str, Callable[[float, float], float]] = {
    "fan_in": lambda n, m: n, "fan_out": lambda n, m: m, "fan_avg": lambda n, m: (n + m) / 2, "fan_geo_avg": lambda n, m: sqrt(n * m),
}
_DISTRIBUTIONS = {"normal": Normal, "truncated_normal": TruncatedNormal, "uniform": Uniform}


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Independent entries of mean 0 and variance ``scale / fan``.

    Attributes:
        scale: above 0.
        mode: the fan: ``fan_in``, ``fan_out``, or their mean ``fan_avg`` or geometric mean ``fan_geo_avg``.
        distribution: ``normal``, ``truncated_normal`` (at two standard deviations of the uncut one) or ``uniform``.
        fans: how to count fan-in and fan-out from the kernel, or the two as numbers, or one number for both.

    Raises:
        InvalidInput: for unknown names, and numbers that are not above 0; by a call for shapes whose fans cannot be counted.
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    fans: FanSpec = PLAIN

    def __post_init__(self) -> None:
        check_number("scale", self.scale, above=0.0)
        check_choice("mode", self.mode, tuple(_MODES))
        check_choice("distribution", self.distribution, tuple(_DISTRIBUTIONS))
        check_fans(self.fans)

    def _entries(self, shape: tuple[int, ...]) -> Initializer:
        return _DISTRIBUTIONS[self.distribution](self.scale / _MODES[self.mode](*counted(self.fans, shape)))

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._entries(shape)(key, shape, dtype)

    def _law(self, shape: tuple[int, ...]) -> Law:
        return self._entries(shape).law(shape)


def check_fans(fans: FanSpec) -> None:
    """Refuse fans that are neither counted nor one or two numbers above 0.

    Raises:
        InvalidInput: saying which.
    """
    if isinstance(fans, Fans):
        return
    if isinstance(fans, tuple) and len(fans) != 2:
        raise InvalidInput(f"fans: {fans} given; give fan-in and fan-out, one number for both, or Fans(...) to count them")
    for fan in fans if isinstance(fans, tuple) else (fans,):
        check_number("fans", fan, above=0.0)


def counted(fans: FanSpec, shape: tuple[int, ...]) -> tuple[float, float]:
    """Fan-in and fan-out of a kernel."""
    if isinstance(fans, Fans):
        return fans.count(shape)
    return fans if isinstance(fans, tuple) else (fans, fans)


def he(fans: FanSpec = PLAIN, mode: str = "fan_in", distribution: str = "truncated_normal", negative_slope: float = 0.0,
       kept: float = 1.0) -> VarianceScaling:
    """Variance ``2 / (p (1 + a^2) n)``, which keeps the mean square through leaky ReLUs (He et al. 2015, eq. 10 and 15).

    Args:
        fans, mode, distribution: as in :class:`VarianceScaling`.
        negative_slope: slope ``a`` of the leaky ReLU for negative arguments.
        kept: fraction ``p`` of the weights that a random mask keeps, in (0, 1]; the variance is that of the weights before the mask, so
            that ``n`` still counts all connections (Evci et al. 2022, "Gradient flow in sparse neural networks").

    Raises:
        InvalidInput: for a fraction out of (0, 1], and as :class:`VarianceScaling`.
    """
    check_number("negative_slope", negative_slope)
    check_number("kept", kept, high=1.0, above=0.0)
    return VarianceScaling(2.0 / (kept * (1 + negative_slope**2)), mode, distribution, fans)


def xavier(fans: FanSpec = PLAIN, distribution: str = "truncated_normal", gain: float = 1.0) -> VarianceScaling:
    """Variance ``2 gain^2 / (n + m)`` (Glorot & Bengio 2010, eq. 12); arguments as in :class:`VarianceScaling`."""
    check_number("gain", gain, above=0.0)
    return VarianceScaling(gain**2, "fan_avg", distribution, fans)


def lecun(fans: FanSpec = PLAIN, distribution: str = "truncated_normal") -> VarianceScaling:
    """Variance ``1 / n`` (LeCun et al. 1998, eq. 16); arguments as in :class:`VarianceScaling`."""
    return VarianceScaling(1.0, "fan_in", distribution, fans)


def small_init(fans: FanSpec = PLAIN, distribution: str = "normal") -> VarianceScaling:
    """Variance ``2 / (5 n)``: Xavier's for a layer from n to 4n units, used for all (Nguyen & Salazar 2019, "SmallInit")."""
    return VarianceScaling(0.4, "fan_in", distribution, fans)


def small_embed(limit: float = 1e-4) -> Uniform:
    """Uniform in ``(-limit, limit)``, for embeddings that a normalization follows (Peng et al. 2023, RWKV, small init embedding)."""
    check_number("limit", limit, above=0.0)
    return Uniform(limit**2 / 3)
