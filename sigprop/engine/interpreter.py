"""Walk a flat program with fields in place of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sigprop.arrays import concrete
from sigprop.engine.build import Pool
from sigprop.engine.query import Query
from sigprop.engine.values import Field, Known, Unknown, Value, known
from sigprop.errors import MissingRule, SigpropError, Unsound
from sigprop.tracing import SMOOTH, Graph, Op, apply_op, on_host
from sigprop.types import Note

_STEP = 1e-4  # relative, of a number whose function is looked at

Rule = Callable[..., Sequence[Value]]


@dataclass
class Context:
    """One interpretation: the pool of nodes, its query and the table of rules (pass a larger table to extend it).

    All that is sampled has other points for another ``scrambling``.
    """

    rules: Mapping[str, Rule]
    pool: Pool = field(default_factory=Pool)
    scrambling: int = 0

    def __post_init__(self) -> None:
        self.query = Query(self.pool, self.scrambling)


def interpret(context: Context, graph: Graph, inputs: Sequence[Value], lenient: bool = False,
              after: Callable[[Op, dict[int, Value]], None] | None = None) -> dict[int, Value]:
    """Values of every number of ``graph``.

    Args:
        lenient: keep going past an operation without a rule; what depends on it becomes ``Unknown``.
        after: called after each operation with the values so far, which it may replace by others of the same shape.

    Raises:
        MissingRule: naming the primitive, the module path and the user's line.
        Unsound: where the infinite-width limit does not apply.
    """
    env: dict[int, Value] = {k: known(v) for k, v in graph.constants.items()}
    env.update(zip(graph.inputs, inputs, strict=True))
    for op in graph.ops:
        args = [env[i] for i in op.inputs]
        if all(0 in graph.avals[o].shape for o in op.outputs):  # empty parts, as padding by nothing makes them
            env.update((o, Known(np.zeros(graph.avals[o].shape))) for o in op.outputs)
            continue
        try:
            results = _step(context, op, args)
            _same_shapes(graph, op, results)
        except SigpropError as error:
            if not lenient:
                raise
            results = [Unknown(error, tuple(graph.avals[o].shape)) for o in op.outputs]
        env.update(zip(op.outputs, results, strict=True))
        if after is not None:
            after(op, env)
    return env


def _step(context: Context, op: Op, args: Sequence[Value]) -> Sequence[Value]:
    for arg in args:
        if isinstance(arg, Unknown):
            raise arg.reason
    if op.name.startswith("random:") and op.name in context.rules:
        return context.rules[op.name](context, op, *args)
    if all(isinstance(arg, Known) for arg in args):
        return _constant(op, [arg for arg in args if isinstance(arg, Known)])
    rule = context.rules.get(op.name)
    place = f"{op.path or 'the model'} ({op.source})"
    if rule is None:
        raise MissingRule(
            f"no rule for the primitive '{op.name}' at {place}. Pass rules={{**sigprop.engine.RULES, '{op.name}': rule}} with "
            "rule(context, op, *values) -> values, or rewrite the line with supported operations."
        )
    try:
        return rule(context, op, *args)
    except (Unsound, MissingRule) as error:
        if getattr(error, "placed", False):
            raise
        placed = type(error)(f"{error} [{op.name} at {place}]")
        placed.placed = True  # type: ignore[attr-defined]
        raise placed from error


def _same_shapes(graph: Graph, op: Op, results: Sequence[Value]) -> None:
    for number, value in zip(op.outputs, results, strict=True):
        expected = tuple(graph.avals[number].shape)
        if tuple(value.shape) != expected:
            raise MissingRule(f"the rule for '{op.name}' gave shape {tuple(value.shape)} instead of {expected} at {op.path} ({op.source})")


def _constant(op: Op, args: Sequence[Known]) -> list[Value]:
    """Evaluate a deterministic operation, at trace time and in float64 when nothing is traced."""
    note = Note.of(arg.note for arg in args)
    arrays = [arg.array for arg in args]
    if not all(map(concrete, arrays)):
        return [Known(a, note) for a in apply_op(op, arrays)]
    found = on_host(op, arrays)
    return [known(a, _through(op, arrays[0], a, note) if op.name in SMOOTH else note) for a in found]


def _through(op: Op, array: Any, value: Any, note: Note) -> Note:
    """The note of a function of a number from that of the number: to first order, its relative change by that of the number."""
    top = float(np.max(np.abs(value), initial=0.0))
    if not isinstance(note.error, float) or note.error == 0 or not 0 < top < np.inf:
        return note
    (moved,) = on_host(op, [array * (1 + _STEP)])
    return note.scaled(float(np.max(np.abs(moved - value), initial=0.0)) / (_STEP * top))


__all__ = ["Context", "Field", "Known", "Rule", "Unknown", "Value", "interpret"]
