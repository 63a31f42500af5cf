"""What a named study is: a config, numbers, claims that are checked on them, and a figure.

Every module of a study has a frozen ``Config``, ``PRESETS`` of it (``"quick"`` and ``"paper"``), ``compute(config, out=None)``, which gives
a dataset of predictions and measurements, ``claims(found)``, a list of :class:`Claim`, and ``draw(found)``, a matplotlib figure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import xarray as xr
from scipy import stats

from sigprop import batch
from sigprop.errors import InvalidInput, SigpropError, hint
from sigprop.init.checks import check_whole
from sigprop.studies import executors

FALSE_PASS = 1e-3  # probability that a claim of equality passes although the margin is exceeded


@dataclass(frozen=True, kw_only=True)
class Config:
    """What all studies have.

    Attributes:
        seeds: draws of the parameters that are measured, eight or more.
        seed: of these draws.
    """

    seeds: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("seeds", self.seeds, 8)
        check_whole("seed", self.seed, 0)

    @property
    def key(self) -> Any:
        return draw_key(self.seed)


def draw_key(number: Any) -> Any:
    """A random key of JAX's ``rbg``, under which an initializer mapped over draws compiles in a thirtieth of the time that it takes under
    the default generator. Mapped keys draw from one stream, so that a draw depends on those computed with it."""
    return jax.random.key(number, impl="rbg")


C = TypeVar("C", bound=Config)


class Claim(NamedTuple):
    """One line of a summary.

    Attributes:
        name: what is claimed.
        expected, found: numbers.
        error: of ``found``: a standard error, or that which the prediction declares.
        passed: whether they agree.
    """

    name: str
    expected: float
    found: float
    error: float
    passed: bool

    def __str__(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        return f"{verdict}  {self.name}: expected {self.expected:.5g}, found {self.found:.5g} ± {self.error:.2g}"


def same(name: str, expected: float, found: Any, error: float) -> Claim:
    """A number that is known, up to ``error``, which is absolute."""
    return Claim(name, float(expected), float(found), float(error), bool(abs(found - expected) <= error))


def agrees(name: str, predicted: Any, measured: Any, stderr: Any, margin: float) -> Claim:
    """Measurements equal predictions within a relative ``margin``: two one-sided tests of each entry, at ``FALSE_PASS`` over their number.

    ``found`` is the ratio that comes closest to failing: noise too large to tell fails, as a discrepancy does.
    """
    p, m, s = (np.ravel(np.asarray(a, np.float64)) for a in np.broadcast_arrays(predicted, measured, stderr))
    ratio, spread = m / p, np.abs(s / p)
    reach = np.abs(ratio - 1) + stats.norm.isf(FALSE_PASS / len(p)) * spread
    k = int(np.argmax(np.nan_to_num(reach, nan=np.inf)))
    return Claim(f"{name}, within {margin:.0%}", 1.0, float(ratio[k]), float(spread[k]), bool(reach[k] <= margin))


def near(name: str, expected: float, found: Any, stderr: Any, margin: float) -> Claim:
    """A measured number equals a known one within ``margin``, which is absolute: as :func:`agrees` tests it."""
    reach = abs(float(found) - expected) + stats.norm.isf(FALSE_PASS) * float(stderr)
    return Claim(f"{name}, within {margin:g}", float(expected), float(found), float(stderr), bool(reach <= margin))


def above(name: str, bound: float, found: Any, error: Any) -> Claim:
    """A number beyond ``bound``, by more than its error allows for at ``FALSE_PASS``."""
    return Claim(f"{name}, more than", float(bound), float(found), float(error), bool(found - stats.norm.isf(FALSE_PASS) * error > bound))


def averaged(draws: Any) -> tuple[float, float]:
    """The mean of a few normal draws ``[n]`` and its standard error, as much larger as Student's t needs to keep ``FALSE_PASS``."""
    draws = np.asarray(draws, np.float64)
    wider = stats.t.isf(FALSE_PASS, len(draws) - 1) / stats.norm.isf(FALSE_PASS)
    return float(draws.mean()), float(draws.std(ddof=1) / len(draws) ** 0.5 * wider)


def slope(x: Any, y: Any, error: Any) -> tuple[float, float]:
    """Of a straight line through points with independent standard errors, and its standard error."""
    x, weight = np.asarray(x, float), 1 / np.asarray(error, float) ** 2
    centred = x - np.average(x, weights=weight)
    size = float(np.sum(weight * centred**2))
    return float(np.sum(weight * centred * np.asarray(y, float)) / size), size**-0.5


def layers(*names: str, dim: str = "layer") -> dict[str, tuple[str]]:
    """Names of the axis of :func:`sigprop.studies.study.compared`'s columns."""
    return {name: (dim,) for name in names or ("predicted", "uncertain", "measured", "stderr")}


def pixel_axes() -> dict[str, tuple[str, str]]:
    """Names of the axes of :func:`sigprop.studies.study.pixels`."""
    return dict.fromkeys(("predicted", "measured", "stderr", "backward", "backward_measured", "backward_stderr"), ("row", "column"))


def over(grid: Mapping[str, Any], fn: Callable[..., Any], out: Path | None, name: str,
         dims: Mapping[str, Sequence[str]]) -> xr.Dataset:
    """:func:`sigprop.studies.run` with all parameters static, in ``out/NAME.zarr``, in memory; what fails is an error here.

    Raises:
        SigpropError: naming what a point raised.
    """
    return _whole(grid, fn, out, name, {"static": list(grid), "chunk": 1, "dims": dims})


def drawn(grid: Mapping[str, Any], fn: Callable[..., Any], out: Path | None, name: str, dims: Mapping[str, Sequence[str]],
          static: Sequence[str] = ()) -> xr.Dataset:
    """The same with traced parameters, such as the number of a draw, in chunks of 64 points.

    Raises:
        SigpropError: naming what a point raised.
    """
    return _whole(grid, fn, out, name, {"static": static, "chunk": 64, "dims": dims})


def _whole(grid: Mapping[str, Any], fn: Callable[..., Any], out: Path | None, name: str, options: dict[str, Any]) -> xr.Dataset:
    with TemporaryDirectory() as folder:
        found = batch.run(grid, fn, (out or Path(folder)) / f"{name}.zarr", executors.current(), **options).load()
    errors = [text for text in found.error.values.ravel().tolist() if text]
    if errors:
        raise SigpropError(f"{name}: {len(errors)} of {found.error.size} points failed; {errors[0]}")
    texts = {name: (v.dims, np.array(v.values.tolist())) for name, v in found.coords.items() if v.dtype.kind == "T"}
    return xr.Dataset(found.drop_vars("error").variables).assign_coords(texts)  # without the attributes of the store


def changed(config: C, values: Mapping[str, Any]) -> C:
    """The config with other values of some fields.

    Raises:
        InvalidInput: for unknown fields, with the nearest known one, and values of another kind.
    """
    known = {f.name: getattr(config, f.name) for f in fields(config)}
    return replace(config, **{name: _fitting(name, value, known) for name, value in values.items()})


def _fitting(name: str, value: Any, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise InvalidInput(f"--set: there is no field {name!r}{hint(name, known)}; fields are {', '.join(known)}")
    current = known[name]
    if isinstance(current, tuple):
        value = tuple(value) if isinstance(value, list | tuple) else (value,)
        return tuple(_like(name, v, current[0]) for v in value)
    return _like(name, value, current)


def _like(name: str, value: Any, example: Any) -> Any:
    if isinstance(example, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(example):
        raise InvalidInput(f"--set: {name} is {value!r}; it must be of type {type(example).__name__}, such as {example!r}")
    return value


def written(config: Config) -> str:
    """A config as JSON."""
    return json.dumps(asdict(config), sort_keys=True)


__all__ = ["Claim", "Config", "above", "agrees", "averaged", "changed", "draw_key", "drawn", "layers", "near", "over",
           "pixel_axes", "same", "slope", "written"]
