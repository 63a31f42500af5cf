"""Tangents of the parameters, whose images are the neural tangent kernel.

For independent centred tangents ``d`` of variance ``eta`` the second moment of the directional derivative ``J d`` of the output is
``sum_leaf eta_leaf J_leaf J_leaf^T``: the NTK (Jacot et al. 2018) for any learning rates of the leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sigprop.arrays import concrete, namespace
from sigprop.engine import Context, Field, Known, Value
from sigprop.engine.draws import normal
from sigprop.engine.labels import aligned, own_labels
from sigprop.engine.nodes import Leaf, Mul
from sigprop.engine.rules.elementwise import mul
from sigprop.engine.values import drawn, settle
from sigprop.errors import InvalidInput, SigpropError, Unsound
from sigprop.network import Network, parameter_paths
from sigprop.tracing import Graph, trace

PARAMETERIZATIONS = ("standard", "ntk")


def rates(net: Network, learning_rates: Any) -> list[Any]:
    """A factor per parameter leaf; those that are not named have 1.

    Raises:
        InvalidInput: for a name that is no trained parameter, and for factors that are not finite non-negative numbers.
    """
    paths = parameter_paths(net.abstract_params)
    if learning_rates is None:
        return [1.0] * len(paths)
    tree = getattr(learning_rates, "tree", learning_rates)
    found = dict(zip(parameter_paths(tree), jax.tree.leaves(tree), strict=True))
    known = [path for path, moves in zip(paths, net.trainable, strict=True) if moves]
    for path, factor in found.items():
        if path not in paths:
            raise InvalidInput(f"learning_rates: there is no parameter {path!r}; the parameters are {known}")
        if path not in known:
            continue  # a tree like the parameters has keys, counters and running statistics too
        if not (hasattr(factor, "dtype") or isinstance(factor, int | float)) or np.ndim(factor):
            given = f"shape {np.shape(factor)}" if np.ndim(factor) else repr(factor)
            raise InvalidInput(f"learning_rates[{path!r}]: {given} is not a single number")
        if concrete(factor) and not (np.isfinite(factor) and factor >= 0):
            raise InvalidInput(f"learning_rates[{path!r}]: {factor!r} is not a finite non-negative number")
    return [found.get(path, 1.0) if path in known else 0.0 for path in paths]


def tangents(context: Context, net: Network, params: Sequence[Value], parameterization: str, factors: Sequence[Any]) -> dict[int, Value]:
    """Random tangents by number of the parameter leaf, of variance ``factors`` (times that of the leaf for ``"ntk"``)."""
    found = {}
    for k, (leaf, moves) in enumerate(zip(jax.tree.leaves(net.abstract_params), net.trainable, strict=True)):
        if not moves:
            continue
        variance = factors[k] * (_variance(context, params[k]) if parameterization == "ntk" else 1.0)
        if not concrete(variance) or np.any(variance):
            found[k] = _tangent(context, k, leaf.shape, variance)
    return found


def _tangent(context: Context, number: int, shape: tuple[int, ...], variance: Any) -> Value:
    unit = drawn(context.pool, ("tangent", number), shape, normal(), sign="tangent")
    root = namespace(variance).sqrt(variance)
    return mul(context, None, unit, Known(root.reshape((1,) * len(shape)) if np.ndim(root) == 0 else root))[0]


def leaf_of(tangent: Value) -> Leaf:
    """The draw behind a tangent, which may be a multiple of it."""
    assert isinstance(tangent, Field)
    node = tangent.node.children[-1][0] if isinstance(tangent.node, Mul) else tangent.node
    assert isinstance(node, Leaf)
    return node


def _variance(context: Context, value: Value) -> Any:
    """Of the entries of a parameter: a number, or an array of its shape where they differ."""
    if not isinstance(value, Field):
        return 0.0
    node = value.node
    labels = own_labels(node)
    second = context.query.moment([(node, labels), (node, labels)])
    first = context.query.moment([(node, labels)])
    array = aligned(second, labels) * 2.0**second.exponent - (aligned(first, labels) * 2.0**first.exponent) ** 2
    if array.size == 1:
        return array.reshape(())
    full = context.pool.const(namespace(array).broadcast_to(array, [d.size for d in node.dims]), node.dims)
    known = settle(full, node.dims, value.axes)
    assert isinstance(known, Known)
    return known.array


def derivative(net: Network, moving: Sequence[int], *x: Any) -> Graph:
    """The flat program ``(params, tangents of the leaves moving, *x) -> (y, dy)``; leaves of ``x`` are numbered after those of ``params``.

    Raises:
        Unsound: where JAX has no forward derivative of the model.
    """
    leaves, tree = jax.tree.flatten(net.abstract_params)
    every = [*leaves, *jax.tree.leaves(x)]

    def both(params: Any, along: Sequence[Any], *inputs: Any) -> Any:
        given, shape = [*jax.tree.leaves(params), *jax.tree.leaves(inputs)], jax.tree.structure(inputs)

        def output(changed: Sequence[Any]) -> Any:
            values = dict(enumerate(given)) | dict(zip(moving, changed, strict=True))
            own = [values[k] for k in range(len(given))]
            return jax.tree.leaves(net.apply(jax.tree.unflatten(tree, own[:len(leaves)]), *jax.tree.unflatten(shape, own[len(leaves):])))[0]

        return jax.jvp(output, ([given[k] for k in moving],), (list(along),))

    try:
        return trace(both, net.abstract_params, [every[k] for k in moving], *x)
    except SigpropError:
        raise
    except Exception as error:
        raise Unsound(f"JAX has no forward derivative of {net.name} ({type(error).__name__}: {error}).") from error


def by_path(net: Network, found: Mapping[int, Any]) -> dict[str, Any]:
    """Entries by number of the parameter leaf as entries by its path."""
    paths = parameter_paths(net.abstract_params)
    return {paths[k]: value for k, value in found.items()}


__all__ = ["PARAMETERIZATIONS", "by_path", "derivative", "leaf_of", "rates", "tangents"]
