"""Errors of what is sampled, from predictions repeated with other points.

Errors that are added up along a deep network overstate what it makes of them: a norm divides a signal by its own size, whose error is that
of the signal, and blocks of a residual stream are asked for with errors that have one source. What repetitions differ by is the error
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sigprop.arrays import scaled
from sigprop.engine import Named
from sigprop.errors import SigpropError

TIMES = 3  # repetitions, beside the prediction itself
LOOSE = 0.05  # relative error by sampling, as it is added up, from which it is found by repeating


class SecondMoments(NamedTuple):
    """Of rows in their order, of gradients at them by name, and of those with respect to parameters by path."""

    rows: list[Named]
    row_gradients: Mapping[str, Named | SigpropError]
    parameter_gradients: Mapping[str, Named | SigpropError]


def repeated(first: SecondMoments, again: Callable[[int], SecondMoments]) -> SecondMoments:
    """The same numbers; where errors by sampling add up to more than 5 %, with the standard deviation of repetitions in their place.

    Args:
        again: those predicted with the scrambling of that number, 1 to 3.
    """
    notes = [found.note for found in _known(first)]
    if not all(isinstance(n.error, float) for n in notes) or max((n.error - n.bias for n in notes), default=0.0) <= LOOSE:
        return first
    others = [again(k + 1) for k in range(TIMES)]
    rows = [_observed(found, [o.rows[k] for o in others]) for k, found in enumerate(first.rows)]
    nodes = {name: _observed(g, [o.row_gradients.get(name) for o in others]) for name, g in first.row_gradients.items()}
    leaves = {path: _observed(g, [o.parameter_gradients.get(path) for o in others]) for path, g in first.parameter_gradients.items()}
    return SecondMoments(rows, nodes, leaves)  # type: ignore[arg-type]


def _known(found: SecondMoments) -> list[Named]:
    every = (*found.rows, *found.row_gradients.values(), *found.parameter_gradients.values())
    return [g for g in every if isinstance(g, Named)]


def _observed(first: Named | SigpropError, others: Sequence[Any]) -> Named | SigpropError:
    """With the relative standard deviation among repetitions in place of errors by sampling that were added up."""
    values = [o for o in others if isinstance(o, Named)]
    if isinstance(first, SigpropError) or first.note.error == first.note.bias or not first.array > 0 or len(values) < 2:
        return first
    sizes = [1.0, *(float(scaled(o.array, o.exponent - first.exponent) / first.array) for o in values)]
    return first._replace(note=first.note._replace(error=first.note.bias + float(np.std(sizes, ddof=1))))
