"""Statistics of every node, measured on sampled parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.arrays import concrete, host, scaled
from sigprop.datasets import PROBABILITIES, node_dataset
from sigprop.empirical.stream import grouped_keys, streamed
from sigprop.errors import SigpropError
from sigprop.network import Network, check_inputs, check_network
from sigprop.network.backward import backward as backward_pass
from sigprop.network.backward import backward_graph
from sigprop.tracing import evaluate

_PLAIN = ("mean", "variance", "second_moment")

# how each statistic scales with the values, or with the gradients, that were divided by a power of two
_DEGREES = {"mean": 1, "variance": 2, "second_moment": 2, "quantile": 1, "cross": 2}


def measure_arrays(net: Network, keys: Any, *x: Any, gradients: bool = False) -> dict[str, Any]:
    """One unbiased estimate of each statistic from ``len(keys)`` seeds (at least two); traceable.

    Returns:
        ``mean``, ``variance``, ``second_moment`` ``[nodes]``, ``quantile`` ``[nodes, 3]``, ``cross`` ``[nodes, batch, batch]``, all of
        values divided by ``2**exponent``, ``exponent`` ``[nodes]``, and ``site_variance:NODE`` ``[batch, *sites]``; with ``gradients``
        also ``grad_variance`` ``[nodes]``, of gradients divided by ``2**grad_exponent``, ``site_grad_variance:NODE`` and
        ``parameter_grad_variance`` ``[parameters]``.
    """
    rows = net.rows(*x)
    batch = jax.tree.leaves(x)[0].shape[0]

    table: dict[str, list[Any]] = {"exponent": [], "mean": [], "variance": [], "second_moment": [], "quantile": [], "cross": []}
    maps: dict[str, Any] = {}
    for row, value in zip(rows, jax.vmap(lambda key: _values(net, key, *x))(keys), strict=True):
        value, exponent = _normalised(value)
        table["exponent"].append(exponent)
        batched = value.ndim > 1 and value.shape[1] == batch
        flat = value.reshape(len(keys), batch, -1) if batched else (
            jnp.broadcast_to(value.reshape(len(keys), 1, -1), (len(keys), batch, value[0].size)))
        table["mean"].append(jnp.mean(value))
        table["variance"].append(jnp.mean(jnp.var(value, axis=0, ddof=1)))
        table["second_moment"].append(jnp.mean(value**2))
        table["quantile"].append(jnp.quantile(value.reshape(-1), jnp.asarray(PROBABILITIES, value.dtype)))
        table["cross"].append(jnp.einsum("sbf,scf->bc", flat, flat, precision="highest") / flat.shape[0] / flat.shape[2])
        if batched and value.ndim > 3:  # [seeds, batch, *sites, channels]
            maps[f"site_variance:{row.name}"] = scaled(jnp.mean(jnp.var(value, axis=0, ddof=1), axis=-1), 2 * exponent)
    if gradients:
        table["grad_exponent"], table["grad_variance"] = [], []
        named = [row.name for row in net.differentiable(*x)[1]]
        by_row, by_leaf = jax.vmap(lambda key: _gradients(net, key, *x))(keys)
        every = dict(zip(named, by_row, strict=True))
        for row in rows:
            value, exponent = _normalised(every.get(row.name, jnp.full(len(keys), jnp.nan)))
            table["grad_exponent"].append(exponent)
            table["grad_variance"].append(jnp.mean(value**2))
            if f"site_variance:{row.name}" in maps and row.name in every:
                maps[f"site_grad_variance:{row.name}"] = scaled(jnp.mean(value**2, axis=(0, -1)), 2 * exponent)
        maps["parameter_grad_variance"] = jnp.asarray([scaled(jnp.mean(v**2), 2 * e) for v, e in map(_normalised, by_leaf)])
    return {**{name: jnp.stack(columns) for name, columns in table.items()}, **maps}


def _normalised(value: Any) -> tuple[Any, Any]:
    """Numbers divided by ``2**exponent``, in float32 or more: squares of small ones would underflow."""
    value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
    exponent = jnp.frexp(jnp.max(jnp.abs(value)))[1]
    return scaled(value, -exponent), exponent


def _values(net: Network, key: Any, *x: Any) -> list[Any]:
    """Of every row, for the parameters that ``key`` draws."""
    leaves = [*jax.tree.leaves(net.init(key)), *map(jnp.asarray, jax.tree.leaves(x))]
    return evaluate(net.graph(*x), leaves, [r.value for r in net.rows(*x)])[1]


def _gradients(net: Network, key: Any, *x: Any) -> tuple[list[Any], list[Any]]:
    """Gradients at every row and of every trained parameter of ``<c, y>`` for random signs ``c``, whose second moment is that of normal
    ones, with less noise."""
    graph = net.graph(*x)
    like = graph.avals[graph.outputs[0]]
    signs = jax.random.rademacher(jax.random.fold_in(key, 1), like.shape, like.dtype)
    return backward_pass(net, *x)(net.init(key), x, signs)


def _unscaled(found: dict[str, Any]) -> dict[str, Any]:
    """Without the exponents, in float64 where concrete."""
    found = {name: host(value) for name, value in found.items()}
    exponent = found.pop("exponent")
    for name, degree in _DEGREES.items():
        shape = (-1, *[1] * (np.ndim(found[name]) - 1))
        found[name] = scaled(found[name], degree * exponent.reshape(shape))
    if "grad_exponent" in found:
        found["grad_variance"] = scaled(found["grad_variance"], 2 * found.pop("grad_exponent"))
    return found


def measure(net: Network, *x: Any, seeds: int = 64, key: Any = None, backward: bool = True) -> xr.Dataset:
    """Measure the rows of :func:`propagate` over ``seeds`` draws of the parameters.

    Groups of four seeds are streamed through one compiled function, so that memory does not grow with ``seeds``; standard errors
    come from the spread between groups, and need no assumption on the units within a network. Works under ``jax.jit``.

    Args:
        net: from :func:`sigprop.network`.
        x: inputs, batch on axis 0.
        seeds: draws of the parameters, at least eight.
        key: of those draws, ``jax.random.key(0)`` by default.
        backward: whether to measure gradients too.

    Returns:
        The variables of :func:`propagate` that can be measured, each with ``*_stderr``; ``attrs`` hold ``seeds``, ``groups`` and, under
        ``gradients``, why there are none.
        Quantiles are those within a group, averaged over groups. ``site_variance:NODE`` and ``site_grad_variance:NODE`` are there for
        nodes ``(batch, *sites, features)``.

    Raises:
        InvalidInput: for unusable inputs, or fewer than eight seeds.
    """
    check_network(net)
    check_inputs(x)
    keys = grouped_keys(seeds, key)
    plain = all(map(concrete, jax.tree.leaves((keys, x))))
    reason = _no_gradients(net, *x) if backward else "not asked for: backward=False"
    mean, stderr = streamed(lambda k: measure_arrays(net, k, *x, gradients=not reason), keys, plain, _unscaled)
    return _dataset(net, x, mean, stderr, {"seeds": keys.size, "groups": len(keys), "gradients": reason})


def _no_gradients(net: Network, *x: Any) -> str:
    """Why the model has no gradients, empty where it has."""
    try:
        backward_graph(net, *x)
    except SigpropError as error:
        return str(error)
    return ""


def _dataset(net: Network, x: tuple[Any, ...], mean: dict[str, Any], stderr: dict[str, Any], attrs: dict[str, Any]) -> xr.Dataset:
    rows, paths = net.rows(*x), net.trained_paths
    xp: Any = np if isinstance(mean["mean"], np.ndarray) else jnp
    data: dict[str, Any] = {}
    for name in _PLAIN:
        data[name], data[f"{name}_stderr"] = ("node", mean[name]), ("node", stderr[name])
    with np.errstate(divide="ignore", invalid="ignore"):
        data["log10_second_moment"] = ("node", xp.log10(mean["second_moment"]))
        data["log10_second_moment_stderr"] = ("node", stderr["second_moment"] / mean["second_moment"] / np.log(10))
    own = xp.diagonal(mean["cross"], axis1=1, axis2=2)
    scale = xp.sqrt(xp.maximum(own, 0))
    product = scale[:, :, None] * scale[:, None, :]
    safe = xp.where(product > 0, product, 1.0)
    axes = ("node", "input", "input2")
    data["input_second_moment"] = (axes[:2], own)
    data["input_second_moment_stderr"] = (axes[:2], xp.diagonal(stderr["cross"], axis1=1, axis2=2))
    data["correlation"] = (axes, xp.where(product > 0, mean["cross"] / safe, 0.0))
    data["correlation_stderr"] = (axes, xp.where(product > 0, stderr["cross"] / safe, 0.0))
    data["quantile"], data["quantile_stderr"] = (("node", "probability"), mean["quantile"]), (("node", "probability"), stderr["quantile"])
    for name, table in (("grad_variance", mean), ("grad_variance_stderr", stderr)):
        data[name] = ("node", table.get("grad_variance", np.full(len(rows), np.nan)))
        data[f"parameter_{name}"] = ("parameter", table.get("parameter_grad_variance", np.full(len(paths), np.nan)))
    with np.errstate(divide="ignore", invalid="ignore"):
        size = data["grad_variance"][1]
        data["log10_grad_variance"] = ("node", xp.log10(size))
        data["log10_grad_variance_stderr"] = ("node", data["grad_variance_stderr"][1] / size / np.log(10))
    maps = {}
    for name, array in mean.items():
        kind, _, node = name.partition(":")
        if node:
            maps[name], maps[f"{kind}_stderr:{node}"] = array, stderr[name]
    return node_dataset(rows, data, maps, {"probability": list(PROBABILITIES), "parameter": paths}, attrs)
