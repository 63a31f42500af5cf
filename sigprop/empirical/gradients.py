"""Squared gradients of a loss, measured on sampled parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sigprop.network import Network, check_inputs, parameter_paths


def loss_gradients(net: Network, loss: Callable[..., Any], params: Any, x: tuple[Any, ...], targets: tuple[Any, ...]) -> dict[str, Any]:
    """The gradient of ``loss(y, *targets)``, ``y`` the first leaf of the output, for each trained parameter by path. Traceable."""
    leaves, tree = jax.tree.flatten(params)
    free = [k for k, moves in enumerate(net.trainable) if moves]

    def value(chosen: list[Any]) -> Any:
        every = {**dict(enumerate(leaves)), **dict(zip(free, chosen, strict=True))}
        return loss(jax.tree.leaves(net.apply(jax.tree.unflatten(tree, [every[k] for k in range(len(leaves))]), *x))[0], *targets)

    found = jax.grad(value)([leaves[k] for k in free])
    paths = parameter_paths(net.abstract_params)
    return {paths[k]: g for k, g in zip(free, found, strict=True)}


def measure_gradients(net: Network, loss: Callable[..., Any], x: Any, targets: tuple[Any, ...] = (), *, seeds: int = 64, key: Any = None,
                      batch_size: int | None = None, group: int = 8) -> dict[str, Any]:
    """Mean over entries of the squared gradient, by path: arrays ``[seeds // group, group]`` over draws of the parameters.

    Args:
        x: inputs, batch on axis 0; a tuple of several.
        batch_size: with it, of one random minibatch per draw, without repetition.
        group: draws that are computed at once.

    Raises:
        InvalidInput: for unusable inputs.
    """
    inputs = x if isinstance(x, tuple) else (x,)
    check_inputs(inputs)
    examples = jax.tree.leaves(inputs)[0].shape[0]

    def one(k: Any) -> dict[str, Any]:
        data = (inputs, targets)
        if batch_size is not None:
            chosen = jax.random.choice(jax.random.fold_in(k, 2), examples, (batch_size,), replace=False)
            data = jax.tree.map(lambda a: jnp.asarray(a)[chosen], data)
        found = loss_gradients(net, loss, net.init(k), *data)
        return {path: jnp.mean(jnp.square(g.astype(jnp.promote_types(g.dtype, jnp.float32)))) for path, g in found.items()}

    keys = jax.random.split(jax.random.key(0) if key is None else key, (seeds // group, group))
    return jax.jit(lambda keys: jax.lax.map(jax.vmap(one), keys))(keys)
