"""Phase diagrams: fixed points and depth scales over grids of weight and bias variances."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax

from sigprop.arrays import concrete
from sigprop.errors import InvalidInput
from sigprop.init.activations import Activation
from sigprop.meanfield import phases
from sigprop.meanfield.blocks import Block
from sigprop.meanfield.tables import Curves, tabulated

_TOGETHER = 1 << 13  # pairs of variances at once, whose numbers stay in cache
_TRACED = np.log([1e-2, 1e2])  # of traced variances, mean squares at which pairs of inputs are known


def phase_diagram(activation: Activation, weight_variances: Any, bias_variances: Any = 0.0, block: Block = ()) -> xr.Dataset:
    """Fixed points, chi_1 and depth scales of a network for every pair of variances.

    What the maps make of a mean square is integrated once for each of 1,105 values, of a pair of inputs for 33 angles at each tenth of
    ``log q`` where inputs part, and interpolated by splines of degree five; the rest is one program of JAX in float64, whatever JAX's
    precision. On two busy cores a million pairs take 1 to 4 s (tanh 2 to 3 s, by NumPy it was 27 s); the first call compiles for 5 s each
    block, and integrates, 5 s for tanh up to ``sigma_w^2 = 4``, a minute for GELU, whose fixed points go to infinity. Single points,
    without interpolation, are :func:`fixed_point`, :func:`chi1` and :func:`depth_scales`. The mean square starts at 1.

    It can be called under ``jax.jit``, ``vmap`` and ``grad``, where variances are traced: the numbers are then arrays of JAX in their
    dtype, signs of variances are not checked, and ``c`` and ``xi_c`` are NaN where inputs part at mean squares out of 0.01 to 100.
    Derivatives are those of the equations of the fixed points; of what jumps, at the edge of a phase, they see one side.

    Args:
        activation: as in :class:`Maps`.
        weight_variances, bias_variances: ``sigma_w^2`` and ``sigma_b^2``, one-dimensional or numbers.
        block: parts around the layer, as in :func:`fixed_point`.

    Returns:
        Dataset over ``weight_variance`` and ``bias_variance``: ``q``, 0 or infinite where signals die out and explode; ``chi1``, below 1 in
        the ordered and above 1 in the chaotic phase; ``c``; ``xi_q``, ``xi_c`` and ``xi_gradient`` as in :class:`DepthScales`. NaN where
        there is no finite fixed point. ``attrs["error"]`` is the largest relative difference between E[f(z)^2] and what is interpolated
        from every second value.

    Raises:
        InvalidInput: for variances that are negative or not finite, activations that jump, and as :class:`Maps`.
    """
    weights, biases = _variances("weight_variances", weight_variances), _variances("bias_variances", bias_variances)
    tables, parts = tabulated(activation), _hashable(block)
    traced = not (concrete(weights) and concrete(biases))
    kind = jnp.result_type(weights, biases)
    with jax.enable_x64(True):
        w, b = (jnp.asarray(v, jnp.float64) for v in (weights, biases))
        found = _sizes(tables.curves, parts, w, b)
        low, high = _TRACED if traced else _reach(found)
        curves = tables.curves if found.low is None or low > high else tables.between(low, high)
        columns = _phases(curves, parts, w, b, found)._asdict()
        if traced and found.low is not None:
            unknown = found.apart & ((found.low < low) | (found.high > high))
            columns |= {name: jnp.where(unknown, jnp.nan, columns[name]) for name in ("c", "xi_c")}
        columns = {name: v.astype(kind) if traced else np.asarray(v) for name, v in columns.items()}
    coords = {name: v for name, v in (("weight_variance", weights), ("bias_variance", biases)) if concrete(v)}
    return xr.Dataset({name: (("weight_variance", "bias_variance"), v) for name, v in columns.items()}, coords,
                      {"activation": str(activation), "error": tables.error})


def _variances(name: str, given: Any) -> Any:
    traced = not concrete(given)
    found = jnp.atleast_1d(given) if traced else np.atleast_1d(np.asarray(given, np.float64))
    if found.ndim != 1 or not found.size or not traced and (not np.all(np.isfinite(found)) or np.any(found < 0)):
        raise InvalidInput(f"{name}: numbers in one dimension, finite and at least 0, are needed")
    return found


def _hashable(block: Block) -> tuple[Any, ...]:
    parts = tuple(block)
    try:
        hash(parts)
    except TypeError as error:
        raise InvalidInput(f"block: a part of {parts!r} is not hashable; frozen dataclasses of numbers and tuples are") from error
    return parts


def _over_pairs(function: Any, w: Any, b: Any, *rest: Any) -> Any:
    """``function`` of every pair of ``w [n]`` and ``b [m]``, with the rest for it from trees of arrays ``[n, m]``, as such a tree."""
    pairs = jax.tree.map(lambda v: v.reshape(-1), (*jnp.meshgrid(w, b, indexing="ij"), *rest))
    found = lax.map(lambda pair: function(*pair), pairs, batch_size=min(_TOGETHER, w.size * b.size))
    return jax.tree.map(lambda v: v.reshape(w.size, b.size), found)


@partial(jax.jit, static_argnames="block")
def _sizes(curves: Curves, block: Block, w: Any, b: Any) -> phases.Size:
    return _over_pairs(partial(phases.size, curves, block), w, b)


@partial(jax.jit, static_argnames="block")
def _phases(curves: Curves, block: Block, w: Any, b: Any, found: phases.Size) -> phases.Phase:
    return _over_pairs(partial(phases.phase, curves, block), w, b, found)


def _reach(found: phases.Size) -> tuple[float, float]:
    """Logarithms of the least and largest mean square at which pairs of inputs part."""
    apart = np.asarray(found.apart)
    if found.low is None or not apart.any():
        return np.inf, -np.inf
    return float(np.asarray(found.low)[apart].min()), float(np.asarray(found.high)[apart].max())
