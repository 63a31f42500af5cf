"""Predicted statistics of every node that a user would name."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.engine import RULES, Context, Field, Known, Label, Value, interpret, known
from sigprop.engine.labels import Named, aligned
from sigprop.network import Network, check_inputs, parameters


def propagate(net: Network, *x: Any) -> xr.Dataset:
    """Predict mean, variance and correlations of each node on inputs ``x`` (batch on axis 0), in the infinite-width limit.

    Returns:
        Dataset over ``node`` (and ``input``, ``input2``) with ``mean``, ``variance`` and ``second_moment`` averaged over the batch,
        sites and channels, ``correlation`` between examples, ``gaussian``, ``method`` and ``error`` (of the variance, absolute).
        ``grad_variance`` is NaN: gradients are not predicted yet.

    Raises:
        InvalidInput: for unusable inputs.
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    check_inputs(x)
    graph, rows = net.graph(*x), net.rows(*x)
    context = Context(RULES)
    params, _ = parameters(context, net)
    env = interpret(context, graph, [*params, *(known(a) for a in jax.tree.leaves(x))])
    batch = jax.tree.leaves(x)[0].shape[0]
    table = [node_statistics(context, env[row.value], batch) for row in rows]
    data: dict[str, Any] = {
        name: ("node", np.asarray([t[name] for t in table]))
        for name in ("mean", "variance", "second_moment", "gaussian", "method", "error")
    }
    data["grad_variance"] = ("node", np.full(len(rows), np.nan))
    data["correlation"] = (("node", "input", "input2"), np.stack([np.asarray(t["correlation"]) for t in table]))
    coords = {"node": [r.name for r in rows], "path": ("node", [r.path for r in rows]), "op": ("node", [r.op for r in rows]),
              "shape": ("node", [str(r.shape) for r in rows])}
    return xr.Dataset(data, coords)


def _labels(value: Field) -> tuple[tuple[Label, ...], list[Label], list[Label]]:
    """Labels of the node's dims, all labels, and those of the batch axis."""
    own: dict[int, Label] = {}
    every: list[Label] = []
    first: list[Label] = []
    for axis, factors in enumerate(value.axes):
        for f in factors:
            label = Label(len(every), "site" if f.ref is None else value.node.dims[f.ref].kind, f.size)
            every.append(label)
            if axis == 0:
                first.append(label)
            if f.ref is not None:
                own[f.ref] = label
    return tuple(own[k] for k in range(len(value.node.dims))), every, first


def node_statistics(context: Context, value: Value, batch: int) -> dict[str, Any]:
    """Averages over a node's entries of its mean, variance and second moment, and the correlation between examples."""
    if isinstance(value, Known):
        array = jnp.asarray(value.array, float)
        own = array.ndim and array.shape[0] == batch
        flat = array.reshape(batch, -1) if own else jnp.broadcast_to(array.reshape(1, -1), (batch, array.size))
        return {"mean": jnp.mean(array), "variance": 0.0, "second_moment": jnp.mean(array**2), "gaussian": False,
                "method": "deterministic", "error": 0.0, "correlation": _normalised(flat @ flat.T)}
    assert isinstance(value, Field)
    context.query.methods.clear()
    labels, every, first = _labels(value)
    node = value.node
    mean = context.query.moment([(node, labels)])
    shift = {label: Label(label.number + 1000, label.kind, label.size) for label in first}
    cross = context.query.moment([(node, labels), (node, tuple(shift.get(la, la) for la in labels))])
    rest = [la for la in every if la not in first]
    axes = [*first, *(shift[la] for la in first)]
    full = aligned(_averaged(cross, rest), axes)
    gram = jnp.broadcast_to(full, [la.size for la in axes])
    size = int(np.prod([la.size for la in first], dtype=int))
    gram = gram.reshape(size, size)
    if size != batch:
        gram = jnp.broadcast_to(jnp.mean(gram), (batch, batch))
    second = jnp.mean(jnp.diag(gram))
    squared = jnp.mean(mean.array**2)
    methods = context.query.methods | ({"Gaussian approximation"} if node.approximate else set())
    return {"mean": jnp.mean(mean.array), "variance": second - squared, "second_moment": second, "gaussian": node.gaussian,
            "method": " + ".join(sorted(methods)) or "closed form", "error": second * context.query.error,
            "correlation": _normalised(gram)}


def _averaged(named: Named, labels: list[Label]) -> Named:
    axes = tuple(i for i, la in enumerate(named.labels) if la in labels)
    return Named(tuple(la for la in named.labels if la not in labels), jnp.mean(named.array, axis=axes))


def _normalised(gram: Any) -> Any:
    scale = jnp.sqrt(jnp.maximum(jnp.diag(gram), 0.0))
    product = scale[:, None] * scale[None, :]
    return jnp.where(product > 0, gram / jnp.where(product > 0, product, 1.0), 0.0)
