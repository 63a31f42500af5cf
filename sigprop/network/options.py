"""Keyword arguments of the call of a module."""

from __future__ import annotations

import inspect
from typing import Any

from sigprop.errors import InvalidInput


def check_method(cls: type, method: str, options: dict[str, Any]) -> set[str]:
    """Names of the parameters of ``cls.method``; ``*`` stands for any.

    Raises:
        InvalidInput: where there is no such method, or it does not take one of ``options`` (``train`` is always understood).
    """
    function = getattr(cls, method, None) if isinstance(method, str) else None
    if not callable(function):
        raise InvalidInput(f"method: {cls.__name__} has no method {method!r}")
    parameters = list(inspect.signature(function).parameters.values())[1:]
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {*names, *options}
    unknown = sorted(set(options) - names - {"train"})
    if unknown:
        raise InvalidInput(f"unknown options {unknown}: {cls.__name__}.{method} takes {sorted(names) or 'none'}")
    return names
