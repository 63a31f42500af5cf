"""A network quantized, multiplied in integers, or executed in another dtype: the same program with other arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sigprop.arrays import is_key
from sigprop.errors import InvalidInput
from sigprop.network import Network, parameter_paths
from sigprop.precision.formats import Format, number_format
from sigprop.precision.quantizer import Quantizer
from sigprop.tracing import Graph, Op, apply_op, evaluate

_MOVES = {"reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "rev", "copy", "stop_gradient"}
_PRODUCTS = {"dot_general", "conv_general_dilated"}


def quantized(net: Network, quantizers: Mapping[str, Quantizer]) -> Callable[..., Any]:
    """``apply(params, *x)`` of the network with rows, parameters and inputs quantized and dequantized where they have quantizers.

    Args:
        quantizers: by name of row, path of parameter, or ``x[0]`` for the first input, as :func:`quantizers` gives them.

    Raises:
        InvalidInput: when it is called, for a name that the network does not have.
    """
    def apply(params: Any, *x: Any) -> Any:
        graph = net.graph(*x)
        outputs, _ = quantized_values(net, quantizers, params, *x)
        return jax.tree.unflatten(graph.out_tree, outputs)

    return apply


def quantized_values(net: Network, quantizers: Mapping[str, Quantizer], params: Any, *x: Any) -> tuple[list[Any], list[Any]]:
    """Outputs and rows of :func:`quantized`, after they are quantized."""
    graph, values = net.graph(*x), _named(net, *x)
    _check(values, quantizers)
    by_value: dict[int, Any] = {values[name]: q for name, q in quantizers.items()}
    leaves = [by_value.get(n, lambda a: a)(jnp.asarray(a)) for n, a in zip(graph.inputs, _leaves(params, x), strict=True)]
    return evaluate(graph, leaves, [row.value for row in net.rows(*x)], replaced=by_value)


def operands(net: Network, *x: Any) -> list[str]:
    """Names of the rows, parameters and inputs that a matrix product or convolution takes as they are, or moved: what an integer unit
    needs quantized."""
    graph = net.graph(*x)
    names = {value: name for name, value in _named(net, *x).items()}
    origin: dict[int, int] = {value: value for value in names}
    found: dict[str, None] = {}
    for op in graph.ops:
        if op.name in _PRODUCTS and all(i in origin for i in op.inputs):
            found.update(dict.fromkeys(names[origin[i]] for i in op.inputs))
        if op.name in _MOVES and op.inputs[0] in origin:
            for o in op.outputs:
                origin.setdefault(o, origin[op.inputs[0]])
    return list(found)


class _Integers(NamedTuple):
    """An array as ``scale * integers``."""

    integers: Any
    scale: float
    signed: bool

    def value(self, dtype: Any) -> Any:
        return self.integers.astype(dtype) * self.scale


def integer(net: Network, quantizers: Mapping[str, Quantizer]) -> Callable[..., Any]:
    """``apply(params, *x)`` with products and convolutions of what is quantized in 8-bit integers, accumulated in 32 bits.

    All else is computed in the model's dtype on ``scale * integers``. It is :func:`quantized` but for the rounding of float32.

    Raises:
        InvalidInput: for floating formats; when it is called, for unknown names, or where no product has both factors quantized.
    """
    for name, q in quantizers.items():
        if q.format.digits is not None:
            raise InvalidInput(f"quantizers: {name} is quantized to {q.format.name}; integer products need int8 or int4")

    def apply(params: Any, *x: Any) -> Any:
        graph, values = net.graph(*x), _named(net, *x)
        _check(values, quantizers)
        by_value = {values[name]: q for name, q in quantizers.items()}
        return jax.tree.unflatten(graph.out_tree, _integer_run(graph, _leaves(params, x), by_value))

    return apply


def _integer_run(graph: Graph, leaves: Sequence[Any], quantizers: Mapping[int, Quantizer]) -> list[Any]:
    env: dict[int, Any] = dict(graph.constants)
    counted = 0

    def plain(number: int) -> Any:
        value = env[number]
        return value.value(graph.avals[number].dtype) if isinstance(value, _Integers) else value

    def put(number: int, value: Any) -> None:
        env[number] = _held(quantizers[number], value) if number in quantizers else value

    for number, leaf in zip(graph.inputs, leaves, strict=True):
        put(number, jnp.asarray(leaf))
    for op in graph.ops:
        held = [env[i] for i in op.inputs]
        if op.name in _PRODUCTS and all(isinstance(a, _Integers) for a in held):
            counted += 1
            put(op.outputs[0], _product(op, *held).astype(graph.avals[op.outputs[0]].dtype))
        elif op.name in _MOVES and isinstance(held[0], _Integers) and op.outputs[0] not in quantizers:
            env[op.outputs[0]] = held[0]._replace(integers=apply_op(op, [held[0].integers, *held[1:]])[0])
        else:
            for number, value in zip(op.outputs, apply_op(op, [plain(i) for i in op.inputs]), strict=True):
                put(number, value)
    if not counted:
        raise InvalidInput("quantizers: no matrix product or convolution has both factors quantized; see operands(net, x)")
    return [plain(o) for o in graph.outputs]


def _held(q: Quantizer, value: Any) -> _Integers:
    kind = jnp.int8 if q.format.signed else jnp.uint8
    return _Integers(q.format.round(value / q.scale).astype(kind), q.scale, q.format.signed)


def _product(op: Op, one: _Integers, two: _Integers) -> Any:
    """Unsigned integers times signed ones in 32 bits, the numbers that an 8-bit unit accumulates."""
    alike = one.signed == two.signed
    left, right = (a.integers if alike else a.integers.astype(jnp.int32) for a in (one, two))
    given = {k: v for k, v in op.params.items() if k in ("dimension_numbers", "window_strides", "padding", "lhs_dilation", "rhs_dilation",
                                                         "feature_group_count", "batch_group_count")}
    call: Callable[..., Any] = lax.dot_general if op.name == "dot_general" else lax.conv_general_dilated
    return call(left, right, preferred_element_type=jnp.int32, **given).astype(jnp.float32) * (one.scale * two.scale)


def executed(net: Network, dtype: Any) -> Callable[..., Any]:
    """``apply(params, *x)`` with every array of the program in a floating dtype, parameters and inputs too.

    Each operation is computed in the model's dtype and rounded to the other one: products of matrices accumulate in float32, as matrix
    units do, and functions are rounded once. What is beyond the largest number is infinite, or NaN in ``float8_e4m3fn``.

    Raises:
        InvalidInput: for integers, an unknown dtype, or one that the platform lacks.
    """
    kind = runnable(dtype)

    def apply(params: Any, *x: Any) -> Any:
        graph = net.graph(*x)
        return jax.tree.unflatten(graph.out_tree, run(graph, _leaves(params, x), kind)[0])

    return apply


def runnable(dtype: Any) -> Format:
    """The floating format of a dtype that the platform has.

    Raises:
        InvalidInput: where it is no floating dtype, or the platform cannot convert to it.
    """
    kind = number_format(dtype)
    if kind.digits is None:
        raise InvalidInput(f"dtype: {kind.name} has no exponent; quantize to it with integer or quantized")
    try:
        jax.block_until_ready(jax.jit(kind.cast)(jnp.ones(1)))
    except Exception as error:
        raise InvalidInput(f"dtype: {kind.name} is not on the platform {jax.default_backend()}: {error}") from error
    return kind


def run(graph: Graph, leaves: Sequence[Any], kind: Format, watch: Sequence[int] = ()) -> tuple[list[Any], list[Any]]:
    """Outputs and watched values of a program whose every floating array is rounded to ``kind``, in the dtype of the program."""
    def rounded(a: Any) -> Any:
        return kind.cast(a) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a

    env: dict[int, Any] = {k: rounded(jnp.asarray(a)) if not is_key(a) else a for k, a in graph.constants.items()}
    env.update((n, rounded(jnp.asarray(a)) if not is_key(a) else a) for n, a in zip(graph.inputs, leaves, strict=True))
    for op in graph.ops:
        values = apply_op(op, [env[i] for i in op.inputs])
        env.update((o, v if is_key(v) else rounded(v)) for o, v in zip(op.outputs, values, strict=True))
    return [env[o] for o in graph.outputs], [env[w] for w in watch]



def _leaves(params: Any, x: tuple[Any, ...]) -> list[Any]:
    return [*jax.tree.leaves(params), *jax.tree.leaves(x)]


def _named(net: Network, *x: Any) -> dict[str, int]:
    """Numbers of the values that may be quantized."""
    graph, paths = net.graph(*x), parameter_paths(net.abstract_params)
    data = {f"x[{k}]": n for k, n in enumerate(graph.inputs[len(paths):])}
    return {**{row.name: row.value for row in net.rows(*x)}, **dict(zip(paths, graph.inputs, strict=False)), **data}


def _check(values: Mapping[str, int], quantizers: Mapping[str, Quantizer]) -> None:
    for name in quantizers:
        if name not in values:
            raise InvalidInput(f"quantizers: {name!r} is no row, parameter or input of the network; there are {list(values)}")
