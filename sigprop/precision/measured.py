"""What number formats do to a network, measured on sampled parameters with the real dtypes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.datasets import node_dataset
from sigprop.empirical import grouped_keys
from sigprop.network import Network, backward_graph, check_inputs, parameter_paths
from sigprop.network import backward as backward_pass
from sigprop.precision.analysis import quantizers
from sigprop.precision.channels import by_channel, fitted, thinned
from sigprop.precision.formats import Format, number_format
from sigprop.precision.quantizer import Quantizer, decibels
from sigprop.precision.simulate import run
from sigprop.tracing import evaluate

_ENTRIES = 1 << 16  # of one array that are looked at
_CHANNELS = 16  # of one draw that get scales of their own
_SHARES = ("subnormal", "flushed", "overflow")
_POWERS = ("saturation", "signal", "noise")
_CHANNEL_POWERS = ("channel_signal", "channel_noise")

Arrays = Mapping[str, np.ndarray | None]


def measure(net: Network, *x: Any, analysis: xr.Dataset, seeds: int = 16, key: Any = None, backward: bool = True) -> xr.Dataset:
    """Measure what :func:`analyze` predicts, with the scales that it chose, and with scales chosen by the numbers of each channel drawn.

    Args:
        x: inputs, batch on axis 0.
        analysis: from :func:`analyze` of the same network; its ``cotangent_rms`` is that of the normal cotangents that gradients are of.
        seeds: draws of the parameters, at least eight.
        key: of those draws, ``jax.random.key(0)`` by default.
        backward: whether to measure gradients too.

    Returns:
        ``saturation``, ``sqnr``, ``subnormal``, ``flushed``, ``overflow`` over ``node`` and ``format``, ``weight_saturation`` and
        ``weight_sqnr`` over ``parameter``, both ``sqnr`` over ``granularity`` too, with a scale for each of at most 16 channels of a draw;
        ``grad_*`` over ``node`` and ``parameter_grad_*``, of the network in its own dtype whose arrays are cast. ``run_*`` and
        ``grad_run_*`` are the shares in the network, and its backward pass, executed in each floating format from the first operation on;
        ``flushed`` means zero there though not in the model's dtype. Each with ``*_stderr``, over draws.

    Raises:
        InvalidInput: for unusable inputs, fewer than eight seeds.
    """
    check_inputs(x)
    names = [str(f) for f in analysis.format.values]
    scales = {name: quantizers(analysis, name) for name in names}
    kinds = {name: number_format(name) for name in names}
    factor = float(analysis.attrs["cotangent_rms"])
    channels = _Channels(_channel_axes(analysis), analysis.attrs["scheme"], analysis.attrs["clipped"])
    draw = _drawing(net, x, factor, backward, channels)
    found = [_statistics(draw(k), kinds, scales, channels) for k in grouped_keys(seeds, key).ravel()]
    mean = {name: np.mean([f[name] for f in found], 0) for name in found[0]}
    stderr = {name: np.std([f[name] for f in found], 0, ddof=1) / len(found) ** 0.5 for name in found[0]}
    data: dict[str, Any] = {}
    for name, array in mean.items():
        dim = "parameter" if name.startswith(("weight_", "parameter_")) else "node"
        if not name.endswith(("signal", "noise")):
            data[name], data[f"{name}_stderr"] = ((dim, "format"), array), ((dim, "format"), stderr[name])
    for prefix, dim in (("", "node"), ("weight_", "parameter")):
        both = [_decibels(found, f"{prefix}{kind}signal", f"{prefix}{kind}noise") for kind in ("", "channel_")]
        for name, pair in zip(("sqnr", "sqnr_stderr"), zip(*both, strict=True), strict=True):
            data[f"{prefix}{name}"] = ((dim, "format", "granularity"), np.stack(pair, -1))
    coords = {"format": names, "granularity": ["tensor", "channel"], "parameter": [str(p) for p in analysis.parameter.values]}
    return node_dataset(net.rows(*x), data, {}, coords, {"seeds": len(found)})


class _Channels(NamedTuple):
    """How many of the last axes are channels, by name, and how a scale is chosen."""

    axes: Mapping[str, int]
    scheme: str
    saturation: float

    def tables(self, names: Iterable[str], arrays: Iterable[Any]) -> dict[str, Any]:
        """Some channels of floating arrays as ``[channels, numbers]``, ``None`` of those without channels."""
        return {name: thinned(by_channel(a, self.axes[name]), _CHANNELS) if self.axes.get(name) else None
                for name, a in zip(names, arrays, strict=True) if jnp.issubdtype(a.dtype, jnp.floating)}

    def power(self, table: np.ndarray | None, q: Quantizer | None) -> list[float]:
        """Mean square, and mean squared error with a scale for each channel; of integers, as it is predicted."""
        if table is None or q is None or q.format.digits is not None:
            return [np.nan] * 2
        return [float(np.mean(table**2)), float(np.mean(fitted(table, q.format, self.scheme, self.saturation)[1]))]


def _channel_axes(analysis: xr.Dataset) -> dict[str, int]:
    return {str(name): int(axes) for dim, variable in (("node", "channel_axes"), ("parameter", "weight_channel_axes"))
            for name, axes in zip(analysis[dim].values, analysis[variable].values, strict=True)}


def _decibels(found: list[dict[str, np.ndarray]], signal: str, noise: str) -> tuple[np.ndarray, np.ndarray]:
    """Of mean signal over mean noise, and the standard error over draws."""
    mean = {name: np.mean([f[name] for f in found], 0) for name in (signal, noise)}
    with np.errstate(divide="ignore", invalid="ignore"):
        total = mean[signal] / mean[noise]
        spread = np.std([(f[signal] - total * f[noise]) / mean[signal] for f in found], 0, ddof=1) / len(found) ** 0.5
        return decibels(total), 10 / np.log(10) * spread


def _drawing(net: Network, x: tuple[Any, ...], factor: float, gradients: bool, channels: _Channels) -> Any:
    """A function of a key: arrays by node in the model's dtype, tables by channel, and a function that gives arrays in another dtype."""
    graph, rows = net.graph(*x), [row.name for row in net.rows(*x)]
    watch, paths = [row.value for row in net.rows(*x)], parameter_paths(net.abstract_params)
    inputs = [jnp.asarray(a) for a in jax.tree.leaves(x)]
    forward = jax.jit(lambda leaves: evaluate(graph, leaves, watch)[1])
    pull = jax.jit(backward_pass(net, *x)) if gradients else None
    pulled = backward_graph(net, *x) if gradients else graph
    named, like = [row.name for row in net.differentiable(*x)[1]] if gradients else [], graph.avals[graph.outputs[0]]

    def draw(key: Any) -> tuple[dict[str, Arrays], dict[str, Arrays], Any]:
        params = jax.jit(net.init)(key)
        leaves = [*jax.tree.leaves(params), *inputs]
        drawn = {"": (rows, forward(leaves)), "weight_": (paths, jax.tree.leaves(params))}
        found: dict[str, Arrays] = {prefix: _host(*pair) for prefix, pair in drawn.items()}
        cotangent = factor * jax.random.normal(jax.random.fold_in(key, 1), like.shape, like.dtype)
        if pull is not None:
            by_row, by_leaf = pull(params, x, cotangent)
            found["grad_"] = {**dict.fromkeys(rows), **_host(named, by_row)}
            found["parameter_grad_"] = {**dict.fromkeys(found["weight_"]), **_host(net.trained_paths, by_leaf)}

        def executed(kind: Format) -> dict[str, Any]:
            done: dict[str, Any] = {"": _host(rows, run(graph, leaves, kind, watch)[1])}
            if pull is not None:
                made = run(pulled, [*leaves, cotangent], kind)[0]
                done["grad_"] = {**dict.fromkeys(rows), **_host(named, made[:len(named)])}
            return done

        return found, {prefix: channels.tables(*pair) for prefix, pair in drawn.items()}, executed

    return draw


def _host(names: Any, arrays: Any) -> dict[str, Any]:
    """Floating arrays in float64 by name, flat, and thinned out evenly where they have more than ``_ENTRIES`` entries."""
    return {name: np.asarray(a).ravel()[::1 + (a.size - 1) // _ENTRIES].astype(np.float64) for name, a in zip(names, arrays, strict=True)
            if jnp.issubdtype(a.dtype, jnp.floating)}


def _statistics(drawn: tuple[dict[str, Arrays], dict[str, Arrays], Any], kinds: Mapping[str, Format],
                scales: Mapping[str, Mapping[str, Quantizer]], channels: _Channels) -> dict[str, np.ndarray]:
    """Of one draw, ``[nodes, formats]`` or ``[parameters, formats]``."""
    found, tables, executed = drawn
    data: dict[str, np.ndarray] = {}
    for prefix in ("", "weight_"):
        data |= _table(prefix, _POWERS, [[_power(a, scales[name].get(node)) for name in kinds] for node, a in found[prefix].items()])
        data |= _table(prefix, _CHANNEL_POWERS, [[channels.power(table, scales[name].get(node)) for name in kinds]
                                                 for node, table in tables[prefix].items()])
    for prefix in found.keys() - {"weight_"}:
        data |= _table(prefix, _SHARES, [[_outcome(kind, None if a is None or kind.digits is None else kind.cast(a), a)
                                          for kind in kinds.values()] for a in found[prefix].values()])
    ran = {name: executed(kind) for name, kind in kinds.items() if kind.digits is not None}
    for prefix in ("", *(p for p in ("grad_",) if p in found)):
        data |= _table(f"{prefix}run_", _SHARES, [[_outcome(kind, ran[name][prefix].get(node) if name in ran else None, a)
                                                   for name, kind in kinds.items()] for node, a in found[prefix].items()])
    return data


def _table(prefix: str, names: tuple[str, ...], rows: list[Any]) -> dict[str, np.ndarray]:
    array = np.asarray(rows, np.float64)
    return {f"{prefix}{name}": array[..., k] for k, name in enumerate(names)}


def _power(a: Any, q: Quantizer | None) -> list[float]:
    """Share beyond the clip, mean square, mean squared error."""
    return [np.nan] * 3 if q is None else [np.mean(np.abs(a) > q.clip), np.mean(a**2), np.mean((a - q(a)) ** 2)]


def _outcome(kind: Format, held: Any, exact: Any) -> list[float]:
    """Shares subnormal, zero though they were not, and not finite."""
    if held is None:
        return [np.nan] * 3
    size = np.abs(held)
    return [np.mean((size > 0) & (size < kind.tiny)), np.mean((size == 0) & (exact != 0)), np.mean(~np.isfinite(held))]
