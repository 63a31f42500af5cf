"""Dying and exploding signals, and the layer or the factor per layer that is responsible.

Judged on predicted statistics as decimal logarithms, so that the verdict stands where the numbers themselves underflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from sigprop.report.facts import Facts
from sigprop.report.problems import Problem, power
from sigprop.report.trail import Step

DECADES = 2.0  # a factor of 100 in mean square between two normalizations


def strength(known: Facts) -> list[Problem]:
    """Dying and exploding signals, and the layer or the factor per layer that is responsible.

    A layer counts where its result, with its scales and bias, has gone wrong and all that the next layers take in has too: a
    normalization or a bounded activation behind it may set things right. A small head is a common choice and harms nothing behind it,
    so that dying is looked for before the last layer.
    """
    trail = known.trail
    out = []
    for kind, sign in (("dying", -1.0), ("exploding", 1.0)):
        candidates = trail.layers if sign > 0 else [v for v in trail.layers if v not in trail.heads]
        changes = {trail.settled(v): min(sign * trail.change(w) for w in (trail.settled(v), *trail.following(v))) for v in candidates}
        changes = {v: c for v, c in changes.items() if math.isfinite(c)}
        worst = max(changes, key=lambda v: changes[v], default=None)
        if worst is not None and changes[worst] > DECADES:
            out.append(_strength(known, kind, worst, sign))
    return out


def _strength(known: Facts, kind: str, value: int, sign: float) -> Problem:
    trail, size = known.trail, known.probe.log10_mean_square
    steps = trail.steps(value)
    total = sum(s.change for s in steps)
    start = trail.start(value)
    origin = "the input" if start in known.probe.inputs else f"'{trail.name(start)}'"
    verb = "dies" if sign < 0 else "explodes"
    story = (f"The signal {verb}: E[z²] goes from {power(size(start))} at {origin} to {power(size(value))} at '{trail.name(value)}'")
    layers = [s for s in steps if s.kind != "sum"]
    sums = [s for s in steps if s.kind == "sum"]
    if sign > 0 and sum(s.change for s in sums) > 0.5 * total:
        factor = sum(s.change for s in sums) / len(sums)
        return Problem(kind, sums[-1].name, f"{story}; {len(sums)} residual sums multiply it by {power(factor)} each.",
                       f"Multiply each residual branch by {len(sums) ** -0.5:.3g}, or start its last kernel at zero: "
                       "kernel_init=jax.nn.initializers.zeros.")
    worst = max(layers, key=lambda s: sign * s.change)
    if sign * worst.change > 0.5 * sign * total:
        return Problem(kind, worst.name, f"{story}; '{worst.name}' alone multiplies it by {power(worst.change)}.",
                       _rescaled(known, [worst]))
    return Problem(kind, trail.name(value), f"{story}; {len(layers)} layers multiply it by "
                   f"{power(median(s.change for s in layers))} each (median).", _rescaled(known, layers))


def _rescaled(known: Facts, steps: Sequence[Step]) -> str:
    """Weights scaled so that the layers keep the mean square: as an initializer where the present law and fan are known."""
    target = f" of '{steps[0].name}'" if len(steps) == 1 else ""
    present = [(scale, scale * 10**-step.change) for step in steps if (scale := _scale(known, step))]
    if not present:
        return f"Multiply the weights{target} by {10 ** (-median(s.change for s in steps) / 2):.3g}."
    now, wanted = (median(column) for column in zip(*present, strict=True))
    return (f"Set the initializer of the kernels{target} to variance {wanted:.3g}/fan-in (now {now:.3g}/fan-in): "
            f'kernel_init=jax.nn.initializers.variance_scaling({wanted:.3g}, "fan_in", "truncated_normal").')


def _scale(known: Facts, step: Step) -> float | None:
    """Variance of a layer's weight times its true fan-in."""
    path = known.probe.producer[step.value].path.split("/")
    for name, fan in known.fans.items():
        module = name.split("/")[:-1]
        if module and path[-len(module):] == module and fan.main and fan.main[0].contracts and known.laws[name].variance > 0:
            return known.laws[name].variance * fan.inner[0]
    return None
