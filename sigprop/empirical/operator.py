"""The neural tangent kernel as a linear operator, without its matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from sigprop.empirical.engine import check_output
from sigprop.empirical.expand import function_of
from sigprop.empirical.leaves import as_tree, tangent_variances, trainable
from sigprop.errors import InvalidInput
from sigprop.network import Network, check_inputs

if TYPE_CHECKING:
    import lineax


def ntk_operator(model: Network | Callable[..., Any], params: Any, *x: Any, parameterization: str = "standard",
                 learning_rates: Any = None) -> lineax.FunctionLinearOperator:
    """``v -> J V J^T v`` on arrays like the outputs ``(n, *sites, features)``: all features, not averaged.

    One product costs a backward and a forward pass, and as much memory. The examples of a batch may influence each other. The operator
    is tagged positive semidefinite and symmetric, for ``lineax.linear_solve`` with ``lineax.CG``; ``operator.mv`` serves matfree, which
    wants flat vectors.

    Args:
        model: from :func:`sigprop.network`, or a function ``(params, *x) -> y``, whose tangents have variance 1.
        parameterization, learning_rates: of a network, as for :func:`empirical_kernel`.

    Raises:
        InvalidInput: for unusable parameters, inputs, outputs or options.
    """
    import lineax

    check_inputs(x)
    apply, template = function_of(model, params)
    leaves, tree = jax.tree.flatten(as_tree(params, template))
    if isinstance(model, Network):
        model.graph(*x)
        variances = tangent_variances(model, parameterization, learning_rates)
    else:
        if parameterization != "standard" or learning_rates is not None:
            raise InvalidInput("parameterization, learning_rates: a plain function has no laws; make a network, sp.network(f, init=init)")
        variances = [1.0] * len(leaves)
    moving = [k for k, yes in enumerate(trainable(template)) if yes]

    def outputs(moved: list[Any]) -> Any:
        full = list(leaves)
        for k, value in zip(moving, moved, strict=True):
            full[k] = value
        return apply(jax.tree.unflatten(tree, full), *map(jnp.asarray, x))

    at = [leaves[k] for k in moving]
    values, push = jax.linearize(outputs, at)
    check_output(values, jax.tree.leaves(x)[0].shape[0])
    pull = jax.linear_transpose(push, at)

    def product(v: Any) -> Any:
        (tangent,) = pull(v)
        return push([t * jnp.asarray(variances[k], t.dtype) for k, t in zip(moving, tangent, strict=True)])

    shape = jax.ShapeDtypeStruct(values.shape, values.dtype)
    return lineax.FunctionLinearOperator(product, shape, [lineax.positive_semidefinite_tag, lineax.symmetric_tag])
