"""Whether the outputs of one kernel are used as those of several, as queries, keys and values of a fused kernel are."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from sigprop.network.contraction import contraction
from sigprop.network.supports import MOVES
from sigprop.network.uses import Use
from sigprop.tracing import Graph, Op, on_host

_PASSED = {"add", "add_any", "sub", "mul", "div", "neg"}  # biases and constant factors
_JOINED = {"add", "add_any", "sub", "concatenate", "select_n"}


def parts(graph: Graph, use: Use, live: set[int]) -> int:
    """Number of groups of output channels that no operation on data takes together, at least 1.

    Args:
        use: of a kernel in a matrix product or a convolution.
        live: values that depend on data.
    """
    if use.op.name not in ("dot_general", "conv_general_dilated"):
        return 1
    groups: list[set[int]] = []
    for taken in _taken(graph, use, live):
        groups = [*(g for g in groups if not g & taken), set.union(taken, *(g for g in groups if g & taken))]
    return max(len(groups), 1)


def _taken(graph: Graph, use: Use, live: set[int]) -> list[set[int]]:
    """For each operation that uses outputs of the kernel, after they were moved, which channels it takes, or joins in a sum."""
    channels = {use.op.outputs[0]: _channels(graph, use)}
    found = []
    for op in graph.ops:
        here = [i for i in dict.fromkeys(op.inputs) if i in channels]
        passed = _passed(graph, op, here[0], channels[here[0]], live) if len(here) == 1 else None
        if passed is not None:
            channels.update(zip(op.outputs, passed, strict=True))
        elif here:
            taken = [_members(channels[i]) for i in here]
            found += [set.union(*taken)] if op.name in _JOINED else taken
    return [*found, *(_members(channels[o]) for o in graph.outputs if o in channels)]


def _members(channels: np.ndarray) -> set[int]:
    return set(np.unique(channels).tolist())


def _channels(graph: Graph, use: Use) -> np.ndarray:
    made, shape = contraction(graph, use.op), graph.avals[use.op.outputs[0]].shape
    sites = made.sites(made.out, use.position)
    units = [1 if k in sites or set(labels) <= {*made.batch} else n for k, (n, labels) in enumerate(zip(shape, made.out, strict=True))]
    return np.broadcast_to(np.arange(prod(units)).reshape(units), shape)


def _passed(graph: Graph, op: Op, value: int, channels: np.ndarray, live: set[int]) -> list[Any] | None:
    if op.name in MOVES and op.inputs[0] == value and all(i in graph.constants for i in op.inputs[1:]):
        return on_host(op, [channels, *(graph.constants[i] for i in op.inputs[1:])])
    if op.name in _PASSED and len(live.intersection(op.inputs)) == 1:
        return [np.broadcast_to(channels, graph.avals[op.outputs[0]].shape)]
    return None
