"""Which values a user would name."""

from __future__ import annotations

from collections import Counter

import jax.numpy as jnp

from sigprop.tracing.graph import Graph, Row

_PLUMBING = {
    "reshape", "broadcast_in_dim", "transpose", "convert_element_type", "squeeze", "slice", "copy", "stop_gradient",
    "expand_dims", "rev", "split", "gather", "dynamic_slice", "pad", "select_n", "integer_pow", "square", "neg", "div",
    "sub", "max", "min", "copy_p",
}
_JOINS = {"add", "mul", "concatenate"}  # worth a row where they join computed values


def rows(graph: Graph, data: tuple[int, ...], root: str = "") -> tuple[Row, ...]:
    """Values that depend on the ``data`` inputs: outputs of leaf modules, named calls, other mathematics; the output comes last."""
    live = set(data)
    for op in graph.ops:
        if live.intersection(op.inputs):
            live.update(op.outputs)
    paths = {op.path for op in graph.ops}
    inner = {p.rsplit("/", k)[0] for p in paths for k in range(1, p.count("/") + 1)} | {"", root}
    chosen: dict[int, tuple[str, str]] = {}
    last: dict[str, int] = {}
    order: dict[int, int] = {}
    called = {value: (path, name) for value, path, name in graph.calls if value in live}
    group: tuple[str, str, str] | None = None  # the library call of the row before, whose later steps replace it
    step = -1
    for k, op in enumerate(graph.ops):
        for value in op.outputs:
            order[value] = k
        value = op.outputs[0]
        if value not in live or not jnp.issubdtype(graph.avals[value].dtype, jnp.floating):
            continue
        if op.path and op.path not in inner:
            last[op.path] = value
        elif op.call:
            if group == (op.path, op.call, op.source):
                chosen.pop(step, None)
            group, step = (op.path, op.call, op.source), value
            chosen[value] = (op.path, op.call)
        elif value in called:
            chosen[value] = called[value]
        elif op.name not in _PLUMBING and (op.name not in _JOINS or len(live.intersection(op.inputs)) > 1):
            chosen[value] = (op.path, op.name)
    for path, value in last.items():
        chosen[value] = (path, "")
    for value, (path, name) in called.items():
        if value in order and (path in inner or path == ""):
            chosen[value] = (path, name)
    return _named(graph, {v: (_below(p, root), op) for v, (p, op) in chosen.items()}, order)


def _below(path: str, root: str) -> str:
    return "" if path == root else path.removeprefix(root + "/")


def _named(graph: Graph, chosen: dict[int, tuple[str, str]], order: dict[int, int]) -> tuple[Row, ...]:
    output = graph.outputs[0]
    picked = sorted((v for v in chosen if v != output), key=lambda v: order[v])
    if output in order:
        picked.append(output)
        chosen.setdefault(output, ("", "output"))
    seen: Counter[str] = Counter()
    made = []
    for value in picked:
        path, op = chosen[value]
        name = "/".join(p for p in (path, op) if p) or "output"
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
        aval = graph.avals[value]
        made.append(Row(value, unique, path, op or path.rsplit("/", 1)[-1], tuple(aval.shape), aval.dtype))
    return tuple(made)
