"""The zarr store of a study: one array per output over the grid, one zarr chunk per block, and which blocks are finished."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sigprop.batch.grid import Block, Grid
from sigprop.batch.work import Outcome
from sigprop.errors import InvalidInput
from sigprop.gram.store import library

_ERROR = "error"


class Store:
    """A study on disk, written by one process. A block is finished once all of its arrays are written and its mark after them."""

    def __init__(self, path: Path, grid: Grid, key: str, attrs: dict[str, Any], dims: Mapping[str, Sequence[str]]) -> None:
        zarr, self.dims = library(), dims
        self.path, self.axes = path, tuple(axis.name for axis in grid.axes)
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            _create(zarr, path, grid, {**attrs, "study": key, "block": list(grid.block)})
        self.group = _opened(zarr, path, key)
        self.grid = Grid(grid.axes, tuple(self.group.attrs["block"]))
        self.marks = self.group["progress/finished"]
        self.finished = np.asarray(self.marks[...])

    @property
    def names(self) -> list[str]:
        """Of the outputs, none before the first finished block."""
        return list(self.group.attrs.get("outputs", []))

    def write(self, block: Block, outcome: Outcome) -> None:
        """Add the results of a block.

        Raises:
            InvalidInput: where its outputs have other names or shapes than those before, or the disk is too small for all of them.
        """
        if outcome.values and not self.names:
            self._declare(outcome.values)
        extent = tuple(part.stop - part.start for part in block.region)
        for name, values in outcome.values.items():
            array = self._fitting(name, values, block)
            array[block.region] = values.reshape(*extent, *values.shape[1:])
        missing = [name for name in self.names if outcome.values and name not in outcome.values]
        if missing:
            raise InvalidInput(f"fn: no {missing[0]!r} at {self.grid.point(block, 0)}, as there is at other points")
        if any(outcome.errors):
            self.group[_ERROR][block.region] = np.asarray(outcome.errors, object).reshape(extent)
        self.finished[block.index] = True
        self.marks[...] = self.finished

    def _declare(self, values: dict[str, np.ndarray]) -> None:
        clash = [name for name in values if name in (*self.axes, _ERROR, "progress")]
        if clash:
            raise InvalidInput(f"fn: its output {clash[0]!r} has the name of a parameter or of what is stored beside it")
        needed = prod(self.grid.shape) * sum(v[0].nbytes for v in values.values())
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise InvalidInput(f"grid: its results take {needed:.3g} bytes, the disk of {self.path} has {free:.3g}")
        for name, v in values.items():
            own = tuple(self.dims.get(name, [f"{name}:{k}" for k in range(v.ndim - 1)]))
            if len(own) != v.ndim - 1:
                raise InvalidInput(f"dims: {name!r} has {v.ndim - 1} axes, {own} given")
            self.group.create_array(name, shape=self.grid.shape + v.shape[1:], chunks=self.grid.block + v.shape[1:], dtype=v.dtype,
                                    fill_value=np.nan, dimension_names=self.axes + own, overwrite=True)
        self.group.attrs["outputs"] = sorted(values)  # last: a kill before leaves nothing behind

    def _fitting(self, name: str, values: np.ndarray, block: Block) -> Any:
        if name not in self.names:
            raise InvalidInput(f"fn: {name!r} at {self.grid.point(block, 0)} is not there at other points")
        array = self.group[name]
        expected = array.shape[len(self.axes):]
        if values.shape[1:] != expected:
            raise InvalidInput(f"fn: {name!r} has shape {values.shape[1:]} at {self.grid.point(block, 0)}, {expected} at other points; "
                               f"pad it, with NaN for example")
        return array

    def dataset(self) -> xr.Dataset:
        """All results, read when used."""
        return xr.open_zarr(self.path, consolidated=False, chunks=None)


def _create(zarr: Any, path: Path, grid: Grid, attrs: dict[str, Any]) -> None:
    """An empty store, made beside its place and moved there, so that it is whole or not there."""
    building = path.with_name(f"{path.name}.new")
    shutil.rmtree(building, ignore_errors=True)
    group = zarr.open_group(building, mode="w", zarr_format=3)
    for axis in grid.axes:
        kind = str if axis.labels.dtype.kind == "O" else axis.labels.dtype
        array = group.create_array(axis.name, shape=axis.labels.shape, dtype=kind, dimension_names=(axis.name,))
        array[...] = axis.labels
    names = tuple(axis.name for axis in grid.axes)
    group.create_array(_ERROR, shape=grid.shape, chunks=grid.block, dtype=str, fill_value="", dimension_names=names)
    group.create_array("progress/finished", shape=grid.counts, chunks=grid.counts, dtype=bool, fill_value=False)
    group.attrs.update(attrs)
    building.replace(path)


def _opened(zarr: Any, path: Path, key: str) -> Any:
    try:
        group = zarr.open_group(path, mode="r+")
    except Exception as error:
        raise InvalidInput(f"out: {path} is not a zarr store: {error}") from error
    found = group.attrs.get("study")
    if found is None:
        raise InvalidInput(f"out: {path} is not a store of a study; choose another path, or remove it")
    if found != key:
        raise InvalidInput(f"out: {path} holds another study ({str(found)[:12]}, this is {key[:12]}): its function, grid, precision or "
                           f"version differs; choose another path, or remove it")
    return group
