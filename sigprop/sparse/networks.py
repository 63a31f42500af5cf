"""Masked networks, for all that takes a network: predictions, kernels, measurement, remedies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_choice
from sigprop.network import Network
from sigprop.sparse.law import global_shares, share
from sigprop.sparse.masks import changed, check_masks, prunable


def masked(net: Network, masks: Mapping[str, Any]) -> Network:
    """The network with some of its kernels times constant masks, which count as independent of the weights.

    E[z²] is multiplied by the fraction ``p`` that a random mask keeps, layer by layer; a mask made from the weights themselves keeps more
    of it (:func:`thresholded`).

    Raises:
        InvalidInput: for entries other than 0 and 1, an empty mask, an unknown path, a shape that does not fit.
    """
    check_masks(masks, net)
    fixed = {path: np.asarray(m) for path, m in masks.items()}
    return _with(net, lambda path, w: w * jnp.asarray(fixed[path], w.dtype) if path in fixed else w)


def thresholded(net: Network, kept: float, scope: str = "layer", only: Collection[str] | None = None) -> Network:
    """The network whose kernels are pruned by magnitude at initialization: ``w`` where ``|w|`` is beyond a threshold, else 0.

    The thresholds are those of the laws (:func:`sigprop.sparse.share`, :func:`sigprop.sparse.global_shares`), so that the fraction
    ``kept`` is that expected; predictions follow the weights as functions of themselves.

    Raises:
        InvalidInput: as :func:`sigprop.sparse.share`.
    """
    check_choice("scope", scope, ("layer", "global"))
    laws = dict(net.laws)
    found = global_shares(net, kept, only) if scope == "global" else {path: share(laws[path], kept) for path in prunable(net, only)}
    return _with(net, lambda path, w: w * (jnp.abs(w) >= found[path].threshold) if path in found else w)


def corrected(net: Network, shares: Mapping[str, float]) -> Network:
    """The network with kernels drawn larger by ``1 / sqrt(share)``: He's variance becomes ``2 / (p n)`` for a random mask that keeps ``p``.

    Args:
        shares: by path the fraction of the variance that masks leave: ``p`` for a random one, ``Share.variance`` for magnitudes.

    Raises:
        InvalidInput: for fractions out of (0, 1], and unknown paths.
    """
    prunable(net, tuple(shares))
    wrong = {path: float(s) for path, s in shares.items() if not 0 < s <= 1}
    if wrong:
        raise InvalidInput(f"shares: {wrong}; they must be above 0 and at most 1")
    def init(key: Any) -> Any:
        return changed(lambda path, w: w * jnp.asarray(shares[path] ** -0.5, w.dtype) if path in shares else w, net.init(key))

    return replace(net, init=init, _graphs={})


def _with(net: Network, change: Callable[[str, Any], Any]) -> Network:
    """The network on changed parameters."""
    def apply(params: Any, *x: Any) -> Any:
        return net.apply(changed(change, params), *x)

    return replace(net, apply=apply, _graphs={})
