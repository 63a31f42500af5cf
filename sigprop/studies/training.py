"""Short training runs, with Adam or by gradient descent, of which the losses or the last parameters are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.errors import InvalidInput, MissingDependency
from sigprop.init.checks import check_number, check_whole
from sigprop.network import Network, parameter_paths


def cross_entropy(y: Any, labels: Any) -> Any:
    """Of logits ``[n, classes]`` and whole numbers ``[n]``, the mean over examples."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(y), labels[:, None], -1))


def adam(learning_rate: float) -> Any:
    """The optimizer of optax.

    Raises:
        MissingDependency: where optax is not installed.
    """
    try:
        import optax
    except ImportError as error:
        raise MissingDependency("training needs optax: pip install 'sigprop[studies]'") from error
    return optax.adam(learning_rate)


def fitted(cost: Callable[[Any, Any], Any], params: Any, key: Any, first: Any, last: Any, *, count: int, learning_rate: float = 3e-3,
           batch_size: int = 64) -> Any:
    """Parameters after the steps of Adam from ``first`` to ``last``, which may be traced.

    Args:
        cost: of parameters, and of which of the ``count`` examples are in the minibatch ``[batch_size]``.
        key: of minibatches; the same step sees the same one.
    """
    optimizer = adam(learning_rate)

    def step(k: Any, state: Any) -> Any:
        now, moments = state
        chosen = jax.random.choice(jax.random.fold_in(key, k), count, (batch_size,), replace=False)
        updates, moments = optimizer.update(jax.grad(cost)(now, chosen), moments, now)
        return _moved(now, updates), moments

    return jax.lax.fori_loop(first, last, step, (params, optimizer.init(params)))[0]


def descended(errors: Callable[[Any], Any], params: Any, rate: Any, steps: Sequence[int]) -> Any:
    """Mean squared errors, one or several, at some steps of gradient descent on half of the first of them: ``[steps, ...]``."""
    def step(now: Any, _: Any) -> tuple[Any, Any]:
        slopes = jax.grad(lambda p: jnp.ravel(errors(p))[0] / 2)(now)
        return jax.tree.map(lambda p, g: p - rate * g, now, slopes), errors(now)

    return jax.lax.scan(step, params, length=max(steps) + 1)[1][np.array(steps)]


def expected_errors(path: Any, wanted: Any) -> np.ndarray:
    """Mean squared errors ``[steps]`` of networks whose predictions have the mean ``[steps, n, 1]`` and covariance ``[steps, n, n]`` of a
    path of :func:`sigprop.dynamics.gradient_descent`, at targets ``[n, 1]``."""
    spread = np.diagonal(np.asarray(path.covariance), axis1=1, axis2=2)
    return np.mean((np.asarray(path.mean) - wanted) ** 2, (1, 2)) + np.mean(spread, 1)


def _moved(params: Any, updates: Any) -> Any:
    return jax.tree.map(lambda p, u: p + u, params, updates)


def trained(net: Network, x: tuple[np.ndarray, ...], targets: np.ndarray, loss: Callable[[Any, Any], Any], steps: int,
            learning_rate: float, batch_size: int, key: Any = None, watch: Sequence[str] = ()) -> xr.Dataset:
    """Train the trained parameters of ``net`` on random minibatches, and keep the losses.

    Args:
        x, targets: all examples, on axis 0.
        loss: of outputs and targets of a minibatch.
        steps, learning_rate, batch_size: of Adam.
        key: of the draw of the parameters and of the minibatches, ``jax.random.key(0)`` by default; or several, ``[draws]``.
        watch: paths of parameters whose root mean square is kept at every step.

    Returns:
        ``loss`` ``(step)``, before each step, infinite where a run diverges; ``rms`` ``(step, parameter)`` of those watched;
        with ``draw`` first where several keys are given.

    Raises:
        InvalidInput: for numbers out of range, and more examples in a minibatch than there are.
        MissingDependency: where optax is not installed.
    """
    check_whole("steps", steps)
    check_number("learning_rate", learning_rate, above=0.0)
    check_whole("batch_size", batch_size)
    if batch_size > len(targets):
        raise InvalidInput(f"batch_size: {batch_size} given, there are {len(targets)} examples")
    key = jax.random.key(0) if key is None else key
    optimizer, watched = adam(learning_rate), list(watch)
    paths = parameter_paths(net.abstract_params)
    tree = jax.tree.structure(net.abstract_params)

    def run(start: tuple[list[Any], Any]) -> Any:
        leaves, key = start
        still = {k: leaf for k, (leaf, moves) in enumerate(zip(leaves, net.trainable, strict=True)) if not moves}
        moving = {k: leaf for k, leaf in enumerate(leaves) if k not in still}

        def cost(some: dict[int, Any], inputs: list[Any], wanted: Any) -> Any:
            every = {**still, **some}
            return loss(net.apply(jax.tree.unflatten(tree, [every[k] for k in range(len(leaves))]), *inputs), wanted)

        def step(state: Any, k: Any) -> Any:
            some, moments = state
            chosen = jax.random.choice(jax.random.fold_in(k, 1), len(targets), (batch_size,), replace=False)
            found, gradient = jax.value_and_grad(cost)(some, [jnp.asarray(a)[chosen] for a in x], jnp.asarray(targets)[chosen])
            rms = [jnp.sqrt(jnp.mean(jnp.square(some[paths.index(path)]))) for path in watched]
            updates, moments = optimizer.update(gradient, moments, some)
            return (_moved(some, updates), moments), (found, jnp.asarray(rms))

        return jax.lax.scan(step, (moving, optimizer.init(moving)), jax.random.split(key, steps))[1]

    keys = jnp.atleast_1d(key)
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(jax.tree.leaves(net.init(k)) for k in keys))
    losses, sizes = (np.asarray(a, np.float64) for a in jax.jit(lambda every: jax.lax.map(run, every))((starts, keys)))
    found = xr.Dataset({"loss": (("draw", "step"), np.nan_to_num(losses, nan=np.inf)),
                        "rms": (("draw", "step", "parameter"), sizes.reshape(*losses.shape, len(watched)))},
                       {"step": np.arange(steps), "parameter": watched})
    return found if key.ndim else found.isel(draw=0)
