"""Independent entries of given mean and variance: normal, uniform and truncated normal ones, and constants."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array

from sigprop.gaussian import truncated_moments
from sigprop.init.checks import check_number
from sigprop.init.initializer import Initializer
from sigprop.types import Law


@dataclass(frozen=True)
class _Independent(Initializer):
    variance: float
    mean: float = 0.0

    def __post_init__(self) -> None:
        check_number("variance", self.variance, 0.0)
        check_number("mean", self.mean)

    def _shifted(self, centred: Array) -> Array:
        return centred if self.mean == 0 else centred + jnp.asarray(self.mean, centred.dtype)


@dataclass(frozen=True)
class Normal(_Independent):
    """Independent Gaussian entries.

    Attributes:
        variance: at least 0.
        mean: any finite number.

    Raises:
        InvalidInput: for a negative variance or numbers that are not finite.
    """

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._shifted(initializers.normal(sqrt(self.variance))(key, shape, dtype))

    def _law(self, shape: tuple[int, ...]) -> Law:
        return Law(self.mean, self.variance, "normal")


@dataclass(frozen=True)
class Uniform(_Independent):
    """Independent entries, uniform within ``sqrt(3 variance)`` of the mean.

    Attributes:
        variance: at least 0.
        mean: any finite number.

    Raises:
        InvalidInput: for a negative variance or numbers that are not finite.
    """

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._shifted(jnp.asarray(sqrt(3 * self.variance), dtype) * jax.random.uniform(key, shape, dtype, -1.0, 1.0))

    def _law(self, shape: tuple[int, ...]) -> Law:
        return Law(self.mean, self.variance, "uniform")


@dataclass(frozen=True)
class TruncatedNormal(_Independent):
    """Independent Gaussian entries cut off on both sides.

    Attributes:
        variance: of the entries, after the cut; at least 0.
        mean: any finite number.
        cut: distance of the cut from the mean, in standard deviations of the uncut Gaussian; at least 0.1, below which uniform entries
            are the same but for rounding.

    Raises:
        InvalidInput: for a negative variance, a cut that is too near, or numbers that are not finite.
    """

    cut: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("cut", self.cut, 0.1)

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        uncut = sqrt(self.variance / truncated_moments(-self.cut, self.cut)[2])
        return self._shifted(initializers.truncated_normal(uncut, lower=-self.cut, upper=self.cut)(key, shape, dtype))

    def _law(self, shape: tuple[int, ...]) -> Law:
        return Law(self.mean, self.variance, "truncated normal")


@dataclass(frozen=True)
class Constant(Initializer):
    """The same number everywhere, whatever the key.

    Attributes:
        value: any finite number.
    """

    value: float

    def __post_init__(self) -> None:
        check_number("value", self.value)

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        return jnp.full(shape, self.value, dtype)

    def _law(self, shape: tuple[int, ...]) -> Law:
        return Law(self.value, 0.0, "constant")
