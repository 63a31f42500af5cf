"""A network and its linearization, trained side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.empirical import linearize
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_whole
from sigprop.network import Network, check_inputs, check_pair


def train_both(net: Network, params: Any, x: Any, loss: Callable[[Any], Any], optimizer: Any, steps: int, x_test: Any = None) -> xr.Dataset:
    """Train ``net`` and ``f(params) + J (params' - params)`` from the same parameters, full batch (Lee et al. 2019).

    Args:
        params: as from ``net.init``; those that training does not move stay.
        x: training inputs.
        loss: of the outputs at ``x``.
        optimizer: an ``optax.GradientTransformation``; ``optax.sgd`` follows :func:`gradient_descent`.
        x_test: inputs whose outputs are kept, ``x`` by default.

    Returns:
        Over ``step`` 0 to ``steps``: ``loss`` and ``linear_loss``; ``output`` and ``linear_output`` at ``x_test``; ``gap``, the root mean
        square of their difference; ``moved``, the relative change of the parameters, ``|p - p0| / |p0|``, of the network.

    Raises:
        InvalidInput: for unusable arguments, and a loss that is no number.
    """
    check_whole("steps", steps)
    check_inputs((x,))
    tests = x if x_test is None else x_test
    check_pair(x, tests)
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise InvalidInput(f"optimizer: {type(optimizer).__name__} is not an optax.GradientTransformation")
    leaves, tree = jax.tree.flatten(params)
    moves = net.trainable
    begin = [leaf for leaf, yes in zip(leaves, moves, strict=True) if yes]

    def full(some: list[Any]) -> Any:
        new = iter(some)
        return jax.tree.unflatten(tree, [next(new) if yes else leaf for leaf, yes in zip(leaves, moves, strict=True)])

    inputs, others = (a if isinstance(a, tuple) else (a,) for a in (x, tests))

    def run(apply: Callable[..., Any]) -> Any:
        def cost(some: list[Any]) -> Any:
            value = loss(apply(full(some), *inputs))
            if np.shape(value):
                raise InvalidInput(f"loss: returns shape {np.shape(value)}; it must be a single number")
            return value

        def step(state: Any, _: Any) -> Any:
            some, memory = state
            value, gradient = jax.value_and_grad(cost)(some)
            updates, memory = optimizer.update(gradient, memory, some)
            return (jax.tree.map(jnp.add, some, updates), memory), (value, apply(full(some), *others), _distance(some, begin))

        return jax.lax.scan(step, (begin, optimizer.init(begin)), length=steps + 1)[1]

    (values, outputs, moved), (linear_values, linear_outputs, _) = (
        map(np.asarray, jax.jit(run, static_argnums=0)(apply)) for apply in (net.apply, linearize(net, params)))
    axes = ("step", "example", *(f"axis{k}" for k in range(1, outputs.ndim - 1)))
    gap = np.sqrt(np.mean((outputs - linear_outputs) ** 2, tuple(range(1, outputs.ndim))))
    return xr.Dataset({"loss": ("step", values), "linear_loss": ("step", linear_values), "output": (axes, outputs),
                       "linear_output": (axes, linear_outputs), "gap": ("step", gap), "moved": ("step", moved)},
                      {"step": np.arange(steps + 1)})


def _distance(some: list[Any], begin: list[Any]) -> Any:
    total = sum(jnp.sum((a - b) ** 2) for a, b in zip(some, begin, strict=True))
    size: Any = sum(jnp.sum(b**2) for b in begin)
    return jnp.sqrt(total / size)
