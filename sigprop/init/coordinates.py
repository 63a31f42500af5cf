"""First layers of networks of coordinates: sinusoidal ones and random Fourier features."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Any

from jaxtyping import Array

from sigprop.init.checks import check_number
from sigprop.init.fans import PLAIN
from sigprop.init.independent import Normal, Uniform
from sigprop.init.initializer import Initializer
from sigprop.init.scaling import FanSpec, VarianceScaling, check_fans, counted
from sigprop.types import Law


@dataclass(frozen=True)
class SirenFirst(Initializer):
    """Uniform in ``(-1/n, 1/n)``: the first layer of a SIREN, ``sin(w0 (W x + b))`` (Sitzmann et al. 2020).

    Attributes:
        fans: as in :class:`VarianceScaling`.

    Raises:
        InvalidInput: for fans that are not above 0; by a call for shapes whose fans cannot be counted.
    """

    fans: FanSpec = PLAIN

    def __post_init__(self) -> None:
        check_fans(self.fans)

    def _entries(self, shape: tuple[int, ...]) -> Uniform:
        return Uniform(counted(self.fans, shape)[0] ** -2 / 3)

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._entries(shape)(key, shape, dtype)

    def _law(self, shape: tuple[int, ...]) -> Law:
        return self._entries(shape).law(shape)


def siren(w0: float = 30.0, fans: FanSpec = PLAIN) -> VarianceScaling:
    """Uniform within ``sqrt(6 / n) / w0``: hidden layers ``sin(w0 (W x + b))`` of a SIREN (Sitzmann et al. 2020, section 3.2).

    Args:
        w0: frequency, above 0.
        fans: as in :class:`VarianceScaling`.

    Raises:
        InvalidInput: for a frequency or fans that are not above 0.
    """
    check_number("w0", w0, above=0.0)
    return VarianceScaling(2.0 / w0**2, "fan_in", "uniform", fans)


def fourier_features(bandwidth: float = 1.0) -> Normal:
    """Kernel ``W = 2 pi B``, ``B`` of variance ``bandwidth^2``, of the features ``cos(x W), sin(x W)`` (Tancik et al. 2020).

    Their kernel is ``exp(-(2 pi bandwidth |x - x'|)^2 / 2)``: frequencies in cycles per unit of ``x``.

    Raises:
        InvalidInput: for a bandwidth that is not above 0.
    """
    check_number("bandwidth", bandwidth, above=0.0)
    return Normal((2 * pi * bandwidth) ** 2)


def fourier_phase() -> Uniform:
    """Bias, uniform over one period, of random features ``cos(x W + b)`` (Rahimi & Recht 2007, algorithm 1)."""
    return Uniform(pi**2 / 3, pi)
