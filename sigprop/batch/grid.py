"""A grid of parameters, and how it is cut into blocks: one program per combination of static values, traced values mapped inside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from math import ceil, prod
from numbers import Real
from typing import Any

import numpy as np

from sigprop.batch.identity import label
from sigprop.errors import InvalidInput, hint

MOST_BLOCKS = 10**7


@dataclass(frozen=True)
class Axis:
    """One parameter.

    Attributes:
        name: of the parameter.
        values: what the function is given.
        labels: coordinates in the store, numbers or names, ``[values]``.
        traced: whether the values are mapped over, as arrays, inside one program.
    """

    name: str
    values: tuple[Any, ...]
    labels: np.ndarray
    traced: bool


@dataclass(frozen=True)
class Block:
    """A box of the grid: ``index`` among the blocks, and what it covers of each axis."""

    index: tuple[int, ...]
    region: tuple[slice, ...]


@dataclass(frozen=True)
class Grid:
    """Axes in the order in which they were given, and the size of a block along each."""

    axes: tuple[Axis, ...]
    block: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(ceil(n / size) for n, size in zip(self.shape, self.block, strict=True))

    def blocks(self) -> Iterator[Block]:
        """All blocks, those of one program together."""
        order = sorted(range(len(self.axes)), key=lambda k: self.axes[k].traced)
        for found in np.ndindex(*(self.counts[k] for k in order)):
            index = tuple(found[order.index(k)] for k in range(len(order)))
            yield Block(index, tuple(slice(i * size, min((i + 1) * size, n))
                                     for i, size, n in zip(index, self.block, self.shape, strict=True)))

    def static(self, block: Block) -> dict[str, Any]:
        """Values of the static parameters, by name."""
        return {axis.name: axis.values[part.start] for axis, part in zip(self.axes, block.region, strict=True) if not axis.traced}

    def traced(self, block: Block) -> dict[str, np.ndarray]:
        """Values of the traced parameters at each point of a block, ``[points]``, the last axis varying fastest."""
        axes = [(axis, part) for axis, part in zip(self.axes, block.region, strict=True) if axis.traced]
        mesh = np.meshgrid(*(axis.labels[part] for axis, part in axes), indexing="ij")
        return {axis.name: found.ravel() for (axis, _), found in zip(axes, mesh, strict=True)}

    def point(self, block: Block, k: int) -> str:
        """The ``k``-th point of a block, for messages."""
        place = np.unravel_index(k, [part.stop - part.start for part in block.region])
        labels = [axis.labels[part.start + i] for axis, part, i in zip(self.axes, block.region, place, strict=True)]
        return ", ".join(f"{axis.name}={value}" for axis, value in zip(self.axes, labels, strict=True))


def grid(parameters: Mapping[str, Any], fn: Callable[..., Any], static: Collection[str], chunk: int) -> Grid:
    """The grid of ``parameters`` of ``fn``, in blocks of at most ``chunk`` points.

    Raises:
        InvalidInput: for parameters that ``fn`` does not have or lacks, empty or repeated values, and values without a name.
    """
    if not parameters:
        raise InvalidInput("grid: it is empty; give at least one parameter with its values")
    _accepted(parameters, fn)
    for name in static:
        if name not in parameters:
            raise InvalidInput(f"static: {name!r} is no parameter of the grid{hint(name, parameters)}")
    axes = tuple(_axis(name, values, name in static) for name, values in parameters.items())
    found = Grid(axes, _cut(axes, chunk))
    if prod(found.counts) > MOST_BLOCKS:
        raise InvalidInput(f"grid: {prod(found.shape):.3g} points are {prod(found.counts):.3g} chunks, at most {MOST_BLOCKS:.0g} can be "
                           f"scheduled; take a larger chunk or a smaller grid")
    return found


def _accepted(parameters: Mapping[str, Any], fn: Callable[..., Any]) -> None:
    known = signature(fn).parameters.values()
    names = [p.name for p in known if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)]
    if not any(p.kind is Parameter.VAR_KEYWORD for p in known):
        for name in parameters:
            if name not in names:
                raise InvalidInput(f"grid: {name!r} is no parameter of fn, which has {', '.join(names) or 'none'}{hint(name, names)}")
    missing = [p.name for p in known if p.name in names and p.default is Parameter.empty and p.name not in parameters]
    if missing:
        raise InvalidInput(f"grid: fn needs {', '.join(missing)} too; add a list of values for each, or give them defaults in fn")


def _axis(name: str, given: Any, static: bool) -> Axis:
    if isinstance(given, str | bytes) or not hasattr(given, "__iter__") or np.ndim(given) > 1 and isinstance(given, np.ndarray):
        raise InvalidInput(f"grid: {name} is {given!r}; give a list of values, or a mapping of names to values")
    names = list(given) if isinstance(given, Mapping) else None
    values = tuple(given.values() if isinstance(given, Mapping) else given)
    if not values:
        raise InvalidInput(f"grid: {name} has no values; give one or more")
    numbers = all(isinstance(v, Real | np.bool_) or (np.ndim(v) == 0 and hasattr(v, "dtype")) for v in values)
    labels = np.asarray(values) if numbers and names is None else _labels(name, values, names)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise InvalidInput(f"grid: {name} has NaN or infinite values")
    if len({*labels.tolist()}) < len(labels):
        raise InvalidInput(f"grid: {name} has a value twice")
    traced = numbers and names is None and not static
    return Axis(name, tuple(labels.tolist()) if numbers and names is None else values, labels, traced)


def _labels(name: str, values: Sequence[Any], names: Sequence[Any] | None) -> np.ndarray:
    found = [label(v) for v in (values if names is None else names)]
    for value, text in zip(values, found, strict=True):
        if text is None:
            raise InvalidInput(f"grid: {value!r}, of {name}, has no name; give a mapping of names to values")
    return np.asarray(found, dtype=object)


def _cut(axes: Sequence[Axis], chunk: int) -> tuple[int, ...]:
    """Sizes of a block: the last traced axes as a whole, as far as ``chunk`` goes, then even parts of the one before them."""
    left, sizes = chunk, []
    for axis in reversed(axes):
        count = len(axis.values)
        size = ceil(count / ceil(count / min(count, left))) if axis.traced else 1
        left //= size
        sizes.append(size)
    return tuple(reversed(sizes))
