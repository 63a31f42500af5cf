"""Partial derivatives of elementwise functions of fields, as fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete, host, same_array
from sigprop.engine.elementwise import is_variable
from sigprop.engine.nodes import Add, Const, Map, Mul, Node, Occurrence, placed, whole

if TYPE_CHECKING:
    from sigprop.engine.build import Pool

_POINTS = np.concatenate([np.linspace(-10, 10, 2001), np.geomspace(1e-6, 1e4, 101), -np.geomspace(1e-6, 1e4, 101)])
_BESIDE = (0.3, -1.1, 1.7)  # values of other variables
_HALVINGS = 48


def slopes(pool: Pool, node: Node) -> Iterator[tuple[Occurrence, Occurrence, bool]]:
    """The Gaussian fields that ``node`` is a function of, each with the derivative of ``node`` by it, and whether the function jumps: then
    the derivative has a part that no program computes."""
    inputs: list[Occurrence] = []
    function, key = _composed((node, tuple(range(len(node.dims)))), inputs)
    for k, field in enumerate(inputs):
        if isinstance(field[0], Const):
            continue
        slope = _derivative(function, k)
        made = pool.map("slope", slope, inputs, node.dims, (*key, k), _symmetry(slope) if len(inputs) == 1 else None)
        yield field, whole(made), _jumps(function, k, len(inputs))


def _composed(occurrence: Occurrence, inputs: list[Occurrence]) -> tuple[Callable[..., Any], tuple]:
    """A function of ``inputs``, to which its fields and the constants that vary over dims are added, and a key of its structure."""
    node, index = occurrence
    if is_variable(node) or (isinstance(node, Const) and node.dims):
        if occurrence not in inputs:
            inputs.append(occurrence)
        position = inputs.index(occurrence)
        return (lambda *values: values[position]), ("input", position)
    if isinstance(node, Const):
        return (lambda *values: node.array), ("constant", same_array(node.array))
    assert isinstance(node, Add | Mul | Map)
    parts = [_composed((n, tuple(i)), inputs) for n, i in placed(node.children, index)]
    functions = [f for f, _ in parts]
    head = (node.name, node.key) if isinstance(node, Map) else (type(node).__name__,)

    def function(*values: Any) -> Any:
        args = [f(*values) for f in functions]
        if isinstance(node, Map):
            return node.function(*args)
        return reduce(lambda a, b: a + b if isinstance(node, Add) else a * b, args)

    return function, (*head, *(key for _, key in parts))


def _derivative(function: Callable[..., Any], position: int) -> Callable[..., Any]:
    """By the argument ``position``, on host or traced arrays."""
    def along(*args: Any) -> Any:
        arrays = jnp.broadcast_arrays(*map(jnp.asarray, args))
        return jax.jvp(lambda u: function(*arrays[:position], u, *arrays[position + 1:]), [arrays[position]],
                       [jnp.ones_like(arrays[position])])[1]

    def slope(*args: Any) -> Any:
        if not all(map(concrete, args)):
            return along(*args)
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            return host(along(*args))

    return slope


def _jumps(function: Callable[..., Any], position: int, count: int) -> bool:
    """Whether halving intervals of the argument ``position`` leaves a difference in some."""
    for other in _BESIDE if count > 1 else (0.0,):
        def of(u: np.ndarray, other: float = other) -> np.ndarray:
            return np.broadcast_to(np.asarray(function(*(u if k == position else np.full_like(u, other) for k in range(count))), float),
                                   u.shape)

        low, high = np.sort(_POINTS)[:-1], np.sort(_POINTS)[1:]
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            first = np.abs(of(middle) - of(low)) > np.abs(of(high) - of(middle))
            low, high = np.where(first, low, middle), np.where(first, middle, high)
        gap, size = np.abs(of(high) - of(low)), np.maximum(np.abs(of(high)), np.abs(of(low)))
        if np.any(gap > 1e-6 * (1 + size)):
            return True
    return False


def _symmetry(function: Callable[..., Any]) -> str | None:
    points = _POINTS[_POINTS != 0]  # where a kink may have either slope
    one, other = function(points), function(-points)
    return "even" if np.array_equal(one, other) else "odd" if np.array_equal(one, -other) else None
