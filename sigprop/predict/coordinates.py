"""The coordinate check of a parameterization: how far the first step of Adam moves weights and outputs as the network gets wider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.empirical.gradients import loss_gradients
from sigprop.errors import InvalidInput, Unsound
from sigprop.infinite import infinite_kernel
from sigprop.init.checks import check_number, check_whole
from sigprop.network import Network, parameter_paths
from sigprop.predict.adam import adam_second_moment

Build = Callable[[int], tuple[Network, Mapping[str, float]]]


class _Width(NamedTuple):
    update: dict[str, float]
    measured: dict[str, np.ndarray]
    bound: dict[str, float]
    change: np.ndarray


def coordinate_check(build: Build, widths: Sequence[int], loss: Callable[..., Any], batch: Any, *, lr: float = 1e-3, eps: float = 1e-8,
                     seeds: int = 16, key: Any = None) -> xr.Dataset:
    """Size of Adam's first update, and of the change of the outputs that it makes, against width: predicted and measured.

    The learning rate transfers from one width to another where the change of the outputs stays (Yang & Hu 2021; Yang et al. 2022,
    appendix D.1): slope 0 in the table. An entry moves by ``lr_leaf g / (|g| + eps)``, at most ``lr_leaf``; to first order the output
    then moves by at most ``lr_leaf |J|_1 <= lr_leaf sqrt(N K)``, with ``N`` entries of the leaf and its part ``K`` of the tangent kernel
    ``J Jᵀ``. Adam's sign step follows the sign of ``J``, so that the bound has the right power of the width, and is a constant too high: by
    ``sqrt(pi / 2)`` for each normal factor of ``J`` where there is one example.

    Args:
        build: from a width to ``(network, learning_rates)``: factors by path, 1 for those not named, as :class:`sigprop.init.MuP` gives.
        widths: two or more different ones.
        loss, batch: as in :func:`sigprop.adam_second_moment`; a step on the whole batch.
        lr: base learning rate, small enough for the first order.
        eps: that of Adam.
        seeds: draws that are measured, two or more.
        key: of the draws.

    Returns:
        Dataset over ``width`` and ``parameter``: ``first_update`` (its root mean square, predicted), ``measured_first_update`` and
        ``measured_first_update_stderr``; ``output_bound`` ``(width, parameter)`` and its sum ``output_change_bound`` ``(width)``;
        ``measured_output_change`` ``(width)``, root mean square over draws, examples and components, and ``_stderr``. Slopes of their
        logarithms on that of the width: ``slope`` and ``measured_slope`` of the outputs, ``update_slope`` ``(parameter)``.

    Raises:
        InvalidInput: for unusable arguments, and parameters that change with the width.
        MissingRule, Unsound: where a network cannot be predicted.
    """
    if not callable(build):
        raise InvalidInput(f"build: {type(build).__name__} given; it is a function width -> (network, learning_rates)")
    sizes = list(widths)
    for width in sizes:
        check_whole("widths", width)
    if len(set(sizes)) < 2 or len(set(sizes)) < len(sizes):
        raise InvalidInput(f"widths: {sizes} given; a slope takes two or more different widths")
    check_number("lr", lr, above=0.0)
    check_number("eps", eps, low=0.0)
    check_whole("seeds", seeds, 2)
    keys = jax.random.split(jax.random.key(0) if key is None else key, seeds)
    rows = [_width(*_built(build, width), loss, batch, lr, eps, keys) for width in sizes]
    paths = list(rows[0].update)
    if any(list(row.update) != paths for row in rows):
        raise InvalidInput(f"build: the parameters change with the width: {[list(row.update) for row in rows]}")
    squares = np.array([[row.measured[p] for p in paths] for row in rows])  # [width, parameter, seed]
    changes = np.array([row.change for row in rows])
    data = {"first_update": np.array([[row.update[p] for p in paths] for row in rows]),
            "output_bound": np.array([[row.bound[p] for p in paths] for row in rows])}
    data["measured_first_update"], data["measured_first_update_stderr"] = _root(squares)
    over = {name: (("width", "parameter"), array) for name, array in data.items()}
    total, (change, stderr) = data["output_bound"].sum(1), _root(changes)
    single = {"output_change_bound": total, "measured_output_change": change, "measured_output_change_stderr": stderr}
    slopes = {"slope": ((), _slope(sizes, total)), "measured_slope": ((), _slope(sizes, change)),
              "update_slope": ("parameter", _slope(sizes, data["first_update"]))}
    return xr.Dataset(over | {name: ("width", array) for name, array in single.items()} | slopes, {"width": sizes, "parameter": paths})


def _built(build: Build, width: int) -> tuple[Network, dict[str, float]]:
    made = build(width)
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], Network) or not isinstance(made[1], Mapping):
        raise InvalidInput("build: it must return (network, learning_rates), a mapping from paths to factors")
    net, rates = made
    for path, rate in rates.items():
        if path not in net.trained_paths:
            raise InvalidInput(f"learning_rates: there is no trained parameter {path!r}; there are {net.trained_paths}")
        check_number(f"learning_rates[{path!r}]", rate, low=0.0)
    return net, {path: float(rates.get(path, 1.0)) for path in net.trained_paths}


def _width(net: Network, rates: dict[str, float], loss: Any, batch: Any, lr: float, eps: float, keys: Any) -> _Width:
    moments = adam_second_moment(net, loss, batch, lr=lr, eps=eps)
    unknown = next((f"{path}: {leaf.method}" for path, leaf in moments.items() if np.isnan(leaf.update)), None)
    if unknown:
        raise Unsound(f"build: the gradient is not predicted for {unknown}")
    given, *targets = batch if isinstance(batch, tuple | list) else (batch,)
    x = tuple(given) if isinstance(given, tuple | list) else (given,)
    kernel = infinite_kernel(net, diagonal=True, per_leaf=True)(x)
    assert isinstance(kernel.ntk, dict)
    bound = {path: lr * rate * float(np.sqrt(moments[path].entries.size * np.mean(kernel.ntk[path]))) for path, rate in rates.items()}
    squares, change = _measured(net, rates, loss, (x, tuple(targets)), lr, eps, keys)
    return _Width({path: moments[path].update * rate for path, rate in rates.items()}, squares, bound, change)


def _measured(net: Network, rates: dict[str, float], loss: Any, batch: Any, lr: float, eps: float,
              keys: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Mean squares of the first update by path, and of the change of the outputs, for each key."""
    x, targets = jax.tree.map(jnp.asarray, batch)
    paths = parameter_paths(net.abstract_params)

    def one(key: Any) -> tuple[dict[str, Any], Any]:
        params = net.init(key)
        grads = loss_gradients(net, loss, params, x, targets)
        step = {path: -lr * rates[path] * g / jnp.maximum(jnp.abs(g) + eps, jnp.finfo(g.dtype).tiny) for path, g in grads.items()}
        leaves, tree = jax.tree.flatten(params)
        moved = jax.tree.unflatten(tree, [w + step[path] if path in step else w for path, w in zip(paths, leaves, strict=True)])
        before, after = (jax.tree.leaves(net.apply(p, *x))[0] for p in (params, moved))
        return {path: jnp.mean(s**2) for path, s in step.items()}, jnp.mean((after - before) ** 2)

    squares, change = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
    return {path: np.asarray(s, float) for path, s in squares.items()}, np.asarray(change, float)


def _root(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root of the mean over the last axis, and its standard error."""
    mean, stderr = squares.mean(-1), squares.std(-1, ddof=1) / squares.shape[-1] ** 0.5
    root = np.sqrt(mean)
    return root, np.divide(stderr, 2 * root, out=np.zeros_like(root), where=root > 0)


def _slope(widths: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Least squares of log values on log widths, along axis 0; NaN where a value is 0."""
    t = np.log(np.asarray(widths, float))
    t = t - t.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.tensordot(t, np.where(values > 0, np.log(np.maximum(values, 1e-300)), np.nan), 1) / np.sum(t**2)
