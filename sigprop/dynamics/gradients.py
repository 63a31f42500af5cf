"""Linear systems of kernels that are too large to factor: conjugate gradients, preconditioned by a random sketch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sigprop.dynamics.checks import check_ridge, check_targets, check_train
from sigprop.errors import InvalidInput
from sigprop.gram import Gram
from sigprop.init.checks import check_number, check_whole
from sigprop.progress import progress

Product = Callable[[np.ndarray], np.ndarray]


class Solution(NamedTuple):
    """Of ``(K + ridge) x = y``.

    Attributes:
        x: ``[n, *k]``, float64.
        iterations: of conjugate gradients: products with the kernel, besides one for the preconditioner.
        residual: the largest of ``|y - (K + ridge) x| / |y|`` over the columns, computed anew at the end.
        converged: whether it is at most the tolerance.
    """

    x: np.ndarray
    iterations: int
    residual: float
    converged: bool


def conjugate_gradients(kernel: Any, y: Any, ridge: float, *, rank: int = 100, tolerance: float = 1e-6, max_iterations: int = 500,
                        which: str = "ntk") -> Solution:
    """Solve ``(K + ridge) x = y`` with products ``K v`` alone, in float64, all columns of ``y`` at once.

    The preconditioner inverts a Nystroem approximation of ``rank`` eigenvectors from one product with random vectors (Frangella, Tropp &
    Udell 2023). A stored kernel is read once per iteration, never held.

    Args:
        kernel: an array ``[n, n]``; a stored kernel, :func:`sigprop.gram`; or a function ``v [n, k] -> K v``, such as one that computes
            tiles when they are needed.
        y: ``[n]`` or ``[n, k]``.
        ridge: above 0, added to the diagonal.
        rank: of the preconditioner, 0 for none.
        which: the array of a stored kernel.

    Raises:
        InvalidInput: for unusable arguments, and a kernel that is not positive semidefinite.
    """
    check_ridge(ridge)
    check_number("ridge", ridge, above=0.0)
    check_number("tolerance", tolerance, above=0.0)
    check_whole("rank", rank, low=0)
    check_whole("max_iterations", max_iterations)
    shape = np.shape(y)
    product = _product(kernel, shape[0] if shape else 0, which)
    check_targets(y, shape[0] if shape else 1, np.float32)
    targets = np.asarray(y, np.float64).reshape(shape[0], -1)
    regular = lambda v: product(v) + ridge * v  # noqa: E731
    precondition = _nystroem(product, len(targets), min(rank, len(targets)), ridge)
    x, iterations = _iterate(regular, precondition, targets, tolerance, max_iterations)
    size = np.linalg.norm(targets, axis=0)
    residual = float(np.max(np.linalg.norm(targets - regular(x), axis=0) / np.where(size > 0, size, 1)))
    return Solution(x.reshape(shape), iterations, residual, residual <= 2 * tolerance)


def _product(kernel: Any, n: int, which: str) -> Product:
    if isinstance(kernel, Gram):
        if not kernel.layout.symmetric or kernel.shape[0] != n:
            raise InvalidInput(f"kernel: stored with shape {kernel.shape}; {n} targets need that of {n} inputs with themselves")
        return lambda v: kernel.matvec(v, which)
    if callable(kernel):
        return lambda v: np.asarray(kernel(v), np.float64)
    check_train("kernel", kernel)
    array = np.asarray(kernel, np.float64)
    if len(array) != n:
        raise InvalidInput(f"y: {n} targets for a kernel of {len(array)} examples")
    return lambda v: array @ v


def _nystroem(product: Product, n: int, rank: int, ridge: float) -> Product:
    """The inverse of ``U (L + ridge) U^T / (smallest L + ridge) + (1 - U U^T)``, for a sketch ``U L U^T`` of the kernel."""
    if rank == 0:
        return lambda v: v
    test = np.linalg.qr(np.random.default_rng(0).standard_normal((n, rank)))[0]
    sketch = product(test)
    shift = np.finfo(np.float64).eps ** 0.5 * max(float(np.linalg.norm(sketch, 2)), np.finfo(np.float64).tiny)
    sketch = sketch + shift * test
    core = test.T @ sketch
    try:
        lower = np.linalg.cholesky((core + core.T) / 2)
    except np.linalg.LinAlgError as error:
        raise InvalidInput("kernel: not positive semidefinite on random vectors") from error
    vectors, roots, _ = np.linalg.svd(np.linalg.solve(lower, sketch.T).T, full_matrices=False)
    values = np.maximum(roots**2 - shift, 0)
    gains = (values[-1] + ridge) / (values + ridge)
    return lambda v: v + vectors @ ((gains - 1)[:, None] * (vectors.T @ v))


def _iterate(product: Product, precondition: Product, y: np.ndarray, tolerance: float, most: int) -> tuple[np.ndarray, int]:
    """Columns of ``y`` side by side; one that has arrived stays as it is."""
    x, residual = np.zeros_like(y), y.copy()
    goal = tolerance * np.linalg.norm(y, axis=0)
    direction = precondition(residual)
    power = np.sum(residual * direction, 0)
    with progress() as bar:
        task = bar.add_task("conjugate gradients", total=most)
        for k in range(most):
            going = np.linalg.norm(residual, axis=0) > goal
            if not going.any():
                return x, k
            image = product(direction)
            curvature = np.sum(direction * image, 0)
            if np.any(curvature[going] <= 0) or not np.all(np.isfinite(curvature)):
                raise InvalidInput("kernel: not positive semidefinite, or not symmetric: conjugate gradients met a direction without "
                                   "positive curvature")
            step = np.where(going, power / np.where(going, curvature, 1), 0)
            x, residual = x + step * direction, residual - step * image
            turned = precondition(residual)
            new = np.sum(residual * turned, 0)
            direction = turned + np.where(going, new / np.where(power > 0, power, 1), 0) * direction
            power = new
            bar.advance(task)
    return x, most
