"""Refusing kernels and targets that do not belong together."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete
from sigprop.errors import InvalidInput, Unsound
from sigprop.spectra import matrix
from sigprop.types import Kernel


def check_train(name: str, kernel: Any) -> Any:
    """A kernel of the training inputs with themselves as a checked matrix ``[n, n]``.

    Raises:
        InvalidInput: where it is empty, not square, not finite, not symmetric, or has site axes.
    """
    array = jnp.asarray(kernel)
    if array.ndim != 2:
        raise InvalidInput(f"{name}: shape {array.shape}; a kernel [n, n] is needed, one number per pair of examples")
    return matrix(array, name)


def check_targets(y: Any, n: int, dtype: Any) -> Any:
    """Targets as ``[n, k]``.

    Raises:
        InvalidInput: for other shapes, and what is not finite.
    """
    array = jnp.asarray(y)
    if array.ndim not in (1, 2) or array.shape[0] != n or 0 in array.shape:
        raise InvalidInput(f"y: shape {array.shape}; the kernel is of {n} examples, whose targets are ({n},) or ({n}, k)")
    if concrete(array) and not np.all(np.isfinite(np.asarray(array))):
        raise InvalidInput("y: has NaN or infinite entries")
    return array.astype(dtype).reshape(n, -1)


def check_shape(name: str, kernel: Any, shape: tuple[int | None, int | None], dtype: Any) -> Any:
    """A kernel of given shape, ``None`` being any number above 0.

    Raises:
        InvalidInput: for another shape, and what is not finite.
    """
    array = jnp.asarray(kernel)
    if array.ndim != 2 or 0 in array.shape or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("m" if n is None else str(n) for n in shape)
        raise InvalidInput(f"{name}: shape {array.shape}; a kernel [{wanted}] is needed")
    if concrete(array) and not np.all(np.isfinite(np.asarray(array))):
        raise InvalidInput(f"{name}: has NaN or infinite entries")
    return array.astype(dtype)


def check_ridge(ridge: Any, name: str = "ridge") -> None:
    """Refuse what is not a finite non-negative number."""
    if concrete(ridge) and (np.ndim(ridge) or not np.isfinite(ridge) or ridge < 0):
        raise InvalidInput(f"{name}: {ridge!r} is not a finite non-negative number")


def check_kernel(name: str, kernel: Any, which: str) -> Any:
    """The array of a :class:`Kernel` that drives the training.

    Raises:
        InvalidInput: where it is no such pair, or has no NTK.
    """
    if not isinstance(kernel, Kernel):
        raise InvalidInput(f"{name}: {type(kernel).__name__} is not an sp.Kernel, as kernel(x1, x2) returns it")
    found = kernel.nngp if which == "nngp" else kernel.ntk
    if found is None:
        raise InvalidInput(f"{name}: has no NTK; which='nngp' needs none")
    return found


def check_result(what: str, *arrays: Any) -> None:
    """Refuse results that are not finite."""
    if any(concrete(a) and not np.all(np.isfinite(np.asarray(a))) for a in arrays):
        raise Unsound(f"{what} overflows; float64 under jax.enable_x64(True) reaches further, and so do smaller learning rates and times")
