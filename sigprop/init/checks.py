"""Refusing arguments of initializers, with an error that names the argument, what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

import jax.numpy as jnp
from jax.dtypes import canonicalize_dtype

from sigprop.errors import InvalidInput


def check_number(name: str, value: Any, low: float = -inf, high: float = inf, *, above: float = -inf) -> None:
    """Refuse what is not a finite real number with ``low <= value <= high`` and ``value > above``.

    Raises:
        InvalidInput: naming the argument and its range.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise InvalidInput(f"{name}: {value!r} is not a finite real number known before tracing")
    if not (low <= float(value) <= high and float(value) > above):
        bounds = [text for text, given in ((f"above {above:g}", above > -inf), (f"at least {low:g}", low > -inf),
                                           (f"at most {high:g}", high < inf)) if given]
        raise InvalidInput(f"{name}: {value!r} given; it must be {' and '.join(bounds)}")


def check_whole(name: str, value: Any, low: int = 1) -> None:
    """Refuse what is not a whole number of ``low`` or more.

    Raises:
        InvalidInput: naming the argument and its range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise InvalidInput(f"{name}: {value!r} given; it must be a whole number of {low} or more")


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Refuse an option that is none of those allowed.

    Raises:
        InvalidInput: naming the option and its values.
    """
    if value not in allowed:
        raise InvalidInput(f"{name}: {value!r} is none of {', '.join(map(repr, allowed))}")


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The shape as a tuple of whole numbers.

    Raises:
        InvalidInput: where it is not a sequence of whole numbers of 0 or more.
    """
    try:
        sizes = tuple(shape)
    except TypeError as error:
        raise InvalidInput(f"shape: {shape!r} is not a sequence of whole numbers") from error
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 0:
            raise InvalidInput(f"shape: {sizes} has an axis of size {size!r}; sizes are whole numbers of 0 or more")
    return tuple(int(size) for size in sizes)


def checked_dtype(dtype: Any) -> Any:
    """The real floating dtype that JAX's precision makes of ``dtype``; ``None`` stands for float32.

    Raises:
        InvalidInput: for another kind of number.
    """
    kind = canonicalize_dtype(jnp.float32 if dtype is None else dtype)
    if not jnp.issubdtype(kind, jnp.floating):
        raise InvalidInput(f"dtype: {kind} is not a real floating type, and laws are of real numbers")
    return kind
