"""What a kernel matrix says: its spectrum, its rank, and how alike two kernels are.

Every function takes a symmetric kernel ``[n, n]``, or ``[n, n, *sites, *sites]`` as kernels of outputs with site axes are, which stands
for the matrix over all pairs of example and site. Results have the kernel's dtype, float32 or float64, and are compiled; under
``jax.jit`` and ``jax.vmap`` values are not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sigprop.arrays import concrete
from sigprop.errors import InvalidInput


def matrix(kernel: Any, name: str = "kernel") -> Float[Array, "m m"]:
    """The kernel as a checked matrix over pairs of example and site, ``m = n * sites``.

    Raises:
        InvalidInput: where it is empty, not square, not floating, not finite or not symmetric (beyond rounding: the square root of the
            machine precision, relative to the largest entry).
    """
    kernel = jnp.asarray(kernel)
    shape, sites = kernel.shape, (kernel.ndim - 2) // 2
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise InvalidInput(f"{name}: dtype {kernel.dtype}; a kernel has floating entries")
    if kernel.ndim < 2 or kernel.ndim % 2 or shape[0] != shape[1] or shape[2:2 + sites] != shape[2 + sites:]:
        raise InvalidInput(f"{name}: shape {shape} is not square; give [n, n] or [n, n, *sites, *sites], of inputs with themselves")
    if 0 in shape:
        raise InvalidInput(f"{name}: shape {shape} is empty")
    size = shape[0] * prod(shape[2:2 + sites])
    axes = (0, *range(2, 2 + sites), 1, *range(2 + sites, kernel.ndim))
    square = kernel.transpose(axes).reshape(size, size).astype(jnp.promote_types(kernel.dtype, jnp.float32))
    if concrete(square):
        _check_values(np.asarray(square), name)
    return square


def _check_values(square: np.ndarray, name: str) -> None:
    if not np.isfinite(square).all():
        raise InvalidInput(f"{name}: has NaN or infinite entries")
    gap, largest = np.abs(square - square.T).max(), np.abs(square).max()
    if gap > np.finfo(square.dtype).eps ** 0.5 * largest:
        row, column = np.unravel_index(np.abs(square - square.T).argmax(), square.shape)
        raise InvalidInput(f"{name}: not symmetric, entries ({row}, {column}) and ({column}, {row}) are {square[row, column]:.6g} and "
                           f"{square[column, row]:.6g}; give the kernel of inputs with themselves, or (K + K.T) / 2")


def _of_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function of one matrix as a checked function of one kernel."""
    compiled = jax.jit(function)
    return wraps(function)(lambda kernel, *args, **options: compiled(matrix(kernel), *args, **options))


def _of_two(function: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function of two matrices as a checked function of two kernels."""
    compiled = jax.jit(function)

    def checked(first: Any, second: Any) -> Any:
        one, two = matrix(first, "first"), matrix(second, "second")
        if one.shape != two.shape:
            raise InvalidInput(f"second: a kernel of {two.shape[0]} inputs, the first of {one.shape[0]}")
        return compiled(one, two)

    return wraps(function)(checked)


def _eigenvalues(kernel: Any) -> Any:
    return jnp.linalg.eigvalsh(kernel, symmetrize_input=True)[::-1]


def _floor(values: Any, tolerance: Any) -> Any:
    """Below it an eigenvalue is rounding: ``m * eps`` times the largest, as for ``numpy.linalg.matrix_rank``."""
    relative = values.shape[0] * jnp.finfo(values.dtype).eps if tolerance is None else tolerance
    return relative * jnp.max(jnp.abs(values))


@_of_one
def spectrum(kernel: Float[Array, "m m"]) -> Float[Array, " m"]:
    """Eigenvalues, largest first."""
    return _eigenvalues(kernel)


@_of_one
def rank(kernel: Float[Array, "m m"], tolerance: float | None = None) -> Int[Array, ""]:
    """Number of eigenvalues above ``tolerance`` (``m * eps``) times the largest in absolute value."""
    values = _eigenvalues(kernel)
    return jnp.sum(values > _floor(values, tolerance))


@_of_one
def condition_number(kernel: Float[Array, "m m"], tolerance: float | None = None) -> Float[Array, ""]:
    """Largest over smallest eigenvalue; infinite where the smallest is below ``tolerance`` (``m * eps``) times the largest."""
    values = _eigenvalues(kernel)
    regular = values[-1] > _floor(values, tolerance)
    return jnp.where(regular, values[0] / jnp.where(regular, values[-1], 1), jnp.inf)


@_of_one
def effective_rank(kernel: Float[Array, "m m"]) -> Float[Array, ""]:
    """Exponential of the entropy of the normalized eigenvalues (Roy & Vetterli 2007); 0 for the zero kernel, negative rounding is cut."""
    values = jnp.maximum(_eigenvalues(kernel), 0)
    total = jnp.sum(values)
    share = values / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, jnp.exp(jnp.sum(jax.scipy.special.entr(share))), 0)


@_of_one
def participation_ratio(kernel: Float[Array, "m m"]) -> Float[Array, ""]:
    """``trace**2 / |K|_F**2``, the effective number of equal eigenvalues; 0 for the zero kernel."""
    unit = kernel / _largest(kernel)
    square = jnp.sum(unit**2)
    return jnp.where(square > 0, jnp.trace(unit) ** 2 / jnp.where(square > 0, square, 1), 0)


@_of_one
def trace(kernel: Float[Array, "m m"]) -> Float[Array, ""]:
    """Sum of the diagonal."""
    return jnp.trace(kernel)


@_of_one
def is_psd(kernel: Float[Array, "m m"], tolerance: float | None = None) -> Bool[Array, ""]:
    """Whether no eigenvalue is below ``-tolerance`` (``m * eps``) times the largest in absolute value."""
    values = _eigenvalues(kernel)
    return values[-1] >= -_floor(values, tolerance)


def check_psd(kernel: Any, tolerance: float | None = None) -> None:
    """Refuse a concrete kernel that is not positive semidefinite.

    Raises:
        InvalidInput: with its smallest and largest eigenvalue.
    """
    if not bool(is_psd(kernel, tolerance)):
        values = spectrum(kernel)
        raise InvalidInput(f"kernel: not positive semidefinite, its eigenvalues go from {values[-1]:.6g} to {values[0]:.6g}")


def check_regular(kernel: Any, tolerance: float | None = None) -> None:
    """Refuse a concrete kernel that cannot be inverted.

    Raises:
        InvalidInput: with its rank, as :func:`rank` counts it.
    """
    found, size = int(rank(kernel, tolerance)), matrix(kernel).shape[0]
    if found < size:
        raise InvalidInput(f"kernel: singular, its rank is {found} of {size}; drop inputs that repeat or add a ridge to its diagonal")


@_of_two
def alignment(first: Float[Array, "m m"], second: Float[Array, "m m"]) -> Float[Array, ""]:
    """``<K, K'>_F / (|K|_F |K'|_F)`` (Cristianini et al. 2001); 0 where one is zero. For targets ``y`` the second is ``y y^T``."""
    return _cosine(first, second)


@_of_two
def centred_alignment(first: Float[Array, "m m"], second: Float[Array, "m m"]) -> Float[Array, ""]:
    """Alignment of the kernels of centred features (Cortes, Mohri & Rostamizadeh 2012), which is linear CKA (Kornblith et al. 2019)."""
    return _cosine(_centred(first), _centred(second))


@_of_two
def relative_distance(first: Float[Array, "m m"], second: Float[Array, "m m"]) -> Float[Array, ""]:
    """``|K - K'|_F / |K'|_F``: the second is the reference; infinite where it alone is zero."""
    scale = _largest(second)
    gap, size = (jnp.linalg.norm(k / scale) for k in (first - second, second))
    return jnp.where(size > 0, gap / jnp.where(size > 0, size, 1), jnp.where(gap > 0, jnp.inf, 0))


@_of_two
def cka_distance(first: Float[Array, "m m"], second: Float[Array, "m m"]) -> Float[Array, ""]:
    """``1 - `` centred alignment: zero for kernels equal up to scale and offset."""
    return 1 - _cosine(_centred(first), _centred(second))


def _centred(kernel: Any) -> Any:
    return kernel - jnp.mean(kernel, 0) - jnp.mean(kernel, 1)[:, None] + jnp.mean(kernel)


def _largest(kernel: Any) -> Any:
    """Largest absolute entry, by which squares neither overflow nor underflow; 1 for the zero kernel."""
    largest = jnp.max(jnp.abs(kernel))
    return jnp.where(largest > 0, largest, 1)


def _cosine(first: Any, second: Any) -> Any:
    one, two = first / _largest(first), second / _largest(second)
    size = jnp.linalg.norm(one) * jnp.linalg.norm(two)
    return jnp.where(size > 0, jnp.sum(one * two) / jnp.where(size > 0, size, 1), 0)
