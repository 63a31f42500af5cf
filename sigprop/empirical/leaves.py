"""Which leaves of a parameter tree have tangents, and of which variance."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete
from sigprop.errors import InvalidInput
from sigprop.network import Network, check_network
from sigprop.network.checks import check_choice
from sigprop.network.paths import parameter_paths

PARAMETERIZATIONS = ("standard", "ntk")


def trainable(params: Any) -> list[bool]:
    """Per leaf, whether it is a floating parameter: statistics of batches, keys and counters of a Flax model are none."""
    nnx: Any = sys.modules.get("flax.nnx")
    is_variable = (lambda node: isinstance(node, nnx.Variable)) if nnx else None
    out: list[bool] = []
    for path, node in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_variable):
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        fixed = (nnx and isinstance(node, nnx.Variable) and not isinstance(node, nnx.Param)) or (
            names[0] == "variables" and len(names) > 2 and names[1] != "params")  # collections of a linen model
        out += [not fixed and jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(node)]
    return out


def as_tree(params: Any, template: Any) -> Any:
    """``params`` in the containers of ``template``.

    Raises:
        InvalidInput: naming the first leaf that is missing, too many, or of another shape.
    """
    given, wanted = (dict(zip(parameter_paths(tree), jax.tree.leaves(tree), strict=True)) for tree in (params, template))
    for name in (*given, *wanted):
        if name not in wanted or name not in given:
            have = f"unknown parameter {name!r}; the network has {list(wanted)}" if name in given else f"no parameter {name!r}"
            raise InvalidInput(f"params: {have}")
        if jnp.shape(given[name]) != tuple(wanted[name].shape):
            raise InvalidInput(f"params[{name!r}]: shape {jnp.shape(given[name])}; the network has {tuple(wanted[name].shape)}")
    check_params(params)
    return jax.tree.unflatten(jax.tree.structure(template), [given[name] for name in parameter_paths(template)])


def check_params(params: Any) -> None:
    """Refuse parameters that are no arrays, or not finite.

    Raises:
        InvalidInput: naming the leaf.
    """
    if not any(trainable_or_raise(params)):
        raise InvalidInput("params: no floating parameter among the leaves")
    numbers = {name: leaf for name, leaf in zip(parameter_paths(params), jax.tree.leaves(params), strict=True)
               if concrete(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)}
    with jax.ensure_compile_time_eval():  # also while the caller is traced
        found = jax.device_get(_finite(numbers))
    for name, finite in found.items():
        if not finite:
            raise InvalidInput(f"params[{name!r}]: has NaN or infinite entries")


def check_order(params: Any, x: Any, net: Network) -> None:
    """Refuse inputs in the place of parameters.

    Raises:
        InvalidInput: saying what goes where.
    """
    if x is None or jax.tree.structure(x) == jax.tree.structure(net.abstract_params):
        raise InvalidInput(f"params: {type(params).__name__} given; parameters come first, as net.init(jax.random.key(0)) makes them, and "
                           "inputs after them")


_finite = jax.jit(partial(jax.tree.map, lambda leaf: jnp.isfinite(leaf).all()))


def trainable_or_raise(params: Any) -> list[bool]:
    for name, leaf in zip(parameter_paths(params), jax.tree.leaves(params), strict=True):
        if not hasattr(leaf, "dtype"):
            raise InvalidInput(f"params[{name!r}]: {type(leaf).__name__} is not an array")
    return trainable(params)


def tangent_variances(net: Network, parameterization: str, learning_rates: Any) -> list[Any]:
    """Per leaf the variance of its tangent: 1 or that of its law, times its learning rate; 0 for what is not trained.

    Raises:
        InvalidInput: for an unknown parameterization, or rates that do not fit the parameters.
    """
    check_choice("parameterization", parameterization, PARAMETERIZATIONS)
    check_network(net)
    base = [float(yes) for yes in trainable(net.abstract_params)]
    if parameterization == "ntk":
        laws = jax.tree.leaves(net.laws.tree, is_leaf=lambda node: node is None or hasattr(node, "variance"))
        base = [yes * float(np.mean(law.variance)) if yes else 0.0 for yes, law in zip(base, laws, strict=True)]
    return [b if rate is None else b * rate for b, rate in zip(base, matched_rates(learning_rates, net.abstract_params), strict=True)]


def matched_rates(learning_rates: Any, params: Any) -> list[Any]:
    """Rates in the order of the leaves of ``params``; ``None`` where there is none."""
    names = parameter_paths(params)
    rates = dict(zip(parameter_paths(learning_rates), jax.tree.leaves(learning_rates), strict=True))
    for name, rate in rates.items():
        if name not in names:
            raise InvalidInput(f"learning_rates: there is no parameter {name!r}; the parameters are {names}")
        if jnp.ndim(rate):
            raise InvalidInput(f"learning_rates[{name!r}]: shape {jnp.shape(rate)}; one number for each parameter")
        if concrete(rate) and not (np.isfinite(rate) and rate >= 0):
            raise InvalidInput(f"learning_rates[{name!r}]: {rate} is not a finite non-negative number")
    return [rates.get(name) for name in names]
