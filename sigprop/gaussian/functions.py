"""Scalar functions with a structural key, so that what is learnt of one spelling serves all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, NamedTuple

import numpy as np

from sigprop.arrays import namespace


class Function:
    """An elementwise function; two with the same ``key`` (not ``None``) are the same function.

    ``opaque`` functions hold traced arrays: they cannot be probed while tracing.
    """

    __slots__ = ("call", "key", "opaque")

    def __init__(self, call: Callable[[Any], Any], key: Any = None, opaque: bool = False) -> None:
        self.call, self.key, self.opaque = call, key, opaque

    def __call__(self, u: Any) -> Any:
        return self.call(u)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Function) and self.key is not None and self.key == other.key)

    def __hash__(self) -> int:
        return object.__hash__(self) if self.key is None else hash(self.key)


IDENTITY = Function(lambda u: u, "identity")


def piecewise(a: float, b: float) -> Function:
    """``a x`` for positive and ``b x`` for negative arguments."""
    def call(u: Any) -> Any:
        return u * namespace(u).where(u > 0, a, b)

    return Function(call, ("linear", a, b))


def steps(a: float, b: float) -> Function:
    """``a`` for positive and ``b`` for negative arguments."""
    return Function(lambda u: namespace(u).where(u > 0, a, b), ("step", a, b))


def product(functions: Sequence[Function]) -> Function:
    if len(functions) == 1:
        return functions[0]

    def call(u: Any) -> Any:
        out = functions[0](u)
        for f in functions[1:]:
            out = out * f(u)
        return out

    keys = tuple(f.key for f in functions)
    return Function(call, None if None in keys else ("product", *keys), any(f.opaque for f in functions))


_SMALL = 64  # entries of the arrays that results are kept for
_KEPT = 512  # results


class _Packed(NamedTuple):
    shape: tuple[int, ...]
    kind: str
    data: bytes


def remembered(compute: Callable[..., Any]) -> Callable[..., Any]:
    """``compute(f, *rest)`` with its last results for functions that have a key and small host arrays among ``rest``."""

    @lru_cache(_KEPT)
    def kept(f: Function, *packed: Any) -> Any:
        return compute(f, *(np.frombuffer(p.data, p.kind).reshape(p.shape) if isinstance(p, _Packed) else p for p in packed))

    @wraps(compute)
    def call(f: Function, *rest: Any) -> Any:
        plain = all(isinstance(a, np.ndarray | float | int | tuple) for a in rest) and sum(map(np.size, rest)) <= _SMALL
        if not plain or f.key is None or f.opaque:
            return compute(f, *rest)
        return kept(f, *(_Packed(a.shape, a.dtype.str, a.tobytes()) if isinstance(a, np.ndarray) else a for a in rest))

    return call
