"""Writing a block of an array at a known place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sigprop.engine.build import concrete
from sigprop.engine.interpreter import Context
from sigprop.engine.rules.contract import expand
from sigprop.engine.rules.elementwise import add
from sigprop.engine.rules.shape import mul_any, window_axis
from sigprop.engine.values import Known, Value
from sigprop.errors import MissingRule
from sigprop.tracing import Op


def scatter(context: Context, op: Op, target: Value, indices: Value, block: Value) -> Sequence[Value]:
    """``target.at[i, j].set(block)`` and ``.add`` for one block at indices known when the model is traced."""
    numbers = op.params["dimension_numbers"]
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


RULES: dict[str, Any] = {"scatter": scatter, "scatter-add": scatter}
