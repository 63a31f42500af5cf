"""Layer-sequential unit-variance initialization: weights rescaled by what they make of real data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete
from sigprop.empirical.sites import Site, sites
from sigprop.errors import InvalidInput
from sigprop.network import Network, check_inputs, parameter_paths
from sigprop.tracing import Graph, apply_op, evaluate


def lsuv(net: Network, params: Any, *x: Any, target: float = 1.0) -> Any:
    """Rescale each weight so that its layer's output has the variance ``target`` on ``x`` (Mishkin & Matas 2016, algorithm 1).

    Weights are taken in the order in which the model uses them, each with those before it rescaled. Since a layer is linear in its weight
    one pass meets the target to rounding, where the paper iterates over minibatches. The variance is that of the product or convolution
    before the bias, about its mean over examples, sites and channels; of a weight that is used several times, as in a recurrent network,
    that of the first use. The paper starts from :class:`sigprop.init.Orthogonal` weights; any will do.

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
    check_inputs(x)
    if not np.isfinite(target) or target <= 0:
        raise InvalidInput(f"target: {target!r} given; it must be above 0")
    leaves, tree = jax.tree.flatten(params)
    if tree != jax.tree.structure(net.abstract_params):
        raise InvalidInput(f"params: structure {tree} is not that of the network's parameters, {jax.tree.structure(net.abstract_params)}")
    graph = net.graph(*x)
    weights = _weights(graph, len(leaves))
    gains = jax.jit(partial(_gains, graph, weights))(target, [*leaves, *jax.tree.leaves(x)])
    for site, gain in zip(weights, gains, strict=True):
        if concrete(gain) and not 0 < float(gain) < np.inf:
            raise InvalidInput(f"params[{parameter_paths(params)[site.leaf]!r}]: the output of this weight does not vary on x, so that no "
                               "factor gives it a variance; start from a weight that is not zero")
    parts = jax.jit(partial(_parts, graph, weights))([*leaves, *jax.tree.leaves(x)])
    for site, gain, part in zip(weights, gains, parts, strict=True):
        factor = jnp.where(part & (gain > 0) & (gain < jnp.inf), gain, 1.0)
        leaves[site.leaf] = (leaves[site.leaf] * factor).astype(leaves[site.leaf].dtype)
    return jax.tree.unflatten(tree, leaves)


def _weights(graph: Graph, params: int) -> list[Site]:
    """Products and convolutions of parameters with the signal, in order of their first use."""
    live = set(graph.inputs[params:])
    order = {}
    for op in graph.ops:
        if live.intersection(op.inputs):
            live.update(op.outputs)
            order[op.outputs[0]] = len(order)
    found = [site for group in sites(graph, params).values() for site in group]
    return sorted((s for s in found if s.uses[0].kind != "lookup" and s.uses[0].output in order), key=lambda s: order[s.uses[0].output])


def _gains(graph: Graph, weights: Sequence[Site], target: Any, leaves: Sequence[Any]) -> list[Any]:
    """Factor of each weight; scaling its outputs stands for scaling the weight."""
    owner = {use.output: k for k, site in enumerate(weights) for use in site.uses}
    env: dict[int, Any] = {**graph.constants, **dict(zip(graph.inputs, leaves, strict=True))}
    gains: dict[int, Any] = {}
    for op in graph.ops:
        out = apply_op(op, [env[i] for i in op.inputs])
        if op.outputs[0] in owner:
            k = owner[op.outputs[0]]
            wide = out[0].astype(jnp.promote_types(out[0].dtype, jnp.float32))
            gains.setdefault(k, jnp.sqrt(target / jnp.var(wide)))
            out[0] = (wide * gains[k]).astype(out[0].dtype)
        env.update(zip(op.outputs, out, strict=True))
    return [gains[k] for k in range(len(weights))]


def _parts(graph: Graph, weights: Sequence[Site], leaves: Sequence[Any]) -> list[Any]:
    """The entries of its parameter that each weight is made of: all, or one layer of a stack."""
    def operand(site: Site, leaf: Any) -> Any:
        use = site.uses[0]
        given = [leaf if k == site.leaf else value for k, value in enumerate(leaves)]
        return jnp.sum(evaluate(graph, given, [use.op.inputs[use.weight]])[1][0])

    alone = {site.leaf: sum(s.leaf == site.leaf for s in weights) == 1 for site in weights}
    return [jnp.ones((), bool) if alone[s.leaf] else jax.grad(partial(operand, s))(leaves[s.leaf]) != 0 for s in weights]
