"""A kernel of many examples, tile by tile, as one program: what a tile needs stays in the cache, and mirrored tiles are made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    places = np.array([(i, j) for i in range(m) for j in range(n) if not symmetric or i < j])
    both, _ = _program(kernel, _at(rows, 0), _at(columns, 0))
    made = [(places, jax.lax.map(lambda p: both(_at(rows, p[0]), _at(columns, p[1])), places))]
    if symmetric:
        own, _ = _program(lambda a: kernel(a, None), _at(rows, 0))
        made += [(places[:, ::-1], jax.tree.map(_transposed, made[0][1])), (np.arange(m)[:, None].repeat(2, 1), jax.lax.map(own, rows))]
    whole = jax.tree.map(lambda *parts: _assembled([p for p, _ in made], parts, (m, n)), *(tile for _, tile in made))
    return jax.tree.map(lambda a: a[:_examples(x1), :_examples(x1 if symmetric else x2)] if a.ndim else a, whole)


def _assembled(places: Sequence[np.ndarray], tiles: Sequence[Any], count: tuple[int, int]) -> Any:
    """One array of tiles ``[place, n1, n2, ...]``; of errors the largest."""
    if tiles[0].ndim == 1:
        return jnp.max(jnp.concatenate(tiles))
    _, n1, n2, *sites = tiles[0].shape
    out = jnp.zeros((count[0], n1, count[1], n2, *sites), tiles[0].dtype)
    for where, part in zip(places, tiles, strict=True):
        out = out.at[where[:, 0], :, where[:, 1]].set(part)
    return out.reshape(count[0] * n1, count[1] * n2, *sites)


def _transposed(tiles: Any) -> Any:
    """``[place, n1, n2, *sites1, *sites2]`` with the sides exchanged; errors have none."""
    half = (tiles.ndim + 3) // 2
    return tiles if tiles.ndim == 1 else jnp.transpose(tiles, (0, 2, 1, *range(half, tiles.ndim), *range(3, half)))


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
