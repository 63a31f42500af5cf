"""Random generators: each draw is a leaf, known by its key, so that equal keys are the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from sigprop.arrays import concrete, is_key
from sigprop.engine import draws
from sigprop.engine.draws import Draw
from sigprop.engine.interpreter import Context
from sigprop.engine.rules.elementwise import add
from sigprop.engine.rules.shape import concatenate, regroup
from sigprop.engine.values import Field, Known, Value, drawn
from sigprop.errors import MissingRule
from sigprop.tracing import Op


def _wraps(jaxpr: Any, name: str) -> bool:
    """Whether a function of this name calls another one of the same name: then it is the user's, around that of ``jax.random``."""
    return any(e.params.get("name") == name or _wraps(e.params["jaxpr"], name)
               for e in getattr(jaxpr, "jaxpr", jaxpr).eqns if "jaxpr" in e.params)


def _draw(context: Context, op: Op, key: Value, draw: Draw) -> Sequence[Value]:
    if _wraps(op.params["jaxpr"], op.params["name"]):
        raise MissingRule(f"the function {op.params['name']!r} has the name of a generator of jax.random; rename it")
    if not isinstance(key, Known) or not concrete(key.array):
        raise MissingRule("a random generator whose key is not known when the model is traced")
    out = op.params["jaxpr"].out_avals[0]
    typed = is_key(key.array)
    with jax.ensure_compile_time_eval():
        data = np.asarray(jax.random.key_data(key.array) if typed else key.array)
    mapped = data.shape[:-1]  # a generator mapped over keys: one draw for each, as if in a loop
    if out.shape[:len(mapped)] != mapped:
        raise MissingRule("a random generator mapped over keys along another axis than the first")
    rows = [drawn(context.pool, (draw.family, row.tobytes(), out.shape[len(mapped):], str(out.dtype)), out.shape[len(mapped):], draw)
            for row in data.reshape(-1, data.shape[-1])]
    field = _stacked(context, op, rows, mapped) if mapped else rows[0]
    return [field] if draw.mean == 0 else add(context, op, field, Known(np.asarray(draw.mean)))


def _stacked(context: Context, op: Op, rows: list[Field], mapped: Sequence[int]) -> Field:
    parts = [Field(row.node, ((), *row.axes)) for row in rows]
    joined = concatenate(context, replace(op, params={"dimension": 0}), *parts)[0] if len(parts) > 1 else parts[0]
    assert isinstance(joined, Field)
    return regroup(context, joined, (*mapped, *joined.shape[1:]))


def normal(context: Context, op: Op, key: Value, *_: Value) -> Sequence[Value]:
    return _draw(context, op, key, draws.normal())


def _number(value: Value) -> float:
    if not isinstance(value, Known) or not concrete(value.array) or np.size(value.array) != 1:
        raise MissingRule("a random generator with bounds that vary")
    return float(np.asarray(value.array).reshape(()))


def uniform(context: Context, op: Op, key: Value, low: Value, high: Value) -> Sequence[Value]:
    return _draw(context, op, key, draws.uniform(_number(low), _number(high)))


def truncated_normal(context: Context, op: Op, key: Value, low: Value, high: Value) -> Sequence[Value]:
    return _draw(context, op, key, draws.truncated_normal(_number(low), _number(high)))


def bernoulli(context: Context, op: Op, key: Value, p: Value) -> Sequence[Value]:
    return _draw(context, op, key, draws.bernoulli(_number(p)))


def orthogonal(context: Context, op: Op, key: Value) -> Sequence[Value]:
    """Haar rows or columns: entries have variance 1/max(rows, columns) and become independent as both grow."""
    return _draw(context, op, key, draws.orthogonal(1.0 / max(op.params["jaxpr"].out_avals[0].shape[-2:])))


def laplace(context: Context, op: Op, key: Value) -> Sequence[Value]:
    return _draw(context, op, key, draws.laplace())


def randint(context: Context, op: Op, key: Value, low: Value, high: Value) -> Sequence[Value]:
    return _draw(context, op, key, draws.integers(_number(low), _number(high)))


def gamma(context: Context, op: Op, key: Value, shape: Value) -> Sequence[Value]:
    if "log_space=True" in str(op.params["jaxpr"]):
        raise MissingRule("the logarithm of a gamma variate")
    return _draw(context, op, key, draws.gamma(_number(shape)))


def dependent(context: Context, op: Op, *_: Value) -> Sequence[Value]:
    raise MissingRule("a random permutation or choice: its entries depend on each other")


RULES: dict[str, Any] = {
    "random:normal": normal, "random:uniform": uniform, "random:truncated_normal": truncated_normal,
    "random:bernoulli": bernoulli, "random:orthogonal": orthogonal,
    "random:laplace": laplace, "random:randint": randint, "random:gamma": gamma, "random:permutation": dependent,
    "random:categorical": dependent,
}
