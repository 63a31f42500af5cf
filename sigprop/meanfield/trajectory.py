"""What layers make of an input one after the other: for networks without a fixed point, and on the way to one."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sigprop.init.activations import Activation
from sigprop.init.checks import check_number, check_whole
from sigprop.meanfield.blocks import Block, stacked
from sigprop.meanfield.maps import Maps


def trajectory(activation: Activation, weight_variance: float, bias_variance: float = 0.0, depth: int = 50, block: Block = (),
               q: float = 1.0, c: float = 0.0) -> xr.Dataset:
    """Mean square, correlation and averaged partial Jacobian norm after each of ``depth`` layers.

    Args:
        activation, weight_variance, bias_variance, block: as in :func:`fixed_point`.
        depth: number of layers, at least 1.
        q, c: mean square, above 0, and correlation of the two inputs that the first layer takes in; with attention ``c`` is that of two
            tokens.

    Returns:
        Dataset over ``layer``, 0 to ``depth``: ``q`` and ``c``; ``chi``, the growth of gradients in the layer that takes these in;
        ``jacobian_norm``, the mean square of the entries of the Jacobian from layer 0 to this one, times the width (Doshi, He & Gromov
        2023, equation 1); ``error``, the largest relative one of a moment so far.

    Raises:
        InvalidInput: as :class:`Maps`, and for numbers out of range.
    """
    check_whole("depth", depth)
    check_number("q", q, above=0.0)
    check_number("c", c, -1.0, 1.0)
    maps = stacked(Maps(activation, float(weight_variance), float(bias_variance)), block)
    rows = []
    for _ in range(depth + 1):
        here = 1.0 if c >= 1 else float(c)
        size, pair, chi = maps.variance(q, here), maps.covariance(here, q), maps.chi(q)
        rows.append((q, here, float(chi.value), float(size.error / max(float(size.value), 1e-300))))
        with np.errstate(invalid="ignore"):
            q, c = float(size.value), float(np.divide(pair.value, size.value))
    sizes, cosines, chis, errors = (np.array(column) for column in zip(*rows, strict=True))
    columns = {"q": sizes, "c": cosines, "chi": chis, "jacobian_norm": np.cumprod([1.0, *chis[:-1]]),
               "error": np.maximum.accumulate([0.0, *errors[:-1]])}
    return xr.Dataset({name: ("layer", column) for name, column in columns.items()}, {"layer": np.arange(depth + 1)})
