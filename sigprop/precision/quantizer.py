"""Scales of quantizers from the law of what they quantize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar

from sigprop.errors import InvalidInput
from sigprop.network.checks import check_choice
from sigprop.precision.formats import Format, number_format
from sigprop.predict.distribution import Distribution

SCHEMES = ("mse", "absmax", "saturation")
_CLIPS = 40  # first tried, between 1/1000 of the largest number and that number


@dataclass(frozen=True, eq=False)
class Quantizer:
    """``x -> scale * round(x / scale)``, saturated at ``clip``.

    Attributes:
        format: of the rounded numbers.
        scale: of one step; ``clip`` is ``scale`` times the largest number of the format. Of an array ``[*channels]`` each channel has its
            own: it broadcasts to what is quantized, whose last axes are these channels.
        saturation: P(|x| > clip).
        sqnr: signal-to-quantization-noise ratio ``E[x^2] / E[(x - Q(x))^2]`` in decibels; infinite where nothing is lost.
    """

    format: Format
    scale: float | np.ndarray
    saturation: float
    sqnr: float

    @property
    def clip(self) -> float | np.ndarray:
        return self.scale * self.format.largest

    def __call__(self, x: Any) -> Any:
        """Quantize and dequantize an array.

        Raises:
            InvalidInput: where ``scale`` does not broadcast to it.
        """
        scale = self.scales(x)
        return scale * self.format.round(x / scale)

    def scales(self, x: Any) -> Any:
        """``scale`` in the dtype of an array.

        Raises:
            InvalidInput: where it does not broadcast to the array.
        """
        if not isinstance(self.scale, np.ndarray):
            return self.scale
        shape, given = np.shape(x), self.scale.shape
        if len(given) > len(shape) or any(n not in (1, m) for n, m in zip(given[::-1], shape[::-1], strict=False)):
            raise InvalidInput(f"scale: of shape {given}, does not fit what is quantized, of shape {shape}, whose last axes must be the "
                               "channels that have scales")
        return self.scale.astype(x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else np.float32)


def quantizer(law: Distribution, dtype: Any = "int8", scheme: str = "mse", *, saturation: float = 1e-4, entries: float = 1e4,
              one_sided: bool | None = None) -> Quantizer:
    """The quantizer of one law, with the scale that a scheme chooses.

    Args:
        law: of the numbers, from :func:`sigprop.precision.normal`, ``rectified``, ``of_samples``, or of a network's node.
        dtype: see :func:`number_format`. Formats of 16 bits and more of floating numbers are used without a scale.
        scheme: ``"mse"``, the scale of least mean squared error (for a Gaussian law that of Max 1960); ``"absmax"``, such that the expected
            largest of ``entries`` independent numbers is just held; ``"saturation"``, such that a share ``saturation`` is clipped.
        one_sided: whether to use unsigned integers, by default where no number is negative.

    Raises:
        InvalidInput: for an unknown dtype or scheme, a share or count out of range, and a law without variance or with negative numbers
            where unsigned integers are asked for.
    """
    checked_scheme(scheme, saturation, entries)
    kind = checked_format(law.one_sided, dtype, one_sided)
    if not law.variance > 1e-12 * law.mean_square:
        raise InvalidInput(f"law: its variance vanishes (it is {law.mean:.6g}), so that no scale suits it; store the constant instead")
    if not kind.scaled:
        return _quantizer(law, kind, 1.0)
    if scheme == "mse":
        clip = _least(law, kind)
    else:
        clip = law.expected_largest(entries) if scheme == "absmax" else law.size().quantile(1 - saturation)
    if clip <= 0:
        raise InvalidInput(f"saturation: {saturation!r} is more than the share of numbers that are not zero; lower it")
    return _quantizer(law, kind, clip / kind.largest)


def checked_scheme(scheme: str, saturation: float, entries: float = 1.0) -> None:
    check_choice("scheme", scheme, SCHEMES)
    if not 0 < saturation < 1 or not entries >= 1:
        raise InvalidInput(f"saturation, entries: {saturation!r}, {entries!r} given; a share between 0 and 1, and at least 1 entry")


def checked_format(positive: bool, dtype: Any, one_sided: bool | None) -> Format:
    """The format for numbers of which none is negative where they are ``positive``."""
    if one_sided and not positive:
        raise InvalidInput("one_sided: there are negative numbers, which unsigned integers would clip")
    return number_format(dtype, positive if one_sided is None else one_sided)


def decibels(ratio: Any) -> Any:
    return 10 * np.log10(ratio)


def noise(law: Distribution, kind: Format, scale: float) -> float:
    """E[(x - Q(x))^2]."""
    return law.average(lambda x: scale**2 * kind.squared_error(x / scale), lambda x: scale**3 * kind.integral(x / scale))


def _quantizer(law: Distribution, kind: Format, scale: float) -> Quantizer:
    lost = max(noise(law, kind, scale), 0.0)
    with np.errstate(divide="ignore"):
        return Quantizer(kind, scale, law.beyond(scale * kind.largest), float(decibels(law.mean_square / np.float64(lost))))


def _least(law: Distribution, kind: Format) -> float:
    """The clip of least mean squared error: the best of a grid, and then between its neighbours."""
    clips = law.largest * np.geomspace(1e-3, 1.05, _CLIPS)
    k = int(np.argmin([noise(law, kind, c / kind.largest) for c in clips]))
    found: Any = minimize_scalar(lambda c: noise(law, kind, c / kind.largest), method="bounded", options={"xatol": 1e-5 * clips[k]},
                                 bounds=(clips[max(k - 1, 0)], clips[min(k + 1, _CLIPS - 1)]))
    return float(found.x if found.fun < noise(law, kind, clips[k] / kind.largest) else clips[k])
