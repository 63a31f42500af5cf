"""Verdicts other than on the signal's strength: zeros, epsilons, fans, widths, approximations, disagreement."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import xarray as xr

from sigprop.predict.mismatch import fan_findings
from sigprop.report.facts import Facts
from sigprop.report.problems import Problem, power

_ERROR = 0.02  # relative
_NARROW = 8  # units
_SPREAD = 1.0  # of log E‖h‖⁴/E‖h‖²²


def zeros(known: Facts) -> Iterator[Problem]:
    """Outputs that vanish whatever the draw, and residual branches that do."""
    probe, trail = known.probe, known.trail
    if any(probe.zero(o) for o in probe.graph.outputs if probe.floating(o)):
        row = next((r.name for r in trail.rows if probe.zero(r.value)), "output")
        yield Problem("zero-head", row, f"The output is identically 0: '{row}' starts at zero{_zero_parameter(known, row)}, so that no "
                      "gradient reaches the layers before it at step 0.",
                      f"Give '{row}' kernel_init=jax.nn.initializers.lecun_normal(), or keep the zeros knowingly.")
    for op in probe.graph.ops:
        data = trail.operands(op)
        if op.name not in ("add", "add_any") or len(data) < 2 or all(probe.zero(i) for i in data):
            continue
        for name in (trail.name(i) for i in data if probe.zero(i)):
            yield Problem("zero-branch", name, f"The branch '{name}' starts at zero{_zero_parameter(known, name)}: its block is the "
                          "identity, and only its last factor has a gradient at step 0.",
                          "Nothing to do where this is meant; else give its last kernel or scale a nonzero initializer.")


def _zero_parameter(known: Facts, node: str) -> str:
    own = [name for name, law in known.laws.items()
           if law.mean == 0 and law.variance == 0 and name.startswith(node + "/") and not name.endswith("bias")]
    return f" ({own[0]} = 0)" if own else ""


def epsilons(known: Facts) -> Iterator[Problem]:
    """Normalizations of so small a signal that their epsilon decides the result."""
    for n in known.trail.normalizers:
        if not n.dominated:
            continue
        name = known.trail.name(n.value)
        yield Problem("epsilon", name, f"The normalization '{name}' is dominated by its epsilon: a mean square of "
                      f"{power(n.log10_mean_square)} beside {n.epsilon:.3g} comes out as {n.result:.3g} and not as 1.",
                      f"Set epsilon={power(n.log10_mean_square - 3)} there, or make the weights before it "
                      f"{n.missing:.3g} times larger.")


def mismatches(known: Facts) -> Iterator[Problem]:
    """Initializers that counted other fans than those of the operation, but for backward ones of strided layers, a matter of choice."""
    for finding in fan_findings(known.probe.graph, known.fans, known.laws):
        if finding.cause != "stride":
            yield Problem("fan-mismatch", finding.leaf, finding.sentence, finding.fix)


def narrow(known: Facts) -> Iterator[Problem]:
    """Widths at which one draw differs much from the limit: for ReLU E‖h‖⁴/E‖h‖²² = ∏(1 + 5/n) over the hidden layers."""
    trail, avals = known.trail, known.probe.graph.avals
    widths = {v: avals[v].shape[-1] for v in trail.layers if v not in trail.heads}
    if not widths:
        return
    least = min(widths, key=lambda v: widths[v])
    spread = sum(math.log1p(5 / n) for n in widths.values())
    if widths[least] < _NARROW or spread > _SPREAD:
        layers = f"{len(widths)} hidden layers of width {widths[least]} or more are" if len(widths) > 1 else (
            f"A hidden layer of width {widths[least]} is")
        yield Problem("narrow", trail.name(least), f"{layers} far from infinite width: the mean square of one draw has a standard "
                      f"deviation of about {math.expm1(spread) ** 0.5:.2g} times its mean.",
                      "Judge by averages over many seeds, or widen the layers; depth/width must be small.")


def approximate(known: Facts) -> Iterator[Problem]:
    """Rows whose prediction says of itself that it is approximate."""
    data = known.predicted
    names = data.node.values[["approximation" in str(m) for m in data.method.values]]
    if len(names):
        yield Problem("approximate", str(names[0]), f"From '{names[0]}' on ({len(names)} rows) the prediction treats a field as Gaussian "
                      "that is so only approximately.", "Trust the measured column where the two differ.")
    error = np.asarray(data.error, np.float64)
    names = data.node.values[error > _ERROR * np.asarray(data.second_moment, np.float64)]
    if len(names):
        share = error[list(data.node.values).index(names[0])] / float(data.second_moment.sel(node=names[0]))
        yield Problem("approximate", str(names[0]), f"From '{names[0]}' on ({len(names)} rows) the prediction has an estimated error "
                      f"of {100 * share:.2g} %.", "Trust the measured column where the two differ.")


def disagreement(predicted: xr.Dataset, comparison: xr.Dataset) -> Iterator[Problem]:
    """Rows that neither noise nor finite width explains."""
    for what, before in (("measurement", ""), ("measured gradient", "grad_")):
        nodes = predicted.node.values[comparison[f"{before}flag"].values]
        if len(nodes):
            ratio = power(float(comparison[f"{before}log_ratio"].sel(node=nodes[0])) / np.log(10))
            yield Problem("disagreement", str(nodes[0]), f"From '{nodes[0]}' on ({len(nodes)} rows) the {what} differs from the "
                          f"prediction by more than noise, finite width and the prediction's error explain: ratio {ratio}.",
                          "Measure with more seeds and with wider layers; where it stays, the infinite-width limit does not hold.")


CHECKS = (zeros, epsilons, mismatches, narrow, approximate)
