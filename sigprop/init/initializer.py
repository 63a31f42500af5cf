"""What all initializers share: the call that Flax makes, the exact law, and multiplication by a gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number, checked_dtype, checked_shape
from sigprop.types import Law


class Initializer:
    """Draws a parameter and states the law of its entries.

    Subclasses are frozen dataclasses of numbers and names, so that two of the same settings are equal and hash alike, and write
    ``_sample(key, shape, dtype)``, where ``dtype`` has 32 bits at least, and ``_law(shape)``.
    """

    def __call__(self, key: Any, shape: Any, dtype: Any = jnp.float32) -> Float[Array, ...]:
        """A parameter of the given shape. Types narrower than float32 are drawn in float32 and rounded, which keeps the moments.

        Args:
            key: from ``jax.random``; may be traced or mapped over.
            shape: as Flax passes it, inputs next to last and outputs last.
            dtype: real floating; ``None`` stands for float32.

        Raises:
            InvalidInput: for a shape or dtype that it cannot fill.
        """
        sizes, kind = checked_shape(shape), checked_dtype(dtype)
        return self._sample(key, sizes, jnp.promote_types(kind, jnp.float32)).astype(kind)

    def law(self, shape: Any) -> Law:
        """Exact mean and variance of the entries, pooled where they differ, and their family.

        Raises:
            InvalidInput: for a shape that the initializer cannot fill.
        """
        law = self._law(checked_shape(shape))
        return Law(float(law.mean), float(law.variance), law.family if law.variance > 0 else "constant")

    def __mul__(self, gain: float) -> Scaled:
        return Scaled(self, gain)

    __rmul__ = __mul__

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        raise NotImplementedError

    def _law(self, shape: tuple[int, ...]) -> Law:
        raise NotImplementedError


@dataclass(frozen=True)
class Scaled(Initializer):
    """``gain`` times what another initializer draws.

    Attributes:
        base: an :class:`Initializer`, or any callable ``(key, shape, dtype)``, whose law is then not stated but can be traced.
        gain: any finite number.

    Raises:
        InvalidInput: where ``base`` is not callable or ``gain`` not a number; by ``law`` where ``base`` states none.
    """

    base: Callable[..., Any]
    gain: float

    def __post_init__(self) -> None:
        check_number("gain", self.gain)
        check_base(self.base)

    def _sample(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        return jnp.asarray(self.gain, dtype) * self.base(key, shape, dtype)

    def _law(self, shape: tuple[int, ...]) -> Law:
        law = law_of(self.base, shape)
        return Law(self.gain * law.mean, self.gain**2 * law.variance, law.family)


def check_base(base: Any) -> None:
    """Refuse what cannot be called.

    Raises:
        InvalidInput: naming what was given.
    """
    if not callable(base):
        raise InvalidInput(f"base: {base!r} is not an initializer, a callable (key, shape, dtype)")


def law_of(base: Any, shape: tuple[int, ...]) -> Law:
    """The law that ``base`` states.

    Raises:
        InvalidInput: where it states none.
    """
    if not isinstance(base, Initializer):
        raise InvalidInput(f"base: {base!r} states no law; use one of sp.init, or read sp.network(model, x).laws")
    return base.law(shape)
