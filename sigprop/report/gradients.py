"""Vanishing and exploding gradients, and the layer or the factor per layer that is responsible.

The rule is that of the signal (:mod:`sigprop.report.strength`), on the squared norm of the gradient of one example over the channels: a
factor of 100 between rows of the same sites and the same normalization before them. Pooling and strides, which share a gradient out
among sites, and normalizations, which divide it by the size of their input, start afresh. The head is passed over: it multiplies all
gradients alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from sigprop.report.facts import Facts
from sigprop.report.problems import Problem, power
from sigprop.report.strength import DECADES


class _Row(NamedTuple):
    name: str
    size: float  # log10 of the squared norm over channels
    layers: int  # up to it
    sums: int  # residual ones up to it


def gradients(known: Facts) -> Iterator[Problem]:
    """One verdict each for the stretch where gradients vanish, and explode, most."""
    stretches = [stretch for stretch in _stretches(known) if len(stretch) > 1]
    for kind, sign in (("vanishing-gradient", -1.0), ("exploding-gradient", 1.0)):
        found = [(sign * (row.size - stretch[-1].size), k, stretch) for stretch in stretches for k, row in enumerate(stretch)]
        change, k, stretch = max(found, key=lambda f: f[0], default=(0.0, 0, []))
        if change > DECADES:
            yield _problem(kind, sign, stretch[k:])


def _stretches(known: Facts) -> list[list[_Row]]:
    """Rows that carry signal to a further layer, in program order, by sites and by where their trail starts."""
    trail, probe = known.trail, known.probe
    layers = [trail.name(v) for v in trail.layers]
    sums = {o for op in probe.graph.ops if op.name in ("add", "add_any") and len(trail.operands(op)) > 1 for o in op.outputs}
    out: dict[tuple[int, tuple[int, ...]], list[_Row]] = {}
    passed, added = 0, 0
    for row, size in zip(trail.rows, known.predicted.log10_grad_variance.values, strict=True):
        passed, added = passed + layers.count(row.name), added + (row.value in sums)
        shape = probe.graph.avals[row.value].shape
        if row.value in trail.carrying and len(shape) > 1 and math.isfinite(size) and trail.following(row.value):
            stretch = out.setdefault((trail.start(row.value), shape[1:-1]), [])
            stretch.append(_Row(row.name, float(size) + math.log10(shape[-1]), passed, added))
    return [*out.values()]


def _problem(kind: str, sign: float, stretch: list[_Row]) -> Problem:
    first, last = stretch[0], stretch[-1]
    total, count = first.size - last.size, max(last.layers - first.layers, 1)
    verb = "vanishes" if sign < 0 else "explodes"
    story = (f"The gradient {verb}: the sum of E[g²] over channels goes from {power(last.size)} at '{last.name}' back to "
             f"{power(first.size)} at '{first.name}'")
    steps = [(sign * (before.size - after.size), after.name) for before, after in zip(stretch, stretch[1:], strict=False)]
    change, name = max(steps)
    if change > 0.5 * abs(total):
        return Problem(kind, name, f"{story}; '{name}' alone multiplies it by {power(sign * change)}.",
                       f"Multiply the weights of '{name}' by {10 ** (-sign * change / 2):.3g}.")
    if sums := last.sums - first.sums:
        return Problem(kind, first.name, f"{story}; {sums} residual sums multiply it by {power(total / sums)} each.",
                       f"Multiply each residual branch by {sums ** -0.5:.3g}, or normalize what it takes in.")
    return Problem(kind, first.name, f"{story}; {count} layers multiply it by {power(total / count)} each.",
                   f"Multiply the weights of these layers by {10 ** (-total / count / 2):.3g}, or add residual connections.")
