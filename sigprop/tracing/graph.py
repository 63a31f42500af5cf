"""The flat program that everything reads: one list of primitive operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sigprop.tracing.compat import Primitive


@dataclass(frozen=True)
class Op:
    """One primitive application. Random generators are kept whole, as ``random:normal`` and the like.

    Attributes:
        path: module path such as ``encoder/Dense_0``, empty at the top.
        call: the library's activation or pooling function that it is a step of (``gelu``, ``avg_pool``), else empty.
        source: the user's line.
    """

    name: str
    primitive: Primitive
    params: dict[str, Any] = field(repr=False)
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    path: str
    source: str
    call: str = ""


@dataclass(frozen=True)
class Row:
    """A value that a user would name."""

    value: int
    name: str
    path: str
    op: str
    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class Graph:
    """Calls inlined, scans unrolled, dead code removed. Values are numbered; ``avals`` gives shape and dtype."""

    ops: tuple[Op, ...]
    avals: dict[int, Any] = field(repr=False)
    constants: dict[int, Any] = field(repr=False)
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    calls: tuple[tuple[int, str, str], ...]
    out_tree: Any
