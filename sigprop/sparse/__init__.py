"""Sparse networks: masks from scores, what they leave of the variance, corrected initializations, pruning with rewinding."""

from sigprop.sparse.law import Share, global_shares, share
from sigprop.sparse.masks import kept_shares, mask, prunable
from sigprop.sparse.networks import corrected, masked, thresholded
from sigprop.sparse.pruning import Ticket, iterative_magnitude_pruning
from sigprop.sparse.scores import blocks, grasp, magnitude, random, snip, tiles

__all__ = [
    "Share", "Ticket", "blocks", "corrected", "global_shares", "grasp", "iterative_magnitude_pruning", "kept_shares", "magnitude", "mask",
    "masked", "prunable", "random", "share", "snip", "thresholded", "tiles",
]
