"""Initializers whose assumption differs from what the model does with their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sigprop.errors import InvalidInput, SigpropError
from sigprop.network import Fan, Law, Network, check_network, counted_fans
from sigprop.network.checks import check_choice
from sigprop.predict.findings import CAUSES, Finding, Findings
from sigprop.predict.mismatch import fan_findings
from sigprop.predict.normalizers import Normalizer, normalizers
from sigprop.predict.probe import Probe

CHECKS = ("fans", "epsilons")


def lint(net: Network, *x: Any, checks: Sequence[str] = CHECKS) -> Findings:
    """Every parameter whose initializer counted another fan than that of its operation, or is too small for a normalization's epsilon.

    What an initializer counted is read off its variance, 1/n for LeCun and Glorot, 2/n for He (He et al. 2015, equation 10; Glorot &
    Bengio 2010, equation 12; also n times 1/3, 1/2, 1/10 and 3), where n is the fan-in, the fan-out or their mean that
    ``jax.nn.initializers.variance_scaling`` computed from a shape. Where a variance fits the shape and the operation both, as He for a
    fan twice the true one, it is taken to be right unless ``variance_scaling`` is known to have made it. Zero padding is not held
    against an initializer, and neither is a difference of fans below 10 %.

    Args:
        net: from :func:`sigprop.network`.
        x: inputs, batch on axis 0; by default those that ``net`` was made with.
        checks: ``"fans"``, from the program alone; ``"epsilons"``, which takes a prediction of the signal. What cannot be
            checked, for lack of one or since laws are measured on a module's arrays, is said in ``unchecked``.

    Returns:
        A list of :class:`Finding`, with the factor of the variance and the fix, that prints as a table.

    Raises:
        InvalidInput: for what is not a network or a check, where there are no inputs, or where the model does not run on them.
    """
    x = x or check_network(net).example
    for name in [checks] if isinstance(checks, str) else checks:
        check_choice("checks", name, CHECKS)
    if not x:
        raise InvalidInput("x: fans depend on the operations, give example inputs, lint(net, x)")
    laws = dict(net.laws)
    fans, found, unchecked = counted_fans(net, laws, *x), [], []
    if "fans" in checks:
        found += fan_findings(net.graph(*x), fans, laws)
        unchecked += _measured(fans, laws)
    if "epsilons" in checks:
        try:
            found += epsilon_findings(Probe(net, *x), fans, laws)
        except SigpropError as error:
            unchecked.append(f"normalizations, since the signal cannot be predicted ({error})")
    return Findings.of(found, "; ".join(unchecked))


def _measured(fans: Mapping[str, Fan], laws: Mapping[str, Law]) -> list[str]:
    """Weights whose variance is not exact, so that what the initializer counted cannot be told."""
    paths = [p for p, fan in fans.items() if fan.is_weight and p in laws and laws[p].source == "measured" and np.any(laws[p].variance)]
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return [f"fans of '{paths[0]}'{more}, whose law is measured (give the factory, not a module that it made)"] if paths else []


def epsilon_findings(probe: Probe, fans: Mapping[str, Fan], laws: Mapping[str, Law]) -> Iterator[Finding]:
    """The last weights before each normalization that divides by its epsilon, one finding for each parameter."""
    worst: dict[str, Normalizer] = {}
    users = {use.op.outputs[0]: path for path, fan in fans.items() for use in fan.uses if use.contracts or use.operation == "gather"}
    for n in normalizers(probe):
        for path in _before(probe, n.value, users) if n.live and n.dominated else ():
            if path not in worst or n.ratio < worst[path].ratio:
                worst[path] = n
    for path, n in worst.items():
        where = repr(n.path) if n.path else f"at {n.source}"
        sentence = (f"'{path}' makes a mean square of {10**n.log10_mean_square:.3g} beside an epsilon of {n.epsilon:.3g}: the "
                    f"normalization {where} gives {n.result:.3g} in place of 1, since {CAUSES['epsilon']}.")
        std = float(np.mean(laws[path].variance)) ** 0.5
        fix = (f"Make its weights {n.missing:.4g} times as large, kernel_init=jax.nn.initializers.normal({std * n.missing:.4g}), or start "
               f"the kernels before it larger too: this one's variance times fan-in is {std**2 * fans[path].inner[0]:.3g}.")
        yield Finding(path, "epsilon", n.result, sentence, fix)


def _before(probe: Probe, value: int, users: Mapping[int, str]) -> list[str]:
    """Parameters of the nearest contractions before a value."""
    found, seen, waiting = [], set[int](), [value]
    while waiting:
        here = waiting.pop()
        if here in users:
            found.append(users[here])
        elif here in probe.producer and here not in seen:
            waiting += probe.producer[here].inputs
        seen.add(here)
    return found
