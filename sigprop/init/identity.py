"""Kernels that start as the identity, or as a linear map under concatenated ReLUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number
from sigprop.init.initializer import Initializer, check_base, law_of
from sigprop.init.orthogonal import Orthogonal
from sigprop.types import Law


def _share_of_ones(share: float, gain: float) -> Law:
    """Pooled law of a fixed table of zeros with a share of entries ``gain``."""
    return Law(gain * share, gain**2 * share * (1 - share), "table")


@dataclass(frozen=True)
class Identity(Initializer):
    """``gain`` times the identity, for square kernels ``(n, n)`` (Le et al. 2015, recurrent ReLU networks).

    Attributes:
        gain: any finite number.

    Raises:
        InvalidInput: by a call for shapes that are not square.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_number("gain", self.gain)

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        self._check(shape)
        return jnp.asarray(self.gain, dtype) * jnp.eye(shape[0], dtype=dtype)

    def _law(self, shape: tuple[int, ...]) -> Law:
        self._check(shape)
        return _share_of_ones(1 / shape[0], self.gain)

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[0] != shape[1] or 0 in shape:
            raise InvalidInput(f"shape: {shape} is not square; the identity needs (n, n), and Dirac() fills (*field, in, out)")


@dataclass(frozen=True)
class Dirac(Initializer):
    """A convolution that copies its inputs to its first outputs: ``gain`` at the centre tap, zeros elsewhere (Zagoruyko & Komodakis 2017).

    The kernel is ``(*field, in, out)`` with ``out >= in``, so that no input is lost.

    Attributes:
        gain: any finite number.

    Raises:
        InvalidInput: by a call for other shapes.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_number("gain", self.gain)

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        self._check(shape)
        centre = tuple((size - 1) // 2 for size in shape[:-2])
        return jnp.zeros(shape, dtype).at[centre].set(jnp.asarray(self.gain, dtype) * jnp.eye(*shape[-2:], dtype=dtype))

    def _law(self, shape: tuple[int, ...]) -> Law:
        self._check(shape)
        return _share_of_ones(1 / shape[-1] / prod(shape[:-2]), self.gain)

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) < 2 or 0 in shape or shape[-1] < shape[-2]:
            raise InvalidInput(f"shape: {shape} given; a Dirac kernel is (*field, in, out) with as many outputs as inputs or more")


@dataclass(frozen=True)
class LooksLinear(Initializer):
    """``[W; -W]`` for inputs ``[relu(x), relu(-x)]``, on which it is the linear map ``W x`` (Balduzzi et al. 2017).

    The kernel is ``(*field, in, out)`` with ``in`` even; ``base`` draws ``W`` of shape ``(*field, in / 2, out)``.

    Attributes:
        base: orthogonal by default.

    Raises:
        InvalidInput: where ``base`` is not callable; by a call for an odd number of inputs, and as ``base``.
    """

    base: Callable[..., Any] = Orthogonal()

    def __post_init__(self) -> None:
        check_base(self.base)

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        weight = self.base(key, self._half(shape), dtype)
        return jnp.concatenate([weight, -weight], axis=-2)

    def _law(self, shape: tuple[int, ...]) -> Law:
        law = law_of(self.base, self._half(shape))
        return Law(0.0, law.variance + law.mean**2, law.family)

    def _half(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) < 2 or shape[-2] % 2 or 0 in shape:
            raise InvalidInput(f"shape: {shape} given; a looks-linear kernel is (*field, in, out) with an even number of inputs")
        return (*shape[:-2], shape[-2] // 2, shape[-1])
