"""Wide networks trained by gradient flow on any loss, by integration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.arrays import concrete
from sigprop.dynamics.checks import check_result, check_shape, check_train
from sigprop.errors import InvalidInput, MissingDependency


class Outputs(NamedTuple):
    """Outputs ``[T, n, k]`` at training inputs and ``[T, m, k]`` at test inputs (``None`` without them); ``steps`` of the solver."""

    train: Float[Array, "T n k"]
    test: Float[Array, "T m k"] | None
    steps: Any


def loss_flow(ntk: Float[Array, "n n"], loss: Callable[[Any], Any], times: Float[Array, " T"], cross: Float[Array, "m n"] | None = None, *,
              start: Float[Array, "n k"], start_test: Float[Array, "m k"] | None = None, rtol: float = 1e-5, atol: float = 1e-7,
              max_steps: int = 100_000) -> Outputs:
    """Solve ``df/dt = -Theta dL/df`` for the outputs of a network of constant tangent kernel (Jacot et al. 2018), by diffrax.

    What is integrated are coefficients ``a`` with ``f = start + Theta a``, ``da/dt = -dL/df``: test outputs follow from them. Works under
    ``jax.jit`` and ``jax.vmap``.

    Args:
        ntk, cross: tangent kernels of the training inputs, and of test with training inputs.
        loss: function of all training outputs ``[n, k]``, such as a mean cross-entropy.
        times: increasing, at least 0, finite.
        start, start_test: outputs at time 0; zeros are the mean over initializations. ``start_test`` is zero by default.
        rtol, atol: of the adaptive steps.
        max_steps: there are about ``time * (largest eigenvalue of Theta) * (curvature of the loss)`` of them.

    Raises:
        InvalidInput: for shapes that do not belong together, bad times, and a loss that is no number.
        MissingDependency: where diffrax is not installed.
    """
    try:
        import diffrax
    except ImportError as error:
        raise MissingDependency("flows of a loss need diffrax: pip install 'sigprop[studies]'") from error
    theta = check_train("ntk", ntk)
    n, dtype = len(theta), theta.dtype
    begin = check_shape("start", start, (n, None), dtype)
    across = None if cross is None else check_shape("cross", cross, (None, n), dtype)
    first = None if across is None else jnp.zeros((len(across), begin.shape[1]), dtype) if start_test is None else check_shape(
        "start_test", start_test, (len(across), begin.shape[1]), dtype)
    saved = jnp.asarray(times, dtype)
    if concrete(saved) and (saved.ndim != 1 or not saved.size or np.any(np.diff(np.asarray(saved)) <= 0) or saved[0] < 0
                            or not np.all(np.isfinite(np.asarray(saved)))):
        raise InvalidInput(f"times: {times!r} are not increasing finite times [T] from 0 on")
    found = jax.eval_shape(loss, begin)
    if getattr(found, "shape", None) != ():
        raise InvalidInput(f"loss: returns {found} for outputs of shape {begin.shape}; it must be a single number")
    term = diffrax.ODETerm(lambda t, a, args: -jax.grad(loss)(begin + theta @ a))
    solution = diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, saved[-1], None, jnp.zeros_like(begin), saveat=diffrax.SaveAt(ts=saved),
                                   stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol), max_steps=max_steps, throw=False)
    coefficients: Any = solution.ys
    train = begin + jnp.einsum("ij,tjk->tik", theta, coefficients)
    steps = solution.stats["num_steps"]
    if concrete(steps) and steps >= max_steps:
        raise InvalidInput(f"times: more than {max_steps} steps are needed up to {float(saved[-1]):.3g}; give more max_steps, or less time")
    check_result("the flow", train)
    return Outputs(train, None if across is None or first is None else first + jnp.einsum("ij,tjk->tik", across, coefficients), steps)
