"""Haar-distributed orthogonal matrices, alone and at the centre of a convolution kernel."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from jax.nn import initializers
from jaxtyping import Array

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number
from sigprop.init.initializer import Initializer
from sigprop.types import Law


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """``gain`` times a Haar matrix: all axes but ``column_axis`` are its rows (Saxe et al. 2014).

    The shorter side is orthonormal: rows where there are at most as many rows as columns, else columns. Entries have mean 0 and variance
    ``gain^2 / max(rows, columns)``.

    Attributes:
        gain: any finite number.
        column_axis: the last axis by default, Flax's outputs.

    Raises:
        InvalidInput: by a call for shapes of fewer than two axes, without that axis, or empty.
    """

    gain: float = 1.0
    column_axis: int = -1

    def __post_init__(self) -> None:
        check_number("gain", self.gain)

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        self._sides(shape)
        return initializers.orthogonal(self.gain, self.column_axis)(key, shape, dtype)

    def _law(self, shape: tuple[int, ...]) -> Law:
        return Law(0.0, self.gain**2 / max(self._sides(shape)), "orthogonal")

    def _sides(self, shape: tuple[int, ...]) -> tuple[int, int]:
        if len(shape) < 2 or 0 in shape:
            raise InvalidInput(f"shape: {shape} given; an orthogonal matrix needs two axes or more, none of them empty")
        if not -len(shape) <= self.column_axis < len(shape):
            raise InvalidInput(f"column_axis: shape {shape} has no axis {self.column_axis}")
        columns = shape[self.column_axis]
        return prod(shape) // columns, columns


@dataclass(frozen=True)
class DeltaOrthogonal(Initializer):
    """A Haar matrix with orthonormal rows at the centre tap of a convolution, zeros elsewhere (Xiao et al. 2018).

    The kernel is ``(*field, in, out)`` with one to three axes of field and ``out >= in``, so that no input is lost. Centre entries have
    variance ``gain^2 / out``; the law pools them with the zeros.

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
        return initializers.delta_orthogonal(self.gain)(key, shape, dtype)

    def _law(self, shape: tuple[int, ...]) -> Law:
        self._check(shape)
        return Law(0.0, self.gain**2 / shape[-1] / prod(shape[:-2]), "orthogonal")

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) not in (3, 4, 5) or 0 in shape:
            raise InvalidInput(f"shape: {shape} given; a delta-orthogonal kernel is (*field, in, out) with one to three axes of field")
        if shape[-1] < shape[-2]:
            raise InvalidInput(f"shape: {shape} has {shape[-1]} outputs for {shape[-2]} inputs; a delta-orthogonal kernel keeps all inputs "
                               "and needs as many outputs or more")
