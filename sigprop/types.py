"""Small immutable results shared by every floor."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float


class Estimate(NamedTuple):
    """A number with its error and how it was obtained.

    Attributes:
        value: any shape, floating.
        error: non-negative bound or standard error of ``value``, broadcastable to its shape.
        method: ``"closed form"``, ``"quadrature"`` or ``"sampled"``.
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
        error: estimated absolute error of ``nngp`` and ``ntk``, broadcastable to them.
    """

    nngp: Float[Array, ...]
    ntk: Float[Array, ...] | None
    error: Float[Array, ...]
