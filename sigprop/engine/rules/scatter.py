"""Writing a block of an array at a known place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sigprop.engine.build import concrete
from sigprop.engine.interpreter import Context
from sigprop.engine.rules.contract import expand, permute, product_sum
from sigprop.engine.rules.elementwise import add
from sigprop.engine.rules.shape import mul_any, window_axis
from sigprop.engine.values import Known, Value
from sigprop.errors import MissingRule
from sigprop.tracing import Op


def scatter(context: Context, op: Op, target: Value, indices: Value, block: Value) -> Sequence[Value]:
    """``target.at[i, j].set(block)`` and ``.add`` for one block at indices known when the model is traced."""
    numbers = op.params["dimension_numbers"]
    if op.name == "scatter-add" and _gathers_backward(op, target, indices):
        return _spread(context, op, target, indices, block)
    if not isinstance(indices, Known) or not concrete(indices.array) or np.ndim(indices.array) != 1 or numbers.operand_batching_dims:
        raise MissingRule("writing into an array at several places, or at places that are not known when the model is traced")
    block = expand(block, numbers.inserted_window_dims)
    start = dict.fromkeys(range(len(target.shape)), 0)
    start.update(zip(numbers.scatter_dims_to_operand_dims, (int(i) for i in indices.array), strict=True))
    inside = np.ones((1,) * len(target.shape), np.float32)
    for axis, low in start.items():
        size, width = target.shape[axis], block.shape[axis]
        if not 0 <= low <= size - width:
            raise MissingRule(f"writing {width} entries at {low} of an axis of {size}: out of bounds")
        if width == size:
            continue
        table = np.full(size, -1)
        table[low:low + width] = np.arange(width)
        block = window_axis(context, block, axis, table)
        inside = inside * (table >= 0).reshape([-1 if a == axis else 1 for a in range(len(target.shape))])
    if op.name == "scatter":
        target = mul_any(context, target, Known((1 - inside).astype(np.float32)))
    return add(context, op, target, block)


def _gathers_backward(op: Op, target: Value, indices: Value) -> bool:
    """Whether entries are added to the first axis at many known places, as the gradient of a look-up is."""
    numbers = op.params["dimension_numbers"]
    return (isinstance(indices, Known) and concrete(indices.array) and np.ndim(indices.array) > 1 and indices.shape[-1] == 1
            and tuple(numbers.inserted_window_dims) == (0,) == tuple(numbers.scatter_dims_to_operand_dims)
            and not numbers.operand_batching_dims)


def _spread(context: Context, op: Op, target: Value, indices: Value, block: Value) -> Sequence[Value]:
    """A product with the matrix that says which entry goes where; entries out of bounds are dropped, as JAX does."""
    assert isinstance(indices, Known)
    batch = len(indices.shape) - 1
    kept = op.params["dimension_numbers"].update_window_dims
    block = permute(block, [k for k in range(len(block.shape)) if k not in kept] + list(kept))
    where = indices.array[..., 0]
    places = np.arange(target.shape[0]).reshape(-1, *[1] * batch) == where
    weights = Known(places.astype(np.float64).reshape(*places.shape, *[1] * (len(block.shape) - batch)))
    return add(context, op, target, product_sum(context, weights, expand(block, [0]), range(1, 1 + batch)))


RULES: dict[str, Any] = {"scatter": scatter, "scatter-add": scatter}
