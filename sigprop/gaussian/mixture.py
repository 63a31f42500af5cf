"""Quantiles of mixtures of normal laws."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri


def normal_mixture(mean: np.ndarray, sd: np.ndarray, weights: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Quantiles of a mixture of normal laws ``[laws]``, a root between the least and the largest of one law's; ``sd`` 0 is a point."""
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
