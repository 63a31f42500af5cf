"""What a function and its parameters are, as text: two studies are the same where these are."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np


def digest(*parts: Any) -> str:
    """SHA-256 of the descriptions of ``parts``, 64 hexadecimal digits."""
    return hashlib.sha256("\n".join(map(describe, parts)).encode()).hexdigest()


def describe(value: Any) -> str:
    """Text that is the same in every process for the same content.

    Functions are named and quoted, with what they capture, but without what they call; arrays are given by their bytes; other objects by
    their ``repr`` without addresses.
    """
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return f"array {array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {describe(v)}" for name, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(describe, value)) + ")"
    if isinstance(value, partial):
        return f"partial {describe(value.func)} {describe(value.args)} {describe(value.keywords)}"
    inner = inspect.unwrap(value) if callable(value) else value
    return _function(inner) if inspect.isfunction(inner) else re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _function(function: Any) -> str:
    try:
        source = inspect.getsource(function)
    except OSError:  # typed at a prompt
        source = repr((function.__code__.co_code, function.__code__.co_consts, function.__code__.co_names))
    captured = inspect.getclosurevars(function).nonlocals
    return f"{function.__module__}.{function.__qualname__} {source} {describe(function.__defaults__)} {describe(captured)}"


def label(value: Any) -> str | None:
    """A name for one value of a parameter, or ``None`` where it has none that tells it from others."""
    if isinstance(value, str):
        return value
    name = getattr(value, "__qualname__", "")
    if name and "<" not in name:
        return name
    text = repr(value)
    return None if " at 0x" in text else text
