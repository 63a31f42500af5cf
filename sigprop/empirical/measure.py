"""Statistics of every node, measured on sampled parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.errors import InvalidInput
from sigprop.network import Network, check_inputs
from sigprop.tracing import evaluate

_GROUP = 4  # seeds whose spread gives one unbiased estimate of the variance


def measure_arrays(net: Network, keys: Any, *x: Any) -> dict[str, Any]:
    """One unbiased estimate of each statistic from ``len(keys)`` seeds (at least two); traceable.

    Returns:
        ``mean``, ``variance``, ``second_moment`` ``[nodes]`` and ``cross`` ``[nodes, batch, batch]``.
    """
    graph, rows = net.graph(*x), net.rows(*x)
    batch = jax.tree.leaves(x)[0].shape[0]

    def one(key: Any) -> list[Any]:
        leaves = [*jax.tree.leaves(net.init(key)), *map(jnp.asarray, jax.tree.leaves(x))]
        return evaluate(graph, leaves, [r.value for r in rows])[1]

    table: dict[str, list[Any]] = {"mean": [], "variance": [], "second_moment": [], "cross": []}
    for value in jax.vmap(one)(keys):
        value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
        flat = value.reshape(len(keys), batch, -1) if value.ndim > 1 and value.shape[1] == batch else (
            jnp.broadcast_to(value.reshape(len(keys), 1, -1), (len(keys), batch, value[0].size)))
        table["mean"].append(jnp.mean(value))
        table["variance"].append(jnp.mean(jnp.var(value, axis=0, ddof=1)))
        table["second_moment"].append(jnp.mean(value**2))
        table["cross"].append(jnp.einsum("sbf,scf->bc", flat, flat) / flat.shape[0] / flat.shape[2])
    return {name: jnp.stack(columns) for name, columns in table.items()}


def measure(net: Network, *x: Any, seeds: int = 64, key: Any = None) -> xr.Dataset:
    """Measure the rows of :func:`propagate` over ``seeds`` draws of the parameters.

    Groups of four seeds are streamed through one compiled function, so that memory does not grow with ``seeds``; standard errors
    come from the spread between groups, and need no assumption on the units within a network.

    Raises:
        InvalidInput: for unusable inputs, or fewer than eight seeds.
    """
    check_inputs(x)
    if seeds < 2 * _GROUP:
        raise InvalidInput(f"seeds: {seeds} given; standard errors need at least {2 * _GROUP}")
    rows = net.rows(*x)
    groups = seeds // _GROUP
    keys = jax.random.split(jax.random.key(0) if key is None else key, groups * _GROUP)
    step = jax.jit(lambda k: measure_arrays(net, k, *x))
    count, mean, spread = 0, {}, {}
    for group in keys.reshape(groups, _GROUP):
        found = {name: np.asarray(value, np.float64) for name, value in step(group).items()}
        count += 1
        for name, value in found.items():  # Welford 1962
            old = mean.get(name, np.zeros_like(value))
            mean[name] = old + (value - old) / count
            spread[name] = spread.get(name, np.zeros_like(value)) + (value - old) * (value - mean[name])
    return _dataset(rows, mean, {n: np.sqrt(s / (count - 1) / count) for n, s in spread.items()}, groups * _GROUP)


def _dataset(rows: Any, mean: dict[str, Any], stderr: dict[str, Any], seeds: int) -> xr.Dataset:
    data: dict[str, Any] = {}
    for name in ("mean", "variance", "second_moment"):
        data[name], data[f"{name}_stderr"] = ("node", mean[name]), ("node", stderr[name])
    scale = np.sqrt(np.maximum(np.diagonal(mean["cross"], axis1=1, axis2=2), 0))
    product = scale[:, :, None] * scale[:, None, :]
    safe = np.where(product > 0, product, 1.0)
    axes = ("node", "input", "input2")
    data["correlation"] = (axes, np.where(product > 0, mean["cross"] / safe, 0.0))
    data["correlation_stderr"] = (axes, np.where(product > 0, stderr["cross"] / safe, 0.0))
    coords = {"node": [r.name for r in rows], "path": ("node", [r.path for r in rows]), "op": ("node", [r.op for r in rows]),
              "shape": ("node", [str(r.shape) for r in rows])}
    return xr.Dataset(data, coords, {"seeds": seeds})
