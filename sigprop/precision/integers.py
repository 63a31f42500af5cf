"""A network whose products and convolutions are those of an 8-bit integer unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sigprop.errors import InvalidInput
from sigprop.network import Network
from sigprop.precision.quantizer import Quantizer
from sigprop.precision.simulate import MOVES, PRODUCTS, check_names, leaves_of, named
from sigprop.tracing import Graph, Op, apply_op

_GIVEN = ("dimension_numbers", "window_strides", "padding", "lhs_dilation", "rhs_dilation", "feature_group_count", "batch_group_count")


class _Integers(NamedTuple):
    """An array as ``scale * integers``: ``scale`` has the axes of ``integers``, of size 1 where it does not vary."""

    integers: Any
    scale: np.ndarray
    signed: bool

    def value(self, dtype: Any) -> Any:
        return self.integers.astype(dtype) * self.scale.astype(dtype)

    def moved(self, op: Op) -> _Integers:
        """After an operation that only moves entries."""
        integers = apply_op(op, [self.integers])[0]
        if self.scale.size == 1:
            return self._replace(integers=integers, scale=self.scale.reshape((1,) * integers.ndim))
        with jax.ensure_compile_time_eval():
            scale = np.asarray(apply_op(op, [jnp.asarray(np.broadcast_to(self.scale, self.integers.shape))])[0], np.float64)
        return self._replace(integers=integers, scale=_without_repeats(scale))


def integer(net: Network, quantizers: Mapping[str, Quantizer]) -> Callable[..., Any]:
    """``apply(params, *x)`` with products and convolutions of what is quantized in 8-bit integers, accumulated in 32 bits.

    All else is computed in the model's dtype on ``scale * integers``. It is :func:`quantized` but for the rounding of float32. Weights may
    have a scale for each output channel, which multiplies the sums; scales that vary along what is summed up have no place there.

    Raises:
        InvalidInput: for floating formats; when it is called, for unknown names, scales that do not fit what they are of or vary within
            the sums of a product, or where no product has both factors quantized.
    """
    for name, q in quantizers.items():
        if q.format.digits is not None:
            raise InvalidInput(f"quantizers: {name} is quantized to {q.format.name}; integer products need int8 or int4")

    def apply(params: Any, *x: Any) -> Any:
        graph, values = net.graph(*x), named(net, *x)
        check_names(values, quantizers)
        by_value = {values[name]: q for name, q in quantizers.items()}
        return jax.tree.unflatten(graph.out_tree, _run(graph, leaves_of(params, x), by_value))

    return apply


def _run(graph: Graph, leaves: Sequence[Any], quantizers: Mapping[int, Quantizer]) -> list[Any]:
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
        if op.name in PRODUCTS and all(isinstance(a, _Integers) for a in held):
            counted += 1
            put(op.outputs[0], _product(op, *held).astype(graph.avals[op.outputs[0]].dtype))
        elif op.name in MOVES and isinstance(held[0], _Integers) and op.outputs[0] not in quantizers:
            env[op.outputs[0]] = held[0].moved(op)
        else:
            for number, value in zip(op.outputs, apply_op(op, [plain(i) for i in op.inputs]), strict=True):
                put(number, value)
    if not counted:
        raise InvalidInput("quantizers: no matrix product or convolution has both factors quantized; see operands(net, x)")
    return [plain(o) for o in graph.outputs]


def _held(q: Quantizer, value: Any) -> _Integers:
    kind, scale = jnp.int8 if q.format.signed else jnp.uint8, np.asarray(q.scale, np.float64)
    integers = q.format.round(value / q.scales(value)).astype(kind)
    return _Integers(integers, scale.reshape((1,) * (value.ndim - scale.ndim) + scale.shape), q.format.signed)


def _without_repeats(scale: np.ndarray) -> np.ndarray:
    """With axes of size 1 where it does not vary."""
    for axis in range(scale.ndim):
        first = scale.take([0], axis)
        scale = first if np.all(scale == first) else scale
    return scale


def _product(op: Op, one: _Integers, two: _Integers) -> Any:
    """Unsigned integers times signed ones in 32 bits, the numbers that an 8-bit unit accumulates."""
    alike = one.signed == two.signed
    left, right = (a.integers if alike else a.integers.astype(jnp.int32) for a in (one, two))
    given = {k: v for k, v in op.params.items() if k in _GIVEN}
    dot = op.name == "dot_general"
    call: Callable[..., Any] = lax.dot_general if dot else lax.conv_general_dilated
    scale = (_dot_scale if dot else _convolution_scale)(op.params["dimension_numbers"], one.scale, two.scale)
    return call(left, right, preferred_element_type=jnp.int32, **given).astype(jnp.float32) * scale.astype(np.float32)


def _dot_scale(numbers: Any, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Of the results, whose axes are the batch's, those of the left factor, and those of the right one."""
    (left_summed, right_summed), (left_batch, right_batch) = numbers
    left, right = (_constant_along(a, axes) for a, axes in ((one, left_summed), (two, right_summed)))
    left_own, right_own = ([k for k in range(a.ndim) if k not in axes] for a, axes in (
        (left, (*left_summed, *left_batch)), (right, (*right_summed, *right_batch))))
    left = left.transpose(*left_batch, *left_own, *left_summed)
    right = right.transpose(*right_batch, *right_own, *right_summed)
    shared, before = len(left_batch), len(left_batch) + len(left_own)
    left = left.reshape(*left.shape[:before], *[1] * len(right_own))
    return left * right.reshape(*right.shape[:shared], *[1] * len(left_own), *right.shape[shared:shared + len(right_own)])


def _convolution_scale(numbers: Any, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Of the results, by the output features that the kernel has scales for."""
    left, feature = _constant_along(one, range(one.ndim)), numbers.rhs_spec[0]
    right = _constant_along(two, [k for k in range(two.ndim) if k != feature])
    shape = [1] * two.ndim
    shape[numbers.out_spec[1]] = right.size
    return left.reshape([1] * two.ndim) * right.reshape(shape)


def _constant_along(scale: np.ndarray, axes: Iterable[int]) -> np.ndarray:
    if any(scale.shape[axis] > 1 for axis in axes):
        raise InvalidInput("scale: varies along an axis that a product sums up, so that it cannot be taken out of sums of integers; give "
                           "activations one scale, and weights one for each output channel")
    return scale
