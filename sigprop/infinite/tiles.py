"""A kernel of many examples, tile by tile, as one program: what a tile needs stays in the cache, and mirrored tiles are made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.tracing.compat import jaxpr_as_fun
from sigprop.types import Kernel

TILE = 512  # examples; an array of one tile in float32 is 1 MB


def worthwhile(x1: Any, x2: Any) -> bool:
    """Whether there is more than one tile."""
    return max(_examples(x) for x in (x1, x2) if x is not None) >= 2 * TILE


def tiled(kernel: Callable[[Any, Any], Kernel], x1: Any, x2: Any) -> Kernel:
    """``kernel(x1, x2)`` of traced inputs, assembled from tiles; ``x2`` is ``None`` for a symmetric one.

    Tiles on the diagonal of that are ``kernel(part, None)``, in which equal examples are known to be equal.
    """
    symmetric = x2 is None
    rows, columns = _cut(x1), _cut(x1 if symmetric else x2)
    m, n = _examples(rows), _examples(columns)
    pairs = [(i, j) for i in range(m) for j in range(n) if not symmetric or i < j]
    both, shapes = _program(kernel, _at(rows, 0), _at(columns, 0))
    made = jax.tree.map(lambda s: jnp.zeros((m * s.shape[0], n * s.shape[1], *s.shape[2:]) if s.shape else (), s.dtype), shapes)
    if symmetric:
        own, _ = _program(lambda a: kernel(a, None), _at(rows, 0))
        made = _filled(made, np.array([(i, i) for i in range(m)]), lambda i, j: own(_at(rows, i)), mirrored=False)
    made = _filled(made, np.array(pairs), lambda i, j: both(_at(rows, i), _at(columns, j)), mirrored=symmetric)
    return jax.tree.map(lambda a: a[:_examples(x1), :_examples(x1 if symmetric else x2)] if a.ndim else a, made)


def _filled(made: Kernel, places: np.ndarray, tile: Callable[[Any, Any], Kernel], mirrored: bool) -> Kernel:
    """With the tiles at some places, and mirrored ones; errors are those of the worst."""
    def step(made: Kernel, place: Any) -> tuple[Kernel, None]:
        def put(total: Any, one: Any) -> Any:
            if not one.ndim:
                return jnp.maximum(total, one)
            total = _placed(total, one, *place)
            return _placed(total, _transposed(one), *place[::-1]) if mirrored else total

        return jax.tree.map(put, made, tile(*place)), None

    return jax.lax.scan(step, made, places)[0]


def _placed(total: Any, tile: Any, i: Any, j: Any) -> Any:
    return jax.lax.dynamic_update_slice(total, tile, (i * tile.shape[0], j * tile.shape[1], *[0] * (tile.ndim - 2)))


def _transposed(tile: Any) -> Any:
    """``[n1, n2, *sites1, *sites2]`` with the sides exchanged."""
    half = tile.ndim // 2 + 1
    return jnp.transpose(tile, (1, 0, *range(half, tile.ndim), *range(2, half)))


def _program(function: Callable[..., Kernel], *x: Any) -> tuple[Callable[..., Kernel], Any]:
    """The function traced once, and the shapes of what it returns."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*x)
    run = jaxpr_as_fun(closed)
    return lambda *x: jax.tree.unflatten(jax.tree.structure(shapes), run(*jax.tree.leaves(x))), shapes


def _examples(x: Any) -> int:
    return jax.tree.leaves(x)[0].shape[0]


def _cut(x: Any) -> Any:
    """``[tiles, examples, ...]``, the last one filled with copies of the last example."""
    n = _examples(x)
    count = -(-n // TILE)
    size = -(-n // count)

    def one(a: Any) -> Any:
        a = jnp.asarray(a)
        return jnp.concatenate([a, jnp.broadcast_to(a[-1:], (count * size - n, *a.shape[1:]))]).reshape(count, size, *a.shape[1:])

    return jax.tree.map(one, x)


def _at(tiles: Any, k: Any) -> Any:
    return jax.tree.map(lambda a: a[k], tiles)
