"""Which gains, and which loss scales, keep a deep network within the range of a floating format."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log2
from typing import Any, NamedTuple

import numpy as np

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number, check_whole
from sigprop.precision.formats import Format, number_format
from sigprop.predict.distribution import Distribution

_ROOM = 2.0  # between the expected largest gradient and the largest number


class Window(NamedTuple):
    """Factors by which a layer may change the mean square of signals; for ReLU ``sigma_w^2 n / 2`` of weights with variance sigma_w^2."""

    low: float
    high: float


def gain_window(dtype: Any, depth: int, rms: float = 1.0) -> Window:
    """The factors that keep the root mean square of signals normal and finite through ``depth`` layers.

    With a factor ``g`` per layer the root mean square is ``rms g^(depth / 2)`` at the end: within ``[smallest normal, largest]`` for ``g``
    within ``[(smallest / rms)^(2 / depth), (largest / rms)^(2 / depth)]``. Signals of one layer are spread around their root mean
    square: :func:`analyze` gives the share beyond. It holds for gradients too, which one factor multiplies in layers of one width.

    Args:
        rms: root mean square of the signal before the first layer.

    Raises:
        InvalidInput: for integers or an unknown dtype, and a ``rms`` that the dtype itself does not hold.
    """
    kind = number_format(dtype)
    if kind.digits is None:
        raise InvalidInput(f"dtype: {kind.name} has no exponent; its range is set by a scale, see quantizer")
    check_whole("depth", depth)
    check_number("rms", rms, above=0.0)
    if not kind.tiny <= rms <= kind.largest:
        raise InvalidInput(f"rms: {rms!r} lies outside of the normal numbers of {kind.name}, {kind.tiny:.4g} to {kind.largest:.6g}")
    low, high = ((bound / rms) ** (2 / depth) for bound in (kind.tiny, kind.largest))
    return Window(low, high)


def lost(law: Distribution, kind: Format) -> float:
    """Share of the numbers other than zero that become subnormal or zero."""
    return (kind.subnormal(law) + kind.flushed(law)) / law.nonzero if law.nonzero else 0.0


def held(largest: float, kind: Format) -> float:
    """The largest power of two by which numbers may be multiplied with room before the largest of them overflows."""
    return 2.0 ** floor(log2(kind.largest / (_ROOM * largest))) if largest > 0 else 1.0


def enough(laws: Sequence[Distribution], most: float, kind: Format, tolerance: float) -> float:
    """The smallest power of two, at least 1, of which no law loses more than ``tolerance``; ``most`` where there is none below it."""
    scale, needed = min(most, 1.0), 1.0
    for law in laws:
        while needed < most and lost(law.scaled(needed), kind) > tolerance:
            needed *= 2.0
    return float(np.clip(needed, scale, most))


__all__ = ["Window", "enough", "gain_window", "held", "lost"]
