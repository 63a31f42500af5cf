"""What a scale for each channel gains over one scale for all."""

from __future__ import annotations

import numpy as np

from sigprop.precision.formats import Format
from sigprop.precision.quantizer import SCHEMES
from sigprop.predict.distribution import Distribution

CHANNELS, LONGEST = 64, 4096  # channels drawn, and numbers of one that are looked at
_CLIPS = 32


def drawn(law: Distribution, count: int) -> np.ndarray:
    """``[channels, count]`` independent numbers, such as the inputs' weights of output channels."""
    return law.draw((CHANNELS, min(count, LONGEST)))


def channel_spread(values: np.ndarray) -> float:
    """Standard deviation over channels ``[channels, numbers]`` of their mean squares, relative to their mean."""
    squares = np.mean(values**2, 1)
    return float(np.std(squares, ddof=1) / np.mean(squares)) if np.any(squares) else np.nan


def channel_sqnr(values: np.ndarray, kind: Format, scheme: str, saturation: float) -> float:
    """SQNR in decibels of quantizers that each suit their channel, ``[channels, numbers]``; signal and noise are averaged over channels."""
    size = np.abs(values)
    top = size.max(1)
    if not np.any(top):
        return np.nan
    if scheme == SCHEMES[0]:
        clips = top * np.geomspace(0.05, 1.0, _CLIPS)[:, None]
    else:
        clips = (top if scheme == "absmax" else np.quantile(size, 1 - saturation, axis=1))[None]
    scale = np.where(clips > 0, clips, 1.0)[..., None] / kind.largest
    noise = np.stack([np.mean(s**2 * kind.squared_error(values / s), 1) for s in scale])
    lost = float(np.mean(noise.min(0)))
    return float(10 * np.log10(np.mean(values**2) / lost)) if lost > 0 else np.inf
