"""A scale for each channel: chosen by the channel's own numbers, and what it gains over one scale for all."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from sigprop.arrays import concrete
from sigprop.errors import InvalidInput
from sigprop.precision.formats import Format
from sigprop.precision.quantizer import SCHEMES, Quantizer, checked_format, checked_scheme, decibels
from sigprop.predict.distribution import Distribution

CHANNELS, LONGEST = 64, 4096  # channels drawn, and numbers of one that are looked at
_CLIPS = 32


def drawn(law: Distribution, count: int) -> np.ndarray:
    """``[channels, count]`` independent numbers, such as the inputs' weights of output channels."""
    return law.draw((CHANNELS, min(count, LONGEST)))


def by_channel(values: Any, axes: int) -> np.ndarray:
    """An array whose last ``axes`` axes are channels as float64 ``[channels, numbers]``."""
    array = np.asarray(values, np.float64)
    return array.reshape(-1, prod(array.shape[array.ndim - axes:])).T


def thinned(values: np.ndarray, channels: int = CHANNELS) -> np.ndarray:
    """At most so many channels, evenly chosen, of ``[channels, numbers]``, and at most 4096 numbers of each."""
    steps = (1 + (size - 1) // most for size, most in zip(values.shape, (channels, LONGEST), strict=True))
    return values[tuple(slice(None, None, step) for step in steps)]


def channel_spread(values: np.ndarray) -> float:
    """Standard deviation over channels ``[channels, numbers]`` of their mean squares, relative to their mean."""
    squares = np.mean(values**2, 1)
    return float(np.std(squares, ddof=1) / np.mean(squares)) if np.any(squares) else np.nan


def fitted(values: np.ndarray, kind: Format, scheme: str, saturation: float) -> tuple[np.ndarray, np.ndarray]:
    """Scale of each channel ``[channels, numbers]``, and its mean squared error, both ``[channels]``."""
    size = np.abs(values)
    top = size.max(1)
    if scheme == SCHEMES[0]:
        clips = top * np.geomspace(0.05, 1.0, _CLIPS)[:, None]
    else:
        clips = (top if scheme == "absmax" else np.quantile(size, 1 - saturation, axis=1))[None]
    scales = np.where(clips > 0, clips, 1.0) / kind.largest
    noise = np.stack([np.mean(s[:, None]**2 * kind.squared_error(values / s[:, None]), 1) for s in scales])
    best = noise.argmin(0)[None]
    return np.take_along_axis(scales, best, 0)[0], np.take_along_axis(noise, best, 0)[0]


def channel_sqnr(values: np.ndarray, kind: Format, scheme: str, saturation: float) -> tuple[float, float]:
    """SQNR in decibels of quantizers that each suit their channel, ``[channels, numbers]``, and its standard error over channels, not
    a number for one; signal and noise are averaged over channels."""
    if not np.any(values):
        return np.nan, np.nan
    noise, signal = fitted(values, kind, scheme, saturation)[1], np.mean(values**2, 1)
    lost = np.mean(noise) / np.mean(signal)
    if not lost > 0:
        return np.inf, 0.0
    spread = np.std(noise / lost - signal, ddof=1) / len(signal) ** 0.5 / np.mean(signal) if len(signal) > 1 else np.nan
    return float(decibels(1 / lost)), float(10 / np.log(10) * spread)


def channel_quantizer(values: Any, dtype: Any = "int8", scheme: str = "mse", *, axes: int = 1, saturation: float = 1e-4,
                      one_sided: bool | None = None) -> Quantizer:
    """A quantizer with a scale for each channel, chosen by the numbers of that channel.

    Args:
        values: ``[..., *channels]``, such as a kernel ``(inputs, outputs)``, whose output channels are its last axis.
        dtype, scheme, saturation, one_sided: as in :func:`quantizer`; ``"absmax"`` is the largest number of the channel, and ``"mse"`` the
            best of 32 clips between it and a twentieth of it.
        axes: how many of the last axes are channels.

    Returns:
        A quantizer of ``scale`` ``[*channels]``; ``saturation`` and ``sqnr`` are those of these numbers, all channels together.

    Raises:
        InvalidInput: as :func:`quantizer`, for numbers that are not finite, traced or none, and for more ``axes`` than there are, or none.
    """
    checked_scheme(scheme, saturation)
    if not concrete(values):
        raise InvalidInput("values: scales are chosen by concrete numbers, outside of jax.jit and jax.vmap")
    array = np.asarray(values, np.float64)
    if not array.size or not np.all(np.isfinite(array)):
        raise InvalidInput("values: none, or some that are NaN or infinite; scales are for finite numbers")
    if not 1 <= axes <= array.ndim:
        raise InvalidInput(f"axes: {axes!r} of an array of shape {array.shape} given; from 1 to all of its last axes may be channels")
    kind = checked_format(bool(np.all(array >= 0)), dtype, one_sided)
    table = by_channel(array, axes)
    scale, noise = fitted(table, kind, scheme, saturation)
    if not kind.scaled:
        scale, noise = np.ones(len(table)), np.mean(kind.squared_error(table), 1)
    beyond = float(np.mean(np.abs(table) > scale[:, None] * kind.largest * (1 + 1e-12)))
    with np.errstate(divide="ignore", invalid="ignore"):
        sqnr = float(decibels(np.mean(table**2) / np.mean(noise)))
    return Quantizer(kind, scale.reshape(array.shape[array.ndim - axes:]), beyond, sqnr)
