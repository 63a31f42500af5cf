"""Initializers that counted other fans than those of the operation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from sigprop.network import Assumption, Fan, Law
from sigprop.network.parts import parts
from sigprop.predict.findings import CAUSES, Finding
from sigprop.tracing import Graph

_TOLERANCE = 0.1  # of the ratio of fans


def fan_findings(graph: Graph, fans: Mapping[str, Fan], laws: Mapping[str, Law]) -> Iterator[Finding]:
    """One finding for each contracted parameter whose variance comes from another fan than that of its operation.

    A parameter in several operations is right where it is right in one of them, since it cannot be in all.
    """
    live = _live(graph, fans)
    for path, fan in fans.items():
        if not fan.uses or not fan.main[0].contracts or path not in laws:
            continue
        made, pieces = fan.assumption(laws[path]), 1
        if made is not None and made.mode != "fan_in":
            pieces = max(parts(graph, use, live) for use in fan.main)
            made = fan.assumption(laws[path], pieces)
        if made is None or _close(made.counted, made.true) or (made.mode == "fan_in" and _right_somewhere(fan, made)):
            continue
        yield _finding(path, fan, made, pieces)


def _live(graph: Graph, fans: Mapping[str, Fan]) -> set[int]:
    """Values made from what parameters meet: all that depends on data and on a parameter."""
    live = {i for fan in fans.values() for u in fan.uses for k, i in enumerate(u.op.inputs) if k != u.position}
    for op in graph.ops:
        if live.intersection(op.inputs):
            live.update(op.outputs)
    return live


def _close(one: float, other: float) -> bool:
    return abs(one / other - 1) < _TOLERANCE if other else False


def _right_somewhere(fan: Fan, made: Assumption) -> bool:
    return any(_close(made.counted, use.fan_in.inner) for use in fan.main)


def _finding(path: str, fan: Fan, made: Assumption, pieces: int) -> Finding:
    ratio, operation = made.true / made.counted, fan.operation
    cause = _cause(fan, made, pieces)
    why = CAUSES[cause].format(ratio=1 / ratio, parts=pieces, kept=fan.main[0].kept)
    if made.mode == "fan_in":
        story = f"was initialized for {made.counted:.6g} inputs per unit, but its operation ({operation}) adds up {made.true:.6g}"
    else:
        what = "outputs per input" if made.mode == "fan_out" else "inputs and outputs on average"
        story = f"was initialized for {made.counted:.6g} {what}, but its operation ({operation}) has {made.true:.6g}"
    sentence = f"'{path}' {story}: the variance is {'low' if ratio < 1 else 'high'} by {max(ratio, 1 / ratio):.3g}, since {why}."
    fix = (f"Count the true fan: kernel_init=jax.nn.initializers.normal({(made.scale / made.true) ** 0.5:.4g}), that is, weights "
           f"{ratio ** -0.5:.4g} times as large.")
    return Finding(path, cause, ratio, sentence, fix, made.counted, made.true)


def _cause(fan: Fan, made: Assumption, pieces: int) -> str:
    use = fan.main[0]
    p, shape = use.op.params, fan.shape
    if pieces > 1 or (made.mode != "fan_in" and len(fan.main) > 1 and use.fan_out.inner * len(fan.main) <= prod(shape)):
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
