"""A network expanded in its parameters about a point."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial
from typing import Any

import jax
import jax.numpy as jnp

from sigprop.empirical.leaves import as_tree, check_params, trainable
from sigprop.errors import InvalidInput
from sigprop.network import Network


def linearize(model: Network | Callable[..., Any], params: Any) -> Callable[..., Any]:
    """``f(params', *x)``: the model to first order in ``params' - params`` (Lee et al. 2019); see :func:`taylor`."""
    return taylor(model, params, 1)


def taylor(model: Network | Callable[..., Any], params: Any, order: int) -> Callable[..., Any]:
    """``f(params', *x)``: the Taylor polynomial of the model in ``params' - params``.

    Its time grows as ``2**order``. What is not trained (statistics of batches, keys, counters) stays as in ``params``. Works under
    ``jax.jit``, ``jax.vmap`` and ``jax.grad``.

    Args:
        model: from :func:`sigprop.network`, or a function ``(params, *x) -> y``.
        order: 0 or more.

    Raises:
        InvalidInput: for a negative order, or parameters that do not match.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise InvalidInput(f"order: {order!r} is not a non-negative integer")
    apply, template = function_of(model, params)
    leaves, tree = jax.tree.flatten(as_tree(params, template))
    moving = [k for k, yes in enumerate(trainable(template)) if yes]
    start = [leaves[k] for k in moving]

    def expanded(other: Any, *x: Any) -> Any:
        given = jax.tree.leaves(as_tree(other, template))
        step = [jnp.asarray(given[k] - leaves[k], leaves[k].dtype) for k in moving]

        def at(moved: list[Any]) -> Any:
            full = list(leaves)
            for k, value in zip(moving, moved, strict=True):
                full[k] = value
            return apply(jax.tree.unflatten(tree, full), *x)

        terms = _derivatives(at, start, step, order)
        return jax.tree.map(lambda *t: sum(d / factorial(k) for k, d in enumerate(t)), *terms)

    return expanded


def _derivatives(function: Callable[[Any], Any], at: Any, step: Any, order: int) -> list[Any]:
    """The function and its derivatives along ``step``, up to ``order``."""
    terms, current = [], function
    for _ in range(order + 1):
        terms.append(current)
        current = lambda p, inner=current: jax.jvp(inner, (p,), (step,))[1]  # noqa: E731
    return [term(at) for term in terms]


def function_of(model: Network | Callable[..., Any], params: Any) -> tuple[Callable[..., Any], Any]:
    """The model as a pure function, and the shapes of its parameters."""
    if isinstance(model, Network):
        return model.apply, model.abstract_params
    if not callable(model):
        raise InvalidInput(f"model: {type(model).__name__} is neither a network nor a function apply(params, *x)")
    check_params(params)
    return model, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
