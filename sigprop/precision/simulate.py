"""A network quantized, or executed in another dtype: the same program with other arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sigprop.arrays import is_key
from sigprop.errors import InvalidInput
from sigprop.network import Network, check_inputs, parameter_paths
from sigprop.precision.formats import Format, number_format
from sigprop.precision.quantizer import Quantizer
from sigprop.tracing import Graph, apply_op, evaluate

MOVES = {"reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "rev", "copy", "stop_gradient"}
PRODUCTS = {"dot_general", "conv_general_dilated"}


def quantized(net: Network, quantizers: Mapping[str, Quantizer]) -> Callable[..., Any]:
    """``apply(params, *x)`` of the network with rows, parameters and inputs quantized and dequantized where they have quantizers.

    Args:
        quantizers: by name of row, path of parameter, or ``x[0]`` for the first input, as :func:`quantizers` gives them.

    Raises:
        InvalidInput: when it is called, for a name that the network does not have, and for scales that do not fit what they are of.
    """
    def apply(params: Any, *x: Any) -> Any:
        graph = net.graph(*x)
        outputs, _ = quantized_values(net, quantizers, params, *x)
        return jax.tree.unflatten(graph.out_tree, outputs)

    return apply


def quantized_values(net: Network, quantizers: Mapping[str, Quantizer], params: Any, *x: Any) -> tuple[list[Any], list[Any]]:
    """Outputs and rows of :func:`quantized`, after they are quantized."""
    graph, values = net.graph(*x), named(net, *x)
    check_names(values, quantizers)
    by_value: dict[int, Any] = {values[name]: q for name, q in quantizers.items()}
    leaves = [by_value.get(n, lambda a: a)(jnp.asarray(a)) for n, a in zip(graph.inputs, leaves_of(params, x), strict=True)]
    return evaluate(graph, leaves, [row.value for row in net.rows(*x)], replaced=by_value)


def values(net: Network, params: Any, *x: Any) -> dict[str, Any]:
    """What may be quantized, by name: floating parameters, and with inputs ``x`` these (``x[0]``) and all floating rows too.

    Raises:
        InvalidInput: for unusable inputs.
    """
    if not x:
        found = dict(zip(parameter_paths(net.abstract_params), jax.tree.leaves(params), strict=True))
    else:
        check_inputs(x)
        numbers = named(net, *x)
        found = dict(zip(numbers, evaluate(net.graph(*x), leaves_of(params, x), list(numbers.values()))[1], strict=True))
    return {name: a for name, a in found.items() if jnp.issubdtype(jnp.result_type(a), jnp.floating)}


def operands(net: Network, *x: Any) -> list[str]:
    """Names of the rows, parameters and inputs that a matrix product or convolution takes as they are, or moved: what an integer unit
    needs quantized."""
    graph = net.graph(*x)
    names = {value: name for name, value in named(net, *x).items()}
    origin: dict[int, int] = {value: value for value in names}
    found: dict[str, None] = {}
    for op in graph.ops:
        if op.name in PRODUCTS and all(i in origin for i in op.inputs):
            found.update(dict.fromkeys(names[origin[i]] for i in op.inputs))
        if op.name in MOVES and op.inputs[0] in origin:
            for o in op.outputs:
                origin.setdefault(o, origin[op.inputs[0]])
    return list(found)


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
        return jax.tree.unflatten(graph.out_tree, run(graph, leaves_of(params, x), kind)[0])

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


def leaves_of(params: Any, x: tuple[Any, ...]) -> list[Any]:
    return [*jax.tree.leaves(params), *jax.tree.leaves(x)]


def named(net: Network, *x: Any) -> dict[str, int]:
    """Numbers of the values that may be quantized."""
    graph, paths = net.graph(*x), parameter_paths(net.abstract_params)
    data = {f"x[{k}]": n for k, n in enumerate(graph.inputs[len(paths):])}
    return {**{row.name: row.value for row in net.rows(*x)}, **dict(zip(paths, graph.inputs, strict=False)), **data}


def check_names(values: Mapping[str, int], quantizers: Mapping[str, Quantizer]) -> None:
    for name in quantizers:
        if name not in values:
            raise InvalidInput(f"quantizers: {name!r} is no row, parameter or input of the network; there are {list(values)}")
