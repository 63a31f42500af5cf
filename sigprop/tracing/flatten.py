"""From a function to a flat program."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from sigprop.tracing.compat import Literal, library_call, name_stack, user_source
from sigprop.tracing.graph import Graph, Op

RANDOM = {
    "_normal": "normal", "_normal_real": "normal", "_uniform": "uniform", "_truncated_normal": "truncated_normal",
    "_bernoulli": "bernoulli", "_orthogonal": "orthogonal", "_shuffle": "permutation", "_randint": "randint",
    "_categorical": "categorical", "_gamma": "gamma", "_laplace": "laplace",
}
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_UNNAMED = {"", "<lambda>", "_where", "clip", "wrapped", "fn", "f", "g"}


def trace(function: Callable[..., Any], *args: Any, keep: Collection[str] = ()) -> Graph:
    """Flatten ``function(*args)``; ``args`` are pytrees of arrays or ``jax.ShapeDtypeStruct``.

    Args:
        keep: call-like primitives that stay whole, such as those with derivative rules of their own.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    walker = _Walker(keep)
    inputs = [walker.fresh(v.aval) for v in closed.jaxpr.invars]
    outputs = walker.walk(closed.jaxpr, closed.consts, inputs, "")
    ops = _alive(walker.ops, outputs)
    used = {i for op in ops for i in op.inputs} | set(outputs) | set(inputs)
    constants = {k: v for k, v in walker.constants.items() if k in used}
    made = used | {o for op in ops for o in op.outputs}
    calls = tuple(c for c in walker.calls if c[0] in made)
    return Graph(tuple(ops), walker.avals, constants, tuple(inputs), tuple(outputs), calls, jax.tree.structure(shape))


def _alive(ops: Sequence[Op], outputs: Sequence[int]) -> list[Op]:
    needed = set(outputs)
    kept = []
    for op in reversed(ops):
        if needed.intersection(op.outputs):
            needed.update(op.inputs)
            kept.append(op)
    return kept[::-1]


def _numbered(path: str) -> str:
    """``blocks[3]/Dense_0`` for what step 3 of a scan does in ``blocks/Dense_0``."""
    return re.sub(r"/?\[(\d+)\]$", r"[\1]", re.sub(r"\[(\d+)\]/([^/]+)", r"\2[\1]", path))


def _label(params: dict[str, Any], body: Any) -> str:
    """Name of a called function: its own, or that of the call that is all it does."""
    name = params.get("name", "")
    if not name and len(body.eqns) == 1:
        name = body.eqns[0].params.get("name", "")
    return name if isinstance(name, str) else ""


class _Walker:
    def __init__(self, keep: Collection[str] = ()) -> None:
        self.keep = keep
        self.ops: list[Op] = []
        self.avals: dict[int, Any] = {}
        self.constants: dict[int, Any] = {}
        self.calls: list[tuple[int, str, str]] = []
        self.caller = "unknown"  # the user's line of the enclosing call, where a library's inner jaxpr has none
        self.inside = ""  # the library's function whose steps these are

    def fresh(self, aval: Any) -> int:
        self.avals[len(self.avals)] = aval
        return len(self.avals) - 1

    def constant(self, value: Any, aval: Any) -> int:
        number = self.fresh(aval)
        self.constants[number] = value
        return number

    def walk(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[int], path: str) -> list[int]:
        env: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.constant(value, var.aval)

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self.constant(np.asarray(atom.val, getattr(atom.aval, "dtype", None)), atom.aval)
            return env[atom]

        for equation in jaxpr.eqns:
            here = "/".join(p for p in (path, name_stack(equation)) if p)
            values = self.equation(equation, [read(a) for a in equation.invars], here)
            env.update(zip(equation.outvars, values, strict=True))
        return [read(a) for a in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[int], path: str) -> list[int]:
        name, params = equation.primitive.name, equation.params
        called = params.get("name", "")
        if name in ("jit", "pjit") and called in RANDOM:
            return self.emit(f"random:{RANDOM[called]}", equation, inputs, path)
        if name == "scan":
            return self.scan(params, inputs, path)
        if name == "cond":
            chosen = self.constants.get(inputs[0])
            if chosen is not None:
                branch = params["branches"][int(np.clip(chosen, 0, len(params["branches"]) - 1))]
                return self.walk(branch.jaxpr, branch.consts, inputs[1:], path)
        if name == "platform_index":
            return [self.constant(np.int32(len(params["platforms"]) - 1), equation.outvars[0].aval)]
        inner = next((params[k] for k in _INNER if k in params), None)
        if inner is None or name == "while":
            return self.emit(name, equation, inputs, path)
        body, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
        label = "" if self.inside else _label(params, body)
        outer, own = (self.caller, self.inside), user_source(equation)
        self.caller = self.caller if own == "unknown" else own
        self.inside = self.inside or library_call(equation) or (label if hasattr(jax.nn, label) else "")
        whole = name in self.keep
        outputs = self.emit(name, equation, inputs, path) if whole else self.walk(body, consts, inputs, path)
        self.caller, self.inside = outer
        if label and not label.startswith("_") and label not in _UNNAMED and len(outputs) == 1:
            self.calls.append((outputs[0], _numbered(path), label))
        return outputs

    def emit(self, name: str, equation: Any, inputs: Sequence[int], path: str) -> list[int]:
        outputs = [self.fresh(v.aval) for v in equation.outvars]
        own = user_source(equation)
        source = self.caller if own == "unknown" else own
        self.ops.append(Op(name, equation.primitive, equation.params, tuple(inputs), tuple(outputs), _numbered(path), source,
                           self.inside or library_call(equation)))
        return outputs

    def inline(self, function: Callable[..., Any], inputs: Sequence[int], path: str) -> list[int]:
        closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(self.avals[i].shape, self.avals[i].dtype) for i in inputs))
        return self.walk(closed.jaxpr, closed.consts, inputs, path)

    def scan(self, params: dict[str, Any], inputs: list[int], path: str) -> list[int]:
        """Unroll: the length is static, and each step may meet other weights."""
        n, m = params["num_consts"], params["num_carry"]
        consts, carry, xs = inputs[:n], inputs[n:n + m], inputs[n + m:]
        steps = range(params["length"])[::-1] if params["reverse"] else range(params["length"])
        body, ys = params["jaxpr"], {}
        for step in steps:
            slices = [self.inline(lambda a, step=step: lax.index_in_dim(a, step, keepdims=False), [x], path)[0] for x in xs]
            out = self.walk(body.jaxpr, body.consts, [*consts, *carry, *slices], f"{path}/[{step}]".lstrip("/"))
            carry, ys[step] = out[:m], out[m:]
        stacked = []
        for k in range(len(params["jaxpr"].jaxpr.outvars) - m):
            rows = [ys[step][k] for step in range(params["length"])]
            stacked += self.inline(lambda *a: lax.concatenate([lax.expand_dims(v, (0,)) for v in a], 0), rows, path)
        return [*carry, *stacked]
