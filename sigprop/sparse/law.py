"""What the largest weights of a law carry of its variance."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import ndtri

from sigprop.engine.draws import standard
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number
from sigprop.network import Law, Network
from sigprop.sparse.masks import prunable

_LEAST = 1e-12  # fraction below which a layer counts as empty


class Share(NamedTuple):
    """Weights beyond a threshold.

    Attributes:
        kept: their fraction ``p``.
        variance: their fraction of ``E[w²]``, by which pruning them from the others multiplies the variance of the layer's output.
        threshold: of the absolute value.
    """

    kept: float
    variance: float
    threshold: float


def share(law: Law, kept: float) -> Share:
    """The fraction ``kept`` of largest absolute values of a symmetric law.

    ``2 int_{1 - p/2}^1 Q(u)² du`` of the variance, ``Q`` the quantiles of the law scaled to unit variance: ``p + 2 t phi(t)`` with
    ``t = Phi^{-1}(1 - p/2)`` for a normal one.

    Raises:
        InvalidInput: for a fraction out of (0, 1], and a law that is constant, not centred, or of a family without quantiles.
    """
    check_number("kept", kept, high=1.0, above=0.0)
    sd = law.variance**0.5
    if not sd or abs(law.mean) > 1e-9 * sd:
        raise InvalidInput(f"law: mean {law.mean:g} and variance {law.variance:g}; magnitudes are compared for centred random weights")
    if law.family not in ("normal", "truncated normal", "uniform", "laplace"):
        raise InvalidInput(f"law: the family {law.family!r} has no quantiles here; measure what a mask keeps with sp.sparse.kept_shares")
    quantile = standard(law.family).quantile or ndtri
    variance = 2 * quad(lambda u: float(quantile(u)) ** 2, 1 - kept / 2, 1.0, limit=200)[0]
    return Share(float(kept), min(variance, 1.0), sd * max(float(quantile(1 - kept / 2)), 0.0))


def global_shares(net: Network, kept: float, only: Collection[str] | None = None) -> dict[str, Share]:
    """By path what remains of each kernel where the largest weights of all kernels together are kept.

    One threshold for all: kernels of small variance lose most of their weights, and may end empty.

    Args:
        kept: fraction of all weights.
        only: paths of the kernels, all of :func:`sigprop.sparse.prunable` by default.

    Raises:
        InvalidInput: as :func:`share`, and where a kernel would be left empty, which is named.
    """
    paths = prunable(net, only)
    laws, sizes = dict(net.laws), {path: int(np.prod(net.laws.shapes[path])) for path in paths}
    check_number("kept", kept, high=1.0, above=0.0)

    def beyond(path: str, threshold: float) -> float:
        least, one = share(laws[path], _LEAST), share(laws[path], 1.0)
        if threshold <= one.threshold or threshold >= least.threshold:
            return 1.0 if threshold <= one.threshold else 0.0
        return _root(lambda p: share(laws[path], p).threshold - threshold, _LEAST, 1.0)

    def missing(threshold: float) -> float:
        return sum(sizes[path] * beyond(path, threshold) for path in paths) / sum(sizes.values()) - kept

    highest = max(share(laws[path], _LEAST).threshold for path in paths)
    threshold = _root(missing, 0.0, highest) if kept < 1 else 0.0
    found = {path: beyond(path, threshold) for path in paths}
    empty = [path for path, p in found.items() if p <= _LEAST]
    if empty:
        raise InvalidInput(f"kept: {kept:g} of all weights empties {empty}; keep more, leave it out with only=, or prune layer by layer")
    return {path: share(laws[path], p) for path, p in found.items()}


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high, xtol=1e-14))  # type: ignore[arg-type]
