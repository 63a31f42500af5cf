"""Whether a program treats its examples one by one, so that the kernel of some of them is a part of the kernel of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import numpy as np

from sigprop.engine.rules import elementwise
from sigprop.errors import SigpropError
from sigprop.network import Network
from sigprop.tracing import Graph, Op

_EXAMPLES = 7919  # a prime that no other axis is likely to have as a factor

Shapes = Sequence[tuple[int, ...]]
Axes = Sequence[int | None]


def apart(net: Network, *x: Any) -> bool:
    """Whether every output of the network depends on the input of its own example alone.

    The axis of the examples is followed through the program, with operations that are known to keep examples apart; with any other,
    such as a sum over it or a sort, the answer is no. Data and labels keep examples on axis 0.
    """
    many = jax.tree.map(lambda a: jax.ShapeDtypeStruct((_EXAMPLES, *a.shape[1:]), jax.dtypes.canonicalize_dtype(a.dtype)), x)
    try:
        graph = net.graph(*many)
    except SigpropError:  # made for one number of examples
        return False
    data = graph.inputs[len(graph.inputs) - len(jax.tree.leaves(many)):]
    return _apart(graph, data)


def _apart(graph: Graph, data: Sequence[int]) -> bool:
    axis: dict[int, int] = dict.fromkeys(data, 0)
    shape = {k: tuple(getattr(a, "shape", ())) for k, a in graph.avals.items()}
    if any(_long(np.shape(a)) for a in graph.constants.values()):
        return False
    for op in graph.ops:
        given = [axis.get(k) for k in op.inputs]
        follow = _same if op.name in elementwise.RULES else _FOLLOWED.get(op.name)
        for out in op.outputs:
            if all(a is None for a in given) and not _long(shape[out]):
                continue
            found = None if follow is None else follow(op, given, [shape[k] for k in op.inputs], shape[out])
            if found is None or shape[out][found] % _EXAMPLES:
                return False
            axis[out] = found
    return all(axis.get(k) == 0 and shape[k][:1] == (_EXAMPLES,) for k in graph.outputs)


def _long(shape: tuple[int, ...]) -> list[int]:
    """Axes as long as that of the examples."""
    return [k for k, n in enumerate(shape) if n and n % _EXAMPLES == 0]


def _same(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
    """All operands have the examples on one axis, or none at all."""
    axes = {a for a in given if a is not None}
    alike = all(len(s) == len(out) and s[a] == out[a] for a, s in zip(given, shapes, strict=True) if a is not None)
    return axes.pop() if len(axes) == 1 and alike else None


def _only(given: Axes) -> int | None:
    """The axis of an operation whose first operand alone has examples."""
    return given[0] if all(a is None for a in given[1:]) else None


def _moved(axis: int | None, gone: Sequence[int]) -> int | None:
    return None if axis is None or axis in gone else axis - sum(g < axis for g in gone)


def _reduced(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
    return _moved(_only(given), op.params["axes"])


def _squeezed(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
    return _moved(_only(given), op.params["dimensions"])


def _broadcast(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
    """What is the same for all examples, as zeros to start from, has them from here on."""
    kept = op.params["broadcast_dimensions"]
    if given[0] is not None:
        return kept[given[0]]
    fresh = [k for k in _long(out) if k not in kept or shapes[0][kept.index(k)] == 1]
    return fresh[0] if fresh == _long(out) and len(fresh) == 1 else None


def _transposed(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
    axis = _only(given)
    return None if axis is None else list(op.params["permutation"]).index(axis)


def _reshaped(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
    """Examples vary more slowly than all that their axis is joined with."""
    axis = _only(given)
    before = None if axis is None else prod(shapes[0][:axis])
    return next((k for k in range(len(out)) if prod(out[:k]) == before and out[k] % _EXAMPLES == 0), None)


def _beside(name: str) -> Callable[..., int | None]:
    """Of operations along the axes ``name`` of their parameters, which leave the others alone."""
    def follow(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
        axes, along = {a for a in given if a is not None}, op.params[name]
        return axes.pop() if len(axes) == 1 and not axes & set(along if isinstance(along, tuple | list) else (along,)) else None

    return follow


def _whole(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
    """Slices, padding and windows that take the axis of the examples as it is."""
    axis = _only(given)
    if axis is None or out[axis] != shapes[0][axis]:
        return None
    sizes = [op.params[k][axis] for k in ("window_dimensions", "window_strides", "strides") if op.params.get(k) is not None]
    shifts = [op.params[k][axis] for k in ("padding", "padding_config") if op.params.get(k) is not None]
    return axis if all(s == 1 for s in sizes) and not np.any(shifts) else None


def _product(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
    contracted, batched = op.params["dimension_numbers"]
    sides = [(g, c, b, s) for g, c, b, s in zip(given, contracted, batched, shapes, strict=True)]
    places = {b.index(g) for g, _, b, _ in sides if g is not None and g in b}
    if places:  # a batch axis of both
        return places.pop() if len(places) == 1 and all(g is not None and g in b for g, _, b, _ in sides) else None
    (k, (axis, gone, beside, _)), *others = [(k, s) for k, s in enumerate(sides) if s[0] is not None]
    if others or axis in gone:
        return None
    assert axis is not None
    free = len(beside) + (len(shapes[0]) - len(contracted[0]) - len(batched[0]) if k else 0)
    return free + sum(j < axis for j in range(len(shapes[k])) if j not in gone and j not in beside)


def _convolution(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
    numbers = op.params["dimension_numbers"]
    kept = _only(given) == numbers.lhs_spec[0] and op.params["batch_group_count"] == 1
    return numbers.out_spec[0] if kept else None


def _looked_up(op: Op, given: Axes, shapes: Shapes, out: tuple[int, ...]) -> int | None:
    """Rows of a table that has no examples, at indices that have them."""
    table, index = given
    numbers = op.params["dimension_numbers"]
    if table is not None or index is None or numbers.operand_batching_dims:
        return None
    return [k for k in range(len(out)) if k not in numbers.offset_dims][index]


_FOLLOWED: dict[str, Callable[..., int | None]] = {
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"), _reduced),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "split"), _beside("axis")),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min", "slice", "pad"), _whole),
    "broadcast_in_dim": _broadcast, "squeeze": _squeezed, "transpose": _transposed, "reshape": _reshaped,
    "concatenate": _beside("dimension"), "rev": _beside("dimensions"), "sort": _beside("dimension"),
    "dot_general": _product, "conv_general_dilated": _convolution, "gather": _looked_up,
}
