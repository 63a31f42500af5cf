"""Depth and regularization chosen by validation, and accuracy by folds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from sigprop.dynamics.checks import check_train
from sigprop.dynamics.posterior import regression
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_whole

RIDGES = tuple(10.0**k for k in range(-8, 2))


@dataclass(frozen=True)
class CrossValidation:
    """Accuracies of kernel regression on labels.

    Attributes:
        validation: accuracy on the second half after training on the first, ``(kernel, ridge)``.
        kernel: name of the chosen one.
        ridge: the chosen one, in means of the diagonal of the kernel.
        folds: accuracy on each fold after training on the others, with that choice, ``[folds]``.
    """

    validation: xr.DataArray
    kernel: Hashable
    ridge: float
    folds: np.ndarray

    @property
    def accuracy(self) -> float:
        return float(self.folds.mean())


def cross_validate(kernels: Mapping[Any, Float[Array, "n n"]], labels: Int[Array, " n"], ridges: Sequence[float] = RIDGES, folds: int = 4,
                   key: Any = None) -> CrossValidation:
    """Choose among kernels (of networks of several depths, for example) and ridges, then measure the choice.

    The protocol of Arora et al. (2020), after Fernandez-Delgado et al. (2014): the choice is made by training on a random half and
    validating on the other; it is then measured by ``folds``-fold cross-validation on all examples, which includes those it was made on.
    One eigendecomposition per kernel serves all ridges. Targets are +-1 by class, without an offset.

    Args:
        kernels: by name, of all examples with themselves.
        labels: whole numbers.
        ridges: in means of a kernel's diagonal.

    Raises:
        InvalidInput: for unusable arguments, fewer than two classes, and more folds than examples.
    """
    if not kernels:
        raise InvalidInput("kernels: none given")
    squares = {name: check_train(f"kernels[{name!r}]", kernel) for name, kernel in kernels.items()}
    check_whole("folds", folds, low=2)
    targets = one_hot(labels)
    n = len(targets)
    for name, square in squares.items():
        if len(square) != n:
            raise InvalidInput(f"kernels[{name!r}]: of {len(square)} examples, there are {n} labels")
    if n < 2 * folds:
        raise InvalidInput(f"folds: {folds} of {n} examples; at least two examples per fold are needed")
    if not len(ridges) or not all(np.isfinite(r) and r > 0 for r in ridges):
        raise InvalidInput(f"ridges: {ridges!r} are not finite positive numbers")
    order = np.asarray(jax.random.permutation(jax.random.key(0) if key is None else key, n))
    strengths = jnp.asarray(ridges)
    grid = np.stack([_accuracies(square, targets, strengths, order[:n // 2], order[n // 2:]) for square in squares.values()])
    validation = xr.DataArray(grid, dims=("kernel", "ridge"), coords={"kernel": list(squares), "ridge": list(ridges)})
    row, column = map(int, np.unravel_index(grid.argmax(), grid.shape))
    kernel, ridge = list(squares)[row], ridges[column]
    parts = np.array_split(order, folds)
    others = [np.concatenate(parts[:k] + parts[k + 1:]) for k in range(folds)]
    found = [_accuracy(squares[kernel], targets, strengths[column], *split) for split in zip(others, parts, strict=True)]
    return CrossValidation(validation, kernel, float(ridge), np.asarray(found))


def one_hot(labels: Any) -> Float[Array, "n k"]:
    """Targets 1 for the class and -1 for the others.

    Raises:
        InvalidInput: for labels that are not whole numbers ``[n]`` of at least two classes.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InvalidInput(f"labels: shape {array.shape}, dtype {array.dtype}; whole numbers [n] are needed")
    classes, inverse = np.unique(array, return_inverse=True)
    if len(classes) < 2:
        raise InvalidInput(f"labels: {len(classes)} classes; at least two are needed")
    return jnp.asarray(2.0 * np.eye(len(classes))[inverse] - 1)


@jax.jit
def _accuracy(kernel: Any, y: Any, ridge: Any, train: Any, test: Any) -> Any:
    mean = regression(kernel, y, ridge * jnp.mean(jnp.diag(kernel)), train, test)
    return jnp.mean(jnp.argmax(mean, 1) == jnp.argmax(y[test], 1))


@jax.jit
def _accuracies(kernel: Any, y: Any, ridges: Any, train: Any, test: Any) -> Any:
    """One per ridge."""
    values, vectors = jnp.linalg.eigh(kernel[train][:, train])
    turned, targets = kernel[test][:, train] @ vectors, vectors.T @ y[train]
    scaled = ridges * jnp.mean(jnp.diag(kernel))

    def accuracy(ridge: Any) -> Any:
        return jnp.mean(jnp.argmax((turned / (jnp.maximum(values, 0) + ridge)) @ targets, 1) == jnp.argmax(y[test], 1))

    return jax.lax.map(accuracy, scaled)
