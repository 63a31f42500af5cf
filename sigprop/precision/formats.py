"""Number formats: the squared error of rounding to them, its antiderivative, and what they cannot hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from sigprop.arrays import concrete
from sigprop.errors import InvalidInput
from sigprop.predict.distribution import Distribution

ALIASES = {"fp16": "float16", "bf16": "bfloat16", "fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
_BITS = {"int8": 8, "int4": 4, "uint8": 8, "uint4": 4}


@dataclass(frozen=True)
class Format:
    """Numbers that a quantizer may use, before they are multiplied by its scale.

    Integers are symmetric, ``-(2^(b-1) - 1) .. 2^(b-1) - 1``, or one-sided, ``0 .. 2^b - 1``. Floating formats saturate at their largest
    number when they are used with a scale.

    Attributes:
        name: of its dtype.
        largest: number; ``smallest``: positive one, subnormal ones included; ``tiny``: smallest normal one.
        digits: binary digits of the mantissa after the point; ``None`` for integers.
        signed: whether it has negative numbers.
    """

    name: str
    largest: float
    smallest: float
    tiny: float
    digits: int | None
    signed: bool = True

    @property
    def scaled(self) -> bool:
        """Whether it is used with a scale: 16 bits and more of floating numbers reach far enough without."""
        return self.digits is None or jnp.dtype(self.name).itemsize == 1

    @property
    def overflow(self) -> float:
        """Size from which numbers round to what is beyond the largest: infinity, or NaN in ``float8_e4m3fn``."""
        return self.largest + float(self._step(np.asarray(self.largest))) / 2

    def round(self, x: Any) -> Any:
        """The nearest number, ties to even, saturated; NumPy or JAX arrays."""
        xp = np if isinstance(x, np.ndarray) else jnp
        low = -self.largest if self.signed else 0.0
        x = xp.clip(x, low, self.largest)
        return xp.round(x) if self.digits is None else self.cast(x)

    def cast(self, x: Any) -> Any:
        """The nearest number of a floating format as its dtype has it, beyond the largest infinite or NaN; in the dtype of ``x``."""
        dtype = jnp.dtype(self.name)
        if concrete(x):  # by ml_dtypes
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                held = np.asarray(x).astype(dtype).astype(x.dtype)
            return held if isinstance(x, np.ndarray) else jnp.asarray(held)
        if dtype == jnp.bfloat16:  # XLA may compute it in float32 without rounding
            return lax.reduce_precision(x, 8, 7).astype(dtype).astype(x.dtype)
        return lax.optimization_barrier(x.astype(dtype)).astype(x.dtype)  # or drop both conversions

    def squared_error(self, x: np.ndarray) -> np.ndarray:
        """Of rounding, in float64."""
        return (x - self.round(x)) ** 2

    def integral(self, x: np.ndarray) -> np.ndarray:
        """Antiderivative of :meth:`squared_error`, zero at 0.

        Between powers of two the numbers are even, and both ends are among them: the integral over whole steps ``d`` is ``d^3 / 12`` each.
        """
        size = np.abs(x)
        held = np.minimum(size, self.largest)
        total = self._rounding(held) + _cube(size - held) / 3
        return np.sign(x) * total if self.signed else np.where(x < 0, _cube(x) / 3, total)

    def _rounding(self, x: np.ndarray) -> np.ndarray:
        step = self._step(x)
        count = np.round(x / step)
        inside = count * _cube(step) / 12 + _cube(x - count * step) / 3
        if self.digits is None:
            return inside
        first = self.smallest * 2.0 ** (self.digits + 1)  # below it all steps are the smallest number
        power = step * 2.0**self.digits  # the power of two below, from there on
        before = (self.smallest**2 * first + 4.0**-self.digits * (_cube(power) - _cube(first)) / 7) / 12  # up to it
        return np.where(power < first, inside, before + inside - power * step**2 / 12)

    def _step(self, x: np.ndarray) -> np.ndarray:
        if self.digits is None:
            return np.ones_like(x)
        return np.maximum(np.ldexp(1.0, np.frexp(x)[1] - 1 - self.digits), self.smallest)

    def flushed(self, law: Distribution) -> float:
        """P(x != 0 rounds to zero), without a scale."""
        return max(law.nonzero - law.beyond(self.smallest / 2), 0.0)

    def subnormal(self, law: Distribution) -> float:
        """P(x rounds to a subnormal number), without a scale: it keeps fewer digits, and none where hardware flushes such numbers."""
        return max(law.beyond(self.smallest / 2) - law.beyond(self.tiny - self.smallest / 2), 0.0)

    def overflowing(self, law: Distribution) -> float:
        """P(x rounds to something beyond the largest number), without a scale."""
        return law.beyond(self.overflow)


def _cube(x: Any) -> Any:
    return x * x * x  # NumPy's power is many times slower


def number_format(name: Any, one_sided: bool = False) -> Format:
    """The format of a dtype: ``"int8"``, ``"int4"``, or any floating one that JAX knows, also as ``"fp16"``, ``"bf16"``, ``"fp8_e4m3"``,
    ``"fp8_e5m2"``.

    Args:
        one_sided: whether the unsigned integers of the same size are used.

    Raises:
        InvalidInput: for a dtype that is none of these.
    """
    if isinstance(name, Format):
        return name
    text = str(ALIASES.get(name, name)) if isinstance(name, str) else name
    if isinstance(text, str) and text in _BITS:
        bits, unsigned = _BITS[text], one_sided or text.startswith("u")
        largest = 2.0**bits - 1 if unsigned else 2.0 ** (bits - 1) - 1
        return Format(f"{'u' if unsigned else ''}int{bits}", largest, 1.0, 1.0, None, not unsigned)
    dtype = _floating(text)
    if dtype is None:
        raise InvalidInput(f"dtype: {name!r} is unknown here; there are int8, int4, float16, bfloat16, float8_e4m3fn, float8_e5m2 and the "
                           "other floating dtypes of JAX")
    info = jnp.finfo(dtype)
    return Format(dtype.name, float(info.max), float(info.smallest_subnormal), float(info.smallest_normal), int(info.nmant))


def _floating(name: Any) -> np.dtype | None:
    try:
        dtype = jnp.dtype(name)
        return dtype if jnp.issubdtype(dtype, np.floating) else None
    except (TypeError, ValueError):
        return None
