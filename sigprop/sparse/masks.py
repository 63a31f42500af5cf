"""Masks of the kernels of a network: by path arrays of zeros and ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_choice, check_number
from sigprop.network import Network, parameter_paths


def by_path(params: Any) -> dict[str, Any]:
    """Leaves of a parameter tree by path."""
    return dict(zip(parameter_paths(params), jax.tree.leaves(params), strict=True))


def changed(change: Callable[[str, Any], Any], params: Any) -> Any:
    """``change(path, leaf)`` of every leaf."""
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [change(path, leaf) for path, leaf in zip(parameter_paths(params), leaves, strict=True)])


def prunable(net: Network, only: Collection[str] | None = None) -> list[str]:
    """Paths of the trained parameters with two axes or more, or those of them in ``only``.

    Raises:
        InvalidInput: for a path that is none of them.
    """
    leaves = by_path(net.abstract_params)
    found = [path for path in net.trained_paths if len(leaves[path].shape) > 1]
    unknown = sorted(set(only or ()) - set(found))
    if unknown:
        raise InvalidInput(f"only: {unknown} are no kernels of {net.name}; there are {found}")
    return [path for path in found if only is None or path in only]


def mask(scores: Mapping[str, Any], kept: float, scope: str = "layer") -> dict[str, Any]:
    """Keep the entries of the highest scores.

    Args:
        scores: by path, as :mod:`sigprop.sparse` makes them; larger is more important.
        kept: fraction of the entries, of each array or of all.
        scope: ``"layer"``, or ``"global"``: one threshold for all arrays.

    Returns:
        Boolean arrays shaped like the scores.

    Raises:
        InvalidInput: for a fraction out of (0, 1], scores that are not finite, and a mask that would leave an array empty.
    """
    check_number("kept", kept, high=1.0, above=0.0)
    check_choice("scope", scope, ("layer", "global"))
    arrays = {path: np.asarray(a) for path, a in scores.items()}
    wrong = [path for path, a in arrays.items() if not np.all(np.isfinite(a))]
    if wrong:
        raise InvalidInput(f"scores: not finite at {wrong}")
    if scope == "global":
        flat = np.concatenate([a.ravel() for a in arrays.values()])
        parts = np.split(_highest(flat, kept), np.cumsum([a.size for a in arrays.values()])[:-1])
        found = {path: part.reshape(a.shape) for (path, a), part in zip(arrays.items(), parts, strict=True)}
    else:
        found = {path: _highest(a.ravel(), kept).reshape(a.shape) for path, a in arrays.items()}
    check_masks(found)
    return {path: jnp.asarray(m) for path, m in found.items()}


def kept_shares(params: Any, masks: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """By path the fraction ``p`` of weights that a mask keeps, and that of ``sum w²``, the effective one for the variance."""
    leaves = by_path(params)
    out = {}
    for path, m in masks.items():
        square = np.asarray(leaves[path], np.float64) ** 2
        out[path] = (float(np.mean(m)), float(square[np.asarray(m, bool)].sum() / square.sum()))
    return out


def check_masks(masks: Mapping[str, Any], net: Network | None = None) -> None:
    """Refuse what is no mask.

    Raises:
        InvalidInput: for entries other than 0 and 1, an empty layer, an unknown path, another shape than the parameter's.
    """
    shapes = {} if net is None else {path: leaf.shape for path, leaf in by_path(net.abstract_params).items()}
    for path, m in masks.items():
        if net is not None and path not in shapes:
            raise InvalidInput(f"masks: {path!r} is no parameter of {net.name}; there are {list(shapes)}")
        if net is not None and np.shape(m) != shapes[path]:
            raise InvalidInput(f"masks: {path!r} has shape {np.shape(m)}; it must be that of the parameter, {shapes[path]}")
        if not np.isin(np.asarray(m), (0, 1)).all():
            raise InvalidInput(f"masks: {path!r} has entries other than 0 and 1")
        if not np.any(np.asarray(m)):
            raise InvalidInput(f"masks: {path!r} would be empty, and nothing would pass; keep more of it, or prune layer by layer")


def _highest(scores: np.ndarray, kept: float) -> np.ndarray:
    """Exactly ``round(kept n)`` entries, the first ones of equals."""
    found = np.zeros(scores.shape, bool)
    found[np.argsort(-scores, kind="stable")[:round(kept * scores.size)]] = True
    return found
