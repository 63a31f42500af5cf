"""Scalar functions with a structural key, so that what is learnt of one spelling serves all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
