"""Constants of a program, and which of its values hold zeros whatever the parameters and the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from sigprop.arrays import concrete, host, is_key
from sigprop.tracing import Graph, Op, on_host

MOVES = {
    "reshape", "transpose", "squeeze", "expand_dims", "rev", "convert_element_type", "copy", "copy_p", "stop_gradient", "reduce_precision",
    "broadcast_in_dim", "slice", "split", "dynamic_slice", "gather", "tile",
}
_KEEP_ZEROS = {"div", "neg", "abs", "sign", "square", "integer_pow", "sqrt", "tanh", "sin"}
_LARGEST = 10**7  # entries of a constant that is computed


class Supports:
    """Filled by :meth:`step` in program order.

    Attributes:
        known: values that depend on neither data nor parameters.
    """

    def __init__(self, graph: Graph, fixed: Mapping[int, Any], masks: Mapping[int, Any]) -> None:
        self.graph = graph
        self.known = {**constants(graph.constants), **constants(fixed)}
        self._found = {p: np.broadcast_to(np.asarray(share, float), graph.avals[p].shape) for p, share in masks.items()}

    def __getitem__(self, value: int) -> np.ndarray:
        """0 where ``value`` is zero as far as padding and masks tell, else 1; where a random mask decides, the probability."""
        if value not in self.known:
            return self._found.get(value, filled(self.graph, value, 1.0))
        found = np.ones(()) if is_key(self.known[value]) else np.asarray(self.known[value] != 0)
        return filled(self.graph, value, 1.0) if np.all(found) else found.astype(float)

    def step(self, op: Op) -> None:
        if all(i in self.known for i in op.inputs):
            fold(self.graph, op, self.known)
            return
        for value, array in zip(op.outputs, self._results(op) or (), strict=False):
            if not np.all(array == 1):
                self._found[value] = array

    def moved(self, op: Op, array: np.ndarray) -> list[np.ndarray] | None:
        """``op`` on an array in place of its first operand; ``None`` where it depends on unknown places."""
        if uniform(array):
            number = array.flat[0] if array.size else 1.0
            return [filled(self.graph, o, number) for o in op.outputs]
        if any(i not in self.known for i in op.inputs[1:]):
            return None
        return on_floats(op, [array, *(self.known[i] for i in op.inputs[1:])])

    def chosen(self, op: Op, cases: Sequence[np.ndarray]) -> np.ndarray:
        """``select_n``: the chosen case per entry, or the largest where the choice is not known."""
        arrays = [np.broadcast_to(c, self.graph.avals[op.outputs[0]].shape) for c in cases]
        which = self.known.get(op.inputs[0])
        return np.fmax.reduce(arrays) if which is None else np.choose(np.asarray(which, int), arrays)

    def _results(self, op: Op) -> list[np.ndarray] | None:
        """Supports of the results, ``None`` where they are 1 everywhere or cannot be told."""
        operands = [self[i] for i in op.inputs]
        if op.name == "pad":
            return on_floats(op, operands) if op.inputs[1] in self.known else None
        if all(map(full, operands)):
            return None
        if op.name in MOVES:
            return self.moved(op, operands[0])
        if op.name == "concatenate":
            return [np.concatenate(operands, op.params["dimension"])]
        if op.name in ("mul", "and"):
            return [operands[0] * operands[1]]
        if op.name in _KEEP_ZEROS:
            return [np.broadcast_to(operands[0], self.graph.avals[op.outputs[0]].shape)]
        return [self.chosen(op, operands[1:])] if op.name == "select_n" else None


def constants(values: Mapping[int, Any]) -> dict[int, Any]:
    """The concrete ones, on the host."""
    return {number: host(value) for number, value in values.items() if concrete(value)}


def folded(graph: Graph) -> dict[int, Any]:
    """Values of a program that depend on no input."""
    known = constants(graph.constants)
    for op in graph.ops:
        if all(i in known for i in op.inputs):
            fold(graph, op, known)
    return known


def fold(graph: Graph, op: Op, known: dict[int, Any]) -> None:
    if sum(prod(graph.avals[o].shape) for o in op.outputs) <= _LARGEST and not op.name.startswith("random"):
        known.update(zip(op.outputs, on_host(op, [known[i] for i in op.inputs]), strict=True))


def on_floats(op: Op, arrays: Sequence[Any]) -> list[np.ndarray]:
    return [np.asarray(a, float) for a in on_host(op, arrays)]


def filled(graph: Graph, value: int, number: float) -> np.ndarray:
    """An array shaped like ``value`` that takes no memory."""
    return np.broadcast_to(np.float64(number), graph.avals[value].shape)


def uniform(array: np.ndarray) -> bool:
    return not any(step and n > 1 for step, n in zip(array.strides, array.shape, strict=True))


def full(array: np.ndarray) -> bool:
    return uniform(array) and bool(np.all(array.flat[:1] == 1))
