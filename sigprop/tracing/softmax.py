"""Softmaxes in a flat program, as a library or a user writes them."""

from __future__ import annotations

from dataclasses import dataclass

from sigprop.tracing.graph import Graph, Op

_MOVES = {"broadcast_in_dim", "transpose", "reshape", "expand_dims", "squeeze", "stop_gradient", "convert_element_type", "copy"}


@dataclass(frozen=True)
class Softmax:
    """The value ``logits``, of which exponentials are normalised along ``axis``."""

    logits: int
    axis: int
    path: str


def softmaxes(graph: Graph) -> list[Softmax]:
    """Quotients of an exponential and of its sum along one axis, in order of evaluation."""
    made = {o: op for op in graph.ops for o in op.outputs}
    found = []
    for op in graph.ops:
        total = _through(made, op.inputs[1]) if op.name == "div" else None
        if total is None or total.name != "reduce_sum" or len(total.params["axes"]) != 1:
            continue
        above, below = (_exponential(made, v) for v in (op.inputs[0], total.inputs[0]))
        if above is not None and below is not None and above.inputs == below.inputs:
            logits = _unshifted(made, below.inputs[0])
            found.append(Softmax(logits, int(total.params["axes"][0]), op.path))
    return found


def _exponential(made: dict[int, Op], value: int) -> Op | None:
    """The exponential that makes the terms, some of which may be replaced by zero."""
    op = _through(made, value)
    if op is not None and op.name == "select_n":
        options = [_through(made, i) for i in op.inputs[1:]]
        op = next((o for o in options if o is not None and o.name == "exp"), None)
    return op if op is not None and op.name == "exp" else None


def _unshifted(made: dict[int, Op], value: int) -> int:
    """The logits, from which the largest one may have been subtracted."""
    op = made.get(value)
    if op is None or op.name != "sub":
        return value
    waiting = [op.inputs[1]]
    while waiting:
        shift = _through(made, waiting.pop())
        if shift is not None and shift.name == "reduce_max":
            return op.inputs[0]
        if shift is not None and shift.name in ("max", "select_n"):
            waiting += shift.inputs
    return value


def _through(made: dict[int, Op], value: int) -> Op | None:
    """The operation behind ``value`` and behind those that move entries."""
    op = made.get(value)
    while op is not None and op.name in _MOVES:
        op = made.get(op.inputs[0])
    return op
