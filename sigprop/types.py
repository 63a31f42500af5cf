"""Small immutable results shared by every floor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

METHODS = ("closed form", "quadrature", "sampled")
FAMILIES = ("normal", "truncated normal", "uniform", "laplace", "rademacher", "orthogonal", "constant")  # that can be declared


class Note(NamedTuple):
    """How a number was obtained.

    Attributes:
        error: its relative error, of which errors of steps along the way are added up.
        how: position in ``METHODS`` of the roughest step behind it.
        spread: relative variance of sums over draws, such as the norm of a weight over few inputs, that were taken as constants.
        bias: what of ``error`` stays if all sampling is repeated with other points: that of approximations, added up in the same way.
    """

    error: Any = 0.0
    how: int = 0
    spread: float = 0.0
    bias: Any = 0.0

    @staticmethod
    def of(notes: Iterable[Note]) -> Note:
        """Of a product: relative errors add."""
        error, how, spread, bias = 0.0, 0, 0.0, 0.0
        for note in notes:
            error, how, spread, bias = error + note.error, max(how, note.how), spread + note.spread, bias + note.bias
        return Note(error, how, spread, bias)

    @staticmethod
    def largest(notes: Iterable[Note]) -> Note:
        """Of a sum of terms of like size."""
        error: Any = 0.0
        bias: Any = 0.0
        how, spread = 0, 0.0
        for note in notes:
            error, bias = _larger(error, note.error), _larger(bias, note.bias)
            how, spread = max(how, note.how), max(spread, note.spread)
        return Note(error, how, spread, bias)

    @staticmethod
    def systematic(error: Any, how: int = 0) -> Note:
        """That of an approximation, the same however often it is made."""
        return Note(error, how, 0.0, error)

    def scaled(self, factor: Any) -> Note:
        """Of what changes by so many times as much, relatively."""
        return self._replace(error=self.error * factor, bias=self.bias * factor)


def _larger(one: Any, two: Any) -> Any:
    return max(one, two) if isinstance(one, float) and isinstance(two, float) else jnp.maximum(one, two)


EXACT = Note()


class Estimate(NamedTuple):
    """A number with its error and how it was obtained.

    Attributes:
        value: any shape, floating.
        error: non-negative bound or standard error of ``value``, broadcastable to its shape.
        method: one of ``METHODS``.
    """

    value: Float[Array, ...]
    error: Float[Array, ...]
    method: str


class Kernel(NamedTuple):
    """A pair of kernels on two sets of inputs.

    Attributes:
        nngp: second moment of the output, ``[n1, n2]`` for outputs ``(n, features)``, ``[n1, n2, *sites1, *sites2]``
            for outputs with site axes; float32 or float64 like the input.
        ntk: neural tangent kernel, same shape, or ``None`` where it was not asked for.
        error: estimated absolute error of ``nngp``, broadcastable to it.
        ntk_error: that of ``ntk``, ``None`` where there is none.
    """

    nngp: Float[Array, ...]
    ntk: Float[Array, ...] | None
    error: Float[Array, ...]
    ntk_error: Float[Array, ...] | None = None


class KernelSample(NamedTuple):
    """Kernels averaged over independent draws of the parameters.

    Attributes:
        mean: their mean; its errors are the standard errors.
        stderr: standard errors of ``mean.nngp`` and ``mean.ntk``, in the fields of these names.
    """

    mean: Kernel
    stderr: Kernel


@dataclass(frozen=True)
class Law:
    """Law of the entries of a parameter.

    Attributes:
        mean, variance: pooled over the entries, so that a fixed table has the variance of its numbers. Where a law is declared they may
            also be arrays that broadcast to the parameter, entry by entry.
        family: one of :data:`FAMILIES` where it is declared; also ``bernoulli``, ``randint``, ``gamma``, ``table`` (fixed numbers that
            differ), ``derived`` (a function of several draws) or ``unknown`` (measured).
        source: ``traced`` from the initializer, ``measured`` on samples, or ``declared``.
    """

    mean: Any
    variance: Any
    family: str = "normal"
    source: str = "declared"
