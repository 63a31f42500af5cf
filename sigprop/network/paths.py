"""Names of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

_CONTAINERS = ("variables/params/", "variables/")  # what the linen adapter wraps around the module's own names


def parameter_paths(params: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[str]:
    """A name such as ``encoder/Dense_0/kernel`` for each leaf of a parameter tree, in the order of ``jax.tree.leaves``."""
    names = []
    for path, _ in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        for container in _CONTAINERS:
            if name.startswith(container):
                name = name.removeprefix(container)
                break
        names.append(name or "params")
    return names
