"""The fans that initializers read off the shape of a parameter, and which of them a variance was computed from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import jax
import numpy as np

from sigprop.arrays import is_key
from sigprop.engine.rules import elementwise
from sigprop.network.network import Network
from sigprop.tracing import Graph, counting

# variance times fan of the initializers in use: LeCun, Glorot and He; then uniform in 1/sqrt(fan), and scaled ones
_COMMON, _RARE = (1.0, 2.0), (1 / 3, 1 / 2, 1 / 10, 3.0)
_MODES = ("fan_in", "fan_avg", "fan_out")
_WHOLE = {"reshape", "transpose", "squeeze", "expand_dims", "rev", "convert_element_type", "copy", "copy_p", "stop_gradient"}
_JOINED = {"concatenate", "broadcast_in_dim"}


@dataclass(frozen=True)
class Counted:
    """Fans of a shape.

    Attributes:
        fans: pairs of fan-in and fan-out; several where initializers count different ones for the same shape, none for vectors.
        seen: whether ``variance_scaling`` was called with this shape; else its default axes are assumed.
    """

    fans: tuple[tuple[float, float], ...] = ()
    seen: bool = False


@dataclass(frozen=True)
class Assumption:
    """A variance ``scale / counted`` where the operation asks for ``scale / true``.

    Attributes:
        mode: ``fan_in``, ``fan_avg`` or ``fan_out``.
    """

    mode: str
    scale: float
    counted: float
    true: float


def counted(net: Network) -> list[Counted]:
    """Per parameter leaf what the initializer can have counted: on the shape that it was called with, which Flax reshapes for
    attention and stacks for scanned layers."""
    shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(net.abstract_params)]
    calls: dict[tuple[int, ...], dict[tuple[float, float], None]] = {}
    if net.declared is None:
        shapes = drawn_shapes(net.init_graph)
        with counting() as made:
            jax.eval_shape(lambda key: net.init(key), jax.random.key(0))
        for shape, fans in made:
            calls.setdefault(shape, {})[fans] = None
    return [Counted(tuple(calls[s]), True) if s in calls else Counted(_default(s)) for s in shapes]


def _default(shape: Sequence[int]) -> tuple[tuple[float, float], ...]:
    """As ``variance_scaling`` counts by default: input next to last, output last, the others receptive field."""
    if len(shape) < 2:
        return ()
    field = prod(shape[:-2])
    return ((float(field * shape[-2]), float(field * shape[-1])),)


def assumption(variance: float, family: str, found: Counted, fan_in: float, fan_out: float) -> Assumption | None:
    """Which fan the initializer counted, and that of the operation; ``None`` where neither explains the variance.

    A variance that suits the operation was meant for it, unless an initializer that reads shapes is known to have made it.
    """
    if not 0 < variance < np.inf:
        return None
    true = _by_mode(fan_in, fan_out)
    suits = [(mode, n, n) for mode, n in true.items()]
    reads = [(mode, n, true[mode]) for mode, n in _candidates(found)]
    order = [*reads, *suits] if found.seen and family != "normal" else sorted([*suits, *reads], key=lambda c: _MODES.index(c[0]))
    for scales in (_COMMON, _RARE):
        for mode, number, meant in order:
            scale = next((s for s in scales if abs(variance * number - s) < 1e-3 * s), None)
            if scale is not None:
                return Assumption(mode, scale, number, meant)
    return None


def _by_mode(fan_in: float, fan_out: float) -> dict[str, float]:
    return dict(zip(_MODES, (fan_in, (fan_in + fan_out) / 2, fan_out), strict=True))


def _candidates(found: Counted) -> Iterator[tuple[str, float]]:
    for mode in _MODES:
        numbers = [_by_mode(*fans)[mode] for fans in found.fans]
        yield from ((mode, n) for n in numbers if n > 1 or found.seen)  # else a draw of unit variance, which counts nothing


def drawn_shapes(graph: Graph) -> list[tuple[int, ...]]:
    """Per output of an initializer the shape of the random draw that it is made of, its own where there is none or several differ."""
    made: dict[int, tuple[int, ...]] = {}
    for op in graph.ops:
        if op.name.startswith("random:"):
            mapped = np.ndim(graph.avals[op.inputs[0]]) - (0 if is_key(graph.avals[op.inputs[0]]) else 1)
            made[op.outputs[0]] = graph.avals[op.outputs[0]].shape[mapped:]
        elif op.name in _WHOLE or op.name in _JOINED or op.name in elementwise.RULES:
            shapes = {made[i] for i in op.inputs if i in made}
            if len(shapes) == 1:
                made[op.outputs[0]] = shapes.pop()
    return [made[o] if o in made else tuple(graph.avals[o].shape) for o in graph.outputs]
