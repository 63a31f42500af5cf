"""Run a flat program on arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any

import jax

from sigprop.tracing.compat import jaxpr_as_fun
from sigprop.tracing.graph import Graph, Op


def apply_op(op: Op, args: Sequence[Any]) -> list[Any]:
    if op.primitive.name in ("jit", "pjit"):
        return list(jaxpr_as_fun(op.params["jaxpr"])(*args))
    out = op.primitive.bind(*args, **op.primitive.get_bind_params(op.params))
    return list(out) if op.primitive.multiple_results else [out]


def evaluate(graph: Graph, leaves: Sequence[Any], watch: Sequence[int] = (),
             added: Mapping[int, Any] = MappingProxyType({}),
             replaced: Mapping[int, Callable[[Any], Any]] = MappingProxyType({})) -> tuple[list[Any], list[Any]]:
    """Outputs and watched values on the flattened inputs; traceable by ``jit``, ``vmap`` and ``grad``.

    Args:
        added: what to add to some values before they are used, to differentiate with respect to them.
        replaced: functions of some values, whose results are used in their place; inputs are taken as they are given.
    """
    env: dict[int, Any] = {**graph.constants, **dict(zip(graph.inputs, leaves, strict=True))}
    for op in graph.ops:
        with jax.named_scope(op.path) if op.path else nullcontext():
            env.update(zip(op.outputs, apply_op(op, [env[i] for i in op.inputs]), strict=True))
        for value in set(op.outputs).intersection(added):
            env[value] = env[value] + added[value]
        for value in set(op.outputs).intersection(replaced):
            env[value] = replaced[value](env[value])
    return [env[o] for o in graph.outputs], [env[w] for w in watch]
