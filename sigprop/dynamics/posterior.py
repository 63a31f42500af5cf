"""Kernel ridge regression and the posterior of a Gaussian process, with the smallest jitter that makes Cholesky's factor exist."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float

from sigprop.arrays import concrete
from sigprop.dynamics.checks import check_ridge, check_shape, check_targets, check_train
from sigprop.errors import InvalidInput
from sigprop.spectra import rank, spectrum

_LARGEST = 1e-2  # jitter, in means of the diagonal: beyond, the kernel is not positive semidefinite


class Factor(NamedTuple):
    """``lower @ lower.T = K + jitter * I``; ``jitter`` is 0 where none was needed, NaN (with ``lower``) where none up to 1e-2 of the mean
    diagonal was enough."""

    lower: Float[Array, "n n"]
    jitter: Float[Array, ""]


class Posterior(NamedTuple):
    """Predictions of a kernel.

    Attributes:
        mean: ``[m, *k]``.
        covariance: ``[m, m]`` between test inputs, the same for each target; ``None`` where no test kernel was given.
        jitter: what was added to the diagonal besides the ridge, 0 where nothing was needed.
        log_likelihood: ``log p(y)``, summed over the targets.
    """

    mean: Float[Array, "m ..."]
    covariance: Float[Array, "m m"] | None
    jitter: Float[Array, ""]
    log_likelihood: Float[Array, ""]


def cholesky(kernel: Float[Array, "n n"], ridge: Any = 0.0) -> Factor:
    """Factor of ``K + (ridge + jitter) I``: the jitter is 0, or the first of eps, 10 eps, ... means of the diagonal that works.

    Raises:
        InvalidInput: where none below 1e-2 does, and for what is no kernel.
    """
    check_ridge(ridge)
    found = _cholesky(check_train("kernel", kernel), ridge)
    _check_factor("kernel", found, kernel)
    return found


@jax.jit
def _cholesky(kernel: Any, ridge: Any) -> Factor:
    scale, one = jnp.mean(jnp.diag(kernel)), jnp.eye(len(kernel), dtype=kernel.dtype)
    first = jnp.finfo(kernel.dtype).eps

    def attempt(relative: Any) -> Any:
        return jnp.linalg.cholesky(kernel + (ridge + relative * scale) * one)

    def fails(state: Any) -> Any:
        return ~jnp.all(jnp.isfinite(state[0])) & (state[1] < _LARGEST)

    def more(state: Any) -> Any:
        relative = jnp.where(state[1] == 0, first, 10 * state[1])
        return attempt(relative), relative

    lower, relative = jax.lax.while_loop(fails, more, (attempt(jnp.zeros((), kernel.dtype)), jnp.zeros((), kernel.dtype)))
    works = jnp.all(jnp.isfinite(lower))
    return Factor(jnp.where(works, lower, jnp.nan), jnp.where(works, relative * scale, jnp.nan))


def _check_factor(name: str, factor: Factor, kernel: Any) -> None:
    if concrete(factor.jitter) and not np.isfinite(factor.jitter):
        values = spectrum(kernel)
        raise InvalidInput(f"{name}: not positive semidefinite, its eigenvalues go from {values[-1]:.6g} to {values[0]:.6g} (rank "
                           f"{int(rank(kernel))} of {len(values)})")


def posterior(train: Float[Array, "n n"], y: Float[Array, "n ..."], cross: Float[Array, "m n"], test: Float[Array, "m m"] | None = None,
              ridge: Any = 0.0) -> Posterior:
    """``K_* (K + r)^-1 y`` and ``K_** - K_* (K + r)^-1 K_*^T`` (Rasmussen & Williams 2006, algorithm 2.1).

    With an NNGP the posterior of a Bayesian network of infinite width, with an NTK the mean of trained networks. Works under ``jax.jit``
    and ``jax.vmap``, where values are not checked.

    Args:
        train, cross, test: kernels of the training inputs, of test with training inputs, of the test inputs.
        y: targets.
        ridge: added to the diagonal: variance of the noise of ``y``.

    Raises:
        InvalidInput: for shapes that do not belong together, entries that are not finite, and a kernel that is not positive semidefinite.
    """
    check_ridge(ridge)
    square = check_train("train", train)
    targets, kind = check_targets(y, len(square), square.dtype), square.dtype
    across = check_shape("cross", cross, (None, len(square)), kind)
    own = None if test is None else check_shape("test", test, (len(across), len(across)), kind)
    mean, covariance, factor, likelihood = _posterior(square, targets, across, own, ridge)
    _check_factor("train", factor, square)
    return Posterior(mean.reshape(len(across), *np.shape(y)[1:]), covariance, factor.jitter, likelihood)


def regression(kernel: Any, y: Any, ridge: Any, train: Any, test: Any) -> Any:
    """Predictions at the examples ``test`` after training on the examples ``train``, two arrays of their numbers; not checked."""
    lower = _cholesky(kernel[train][:, train], ridge).lower
    return kernel[test][:, train] @ cho_solve((lower, True), y[train])


@jax.jit
def _posterior(train: Any, y: Any, cross: Any, test: Any, ridge: Any) -> tuple[Any, Any, Factor, Any]:
    factor = _cholesky(train, ridge)
    weights = cho_solve((factor.lower, True), y)
    half = solve_triangular(factor.lower, cross.T, lower=True)
    logs = 2 * jnp.sum(jnp.log(jnp.diag(factor.lower))) + len(train) * jnp.log(2 * jnp.pi)
    likelihood = -0.5 * (jnp.sum(y * weights) + y.shape[1] * logs)
    return cross @ weights, None if test is None else test - half.T @ half, factor, likelihood
