"""What a stored kernel was computed from, as short texts that are equal in every process and on every machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from sigprop.arrays import is_key

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_BLOCK = 2**24  # bytes


def program_hash(programs: Iterable[ClosedJaxpr]) -> str:
    """Of traced programs with their constants: networks, laws, parameters and options of a kernel are all in there."""
    digest = sha256()
    for program in programs:
        digest.update(_ADDRESS.sub("", str(program.jaxpr)).encode())
        for constant in _constants(program):
            _add(digest, constant)
    return digest.hexdigest()


def data_hash(*data: Any) -> str:
    """Of trees of arrays: structure, shapes, dtypes and bytes."""
    digest = sha256(str(jax.tree.structure(data)).encode())
    for leaf in jax.tree.leaves(data):
        _add(digest, leaf)
    return digest.hexdigest()


def _add(digest: Any, array: Any) -> None:
    """In blocks of rows: what is mapped from a file stays there."""
    array = np.asarray(jax.random.key_data(array) if is_key(array) else array)
    digest.update(f"{array.shape} {array.dtype}".encode())
    rows = array.reshape(1) if array.ndim == 0 else array
    step = max(1, _BLOCK * len(rows) // max(array.nbytes, 1))
    for start in range(0, len(rows), step):
        digest.update(np.ascontiguousarray(rows[start:start + step]).tobytes())


def _constants(program: Any) -> Iterator[Any]:
    """Arrays that the text of a program leaves out, of programs inside it too."""
    if isinstance(program, ClosedJaxpr):
        yield from program.consts
        program = program.jaxpr
    if isinstance(program, Jaxpr):
        for equation in program.eqns:
            yield from (v.val for v in equation.invars if isinstance(v, Literal) and np.ndim(v.val))
            for value in equation.params.values():
                yield from _constants(value)
    elif isinstance(program, tuple | list):
        for value in program:
            yield from _constants(value)
