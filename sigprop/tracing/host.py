"""Deterministic operations on host arrays, in float64 whatever the dtype the model declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from sigprop.arrays import host, is_key
from sigprop.tracing.evaluate import apply_op
from sigprop.tracing.graph import Op

SMOOTH = frozenset({"sqrt", "rsqrt", "cbrt", "square", "integer_pow", "exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic"})
_TYPED = {"while", "cond", "scan"}  # their bodies fix the dtypes of what they carry


def _select(params: dict, which: Any, *cases: Any) -> Any:
    return np.choose(np.asarray(which, int), cases) if len(cases) != 2 else np.where(which, cases[1], cases[0])


def _convert(params: dict, x: Any) -> Any:
    kind = params["new_dtype"]
    return x if jnp.issubdtype(kind, jnp.floating) and np.issubdtype(x.dtype, np.floating) else host(np.asarray(x).astype(kind))


def _broadcast(params: dict, x: Any) -> Any:
    shape = [1] * len(params["shape"])
    for source, target in enumerate(params["broadcast_dimensions"]):
        shape[target] = np.shape(x)[source]
    return np.broadcast_to(np.reshape(x, shape), params["shape"])


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, *args: function(*args)


OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: _plain(function) for name, function in {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "max": np.maximum, "min": np.minimum,
        "exp": np.exp, "exp2": np.exp2, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh, "sin": np.sin,
        "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
        "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "sqrt": np.sqrt,
        "rsqrt": lambda x: 1 / np.sqrt(x), "cbrt": np.cbrt, "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceil": np.ceil,
        "logistic": special.expit, "erf": special.erf, "erfc": special.erfc, "erf_inv": special.erfinv,
        "lgamma": special.gammaln, "digamma": special.digamma, "square": np.square, "is_finite": np.isfinite,
        "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
        "stop_gradient": lambda x: x, "copy": lambda x: x, "copy_p": lambda x: x, "clamp": lambda low, x, high: np.clip(x, low, high),
    }.items()},
    "integer_pow": lambda params, x: np.power(x, float(params["y"])),
    "select_n": _select, "convert_element_type": _convert, "broadcast_in_dim": _broadcast,
    "reduce_precision": lambda params, x: x,
    "reshape": lambda params, x: np.reshape(x, params["new_sizes"]),
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
    "squeeze": lambda params, x: np.squeeze(x, tuple(params["dimensions"])),
    "expand_dims": lambda params, x: np.expand_dims(x, tuple(params["dimensions"])),
}


def on_host(op: Op, arrays: Sequence[Any]) -> list[Any]:
    """Results of ``op`` on concrete arrays; JAX evaluates what has no counterpart in NumPy or SciPy."""
    ordinary = not any(is_key(a) for a in arrays)
    whole = op.name == "integer_pow" and any(np.issubdtype(np.asarray(a).dtype, np.integer) for a in arrays)
    if op.name in OPERATIONS and ordinary and not whole:
        with np.errstate(all="ignore"):
            return [OPERATIONS[op.name](op.params, *map(np.asarray, arrays))]
    if op.name in _TYPED:
        with jax.ensure_compile_time_eval():
            return list(map(host, apply_op(op, [_narrow(a) for a in arrays])))
    params = {k: None if k == "preferred_element_type" else v for k, v in op.params.items()}
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        out = op.primitive.bind(*(a if is_key(a) else jnp.asarray(a) for a in arrays), **params)
        return list(map(host, out if op.primitive.multiple_results else [out]))


def _narrow(array: Any) -> Any:
    double = not is_key(array) and np.asarray(array).dtype == np.float64 and not jax.config.read("jax_enable_x64")
    return np.asarray(array, np.float32) if double else array
