"""Layer-sequential unit-variance initialization: weights rescaled by what they make of real data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete
from sigprop.empirical.leaves import check_order
from sigprop.empirical.sites import Site
from sigprop.empirical.weights import parts, weights
from sigprop.errors import InvalidInput
from sigprop.network import Network, check_inputs, check_network, parameter_paths
from sigprop.tracing import Graph, apply_op


def lsuv(net: Network, params: Any, *x: Any, target: float = 1.0) -> Any:
    """Rescale each weight so that its layer's output has the variance ``target`` on ``x`` (Mishkin & Matas 2016, algorithm 1).

    Weights are taken in the order in which the model uses them, each with those before it rescaled. Since a layer is linear in its weight
    one pass meets the target to rounding, where the paper iterates over minibatches. The variance is that of the product or convolution
    before the bias, about its mean over examples, sites and channels; of a weight that is used several times, as in a recurrent network,
    that of the first use that is not zero. The paper starts from :class:`sigprop.init.Orthogonal` weights; any will do.

    Embeddings, biases, scales, and weights that are not multiplied with the signal directly (normalized, masked or factorised ones) keep
    their values.

    Args:
        net: from :func:`sigprop.network`.
        params: a draw of its parameters, ``net.init(key)``.
        x: a batch of inputs, batch on axis 0.
        target: above 0.

    Returns:
        Parameters like ``params``. Under ``jax.jit`` and ``jax.vmap`` outputs without variance are not refused; their weights are kept.

    Raises:
        InvalidInput: for unusable inputs, parameters that are not the network's, a target that is not above 0, or a weight whose output
            does not vary, such as a zero-initialized head, which no factor can mend.
    """
    for given in x:
        check_order(params, given, check_network(net))
    check_inputs(x)
    if not np.isfinite(target) or target <= 0:
        raise InvalidInput(f"target: {target!r} given; it must be above 0")
    leaves, tree = jax.tree.flatten(params)
    if tree != jax.tree.structure(net.abstract_params):
        raise InvalidInput(f"params: structure {tree} is not that of the network's parameters, {jax.tree.structure(net.abstract_params)}")
    graph = net.graph(*x)
    found = weights(graph, len(leaves))
    gains = jax.jit(partial(_gains, graph, found))(target, [*leaves, *jax.tree.leaves(x)])
    for site, gain in zip(found, gains, strict=True):
        if concrete(gain) and not 0 < float(gain) < np.inf:
            raise InvalidInput(f"params[{parameter_paths(params)[site.leaf]!r}]: the output of this weight does not vary on x, so that no "
                               "factor gives it a variance; start from a weight that is not zero")
    own = jax.jit(partial(parts, graph, found))([*leaves, *jax.tree.leaves(x)])
    for site, gain, part in zip(found, gains, own, strict=True):
        factor = jnp.where(part & _mends(gain), gain, 1.0)
        leaves[site.leaf] = (leaves[site.leaf] * factor).astype(leaves[site.leaf].dtype)
    return jax.tree.unflatten(tree, leaves)


def _gains(graph: Graph, found: Sequence[Site], target: Any, leaves: Sequence[Any]) -> list[Any]:
    """Factor of each weight; scaling its outputs stands for scaling the weight."""
    owner = {use.output: k for k, site in enumerate(found) for use in site.uses}
    env: dict[int, Any] = {**graph.constants, **dict(zip(graph.inputs, leaves, strict=True))}
    gains: dict[int, Any] = {}
    for op in graph.ops:
        out = apply_op(op, [env[i] for i in op.inputs])
        if op.outputs[0] in owner:
            k = owner[op.outputs[0]]
            wide = out[0].astype(jnp.promote_types(out[0].dtype, jnp.float32))
            gain = jnp.sqrt(target / jnp.var(wide))
            gains[k] = jnp.where(_mends(gains[k]), gains[k], gain) if k in gains else gain
            out[0] = (wide * jnp.where(_mends(gains[k]), gains[k], 1.0)).astype(out[0].dtype)
        env.update(zip(op.outputs, out, strict=True))
    return [gains[k] for k in range(len(found))]


def _mends(gain: Any) -> Any:
    return (gain > 0) & (gain < jnp.inf)
