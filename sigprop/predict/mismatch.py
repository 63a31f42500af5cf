"""Initializers that counted other fans than those of the operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod

from sigprop.network import Assumption, Fan, Law
from sigprop.network.parts import parts
from sigprop.predict.findings import CAUSES, Finding
from sigprop.tracing import Graph

_UNSCALED = ("constant", "table", "bernoulli", "randint")  # whose variance comes from no fan
_TOLERANCE = 0.1  # of the ratio of fans


def fan_findings(graph: Graph, fans: Mapping[str, Fan], laws: Mapping[str, Law]) -> Iterator[Finding]:
    """One finding for each contracted parameter whose variance comes from another fan than that of its operation.

    A parameter in several operations is right where it is right in one of them, since it cannot be in all.
    """
    live = _live(graph, fans)
    for path, fan in fans.items():
        if not fan.uses or not fan.main[0].contracts or path not in laws or laws[path].family in _UNSCALED:
            continue
        made, pieces = fan.assumption(laws[path]), 1
        if made is not None and made.mode != "fan_in":
            pieces = max(parts(graph, use, live) for use in fan.main)
            made = fan.assumption(laws[path], pieces)
        if made is not None and not _right(fan, made):
            yield _finding(path, fan, made, max(pieces, _slices(fan)))


def _live(graph: Graph, fans: Mapping[str, Fan]) -> set[int]:
    """Values made from what parameters meet: all that depends on data and on a parameter."""
    live = {i for fan in fans.values() for u in fan.uses for k, i in enumerate(u.op.inputs) if k != u.position}
    for op in graph.ops:
        if live.intersection(op.inputs):
            live.update(op.outputs)
    return live


def _close(one: float, other: float) -> bool:
    return abs(one / other - 1) < _TOLERANCE if other else False


def _right(fan: Fan, made: Assumption) -> bool:
    """Whether the initializer counted the fan of one of the operations; of a product of two parameters either may be the input."""
    if made.mode != "fan_in":
        return _close(made.counted, made.true)
    numbers = [made.true, *(n for u in fan.main for n in ((u.fan_in.inner,) if u.live else (u.fan_in.inner, u.fan_out.inner)))]
    return any(_close(made.counted, n) for n in numbers)


def _slices(fan: Fan) -> int:
    """In how many products on the same data a parameter is used, slice by slice."""
    return max(Counter(u.op.inputs[1 - u.position] for u in fan.main).values())


def _finding(path: str, fan: Fan, made: Assumption, pieces: int) -> Finding:
    ratio, operation = made.true / made.counted, fan.operation
    cause = _cause(fan, made, pieces)
    why = CAUSES[cause].format(ratio=1 / ratio, parts=pieces, kept=fan.main[0].kept)
    if made.mode == "fan_in":
        story = f"was initialized for {made.counted:.6g} inputs per unit, but its operation ({operation}) adds up {made.true:.6g}"
    else:
        what = "outputs per input" if made.mode == "fan_out" else "inputs and outputs on average"
        whose = "each of its parts" if pieces > 1 else "its operation"
        story = f"was initialized for {made.counted:.6g} {what}, but {whose} ({operation}) has {made.true:.6g}"
    sentence = f"'{path}' {story}: the variance is {'low' if ratio < 1 else 'high'} by {max(ratio, 1 / ratio):.3g}, since {why}."
    fix = (f"Count the true fan: kernel_init=jax.nn.initializers.normal({(made.scale / made.true) ** 0.5:.4g}), that is, weights "
           f"{ratio ** -0.5:.4g} times as large.")
    return Finding(path, cause, ratio, sentence, fix, made.counted, made.true)


def _cause(fan: Fan, made: Assumption, pieces: int) -> str:
    use = fan.main[0]
    p, shape = use.op.params, fan.shape
    if pieces > 1 and made.mode != "fan_in":
        return "fused kernel"
    if use.kept < 1 - _TOLERANCE:
        return "mask"
    if use.operation == "conv_general_dilated":
        if made.mode == "fan_in" and prod(p["lhs_dilation"]) > 1:
            return "stride of a transposed convolution"
        if made.mode != "fan_in" and p["feature_group_count"] > 1:
            return "groups"
        return "stride" if made.mode != "fan_in" and prod(p["window_strides"]) > 1 else "other"
    if any(_close(made.true, fan_out) and not _close(made.true, fan_in) for fan_in, fan_out in fan.counted.fans) and len(shape) == 2:
        return "(out, in) kernel"
    return "axes not summed" if len(shape) > 2 else "other"
