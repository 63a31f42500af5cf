"""Kernels by tiles, to a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sigprop.errors import InvalidInput, Unsound
from sigprop.gram import store
from sigprop.gram.identity import data_hash, program_hash
from sigprop.gram.layout import Layout, Tile
from sigprop.gram.stored import Gram, open_gram
from sigprop.gram.tiles import Devices, Programs, inputs, on_diagonal, programs
from sigprop.init.checks import check_whole
from sigprop.network import check_inputs, check_pair
from sigprop.progress import progress as bars
from sigprop.types import Kernel


def gram(kernel_fn: Callable[..., Kernel], x1: Any, x2: Any = None, out: str | Path = "K.zarr", *, tile: int = 1024,
         mesh: jax.sharding.Mesh | None = None, key: str | None = None) -> Gram:
    """NNGP and NTK of ``x1`` with ``x2`` (itself by default), computed by tiles and stored in the zarr group ``out``.

    Memory holds the inputs and two tiles per device; of a set with itself only tiles on and above the diagonal are computed. A tile is
    written to a file of its own that is then renamed, with its checksum. Called again, after a kill for instance, it computes the tiles
    that are missing or damaged, and no other. In a program of several processes (``jax.distributed``) all of them call this, with the same
    arguments and a path that they share: each computes its part of the tiles.

    Args:
        kernel_fn: ``(x1, x2=None) -> Kernel`` that JAX can trace, one number per pair: of :func:`sigprop.infinite_kernel`, of
            ``partial(sp.empirical_kernel(net), params)``, of :func:`sigprop.interop.kernel_of`, or your own.
        x1, x2: arrays, or tuples of them, with the examples on axis 0; a ``numpy.memmap`` is read by parts.
        out: directory of the group.
        tile: largest number of rows and columns of a tile; all tiles are of one size.
        mesh: tiles are computed on all of its devices, whatever its axes are; by default on one device per process.
        key: what tells ``kernel_fn`` from others, in place of its traced program with all constants (which changes between versions).

    Returns:
        The stored kernel, read lazily.

    Raises:
        InvalidInput: for unusable arguments, and a store that holds another kernel, other data, or something else.
        StorageFailed: where the store cannot be written, like a full disk.
        OutOfMemory: where a device has too little memory for a tile.
        Unsound: where the kernel has NaN or infinite entries.
        MissingDependency: where zarr is not installed.
    """
    if not callable(kernel_fn):
        raise InvalidInput(f"kernel_fn: {type(kernel_fn).__name__} is not a function (x1, x2=None) -> sp.Kernel")
    check_whole("tile", tile)
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
        raise InvalidInput(f"mesh: {type(mesh).__name__} is not a jax.sharding.Mesh")
    check_inputs((x1,))
    if x2 is not None:
        check_pair(x1, x2)
    store.library()
    layout = Layout.of(_examples("x1", x1), None if x2 is None else _examples("x2", x2), tile)
    traced = programs(kernel_fn, x1, x2, layout)
    kernel = program_hash(p for p in (traced.pair, traced.own) if p is not None) if key is None else f"key {key}"
    about = store.record(layout, traced.names, traced.dtype, kernel=kernel, data=data_hash(x1, x2))
    path = Path(out)
    try:
        if jax.process_index() == 0:
            store.prepare(path, about)
    finally:
        _meet("created")
    group = store.opened(path, about, writable=True)
    devices, part = _share(mesh)
    try:
        if devices:
            _compute(path, group, layout, traced, Devices(devices, layout), (x1, x2), layout.tiles[part])
    finally:
        _meet("finished")
    return open_gram(path)


def _compute(path: Path, group: Any, layout: Layout, traced: Programs, devices: Devices, data: tuple[Any, Any],
             tiles: Sequence[Tile]) -> None:
    """Compute and store what is missing of ``tiles``."""
    with _progress() as progress:
        task, left = progress.add_task("checking", total=len(tiles)), []
        for tile in tiles:
            left += [] if store.finished(group, layout, traced.names, tile) else [tile]
            progress.advance(task)
        progress.reset(task, total=len(tiles), completed=len(tiles) - len(left), description="computing")
        for some, arrays in _one_late(_started(traced, devices, layout, data, left)):
            *kernels, errors = devices.guarded(lambda arrays=arrays: [np.asarray(a) for a in arrays])
            for k, tile in enumerate(some):
                numbers = {name: array[k] for name, array in zip(traced.names, kernels, strict=True)}
                _check_finite(numbers, tile)
                store.write(path, group, layout, tile, numbers, errors[k])
                progress.advance(task)


def _started(traced: Programs, devices: Devices, layout: Layout, data: tuple[Any, Any],
             tiles: Sequence[Tile]) -> Iterator[tuple[Sequence[Tile], list[Any]]]:
    """As many tiles at a time as there are devices, and their arrays, which are under way."""
    for own, program in ((True, traced.own), (False, traced.pair)):
        alike = [tile for tile in tiles if on_diagonal(layout, tile) == own]
        if alike and program is not None:
            function = devices.compiled(program)
            for start in range(0, len(alike), devices.count):
                some = alike[start:start + devices.count]
                yield some, function([inputs(*data, layout, tile) for tile in some])


def _one_late(items: Iterator[Any]) -> Iterator[Any]:
    """Each item once the next one is made, so that a device computes while the last tiles are stored."""
    made: list[Any] = []
    for item in items:
        yield from made
        made = [item]
    yield from made


def _check_finite(numbers: dict[str, np.ndarray], tile: Tile) -> None:
    for name, array in numbers.items():
        if not np.isfinite(array).all():
            raise Unsound(f"kernel_fn: {name} of tile {tile} has NaN or infinite entries: the kernel overflows {array.dtype}, or examples "
                          "influence each other; float64 inputs under jax.enable_x64(True) reach further")


def _examples(name: str, x: Any) -> int:
    sizes = {len(leaf) for leaf in jax.tree.leaves(x)}
    if len(sizes) > 1:
        raise InvalidInput(f"{name}: arrays of {sorted(sizes)} examples; axis 0 is the batch of all of them")
    return sizes.pop()


def _share(mesh: jax.sharding.Mesh | None) -> tuple[list[Any], slice]:
    """The devices that this process computes on, and which of the tiles."""
    this = jax.process_index()
    everyone = [d for p in range(jax.process_count()) for d in jax.local_devices(p)[:1]] if mesh is None else [*mesh.devices.flat]
    processes = sorted({d.process_index for d in everyone})
    return [d for d in everyone if d.process_index == this], slice(sum(p < this for p in processes), None, len(processes))


def _meet(name: str) -> None:
    """Wait for the other processes, if there are any."""
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(f"sigprop.gram {name}")


def _progress() -> Progress:
    return bars(TextColumn("{task.description} tiles"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
                shown=None if jax.process_index() == 0 else False)
