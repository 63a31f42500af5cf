"""Following parameters through a program to the operations that use them, with the number of terms that each entry stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from sigprop.engine.rules import elementwise
from sigprop.network.contraction import CONTRACTIONS, contraction
from sigprop.network.supports import MOVES, Supports, filled, full, on_floats
from sigprop.tracing import Graph, Op

NEVER = "never used: no output depends on it"


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


Found = Sequence[tuple[int, View]]  # views of one parameter among the operands of an operation, by position


class Followed:
    """The floating parameters of a program, followed to the data.

    Attributes:
        meetings: per parameter the operations on data and the contractions that it takes part in, in program order.
        factors: per parameter the operations in which it became a factor or a summand of a larger one.
        ends: per parameter other operations, which are followed no further.
        live: values that depend on data.
        supports: which values hold zeros.
        users: per value the operations that read it.
    """

    def __init__(self, graph: Graph, params: Sequence[int], fixed: Mapping[int, Any], masks: Mapping[int, Any]) -> None:
        """``fixed`` holds those of ``params`` that are constants, ``masks`` where others are zero: 0 or 1 per entry, or one number, the
        share that a random mask keeps. Neither constants nor random masks are followed."""
        self.graph, self.supports = graph, Supports(graph, fixed, masks)
        self.live = set(graph.inputs) - set(params)
        weights = [p for p in params if p not in fixed and (p not in masks or np.ndim(masks[p]))]
        free = [p for p in weights if jnp.issubdtype(graph.avals[p].dtype, jnp.floating)]
        self.meetings: dict[int, list[Meeting]] = {p: [] for p in free}
        self.factors: dict[int, list[Op]] = {p: [] for p in free}
        self.ends: dict[int, list[Op]] = {p: [] for p in free}
        self.users: dict[int, list[Op]] = {}
        self._views: dict[int, dict[int, View]] = {p: {p: View(filled(graph, p, 1.0))} for p in free}
        for op in graph.ops:
            for value in {*op.inputs}:
                self.users.setdefault(value, []).append(op)
            self._step(op)
            self.supports.step(op)

    def note(self, param: int) -> str:
        """Why a parameter meets no data."""
        if param not in self.meetings:
            return "a mask"
        if self.factors[param]:
            return f"a factor of other parameters ({self.factors[param][0].name})"
        if self.ends[param]:
            return f"not counted beyond {self.ends[param][0].name}"
        return "an output of the model" if any(param in self._views.get(o, {}) for o in self.graph.outputs) else NEVER

    def _step(self, op: Op) -> None:
        live = bool(self.live.intersection(op.inputs))
        if live:
            self.live.update(op.outputs)
        for param, found in self._sources(op).items():
            terms = None if live else self._results(op, found)
            if live or (terms is None and op.name in CONTRACTIONS):
                self.meetings[param] += [Meeting(op, position, view, live) for position, view in found]
            elif terms is None:
                self.ends[param].append(op)
            else:
                self._record(op, param, found, terms)

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

    def _record(self, op: Op, param: int, found: Found, terms: Sequence[np.ndarray]) -> None:
        before, repeats = max(v.terms.size for _, v in found), op.name in ("broadcast_in_dim", "tile", *elementwise.RULES)
        for value, array in zip(op.outputs, terms, strict=True):
            spread = any(v.spread for _, v in found) or (repeats and array.size > before)
            self._views.setdefault(value, {})[param] = View(array, spread)

    def _results(self, op: Op, found: Found) -> list[np.ndarray] | None:
        """Terms of one parameter in the results of an operation on parameters alone; ``None`` where that is not followed."""
        position, view = found[0]
        if op.name in MOVES and position == 0:
            return self.supports.moved(op, view.terms)
        if op.name == "pad" and position == 0:
            return on_floats(op, [view.terms, np.float64(np.nan)])
        if op.name == "concatenate":
            terms = {k: v.terms for k, v in found}
            return [np.concatenate([terms.get(k, filled(self.graph, i, np.nan)) for k, i in enumerate(op.inputs)], op.params["dimension"])]
        if op.name == "reduce_sum":
            axes = tuple(op.params["axes"])
            return [np.where(np.isnan(view.terms).all(axes), np.nan, np.nansum(view.terms, axes))]
        if op.name in CONTRACTIONS and op.inputs[1 - position] in self.supports.known:
            made, other = contraction(self.graph, op), self.supports[op.inputs[1 - position]]
            return [made.forward(np.nan_to_num(view.terms), position, other)]
        if op.name == "select_n" and position > 0:
            cases = {k: v.terms for k, v in found}
            return [self.supports.chosen(op, [cases.get(k, self._other(i)) for k, i in enumerate(op.inputs) if k])]
        return [self._elementwise(op, found)] if op.name in elementwise.RULES else None

    def _other(self, value: int) -> np.ndarray:
        """A case that is not of the parameter: a mask where it is zero."""
        known = self.supports.known
        return filled(self.graph, value, 0.0 if value in known and not np.any(known[value]) else np.nan)

    def _elementwise(self, op: Op, found: Found) -> np.ndarray:
        shape = self.graph.avals[op.outputs[0]].shape
        terms = np.broadcast_to(found[0][1].terms, shape)
        if op.name in ("add", "sub", "add_any") and len(found) > 1:
            both = np.stack([np.broadcast_to(v.terms, shape) for _, v in found])
            return np.where(np.isnan(both).all(0), np.nan, np.nansum(both, 0))
        if op.name in ("mul", "div") and len(found) == 1 and (op.name == "mul" or found[0][0] == 0):
            other = self.supports[op.inputs[1 - found[0][0]]]
            return terms if op.name == "div" or full(other) else terms * other
        return terms
