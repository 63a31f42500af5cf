"""Test errors against the number of examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from sigprop.dynamics.checks import check_ridge, check_targets, check_train
from sigprop.dynamics.posterior import regression
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_whole


def learning_curve(kernel: Float[Array, "n n"], y: Float[Array, "n ..."], sizes: Sequence[int], ridge: float = 0.0, repeats: int = 8,
                   key: Any = None) -> xr.Dataset:
    """Errors of kernel regression on random subsets of the examples, measured on all the others.

    Args:
        kernel: of all examples with themselves.
        y: targets; where they have columns, ``accuracy`` is how often the largest column is the same.
        sizes: numbers of training examples, each below ``n``.
        ridge: added to the diagonal.
        repeats: subsets of each size.

    Returns:
        ``mse`` and ``accuracy`` ``(size, repeat)``; NaN where no factor exists.

    Raises:
        InvalidInput: for unusable arguments.
    """
    square = check_train("kernel", kernel)
    targets, n = check_targets(y, len(square), square.dtype), len(square)
    check_ridge(ridge)
    check_whole("repeats", repeats)
    for size in sizes:
        check_whole("sizes", size)
        if size >= n:
            raise InvalidInput(f"sizes: {size} given, {n} examples leave none to test on; at most {n - 1} are allowed")
    keys = jax.random.split(jax.random.key(0) if key is None else key, repeats)
    orders = np.asarray(jax.vmap(lambda k: jax.random.permutation(k, n))(keys))
    found = np.asarray([[_errors(square, targets, ridge, order[:size], order[size:]) for order in orders] for size in sizes])
    data = {"mse": (("size", "repeat"), found[..., 0])}
    if targets.shape[1] > 1:
        data["accuracy"] = (("size", "repeat"), found[..., 1])
    return xr.Dataset(data, {"size": list(sizes), "repeat": np.arange(repeats)})


@jax.jit
def _errors(kernel: Any, y: Any, ridge: Any, train: Any, test: Any) -> Any:
    mean = regression(kernel, y, ridge, train, test)
    return jnp.stack([jnp.mean((mean - y[test]) ** 2), jnp.mean(jnp.argmax(mean, 1) == jnp.argmax(y[test], 1))])
