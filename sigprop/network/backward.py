"""The backward pass of a network as a function: gradients at every row and of every parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sigprop.errors import SigpropError, Unsound
from sigprop.network.network import Network
from sigprop.tracing import Graph, evaluate, trace


def backward(net: Network, *x: Any) -> Callable[..., tuple[list[Any], list[Any]]]:
    """``pull(params, x, cotangent)``: gradients of ``<cotangent, y>`` for outputs ``y`` like ``net.apply(params, *x)``.

    Returns:
        A function that gives the gradient at each row of ``net.differentiable(*x)``, shaped like the row's value, and those of the
        trained parameters in the order of their leaves. If the output is a tree, ``y`` is its first leaf.
    """
    graph, rows = net.differentiable(*x)

    def pull(params: Any, x: tuple[Any, ...], cotangent: Any) -> tuple[list[Any], list[Any]]:
        leaves = jax.tree.leaves(params)
        free = [k for k, moves in enumerate(net.trainable) if moves]
        inputs = [jnp.asarray(a) for a in jax.tree.leaves(x)]

        def output(probes: list[Any], chosen: list[Any]) -> Any:
            own = list(leaves)
            for k, leaf in zip(free, chosen, strict=True):
                own[k] = leaf
            added = {row.value: probe for row, probe in zip(rows, probes, strict=True)}
            return evaluate(graph, [*own, *inputs], added=added)[0][0]

        probes = [jnp.zeros(row.shape, row.dtype) for row in rows]
        _, pullback = jax.vjp(output, probes, [leaves[k] for k in free])
        return jax.tree.map(_floating, pullback(cotangent))

    return pull


def _floating(gradient: Any) -> Any:
    """Integers have a gradient that is nothing; zeros in its place."""
    return jnp.zeros(gradient.shape) if gradient.dtype == jax.dtypes.float0 else gradient


def backward_graph(net: Network, *x: Any) -> Graph:
    """The flat program of :func:`backward`: inputs are the parameters, the inputs and the cotangent; outputs the gradients.

    Raises:
        Unsound: where JAX has no reverse derivative of the model.
    """
    like = net.graph(*x).avals[net.graph(*x).outputs[0]]
    if not jnp.issubdtype(like.dtype, jnp.floating):
        raise Unsound(f"outputs of dtype {like.dtype} have no gradients")
    try:
        return trace(backward(net, *x), net.abstract_params, x, jax.ShapeDtypeStruct(like.shape, like.dtype))
    except SigpropError:
        raise
    except Exception as error:
        raise Unsound(f"JAX has no reverse derivative of {net.name} ({type(error).__name__}: {error})") from error
