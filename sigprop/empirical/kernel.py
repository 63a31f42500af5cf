"""Kernels of networks of finite width."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.arrays import concrete
from sigprop.empirical.cost import METHODS
from sigprop.empirical.engine import Setting, kernels
from sigprop.empirical.leaves import as_tree, check_order, check_params, tangent_variances, trainable
from sigprop.errors import InvalidInput
from sigprop.network import Network, check_inputs, check_pair
from sigprop.network.checks import check_choice
from sigprop.types import Kernel

MEMORY = 2.0**30


def empirical_kernel(net: Network, *, outputs: str = "trace", memory: float = MEMORY, parameterization: str = "standard",
                     learning_rates: Any = None, method: str = "auto") -> Callable[..., Kernel]:
    """``kernel(params, x1, x2=None)``: NNGP and NTK of ``net`` at given parameters.

    The NNGP is ``y y' / features``; the NTK is ``sum_leaf v_leaf <dy/dleaf, dy'/dleaf> / features``, where a leaf's tangent variance
    ``v_leaf`` is 1 (``standard``) or that of its law (``ntk``), times its learning rate. Both are compiled on first use, and work under
    ``jax.jit`` and ``jax.vmap``. A parameter's part comes from its per-example gradients, or from inputs and cotangents without them, or
    all parts from NTK-vector products (Novak, Sohl-Dickstein & Schoenholz 2022), whichever costs least; examples are taken in parts
    that fit into ``memory``.

    Args:
        net: from :func:`sigprop.network`.
        outputs: ``trace`` averages over the last output axis: ``[n1, n2, *sites, *sites]``; ``full`` keeps it, and does not divide:
            ``[n1, n2, *sites, features, *sites, features]``.
        memory: cap in bytes on what is held besides parameters and inputs, as estimated.
        parameterization: ``standard`` or ``ntk``.
        learning_rates: a tree like the parameters of numbers; those it lacks are 1.
        method: ``auto``, or one of ``jacobian``, ``structured``, ``products`` for all parameters.

    Returns:
        A function to :class:`Kernel`, whose errors are the rounding of a sum over the parameters (Higham & Mary 2019).

    Raises:
        InvalidInput: for unusable parameters, inputs, outputs or options, or a model whose examples influence each other.
    """
    _check_options(outputs, memory, method)
    variances = tangent_variances(net, parameterization, learning_rates)
    active = tuple(k for k, v in enumerate(variances) if not concrete(v) or v != 0)
    setting = Setting(net.apply, active, outputs, float(memory), method)
    compiled = jax.jit(partial(kernels, setting))

    def kernel(params: Any, x1: Any = None, x2: Any = None) -> Kernel:
        if x1 is None or jax.tree.structure(params) != jax.tree.structure(net.abstract_params):
            check_order(params, x1, net)
        one, two = _inputs(x1, x2)
        for x in (one,) if two is None else (one, two):
            net.graph(*x)  # refuses what no kernel can be made of
        return _finished(params, *compiled(as_tree(params, net.abstract_params), one, two, variances))

    return kernel


def empirical_ntk(apply_fn: Callable[..., Any], params: Any, x1: Any, x2: Any = None, *, outputs: str = "trace",
                  memory: float = MEMORY, method: str = "auto") -> Float[Array, ...]:
    """NTK of any pure function ``(params, *x) -> y`` at ``params``, every parameter tangent of variance 1.

    Shapes, options and errors are those of :func:`empirical_kernel`. Compiled once per function object: pass the same one again.
    """
    _check_options(outputs, memory, method)
    if not callable(apply_fn):
        raise InvalidInput(f"apply_fn: {type(apply_fn).__name__} is not a function apply(params, *x)")
    check_params(params)
    one, two = _inputs(x1, x2)
    chosen = trainable(params)
    setting = Setting(apply_fn, tuple(k for k, yes in enumerate(chosen) if yes), outputs, float(memory), method)
    ntk = _finished(params, *_compiled(setting, params, one, two, [float(yes) for yes in chosen])).ntk
    assert ntk is not None
    return ntk


_compiled = jax.jit(kernels, static_argnums=0)


def _check_options(outputs: str, memory: Any, method: str) -> None:
    check_choice("outputs", outputs, ("trace", "full"))
    check_choice("method", method, ("auto", *METHODS))
    if isinstance(memory, bool) or not isinstance(memory, int | float | np.number) or not memory > 0:
        raise InvalidInput(f"memory: {memory!r} is not a positive number of bytes")


def _inputs(x1: Any, x2: Any) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """Inputs as tuples of arrays."""
    check_inputs((x1,))
    if x2 is not None:
        check_pair(x1, x2)
    one, two = (None if x is None else jax.tree.map(jnp.asarray, x if isinstance(x, tuple) else (x,)) for x in (x1, x2))
    assert one is not None
    return one, two


def _finished(params: Any, nngp: Any, ntk: Any, mixed: Any) -> Kernel:
    """With its rounding error; refused, or NaN while the caller is traced, where examples influence each other."""
    if concrete(mixed) and bool(mixed):
        raise InvalidInput("model: an example's output depends on the rest of its batch (statistics of the batch, or noise drawn for each "
                           "example); use evaluation mode")
    nngp, ntk = (jnp.where(mixed, jnp.nan, k) for k in (nngp, ntk))
    terms = sum(prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params))
    rounding = jnp.asarray(terms**0.5 * jnp.finfo(nngp.dtype).eps, nngp.dtype)
    return Kernel(nngp, ntk, rounding * jnp.max(jnp.abs(nngp)), rounding * jnp.max(jnp.abs(ntk)))
