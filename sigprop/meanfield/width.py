"""Leading corrections of a finite width: how far one draw, and the mean over draws, are from the limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from sigprop.init.activations import Activation
from sigprop.init.checks import check_number, check_whole
from sigprop.meanfield.maps import Maps


def finite_width(activation: Activation, weight_variance: float, bias_variance: float = 0.0, widths: Sequence[int] = (),
                 q: float = 1.0) -> xr.Dataset:
    """Fluctuations and shift of the mean square ``Q`` of pre-activations, given the weights before, to the first order in 1/width.

    With the map ``F`` of variances, a layer of ``n`` units makes of the variance ``V`` of ``Q`` and of the shift ``D`` of its mean
    ``F'(q)^2 V + sigma_w^4 Var[f^2] (1 + V/q^2) / n`` and ``F'(q) D + F''(q) V / 2``: the four-point vertex and the next-to-leading
    metric of Roberts, Yaida & Hanin 2021, chapter 4. The factor ``1 + V/q^2`` is of higher order; with it the variance is exact for
    homogeneous activations without biases, for ReLU ``prod(1 + 5/n) - 1`` of the squared mean (Hanin & Rolnick 2018).

    Args:
        activation, weight_variance, bias_variance: as in :class:`Maps`.
        widths: of the hidden layers, in order; at least one.
        q: mean square of the pre-activations of the first of them, which one input has in every draw.

    Returns:
        Dataset over ``layer``, from 0 (the first hidden layer's pre-activations) to ``len(widths)`` (those behind the last): ``q`` of
        the limit, ``variance`` of ``Q`` over ``q^2``, ``mean_shift``, that of its mean, over ``q``. The mean square over ``m`` units of
        one draw has a relative variance of ``variance + 2 (1 + variance) / m``.

    Raises:
        InvalidInput: as :class:`Maps`, and for widths that are not whole numbers of 1 or more.
    """
    check_number("q", q, above=0.0)
    maps = Maps(activation, float(weight_variance), float(bias_variance))
    check_whole("number of widths", len(widths))
    variance, shift, rows = 0.0, 0.0, []
    for width in (*widths, 1):
        check_whole("widths", width)
        rows.append((q, variance / q**2, shift / q))
        slope, bend = float(maps.variance_slope(q).value), float(maps.variance_curvature(q).value)
        shift = slope * shift + bend * variance / 2
        variance = slope**2 * variance + float(maps.noise(q).value) * (1 + variance / q**2) / width
        q = float(maps.variance(q).value)
    columns = dict(zip(("q", "variance", "mean_shift"), np.array(rows).T, strict=True))
    return xr.Dataset({name: ("layer", column) for name, column in columns.items()}, {"layer": np.arange(len(rows))})
