"""Fan-in of the operation that uses a parameter, beside the fans that its shape suggests.

Initializers read fans off the shape of the kernel. The variance of a unit is set by the operation: a strided transposed convolution
reads a share of the taps, a kernel stored as (out, in) is contracted along its last axis. The two are listed side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from sigprop.arrays import is_key
from sigprop.engine.rules import elementwise
from sigprop.errors import InvalidInput
from sigprop.network.network import Network
from sigprop.network.paths import parameter_paths
from sigprop.tracing import Graph, Op


@dataclass(frozen=True)
class Fan:
    """Connections into one unit of the operation that uses a weight, and what the weight's shape suggests.

    Attributes:
        fan_in: mean number of connections into one output unit; zero padding and holes at the border are not subtracted.
        kernel_fan_in, kernel_fan_out: fans that ``jax.nn.initializers.variance_scaling`` computes with its default axes (input next to
            last, output last, the others receptive field) from the shape that the initializer was called with, which Flax reshapes for
            attention and stacks for scanned layers; from the parameter's own shape where that is not known. NaN for vectors.
        operation: primitive that uses the weight: ``dot_general``, ``conv_general_dilated`` or ``gather``.
    """

    fan_in: float
    kernel_fan_in: float
    kernel_fan_out: float
    operation: str


def fans(net: Network, *x: Any) -> dict[str, Fan]:
    """The :class:`Fan` of every parameter used as a weight, keyed by parameter path as in ``net.laws``.

    A parameter is followed through changes of shape and elementwise operations until it meets a contraction or a look-up. Where
    several use it the first contraction counts, and a look-up only where no contraction does. Biases, scales and tables of constants
    are absent.

    Args:
        x: inputs, batch on axis 0; by default those that ``net`` was made with.

    Raises:
        InvalidInput: where there are no inputs, or the model does not run on them.
    """
    x = x or net.example
    if not x:
        raise InvalidInput("x: fans depend on the operations, give example inputs, fans(net, x)")
    graph = net.graph(*x)
    names = parameter_paths(net.abstract_params)
    found = _uses(graph, graph.inputs[:len(names)], graph.inputs[len(names):])
    shapes = drawn_shapes(net.init_graph) if net.declared is None else [graph.avals[v].shape for v in graph.inputs]
    out = {}
    for name, value, shape in zip(names, graph.inputs, shapes, strict=False):
        if value in found:
            operation, count = found[value]
            out[name] = Fan(count, *_kernel_fans(shape), operation)
    return out


def drawn_shapes(graph: Graph) -> list[tuple[int, ...]]:
    """Per output of an initializer the shape of the random draw that it is made of, its own where there is none or several differ."""
    made: dict[int, tuple[int, ...]] = {}
    for op in graph.ops:
        if op.name.startswith("random:"):
            mapped = np.ndim(graph.avals[op.inputs[0]]) - (0 if is_key(graph.avals[op.inputs[0]]) else 1)
            made[op.outputs[0]] = graph.avals[op.outputs[0]].shape[mapped:]
        elif op.name in _WHOLE or op.name in _JOINED or op.name in elementwise.RULES:
            shapes = {made[i] for i in op.inputs if i in made}
            if len(shapes) == 1:
                made[op.outputs[0]] = shapes.pop()
    return [made[o] if o in made else tuple(graph.avals[o].shape) for o in graph.outputs]


def _kernel_fans(shape: Sequence[int]) -> tuple[float, float]:
    if len(shape) < 2:
        return float("nan"), float("nan")
    field = prod(shape[:-2])
    return float(field * shape[-2]), float(field * shape[-1])


def _uses(graph: Graph, params: Sequence[int], data: Sequence[int]) -> dict[int, tuple[str, float]]:
    """For each parameter that is a weight: the operation that uses it, and its fan-in."""
    views: dict[int, frozenset[int]] = {p: frozenset((p,)) for p in params}
    live = set(data)
    found: dict[int, tuple[str, float]] = {}
    looked_up: dict[int, tuple[str, float]] = {}
    for op in graph.ops:
        if live.intersection(op.inputs):
            live.update(op.outputs)
        if op.name in _FANS:
            for position, value in enumerate(op.inputs[:2]):
                for p in views.get(value, ()):
                    found.setdefault(p, (op.name, _FANS[op.name](graph, op, position)))
        elif op.name == "gather" and op.inputs[0] in views:
            for p in views[op.inputs[0]]:
                looked_up.setdefault(p, (op.name, 1.0))
        kept = _followed(graph, op, views, live)
        if kept:
            views.update((o, kept) for o in op.outputs)
    return {**looked_up, **found}


def _dot(graph: Graph, op: Op, position: int) -> float:
    contracted = op.params["dimension_numbers"][0][position]
    shape = graph.avals[op.inputs[position]].shape
    return float(prod(shape[axis] for axis in contracted))


def _conv(graph: Graph, op: Op, position: int) -> float:
    """Channels of one group times the taps that fall on inputs, averaged over the phases of the dilated input."""
    p = op.params
    spec, shape = p["dimension_numbers"].rhs_spec, graph.avals[op.inputs[1]].shape
    count = float(shape[spec[1]])
    for k, axis in enumerate(spec[2:]):
        hole = p["lhs_dilation"][k]
        start = np.arange(hole)[:, None] * p["window_strides"][k] - p["padding"][k][0]
        tap = np.arange(shape[axis])[None, :] * p["rhs_dilation"][k]
        count *= float(np.sum((start + tap) % hole == 0)) / hole
    return count


_FANS: dict[str, Callable[[Graph, Op, int], float]] = {"dot_general": _dot, "conv_general_dilated": _conv}
_WHOLE = {"reshape", "transpose", "squeeze", "expand_dims", "rev", "convert_element_type", "copy", "copy_p", "stop_gradient"}
_JOINED = {"concatenate", "broadcast_in_dim"}
_PARTS = {"slice", "split", "dynamic_slice", "gather", "concatenate", "pad", "tile"}


def _followed(graph: Graph, op: Op, views: dict[int, frozenset[int]], live: set[int]) -> frozenset[int]:
    """The parameters that the result is a view of: nothing where data enter, or where a small array is spread over a large one."""
    if live.intersection(op.inputs):
        return frozenset()
    if op.name in _PARTS:
        sources: Sequence[int] = op.inputs
    elif op.name in _WHOLE or op.name == "broadcast_in_dim" or op.name in elementwise.RULES:
        size = prod(graph.avals[op.outputs[0]].shape)
        sources = [i for i in op.inputs if prod(graph.avals[i].shape) == size]
    else:
        return frozenset()
    return frozenset[int]().union(*(views.get(i, frozenset()) for i in sources))
