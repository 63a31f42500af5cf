"""Mean and standard error of independent results, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import memory
from sigprop.errors import InvalidInput
from sigprop.progress import progress

State = tuple[Any, Any, Any]


GROUP = 4  # seeds whose spread gives one unbiased estimate of a variance


def grouped_keys(seeds: int, key: Any = None) -> Any:
    """Keys ``[groups, GROUP]`` of so many draws, of ``jax.random.key(0)`` where none is given.

    Raises:
        InvalidInput: for fewer than two groups, and what is no number or no key.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int | np.integer):
        raise InvalidInput(f"seeds: {seeds!r} given; it must be a whole number of {2 * GROUP} or more")
    if key is not None and not hasattr(key, "dtype"):
        raise InvalidInput(f"key: {key!r} given; it is a random key of JAX: jax.random.key(0)")
    if seeds < 2 * GROUP:
        raise InvalidInput(f"seeds: {seeds} given; standard errors need at least {2 * GROUP}")
    groups = seeds // GROUP
    return jax.random.split(jax.random.key(0) if key is None else key, groups * GROUP).reshape(groups, GROUP)


def _update(state: State, found: Any) -> State:
    """One step of Welford's streaming mean and sum of squares (1962)."""
    count, mean, spread = state
    count = count + 1
    new = jax.tree.map(lambda m, v: m + (v - m) / count, mean, found)
    spread = jax.tree.map(lambda s, v, m, n: s + (v - m) * (v - n), spread, found, mean, new)
    return count, new, spread


def streamed(step: Callable[[Any], Any], keys: Any, plain: bool, after: Callable[[Any], Any] = lambda found: found) -> tuple[Any, Any]:
    """Mean and standard error of ``after(step(key))``, a tree of arrays, over at least two keys.

    A loop with progress where ``plain``, in float64 if ``after`` moves arrays to the host; a scan while the caller is traced.

    Raises:
        InvalidInput: where one step needs more memory than there is.
    """
    shape = jax.eval_shape(lambda key: after(step(key)), keys[0])
    if not plain:
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shape)
        start = (jnp.zeros((), jnp.float32), zeros, zeros)
        state = jax.lax.scan(lambda state, key: (_update(state, after(step(key))), None), start, keys)[0]
    else:
        compiled = _fitting(jax.jit(step).lower(keys[0]).compile())
        state = (0, *(jax.tree.map(lambda a: np.zeros(a.shape), shape) for _ in range(2)))
        with progress() as bar:
            task = bar.add_task("measuring", total=len(keys))
            for key in keys:
                state = _update(state, after(compiled(key)))
                bar.advance(task)
    count = len(keys)
    return state[1], jax.tree.map(lambda s: (s / (count - 1) / count) ** 0.5, state[2])


def _fitting(compiled: Any) -> Any:
    size, most = memory.needed(compiled), memory.available()
    if size > most:
        raise InvalidInput(f"net: a few draws at once need {size:.3g} bytes, this machine has {most:.3g}; measure a smaller network, or "
                           "fewer inputs")
    return compiled
