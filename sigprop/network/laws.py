"""Laws of parameters, read off the initializer by interpreting it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.engine import Context, Field, Known, Label, Unknown, Value, interpret
from sigprop.engine.nodes import Leaf, Node
from sigprop.errors import SigpropError, Unsound
from sigprop.network.network import Network
from sigprop.network.paths import parameter_paths

_SEEDS = 16


@dataclass(frozen=True)
class Law:
    """Law of one entry of a parameter: mean, variance, family, and how it is known (traced, measured or declared)."""

    mean: float
    variance: float
    family: str = "normal"
    source: str = "declared"


def parameters(context: Context, net: Network) -> tuple[list[Value], list[str]]:
    """Each parameter as a value over independent leaves, and where its law comes from.

    A parameter that cannot be followed is measured over 16 seeds: independent entries with the pooled mean and variance.
    """
    if net.declared is not None:
        return _declared(context, net)
    graph = net.init_graph
    env = interpret(context, graph, [Known(jax.random.key(0))], lenient=True)
    values = [env[o] for o in graph.outputs]
    sources = ["traced"] * len(values)
    failed = [i for i, v in enumerate(values) if isinstance(v, Unknown)]
    if failed:
        samples = jax.tree.leaves(jax.vmap(net.init)(jax.random.split(jax.random.key(1), _SEEDS)))
        for i in failed:
            array = np.asarray(samples[i], np.float64)
            values[i] = _iid(context, ("measured", i), array.shape[1:], float(array.mean()), float(array.var()))
            sources[i] = "measured"
    return values, sources


def _iid(context: Context, key: Any, shape: tuple[int, ...], mean: float, variance: float) -> Value:
    from sigprop.engine.rules.elementwise import add, mul
    from sigprop.engine.values import plain_axes

    node = context.pool.leaf(key, [n for n in shape if n > 1], 1.0, "normal")
    refs = iter(a for a in plain_axes(node.dims))
    leaf: Value = Field(node, tuple(next(refs) if n > 1 else () for n in shape))
    leaf = mul(context, None, leaf, Known(np.asarray(variance**0.5)))[0]
    return leaf if abs(mean) < 1e-3 * variance**0.5 else add(context, None, leaf, Known(np.asarray(mean)))[0]  # type: ignore[arg-type]


def _declared(context: Context, net: Network) -> tuple[list[Value], list[str]]:
    laws = jax.tree.leaves(net.declared, is_leaf=lambda n: isinstance(n, Law))
    shapes = [p.shape for p in jax.tree.leaves(net.abstract_params)]
    values = [_iid(context, ("declared", i), s, law.mean, law.variance) if law.variance else Known(np.full(s, law.mean))
              for i, (s, law) in enumerate(zip(shapes, laws, strict=True))]
    return values, ["declared"] * len(values)


def summary(context: Context, value: Value, source: str) -> Law | None:
    """Mean and variance of a parameter averaged over its entries; ``None`` for keys and counters."""
    if isinstance(value, Known):
        dtype = value.array.dtype
        if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) or not np.issubdtype(dtype, np.floating):
            return None
        array = np.asarray(value.array, np.float64)
        return Law(float(array.mean()), float(array.var()), "constant", source)
    assert isinstance(value, Field)
    node = value.node
    labels = tuple(Label(i, d.kind, d.size) for i, d in enumerate(node.dims))
    mean = float(jnp.mean(context.query.moment([(node, labels)]).array))
    try:
        second = float(jnp.mean(context.query.moment([(node, labels), (node, labels)]).array))
    except Unsound:
        second = float("nan")
    return Law(mean, second - mean**2, family(node), source)


def family(node: Node) -> str:
    """Family of the one leaf behind a parameter, or ``derived``."""
    while not isinstance(node, Leaf):
        below = [n for n, _ in getattr(node, "children", ()) if n.odd_mask or n.mixed]
        if len(below) != 1:
            return "derived"
        node = below[0]
    return node.family


class Laws(dict[str, Law]):
    """Law by parameter path; prints as a table."""

    shapes: dict[str, tuple[int, ...]]

    def __str__(self) -> str:
        lines = [f"{'parameter':40} {'shape':18} {'family':18} {'mean':>10} {'variance':>12}  source"]
        for path, law in self.items():
            lines.append(f"{path:40} {self.shapes[path]!s:18} {law.family:18} {law.mean:10.4g} {law.variance:12.6g}  {law.source}")
        return "\n".join(lines)


def law_table(net: Network) -> Laws:
    from sigprop.engine import RULES

    context = Context(RULES)
    values, sources = parameters(context, net)
    table = Laws()
    table.shapes = {}
    names, leaves = parameter_paths(net.abstract_params), jax.tree.leaves(net.abstract_params)
    for name, leaf, value, source in zip(names, leaves, values, sources, strict=True):
        law = summary(context, value, source)
        if law is not None:
            table[name] = law
            table.shapes[name] = tuple(leaf.shape)
    return table


__all__ = ["Law", "Laws", "SigpropError", "law_table", "parameters"]
