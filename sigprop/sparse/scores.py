"""How important weights are: by path arrays for :func:`sigprop.sparse.mask`, larger is more important."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.empirical.gradients import loss_gradients
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_whole
from sigprop.network import Network, check_inputs
from sigprop.sparse.masks import by_path, changed, prunable


def random(net: Network, key: Any, only: Collection[str] | None = None) -> dict[str, Any]:
    """Independent of the weights."""
    shapes = net.laws.shapes
    paths = prunable(net, only)
    return {path: jax.random.uniform(k, shapes[path]) for path, k in zip(paths, jax.random.split(key, len(paths)), strict=True)}


def blocks(scores: dict[str, Any], size: int) -> dict[str, Any]:
    """Scores that rank within blocks of ``size`` successive inputs of a unit, for N:M sparsity (Mishra et al. 2021).

    ``mask(blocks(scores, 4), 0.5)`` keeps the two most important of every four.

    Raises:
        InvalidInput: where ``size`` does not divide the inputs of a unit.
    """
    check_whole("size", size)
    out = {}
    for path, a in scores.items():
        inputs = int(np.prod(np.shape(a)[:-1]))
        if inputs % size:
            raise InvalidInput(f"size: {size} does not divide the {inputs} inputs of a unit of {path!r}")
        grouped = jnp.reshape(a, (inputs // size, size, np.shape(a)[-1]))
        out[path] = jnp.argsort(jnp.argsort(grouped, axis=1), axis=1).reshape(np.shape(a))
    return out


def tiles(scores: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """Scores of rectangles of ``shape = (inputs, units)`` successive weights, the mean of theirs, so that these are kept or left out whole
    (Narang et al. 2017, block sparsity); where ``kept`` is no whole number of them, the last one is cut.

    Raises:
        InvalidInput: where ``shape`` does not divide the inputs and units of a kernel.
    """
    for size in shape:
        check_whole("shape", size)
    rows, columns = shape
    out = {}
    for path, a in scores.items():
        inputs, units = int(np.prod(np.shape(a)[:-1])), np.shape(a)[-1]
        if inputs % rows or units % columns:
            raise InvalidInput(f"shape: {shape} does not divide the {inputs} inputs and {units} units of {path!r}")
        grouped = jnp.reshape(a, (inputs // rows, rows, units // columns, columns))
        out[path] = jnp.broadcast_to(grouped.mean((1, 3), keepdims=True), grouped.shape).reshape(np.shape(a))
    return out


def magnitude(net: Network, params: Any, only: Collection[str] | None = None) -> dict[str, Any]:
    """``|w|`` (Han et al. 2015)."""
    return {path: jnp.abs(w) for path, w in _kernels(net, params, only).items()}


def snip(net: Network, loss: Callable[..., Any], params: Any, x: Any, *targets: Any, only: Collection[str] | None = None) -> dict[str, Any]:
    """``|w dL/dw|``, the effect on the loss of leaving a weight out, to first order (Lee et al. 2019, eq. 5).

    Args:
        loss: ``loss(y, *targets)``, a scalar; ``x`` with the batch on axis 0, a tuple of several.
    """
    inputs = x if isinstance(x, tuple) else (x,)
    check_inputs(inputs)
    slopes = loss_gradients(net, loss, params, inputs, targets)
    return {path: jnp.abs(w * slopes[path]) for path, w in _kernels(net, params, only).items()}


def grasp(net: Network, loss: Callable[..., Any], params: Any, x: Any, *targets: Any,
          only: Collection[str] | None = None) -> dict[str, Any]:
    """``w (H g)``: leaving weights out of a negative one raises the norm of the gradient (Wang et al. 2020, eq. 8, with its sign turned).

    Args:
        loss: as for :func:`snip`; twice differentiable.
    """
    inputs = x if isinstance(x, tuple) else (x,)
    check_inputs(inputs)
    moving = {path: leaf for path, leaf in by_path(params).items() if path in net.trained_paths}

    def gradient(some: dict[str, Any]) -> dict[str, Any]:
        return loss_gradients(net, loss, changed(lambda path, leaf: some.get(path, leaf), params), inputs, targets)

    _, product = jax.jvp(gradient, (moving,), (gradient(moving),))
    return {path: w * product[path] for path, w in _kernels(net, params, only).items()}


def _kernels(net: Network, params: Any, only: Collection[str] | None) -> dict[str, Any]:
    leaves = by_path(params)
    return {path: leaves[path] for path in prunable(net, only)}
