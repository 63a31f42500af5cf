"""Host and traced arrays behind one set of formulas.

Concrete statistics are NumPy arrays in float64, whatever JAX's precision: exact enough for references, and small enough that
compiling each shape would cost more than computing it. Traced ones (under ``jit`` or ``vmap``) stay JAX arrays in their own dtype.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.dtypes import prng_key


def concrete(array: Any) -> bool:
    return not isinstance(array, Tracer)


def namespace(*arrays: Any) -> Any:
    """``numpy`` where all arrays are concrete, ``jax.numpy`` otherwise."""
    return np if all(map(concrete, arrays)) else jnp


def host(array: Any) -> Any:
    """A concrete array on the host, floats as float64; traced ones and typed keys as they are."""
    if not concrete(array) or is_key(array):
        return array
    array = np.asarray(array)
    return array.astype(np.float64, copy=False) if jnp.issubdtype(array.dtype, jnp.floating) else array


def is_key(array: Any) -> bool:
    return hasattr(array, "dtype") and jnp.issubdtype(array.dtype, prng_key)


def same_array(array: Any) -> Any:
    """Key under which equal arrays are one: value for host arrays, identity for traced ones."""
    if isinstance(array, np.ndarray | np.generic):
        return ("host", array.shape, str(array.dtype), np.asarray(array).tobytes())
    return ("traced", id(array))


def scaled(array: Any, exponent: Any) -> Any:
    """``array * 2**exponent``, exactly; ``exponent`` is an integer number, possibly traced."""
    if isinstance(exponent, int) and exponent == 0:
        return array
    if concrete(array) and concrete(exponent):
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(array, exponent)
    # two halves, since 2**exponent alone may not be representable
    half, kind = exponent >> 1, jnp.result_type(array)
    return array * power(half, kind) * power(exponent - half, kind)


def power(exponent: Any, kind: Any) -> Any:
    """``2**exponent`` for a traced integer."""
    return jnp.exp2(jnp.asarray(exponent, kind))
