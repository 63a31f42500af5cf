"""Elementwise primitives: linear ones by the graph, any other as a function of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete
from sigprop.engine.interpreter import Context
from sigprop.engine.nodes import Leaf
from sigprop.engine.rules.choice import separated
from sigprop.engine.values import Field, Known, Value, combine, settle
from sigprop.errors import Unsound
from sigprop.tracing import Op, apply_op, on_host

ODD = {"tanh", "sin", "asin", "atan", "sinh", "asinh", "erf", "erf_inv", "atanh", "tan", "cbrt", "sign"}
EVEN = {"cos", "cosh", "abs", "square"}
OTHER = {
    "exp", "exp2", "log", "log1p", "expm1", "logistic", "sqrt", "rsqrt", "erfc", "integer_pow", "pow", "max", "min", "select_n",
    "clamp", "floor", "ceil", "round", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "xor", "is_finite", "acos", "acosh",
    "lgamma", "digamma", "atan2", "nextafter", "rem", "bessel_i0e", "bessel_i1e",
}


def same(context: Context, op: Op, value: Value, *_: Value) -> Sequence[Value]:
    return [value]


def convert(context: Context, op: Op, value: Field) -> Sequence[Value]:
    if jnp.issubdtype(op.params["new_dtype"], jnp.floating):  # bfloat16 too, which NumPy does not count
        return [value] if not _boolean(value) else elementwise(context, op, value)
    return elementwise(context, op, value)


def _boolean(value: Field) -> bool:
    return getattr(value.node, "name", "") in {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "xor", "is_finite"}


def add(context: Context, op: Op, *values: Value) -> Sequence[Value]:
    dims, children, axes = combine(context.pool, values)
    return [settle(context.pool.add(children, dims), dims, axes)]


def sub(context: Context, op: Op, left: Value, right: Value) -> Sequence[Value]:
    return add(context, op, left, _negative(context, right))


def _negative(context: Context, value: Value) -> Value:
    if isinstance(value, Known):
        return Known(-value.array, value.note)
    return mul(context, None, value, Known(np.asarray(-1.0)))[0]


def neg(context: Context, op: Op, value: Value) -> Sequence[Value]:
    return [_negative(context, value)]


def mul(context: Context, op: Op | None, *values: Value) -> Sequence[Value]:
    dims, children, axes = combine(context.pool, values)
    return [settle(context.pool.mul(children, dims), dims, axes)]


def div(context: Context, op: Op, left: Value, right: Value) -> Sequence[Value]:
    if isinstance(right, Known):
        with np.errstate(divide="ignore"):
            return mul(context, op, left, Known(1.0 / right.array, right.note))
    inverse = mapped(context, "reciprocal", _reciprocal, [right], ("reciprocal",), "odd")
    return mul(context, op, left, inverse)


def _reciprocal(u: Any) -> Any:
    with np.errstate(divide="ignore"):
        return 1.0 / u


def select(context: Context, op: Op, which: Value, *cases: Value) -> Sequence[Value]:
    """A known predicate masks; a dropout mask multiplies; anything else is a function of the predicate's variables, times the others."""
    if isinstance(which, Known) and len(cases) != 2:
        return elementwise(context, op, which, *cases)
    if isinstance(which, Known):
        chosen = Known(which.array.astype(float))
    elif isinstance(which, Field) and _dropout(which):
        chosen = which
    else:
        return [separated(context, which, cases, *_function(op))]
    one = Known(np.asarray(1.0))
    other = sub(context, op, one, chosen)[0] if isinstance(chosen, Field) else Known(1.0 - chosen.array)
    return add(context, op, *mul(context, op, other, _zeros(cases[0])), *mul(context, op, chosen, _zeros(cases[1])))


def _zeros(value: Value) -> Value:
    """Infinite fillers (masked logits) would give 0 * inf."""
    if isinstance(value, Known) and isinstance(value.array, np.ndarray | np.generic):
        return Known(np.nan_to_num(np.asarray(value.array)), value.note)
    return value


def _dropout(value: Field) -> bool:
    children = getattr(value.node, "children", ((value.node, ()),))
    return any(isinstance(n, Leaf) and n.family == "bernoulli" for n, _ in children)


def elementwise(context: Context, op: Op, *values: Value) -> Sequence[Value]:
    parity = "odd" if op.name in ODD else "even" if op.name in EVEN else None
    if op.name == "integer_pow" and op.params["y"] == 2:
        return mul(context, op, *values, *values)
    if op.name == "integer_pow":
        parity = "odd" if op.params["y"] % 2 else "even"
    function, static = _function(op)
    return [mapped(context, op.name, function, values, static, parity)]


def _function(op: Op) -> tuple[Callable[..., Any], Any]:
    """The operation on arrays, and a key under which it is remembered."""
    def function(*args: Any) -> Any:
        if all(map(concrete, args)):
            return on_host(op, args)[0]
        arrays = jnp.broadcast_arrays(*[jnp.asarray(a) for a in args])
        floats = [a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)]
        kind = jnp.result_type(*floats) if floats else None
        arrays = [a.astype(kind) if jnp.issubdtype(a.dtype, jnp.floating) else a for a in arrays]
        return apply_op(op, arrays)[0]

    return function, tuple(sorted((k, str(v)) for k, v in op.params.items()))


def square(context: Context, op: Op, value: Value) -> Sequence[Value]:
    return mul(context, op, value, value)  # as a product, whose moments of sums expand exactly


def mapped(context: Context, name: str, function: Any, values: Sequence[Value], key: Any, parity: str | None) -> Value:
    pool = context.pool
    dims, children, axes = combine(pool, values)
    if len(children) == 1 and pool.means.order(children[0][0]):  # a vanishing field: its function is constant to leading order
        at_zero, *beside = (np.asarray(function(np.asarray(v))) for v in (0.0, 1e-9, -1e-9))
        if not np.allclose(beside, at_zero, atol=1e-6):
            raise Unsound(f"{name} jumps at zero and is applied to a mean over channels that vanishes as the width grows")
        if at_zero != 0:
            return settle(pool.const(at_zero, ()), (), tuple(() for _ in axes)) if not dims else _constant(at_zero, axes)
        return Known(np.zeros([int(np.prod([f.size for f in a])) for a in axes]))
    node = pool.map(name, function, children, dims, key, parity)
    return settle(node, dims, axes)


def _constant(number: np.ndarray, axes: Any) -> Value:
    return Known(np.broadcast_to(number, [int(np.prod([f.size for f in a])) for a in axes]))


RULES = {
    **dict.fromkeys(ODD | EVEN | OTHER, elementwise),
    "square": square, "select_n": select, "add": add, "add_any": add, "sub": sub, "neg": neg, "mul": mul, "div": div,
    "convert_element_type": convert, "copy": same, "copy_p": same, "stop_gradient": same, "reduce_precision": same,
    "optimization_barrier": same, "name": same,
}
