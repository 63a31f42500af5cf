"""Wide networks trained on the squared error, in closed form: mean and covariance over initializations at any time.

Loss and time are those of neural-tangents: ``L = mean((f - y)**2) / 2`` over all ``n * k`` outputs, so that ``df/dt = -rate / (n k) Theta
(f - y)``. With ``A = Theta^-1 (1 - exp(-rate t Theta / (n k)))`` the outputs at test inputs have the mean ``Theta_* A y`` and the
covariance ``K_** - Theta_* A K_*^T - (Theta_* A K_*^T)^T + Theta_* A K A Theta_*^T`` (Lee et al. 2019, equations 14 to 16). Where only the
last layer is trained the NNGP ``K`` takes the place of ``Theta``, and the limit is the posterior of the Gaussian process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.arrays import concrete
from sigprop.dynamics.checks import check_kernel, check_result, check_ridge, check_shape, check_targets, check_train
from sigprop.errors import InvalidInput
from sigprop.network.checks import check_choice
from sigprop.spectra import spectrum
from sigprop.types import Kernel


class Prediction(NamedTuple):
    """Outputs over the draws of the initial parameters.

    Attributes:
        mean: ``[*t, m, *k]``.
        covariance: ``[*t, m, m]`` between inputs, the same for each output; ``None`` where no test kernel was given.
    """

    mean: Float[Array, "*t m *k"]
    covariance: Float[Array, "*t m m"] | None


def gradient_flow(train: Kernel, y: Float[Array, "n ..."], cross: Kernel | None = None, test: Kernel | None = None, *, t: Any = jnp.inf,
                  which: str = "ntk", ridge: Any = 0.0, learning_rate: Any = 1.0) -> Prediction:
    """Networks trained by gradient flow on the squared error, at times ``t``.

    Works under ``jax.jit`` and ``jax.vmap``, where values are not checked; the eigenvectors of the kernel are computed once for all times.

    Args:
        train: kernel of the training inputs.
        y: targets.
        cross: kernel of test with training inputs; ``None`` for the outputs at the training inputs.
        test: kernel of the test inputs; ``None`` for the mean alone.
        t: a number or an array ``[T]``, infinity allowed.
        which: ``"ntk"``: all layers are trained; ``"nngp"``: the last one.
        ridge: added to the diagonal of the kernel that drives the training.
        learning_rate: factor of ``t``.

    Raises:
        InvalidInput: for unusable arguments, a kernel that is not positive semidefinite, and one that is singular where ``t`` is infinite
            and there is no ridge: with its rank.
    """
    if concrete(t) and (np.ndim(t) > 1 or not np.size(t) or np.any(np.isnan(t)) or np.any(np.asarray(t) < 0)):
        raise InvalidInput(f"t: {t!r} is not a non-negative time, nor an array [T] of them")
    endless = concrete(t) and bool(np.any(np.isinf(t)))
    times = jnp.asarray(t) * learning_rate
    return _predicted(train, y, cross, test, which, ridge, lambda size, values: _of_flow(times[..., None] / size, values), endless)


def gradient_descent(train: Kernel, y: Float[Array, "n ..."], cross: Kernel | None = None, test: Kernel | None = None, *, steps: Any,
                     learning_rate: Any, which: str = "ntk", ridge: Any = 0.0) -> Prediction:
    """Networks trained by ``steps`` steps of full-batch gradient descent on the squared error.

    Arguments and errors are those of :func:`gradient_flow`; ``steps`` is a whole number, or an array ``[T]`` of them. It diverges where
    ``learning_rate`` is beyond :func:`max_learning_rate`.
    """
    if concrete(steps) and (np.ndim(steps) > 1 or not np.size(steps) or not np.issubdtype(np.asarray(steps).dtype, np.integer)
                            or np.any(np.asarray(steps) < 0)):
        raise InvalidInput(f"steps: {steps!r} is not a non-negative whole number, nor an array [T] of them")
    counts = jnp.asarray(steps)[..., None]
    return _predicted(train, y, cross, test, which, ridge, lambda size, values: _of_descent(learning_rate / size, counts, values), False)


def max_learning_rate(kernel: Float[Array, "n n"], outputs: int = 1) -> Float[Array, ""]:
    """``2 n k / largest eigenvalue``: gradient descent on the squared error of ``k`` outputs diverges beyond."""
    values = spectrum(kernel)
    return 2 * len(values) * outputs / values[0]


def _of_flow(time: Any, values: Any) -> Any:
    """``(1 - exp(-time v)) / v``."""
    safe = jnp.where(values > 0, values, 1)
    return jnp.where(values > 0, -jnp.expm1(-time * safe) / safe, time)


def _of_descent(rate: Any, steps: Any, values: Any) -> Any:
    """``(1 - (1 - rate v)**steps) / v``, without cancellation where ``rate v`` is small."""
    taken = rate * values
    gone = jnp.where(taken < 0.5, -jnp.expm1(steps * jnp.log1p(-jnp.minimum(taken, 0.5))), 1 - (1 - taken) ** steps)
    return jnp.where(values > 0, gone / jnp.where(values > 0, values, 1), steps * rate)


def _predicted(train: Any, y: Any, cross: Any, test: Any, which: str, ridge: Any, progress: Callable[[int, Any], Any],
               endless: bool) -> Prediction:
    """``progress`` of ``n k`` and the eigenvalues gives those of ``A``, ``[*t, n]``."""
    check_choice("which", which, ("ntk", "nngp"))
    check_ridge(ridge)
    moving = check_train(f"train.{which}", check_kernel("train", train, which))
    n, dtype = len(moving), moving.dtype
    prior = check_shape("train.nngp", check_kernel("train", train, "nngp"), (n, n), dtype)
    targets = check_targets(y, n, dtype)
    across = moving if cross is None else check_shape(f"cross.{which}", check_kernel("cross", cross, which), (None, n), dtype)
    across_prior = prior if cross is None else check_shape("cross.nngp", check_kernel("cross", cross, "nngp"), (len(across), n), dtype)
    tests = None if test is None else check_shape("test.nngp", check_kernel("test", test, "nngp"), (len(across), len(across)), dtype)
    driving = moving + ridge * jnp.eye(n, dtype=dtype)
    values, vectors = _eigen(driving)
    _check_spectrum(values, driving, endless)
    middle = driving if which == "nngp" else prior  # noise of the targets is part of a Gaussian process
    weights = progress(targets.size, jnp.maximum(values, 0))
    mean, covariance = _evolved(vectors, jnp.atleast_2d(weights), middle, targets, across, across_prior, tests)
    check_result("the prediction", mean)
    shape = weights.shape[:-1]
    return Prediction(mean.reshape(*shape, len(across), *np.shape(y)[1:]),
                      None if covariance is None else covariance.reshape(*shape, len(across), len(across)))


_eigen = jax.jit(jnp.linalg.eigh)


def _check_spectrum(values: Any, driving: Any, regular: bool) -> None:
    if not concrete(values):
        return
    floor = len(values) * float(jnp.finfo(values.dtype).eps) * float(jnp.max(jnp.abs(values)))
    if values[0] < -floor:
        raise InvalidInput(f"train: not positive semidefinite, its eigenvalues go from {values[0]:.6g} to {values[-1]:.6g}")
    rank = int(jnp.sum(values > floor))
    if regular and rank < len(values):
        raise InvalidInput(f"train: singular, its rank is {rank} of {len(values)}, and t is infinite; drop inputs that repeat, add a "
                           "ridge, or ask for a finite time")


@jax.jit
def _evolved(vectors: Any, weights: Any, middle: Any, y: Any, cross: Any, prior: Any, test: Any) -> tuple[Any, Any]:
    turned = cross @ vectors
    mean = jnp.einsum("mi,ti,ik->tmk", turned, weights, vectors.T @ y)
    if test is None:
        return mean, None

    def covariance(weight: Any) -> Any:
        moved = (turned * weight) @ vectors.T
        mixed = moved @ prior.T
        return test - mixed - mixed.T + moved @ middle @ moved.T

    return mean, jax.lax.map(covariance, weights)
