"""What one worker does: a program for some static values, compiled once, and its results on one block of points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from sigprop import memory
from sigprop.errors import InvalidInput

_LONGEST = 500  # characters of a recorded error


@dataclass(frozen=True)
class Program:
    """A function at some static values, for a number of points at once.

    Attributes:
        run: which call of :func:`sigprop.studies.run` it belongs to; a worker compiles it once in each.
        index: of the static values.
        fn, static: the function and these values.
        points: mapped at once.
        memory: bytes that the program may take.
    """

    run: str
    index: tuple[int, ...]
    fn: Callable[..., Any] = field(compare=False)
    static: dict[str, Any] = field(compare=False)
    points: int = field(compare=False)
    memory: int | None = field(compare=False)


class Outcome(NamedTuple):
    """Arrays ``[points, ...]`` by name, NaN at points that failed, and what they raised, ``""`` at the others."""

    values: dict[str, np.ndarray]
    errors: list[str]


class Refused(InvalidInput):
    """The study as a whole is wrong, not one of its points."""


def compute(program: Program, traced: Mapping[str, np.ndarray]) -> Outcome:
    """The function at each point, ``traced`` being ``[points]`` by name. Without traced parameters it is called as it is.

    Raises:
        Refused: where the program needs more memory than it may take, known values where they are traced, or gives no numbers.
    """
    if not traced:
        return _gathered([_attempt(partial(program.fn, **program.static))])
    traced = {name: v.astype(jax.dtypes.canonicalize_dtype(v.dtype)) for name, v in traced.items()}
    count = len(next(iter(traced.values())))
    found = _compiled(program, tuple((name, v.dtype) for name, v in traced.items()))
    if isinstance(found, str):
        return Outcome({}, [found] * count)
    try:
        values = _numbers(found({name: np.resize(v, program.points) for name, v in traced.items()}))
        return Outcome({name: v[:count] for name, v in values.items()}, [""] * count)
    except jax.errors.JaxRuntimeError as error:
        if count == 1:
            return Outcome({}, [_message(error)])
    single = jax.jit(partial(program.fn, **program.static))
    return _gathered([_attempt(partial(single, **{name: v[k] for name, v in traced.items()})) for k in range(count)])


@lru_cache(maxsize=8)
def _compiled(program: Program, traced: tuple[tuple[str, Any], ...]) -> Callable[[dict[str, np.ndarray]], Any] | str:
    """The function mapped over its traced parameters, or what tracing it raised."""
    shapes = {name: jax.ShapeDtypeStruct((program.points,), dtype) for name, dtype in traced}
    mapped = jax.jit(jax.vmap(lambda given: _plain(program.fn(**program.static, **given))))
    try:
        compiled = mapped.lower(shapes).compile()
    except Exception as error:
        if isinstance(error, jax.errors.JAXTypeError) or (isinstance(error, TypeError) and "concrete values" in str(error)):
            raise Refused(f"fn: it needs a known value where {', '.join(shapes)} are traced; name in static= what sizes and branches "
                          f"depend on. {_message(error)}") from error
        return _message(error)
    _check_memory(compiled, program)
    return compiled


def _check_memory(compiled: Any, program: Program) -> None:
    needed, allowed = memory.needed(compiled), program.memory or memory.available()
    if needed > allowed:
        raise Refused(f"chunk: {program.points} points at once need {needed:.3g} bytes, {allowed:.3g} are allowed; "
                      f"try chunk={max(int(program.points * allowed / needed / 2), 1)}")


def _attempt(call: Callable[[], Any]) -> tuple[dict[str, np.ndarray], str]:
    try:
        return _numbers(_plain(call())), ""
    except Refused:
        raise
    except Exception as error:
        return {}, _message(error)


def _gathered(points: list[tuple[dict[str, np.ndarray], str]]) -> Outcome:
    sound = next((values for values, error in points if not error), {})
    gaps = {name: np.full_like(v, np.nan) for name, v in sound.items()}
    return Outcome({name: np.stack([(values or gaps)[name] for values, _ in points]) for name in sound}, [error for _, error in points])


def _plain(found: Any) -> Any:
    """Datasets as dictionaries of their numbers, which then have no names that tracing could not keep."""
    return {str(name): v.data for name, v in found.data_vars.items() if v.dtype.kind in "biufc"} if isinstance(found, xr.Dataset) else found


def _numbers(found: Any) -> dict[str, np.ndarray]:
    """Leaves by their path, as floating-point numbers: those have a value for what failed."""
    arrays = {jax.tree_util.keystr(path, simple=True, separator=".") or "value": np.asarray(leaf)
              for path, leaf in jax.tree_util.tree_leaves_with_path(found)}
    if not arrays:
        raise Refused(f"fn: it returns {type(found).__name__} without a number; return a dictionary of arrays, {{'loss': ...}}")
    for name, array in arrays.items():
        if not (np.issubdtype(array.dtype, np.number) or array.dtype.kind in "bV"):
            raise Refused(f"fn: {name!r} is {array.dtype}, not numbers")
    return {name: a if a.dtype.kind in "fc" else a.astype(np.float64) for name, a in arrays.items()}


def _message(error: Exception) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST // 2]} ... {text[-_LONGEST // 2:]}"  # callbacks end with what was raised
