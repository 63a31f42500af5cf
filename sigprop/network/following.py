"""Following parameters through a program to the operations that use them, with the number of terms that each entry stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete, host, is_key
from sigprop.engine.rules import elementwise
from sigprop.network.contraction import CONTRACTIONS, contraction
from sigprop.tracing import Graph, Op, on_host

MOVES = {
    "reshape", "transpose", "squeeze", "expand_dims", "rev", "convert_element_type", "copy", "copy_p", "stop_gradient", "reduce_precision",
    "broadcast_in_dim", "slice", "split", "dynamic_slice", "gather", "tile",
}
NEVER = "never used: no output depends on it"
_LARGEST = 10**7  # entries of a constant that is looked at


@dataclass(frozen=True)
class View:
    """What became of a parameter: terms per entry, NaN where an entry has nothing of it.

    Attributes:
        spread: whether it was repeated to a larger size, as a factor of other parameters is.
    """

    terms: np.ndarray
    spread: bool = False


@dataclass(frozen=True)
class Meeting:
    """A view of a parameter as operand ``position`` of an operation on data, or of a contraction with other parameters."""

    op: Op
    position: int
    view: View
    live: bool = True


class Followed:
    """The floating parameters of a program, followed to the data.

    Attributes:
        meetings: per parameter the operations on data and the contractions that it takes part in, in program order.
        factors: per parameter the operations in which it became a factor or a summand of a larger one.
        ends: per parameter other operations, which are followed no further.
        live: values that depend on data.
        known: values that depend on neither data nor parameters.
        users: per value the operations that read it.
    """

    def __init__(self, graph: Graph, params: Sequence[int], fixed: Mapping[int, Any], masks: Mapping[int, float]) -> None:
        """``fixed`` holds those of ``params`` that are constants, ``masks`` those that are random masks, with the share that they keep."""
        self.graph = graph
        self.known: dict[int, Any] = {**_constants(graph.constants), **_constants(fixed)}
        self.live = set(graph.inputs) - set(params)
        free = [p for p in params if p not in fixed and p not in masks and jnp.issubdtype(graph.avals[p].dtype, jnp.floating)]
        self.meetings: dict[int, list[Meeting]] = {p: [] for p in free}
        self.factors: dict[int, list[Op]] = {p: [] for p in free}
        self.ends: dict[int, list[Op]] = {p: [] for p in free}
        self.users: dict[int, list[Op]] = {}
        for op in graph.ops:
            for value in {*op.inputs}:
                self.users.setdefault(value, []).append(op)
        self._views: dict[int, dict[int, View]] = {p: {p: View(_ones(graph, p))} for p in free}
        self._supports: dict[int, np.ndarray] = {p: _fill(graph, p, share) for p, share in masks.items()}
        for op in graph.ops:
            self._step(op)

    def support(self, value: int) -> np.ndarray:
        """0 where ``value`` is zero whatever the parameters and data, as far as padding and masks tell, else 1; where a random mask
        decides, the probability."""
        if value not in self.known:
            return self._supports.get(value, _ones(self.graph, value))
        found = np.asarray(self.known[value] != 0) if not is_key(self.known[value]) else np.ones(())
        return _ones(self.graph, value) if np.all(found) else found.astype(float)

    def note(self, param: int) -> str:
        """Why a parameter meets no data."""
        if param not in self.meetings:
            return "a mask"
        if self.factors[param]:
            return f"a factor of other parameters ({self.factors[param][0].name})"
        if self.ends[param]:
            return f"not counted beyond {self.ends[param][0].name}"
        if any(param in self._views.get(o, {}) for o in self.graph.outputs):
            return "an output of the model"
        return NEVER

    def _step(self, op: Op) -> None:
        if all(i in self.known for i in op.inputs):
            _fold(self.graph, op, self.known)
            return
        live = bool(self.live.intersection(op.inputs))
        if live:
            self.live.update(op.outputs)
        for param, found in self._sources(op).items():
            if live:
                self.meetings[param] += [Meeting(op, position, view) for position, view in found]
            else:
                self._carry(op, param, found)
        for value, array in zip(op.outputs, self._zeros(op) or (), strict=False):
            if not np.all(array == 1):
                self._supports[value] = array

    def _sources(self, op: Op) -> dict[int, list[tuple[int, View]]]:
        """Views among the operands per parameter, without those that only scale or shift another one."""
        found = [(k, p, view) for k, i in enumerate(op.inputs) for p, view in self._views.get(i, {}).items()]
        if op.name in elementwise.RULES:
            size = prod(self.graph.avals[op.outputs[0]].shape)
            small = [view.spread or view.terms.size < size for _, _, view in found]
            if not all(small):
                for (_, p, _), yes in zip(found, small, strict=True):
                    self.factors[p] += [op] * yes
                found = [f for f, yes in zip(found, small, strict=True) if not yes]
        out: dict[int, list[tuple[int, View]]] = {}
        for k, p, view in found:
            out.setdefault(p, []).append((k, view))
        return out

    def _carry(self, op: Op, param: int, found: Sequence[tuple[int, View]]) -> None:
        """What the results of an operation on parameters alone hold of ``param``; its end where that cannot be told."""
        terms = self._moved(op, found)
        if terms is None:
            if op.name in CONTRACTIONS:
                self.meetings[param] += [Meeting(op, position, view, False) for position, view in found]
            else:
                self.ends[param].append(op)
            return
        for value, array in zip(op.outputs, terms, strict=True):
            before = max(v.terms.size for _, v in found)
            spread = any(v.spread for _, v in found) or (op.name in ("broadcast_in_dim", "tile", *elementwise.RULES) and array.size > before)
            self._views.setdefault(value, {})[param] = View(array, spread)

    def _moved(self, op: Op, found: Sequence[tuple[int, View]]) -> list[np.ndarray] | None:
        position, view = found[0]
        if op.name in MOVES and position == 0:
            return self._evaluate(op, view.terms)
        if op.name == "pad" and position == 0:
            return _host(op, [view.terms, np.float64(np.nan)])
        if op.name == "concatenate":
            terms = {k: v.terms for k, v in found}
            return [np.concatenate([terms.get(k, _fill(self.graph, i, np.nan)) for k, i in enumerate(op.inputs)], op.params["dimension"])]
        if op.name == "reduce_sum":
            return [_nansum(view.terms, op.params["axes"])]
        if op.name in CONTRACTIONS and op.inputs[1 - position] in self.known:
            return [contraction(self.graph, op).forward(np.nan_to_num(view.terms), position, self.support(op.inputs[1 - position]))]
        if op.name == "select_n" and position > 0:
            return [self._selected(op, {k: v.terms for k, v in found}, np.nan)]
        if op.name in elementwise.RULES:
            return [self._elementwise(op, found)]
        return None

    def _elementwise(self, op: Op, found: Sequence[tuple[int, View]]) -> np.ndarray:
        shape = self.graph.avals[op.outputs[0]].shape
        first = np.broadcast_to(found[0][1].terms, shape)
        if op.name in ("add", "sub", "add_any") and len(found) > 1:
            both = np.stack([np.broadcast_to(v.terms, shape) for _, v in found])
            return np.where(np.isnan(both).all(0), np.nan, np.nansum(both, 0))
        for k, value in enumerate(op.inputs):
            if op.name in ("mul", "div") and k != found[0][0] and not (op.name == "div" and k == 1):
                other = self.support(value)
                first = first if _full(other) else first * other
        return first

    def _selected(self, op: Op, cases: Mapping[int, np.ndarray], other: float) -> np.ndarray:
        """The chosen case per entry, or where the choice is not fixed the largest."""
        shape = self.graph.avals[op.outputs[0]].shape
        arrays = [np.broadcast_to(cases[k], shape) if k in cases else self._other(op.inputs[k], shape, other)
                  for k in range(1, len(op.inputs))]
        which = self.known.get(op.inputs[0])
        return np.choose(np.asarray(which, int), arrays) if which is not None else np.fmax.reduce(arrays)

    def _other(self, value: int, shape: tuple[int, ...], other: float) -> np.ndarray:
        zero = value in self.known and not np.any(self.known[value])
        return np.broadcast_to(0.0 if zero else other, shape)

    def _evaluate(self, op: Op, array: np.ndarray) -> list[np.ndarray] | None:
        """The operation on an array in place of its first operand; ``None`` where it depends on unknown places."""
        shapes = [self.graph.avals[o].shape for o in op.outputs]
        if _uniform(array):
            return [np.broadcast_to(array.flat[0] if array.size else 1.0, shape) for shape in shapes]
        if any(i not in self.known for i in op.inputs[1:]):
            return None
        return _host(op, [array, *(self.known[i] for i in op.inputs[1:])])

    def _zeros(self, op: Op) -> list[np.ndarray] | None:
        """Supports of the results, where they are not 1 everywhere."""
        supports = [self.support(i) for i in op.inputs]
        if op.name == "pad":
            return _host(op, supports) if op.inputs[1] in self.known else None
        if all(_full(s) for s in supports):
            return None
        if op.name in MOVES:
            return self._evaluate(op, supports[0])
        if op.name == "concatenate":
            return [np.concatenate(supports, op.params["dimension"])]
        if op.name in ("mul", "and"):
            return [supports[0] * supports[1]]
        if op.name in ("div", "neg", "abs", "sign", "square", "integer_pow", "sqrt", "tanh"):
            return [np.broadcast_to(supports[0], self.graph.avals[op.outputs[0]].shape)]
        if op.name == "select_n":
            return [self._selected(op, dict(enumerate(supports)), 1.0)]
        return None


def folded(graph: Graph) -> dict[int, Any]:
    """Values that depend on no input."""
    known = _constants(graph.constants)
    for op in graph.ops:
        if all(i in known for i in op.inputs):
            _fold(graph, op, known)
    return known


def _constants(values: Mapping[int, Any]) -> dict[int, Any]:
    return {number: host(value) for number, value in values.items() if concrete(value)}


def _fold(graph: Graph, op: Op, known: dict[int, Any]) -> None:
    if sum(prod(graph.avals[o].shape) for o in op.outputs) <= _LARGEST and not op.name.startswith("random"):
        known.update(zip(op.outputs, on_host(op, [known[i] for i in op.inputs]), strict=True))


def _host(op: Op, arrays: Sequence[Any]) -> list[np.ndarray]:
    return [np.asarray(a, float) for a in on_host(op, arrays)]


def _fill(graph: Graph, value: int, number: float) -> np.ndarray:
    return np.broadcast_to(number, graph.avals[value].shape)


def _ones(graph: Graph, value: int) -> np.ndarray:
    return _fill(graph, value, 1.0)


def _uniform(array: np.ndarray) -> bool:
    return not any(s and n > 1 for s, n in zip(array.strides, array.shape, strict=True))


def _full(array: np.ndarray) -> bool:
    return _uniform(array) and bool(np.all(array.flat[:1] == 1))


def _nansum(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    return np.where(np.isnan(array).all(tuple(axes)), np.nan, np.nansum(array, tuple(axes)))
