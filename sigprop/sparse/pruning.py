"""Iterative magnitude pruning with rewinding (Frankle & Carbin 2019; Frankle et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_choice, check_number, check_whole
from sigprop.network import Network
from sigprop.sparse.masks import by_path, changed, mask, prunable

Train = Callable[[Any, dict[str, Any], int, int], Any]


@dataclass(frozen=True, eq=False)
class Ticket:
    """A round of pruning.

    Attributes:
        round: 0 for the dense network.
        masks: by path what is kept of each kernel in this round.
        start: the parameters that it was rewound to, pruned entries 0.
        trained: after training from there.
    """

    round: int
    masks: dict[str, Any]
    start: Any
    trained: Any

    @property
    def kept(self) -> float:
        """Fraction of all prunable weights."""
        return float(sum(np.sum(m) for m in self.masks.values()) / sum(np.size(m) for m in self.masks.values()))


def iterative_magnitude_pruning(net: Network, train: Train, params: Any, rounds: int, *, fraction: float = 0.2, steps: int = 1000,
                                rewind: int = 0, scope: str = "global", only: Collection[str] | None = None,
                                resume: Ticket | None = None) -> Iterator[Ticket]:
    """Train, leave out the smallest remaining weights, rewind the others, train again.

    Args:
        train: ``train(params, masks, first, last)`` gives the parameters after the steps from ``first`` to ``last``, with what a mask
            leaves out kept at 0, as :func:`sigprop.sparse.masked` does; the same steps see the same minibatches.
        params: initial parameters.
        rounds: of pruning, after the dense network.
        fraction: of the remaining weights that a round leaves out.
        steps, rewind: of training in each round, and the one that the weights are rewound to.
        scope: ``"global"`` or ``"layer"``: what magnitudes are compared with.
        only: paths of the kernels to prune, all by default.
        resume: a ticket of an earlier run with the same arguments, to go on after it.

    Yields:
        :class:`Ticket`, the dense network first; after each one the run can be left and resumed.

    Raises:
        InvalidInput: for numbers out of range, and where a round would empty a layer.
    """
    check_whole("rounds", rounds, 0)
    check_whole("steps", steps)
    check_whole("rewind", rewind, 0)
    check_number("fraction", fraction, high=1.0, above=0.0)
    check_choice("scope", scope, ("layer", "global"))
    if rewind >= steps:
        raise InvalidInput(f"rewind: {rewind} given; it must be below steps, {steps}")
    if fraction == 1:
        raise InvalidInput("fraction: 1 leaves no weight")
    paths = prunable(net, only)
    dense = {path: jnp.ones(net.laws.shapes[path], bool) for path in paths}
    start = train(params, dense, 0, rewind) if rewind else params
    if resume is None:
        resume = Ticket(0, dense, start, train(start, dense, rewind, steps))
        yield resume
    ticket = resume
    for number in range(ticket.round + 1, rounds + 1):
        masks = _pruned(ticket, fraction, scope)
        first = changed(lambda path, w, kept=masks: jnp.where(kept[path], w, 0) if path in kept else w, start)
        ticket = Ticket(number, masks, first, train(first, masks, rewind, steps))
        yield ticket


def _pruned(ticket: Ticket, fraction: float, scope: str) -> dict[str, Any]:
    """What remains after leaving out ``fraction`` of the smallest weights that are left."""
    weights = by_path(ticket.trained)
    scores = {path: np.where(m, np.abs(np.asarray(weights[path], np.float64)), -1.0) for path, m in ticket.masks.items()}
    if scope == "global":
        return mask(scores, ticket.kept * (1 - fraction), "global")
    return {path: mask({path: s}, float(np.mean(ticket.masks[path])) * (1 - fraction))[path] for path, s in scores.items()}
