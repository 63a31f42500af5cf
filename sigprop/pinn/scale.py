"""The value of a constant, such as the scale of the inputs, at which two loss terms are equally large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, log
from typing import Any, NamedTuple

from sigprop.engine import RULES
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number
from sigprop.network import Network
from sigprop.pinn.balance import loss_balance
from sigprop.pinn.terms import Terms, check_names

_STEP = 0.05  # in log s, of the slope that turns errors of losses into errors of s


class BalancePoint(NamedTuple):
    """Where two terms balance.

    Attributes:
        value: of the constant.
        error: estimated absolute error of ``value``, from those of the two losses.
        losses: expected losses of all terms there, by name.
    """

    value: float
    error: float
    losses: dict[str, float]


def balance_point(net: Network, terms_of: Callable[[float], Terms], first: str, second: str, low: float = 1e-2, high: float = 1e2,
                  rules: Mapping[str, Any] = RULES) -> BalancePoint:
    """Solve ``E[loss of first](s) = E[loss of second](s)`` for ``s`` between ``low`` and ``high``, by root finding on predictions.

    For the scale of the inputs, ``terms_of(s)`` differentiates ``u(params, s * x)`` along ``x``: derivatives of order ``m`` grow as
    ``s**m`` until the units saturate.

    Args:
        net, rules: as in :func:`sigprop.pinn.loss_balance`.
        terms_of: from a value to the terms.
        first, second: names of the terms.
        low, high: positive ends of the interval.

    Raises:
        InvalidInput, MissingRule, Unsound: as :func:`sigprop.pinn.loss_balance`; for an interval without a balance, with the two ratios.
    """
    from scipy.optimize import brentq  # slow to import

    check_number("low", low, above=0.0)
    check_number("high", high, above=float(low))
    made: dict[float, tuple[float, float]] = {}

    def gap(t: float) -> tuple[float, float]:
        """The log of the ratio of the losses, and its error."""
        if t not in made:
            terms = terms_of(exp(t))
            check_names(terms, (first, second))
            table = loss_balance(net, {name: terms[name] for name in (first, second)}, rules=rules)
            one, two = (table.sel(term=name) for name in (first, second))
            if not (one["loss"] > 0 and two["loss"] > 0):
                raise InvalidInput(f"terms: the loss of {first!r} or {second!r} vanishes at {exp(t):g}; there is no ratio to balance")
            made[t] = (log(float(one["loss"] / two["loss"])), float(one["error"] / one["loss"] + two["error"] / two["loss"]))
        return made[t]

    ends = log(low), log(high)
    ratios = [gap(t)[0] for t in ends]
    if ratios[0] * ratios[1] > 0:
        raise InvalidInput(f"low, high: the loss of {first!r} is {exp(ratios[0]):.3g} times that of {second!r} at {low:g} and "
                           f"{exp(ratios[1]):.3g} times at {high:g}; there is no balance between, or there are two: change the interval")
    t = float(brentq(lambda t: gap(t)[0], *ends, xtol=1e-6, rtol=1e-9))  # type: ignore[arg-type]
    slope = abs(gap(t + _STEP)[0] - gap(t - _STEP)[0]) / (2 * _STEP)
    table = loss_balance(net, terms_of(exp(t)), rules=rules)
    losses = dict(zip(map(str, table["term"].values), map(float, table["loss"].values), strict=True))
    return BalancePoint(exp(t), exp(t) * (gap(t)[1] / slope if slope > 0 else float("inf")), losses)
