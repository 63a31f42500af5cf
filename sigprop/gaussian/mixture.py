"""Quantiles of mixtures of normal laws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr, ndtri

from sigprop.arrays import concrete

_HALVINGS = 40  # of the range between the quantiles of single laws, where arrays are traced


def normal_mixture(mean: Any, sd: Any, weights: np.ndarray, probabilities: np.ndarray) -> Any:
    """Quantiles of a mixture of normal laws ``[laws]``, a root between the least and the largest of one law's; ``sd`` 0 is a point."""
    if not (concrete(mean) and concrete(sd)):
        return _bisected(mean, sd, weights / np.sum(weights), probabilities)
    from scipy.optimize.elementwise import find_root  # slow to import

    (mean, sd), which = np.unique(np.stack([mean, sd]), axis=1, return_inverse=True)
    share = np.bincount(which.ravel(), weights) / np.sum(weights)
    each = mean + sd * ndtri(probabilities)[:, None]
    low, high = each.min(axis=1), each.max(axis=1)
    if len(share) == 1 or not np.any(high > low):
        return low
    margin = 1e-6 * (high - low)  # the ends are roots themselves where one law is all but alone
    spread = np.where(sd > 0, sd, 1e-300)
    return find_root(lambda x, p: ndtr((x[..., None] - mean) / spread) @ share - p, (low - margin, high + margin), args=(probabilities,)).x


def _bisected(mean: Any, sd: Any, share: np.ndarray, probabilities: np.ndarray) -> Any:
    each = mean + sd * jnp.asarray(ndtri(probabilities), sd.dtype)[:, None]
    spread = jnp.where(sd > 0, sd, jnp.finfo(sd.dtype).tiny)

    def halved(_: int, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        middle = (ends[0] + ends[1]) / 2
        below = jax.scipy.special.ndtr((middle[:, None] - mean) / spread) @ jnp.asarray(share, sd.dtype) < probabilities
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

    low, high = jax.lax.fori_loop(0, _HALVINGS, halved, (each.min(axis=1), each.max(axis=1)))
    return (low + high) / 2
