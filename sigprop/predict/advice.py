"""Settings of Adam read off the second moments that it will hold: epsilon, learning rate and warm-up, parameter by parameter."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import inf, log, nan
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number
from sigprop.predict.adam import LeafMoment, SecondMoments
from sigprop.predict.optimizers import Optimizer
from sigprop.types import METHODS


class LeafAdvice(NamedTuple):
    """Advice for one parameter; NaN where its gradient is not predicted.

    Attributes:
        epsilon: the largest for which the first update keeps ``1 - shrink`` of the root mean square that it has without one; 0 where no
            gradient reaches the parameter.
        learning_rate: the largest for which the first update is ``update_ratio`` of the weights; infinite where they start at zero, and
            where nothing moves them.
        spread: relative standard deviation of ``nu_hat`` after one step, over minibatches.
        warmup: steps after which that is at most ``spread`` of the advice; 1 where minibatches hardly differ, infinite where the
            memory of ``b2`` is too short for it.
    """

    epsilon: float
    learning_rate: float
    spread: float
    warmup: float


@dataclass(frozen=True)
class Advice(Mapping[str, LeafAdvice]):
    """What :func:`adam_advice` returns: a mapping by path, which prints as a table.

    Attributes:
        leaves: by path.
        epsilon, learning_rate, warmup: one for all parameters: the smallest, the smallest and the largest of theirs; NaN where none is
            predicted.
        untuned_warmup: ``2 / (1 - b2)`` steps, the rule of thumb of Ma & Yarats (2021), which no gradient enters.
    """

    leaves: Mapping[str, LeafAdvice] = field(repr=False)
    epsilon: float
    learning_rate: float
    warmup: float
    untuned_warmup: float

    def __getitem__(self, path: str) -> LeafAdvice:
        return self.leaves[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=140, color_system=None, force_terminal=False).print(self.__rich__())
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())

    def __rich__(self) -> Table:
        title = (f"epsilon <= {self.epsilon:.2e}, lr <= {self.learning_rate:.2e}, warm-up {self.warmup:g} steps "
                 f"(untuned: {self.untuned_warmup:g})")
        table = Table(title=title, title_justify="left", header_style="bold", min_width=len(title))
        for name in ("parameter", "epsilon", "learning rate", "spread of nu_hat", "warm-up"):
            table.add_column(name, justify="left" if name == "parameter" else "right", no_wrap=True)
        for path, leaf in self.leaves.items():
            table.add_row(path, f"{leaf.epsilon:.2e}", f"{leaf.learning_rate:.2e}", f"{leaf.spread:.2f}", f"{leaf.warmup:g}")
        return table

    __repr__ = __str__


def adam_advice(moments: SecondMoments, *, update_ratio: float = 1e-3, shrink: float = 0.01, spread: float = 0.05) -> Advice:
    """Epsilon, learning rate and length of warm-up for every parameter, from its predicted second moments.

    Epsilon is found on the first update, ``g / (|g| + eps)``, for gradients that are products of three independent normal numbers
    (forward, backward, and derivative of the loss): those of a kernel for one example and one output, of which more lies near zero than
    of a sum over examples, so that these lose less. The learning rate scales the first update to a
    share of the weights; ``update_ratio`` is the caller's choice (LAMB, You et al. 2020, makes it the same for all layers). Warm-up lasts
    until the denominator is known. While the parameters stay, gradients of minibatches are ``g + noise`` with a share ``p`` of noise in
    ``nu``, so that ``g_B²`` has relative variance ``2 p (2 - p)`` over minibatches for normal ``g`` and noise, and that of ``nu_hat``
    is ``2 p (2 - p) (1 - b2)/(1 + b2) (1 + b2^t)/(1 - b2^t)`` after ``t`` steps. RAdam (Liu et al. 2020, section 4) takes ``p = 1``.

    Args:
        moments: from :func:`sigprop.adam_second_moment` for ``adam`` or ``adamw``, with the ``batch_size`` of training: without one
            there is no noise and nothing to wait for.
        update_ratio: root mean square of the first update over that of the weights, above 0.
        shrink: share of the first update that epsilon may take, in (0, 1).
        spread: relative standard deviation of ``nu_hat`` at which warm-up ends, above 0.

    Raises:
        InvalidInput: for another optimizer, and numbers out of range.
    """
    if not isinstance(moments, SecondMoments):
        raise InvalidInput(f"moments: {type(moments).__name__} given; it is what sp.adam_second_moment returns")
    if moments.optimizer.name not in ("adam", "adamw"):
        raise InvalidInput(f"moments: those of {moments.optimizer.name}; the advice is for adam and adamw")
    check_number("update_ratio", update_ratio, above=0.0)
    check_number("spread", spread, above=0.0)
    check_number("shrink", shrink, above=0.0)
    if shrink >= 1:
        raise InvalidInput(f"shrink: {shrink!r} given; it must be below 1")
    leaves = {path: _leaf(leaf, moments.optimizer, update_ratio, shrink, spread) for path, leaf in moments.items()}
    known = [leaf for leaf in leaves.values() if not np.isnan(leaf.epsilon)]
    fed = [leaf.epsilon for leaf in known if leaf.epsilon > 0]
    return Advice(leaves, min(fed, default=nan), min((leaf.learning_rate for leaf in known), default=nan),
                  max((leaf.warmup for leaf in known), default=nan), 2 / (1 - moments.optimizer["b2"]))


def _leaf(leaf: LeafMoment, rule: Optimizer, update_ratio: float, shrink: float, spread: float) -> LeafAdvice:
    if leaf.method not in METHODS:
        return LeafAdvice(nan, nan, nan, nan)
    if not leaf.second_moment > 0:
        return LeafAdvice(0.0, inf, 0.0, 1.0)
    share = leaf.noise / leaf.second_moment
    variance = 2 * share * (2 - share)
    rate = rule["lr"] * update_ratio / leaf.relative_update if 0 < leaf.relative_update < inf else inf
    return LeafAdvice(_epsilon(leaf.entries, shrink), rate, variance**0.5, _warmup(variance, rule["b2"], spread))


@cache
def _product() -> tuple[np.ndarray, np.ndarray]:
    """Values and probabilities of ``|z1 z2 z3|`` for independent standard normal ``z``, by convolution of their logarithms."""
    step = 0.02
    t = np.arange(-30.0, 3.0, step)
    density = np.sqrt(2 / np.pi) * np.exp(t - np.exp(2 * t) / 2) * step
    law = np.convolve(np.convolve(density, density), density)
    values = np.exp(3 * t[0] + step * np.arange(law.size))
    keep = law > 1e-18
    return values[keep], law[keep]


def _epsilon(entries: np.ndarray, shrink: float) -> float:
    """The largest for which ``E[(|g| / (|g| + eps))²]`` is at least ``(1 - shrink)²`` on average over entries of given E[g²]."""
    from scipy.optimize import brentq  # slow to import

    squares, counts = np.unique(entries[entries > 0], return_counts=True)
    scale = float(np.sqrt(np.average(squares, weights=counts)))
    z, law = _product()

    def excess(t: float) -> float:
        sizes = [float(law @ (z / (z + np.exp(t) * scale / square**0.5)) ** 2) for square in squares]
        return float(np.average(sizes, weights=counts)) - (1 - shrink) ** 2

    return scale * float(np.exp(brentq(excess, log(1e-12), log(1e6), xtol=1e-8)))  # type: ignore[arg-type]


def _warmup(variance: float, b2: float, spread: float) -> float:
    """The first ``t`` with ``variance (1 - b2)/(1 + b2) (1 + b2^t)/(1 - b2^t) <= spread²``."""
    if variance <= spread**2:
        return 1.0
    wanted = spread**2 * (1 + b2) / (variance * (1 - b2))  # of (1 + x)/(1 - x), x = b2^t
    if wanted <= 1:
        return inf
    return float(np.ceil(log((wanted - 1) / (wanted + 1)) / log(b2) - 1e-9)) if b2 > 0 else 1.0
