"""The zarr group of a kernel: one chunk per tile, each with its checksum, each written to a file of its own that is then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.errors import InvalidInput, MissingDependency, StorageFailed
from sigprop.gram.layout import Layout, Tile

if TYPE_CHECKING:
    import zarr

ATTRIBUTE = "sigprop.gram"
_VERSION = 1
_COMPARED = ("version", "data", "shape", "symmetric", "dtype", "arrays", "tile", "kernel")


def library() -> Any:
    """The module ``zarr``.

    Raises:
        MissingDependency: where it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise MissingDependency("stores need zarr: pip install 'sigprop[studies]'") from error
    return zarr


def record(layout: Layout, names: Sequence[str], dtype: Any, **hashes: str) -> dict[str, Any]:
    """What a store says about itself."""
    return {"version": _VERSION, "shape": list(layout.shape), "tile": list(layout.tile), "symmetric": layout.symmetric,
            "arrays": list(names), "dtype": str(np.dtype(dtype)), **hashes}


def layout_of(about: Mapping[str, Any]) -> Layout:
    return Layout((about["shape"][0], about["shape"][1]), (about["tile"][0], about["tile"][1]), about["symmetric"])


def prepare(path: Path, about: Mapping[str, Any]) -> None:
    """Create the store unless there is one; it appears whole or not at all.

    Raises:
        StorageFailed: where it cannot be written.
    """
    if path.exists():
        for torn in path.rglob("*.partial"):  # left by a process that was killed while it wrote
            torn.unlink(missing_ok=True)
        return
    new = path.with_name(f"{path.name}.new")
    with storing(path):
        shutil.rmtree(new, ignore_errors=True)
        group = library().create_group(new, attributes={ATTRIBUTE: dict(about)})
        layout = layout_of(about)
        for name in about["arrays"]:
            _array(group, name, layout.shape, layout.tile, about["dtype"])
        _array(group, "error", (*layout.grid, 2), (1, 1, 2), about["dtype"])  # written last: a tile that has it is finished
        new.rename(path)


def _array(group: Any, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> None:
    checksum = library().codecs.Crc32cCodec()
    group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, compressors=checksum, fill_value=np.nan,
                       config={"write_empty_chunks": True})


def opened(path: Path, about: Mapping[str, Any] | None = None, writable: bool = False) -> zarr.Group:
    """The group at ``path``.

    Raises:
        InvalidInput: where there is none, or it holds something else than ``about`` says.
    """
    if not path.exists():
        raise InvalidInput(f"out: there is no stored kernel {path}; sp.gram(kernel_fn, x, out=...) makes one")
    try:
        group = library().open_group(path, mode="r+" if writable else "r", use_consolidated=False)
        found = group.attrs[ATTRIBUTE]
    except (OSError, KeyError, ValueError) as error:
        raise InvalidInput(f"out: {path} exists and is no store written by sp.gram; give another path") from error
    differs = next((name for name in _COMPARED if found.get(name) != about[name]), None) if about else None
    if about and differs:
        raise InvalidInput(f"out: {path} was written by another kernel, its {differs} is {_short(found.get(differs))}, here it is "
                           f"{_short(about[differs])}; give another path, or the arguments that it was written with")
    return group


def _short(value: Any) -> str:
    return value[:16] if isinstance(value, str) else str(value)


def finished(group: Any, layout: Layout, names: Sequence[str], tile: Tile) -> bool:
    """Whether all of a tile is stored, and as it was written."""
    try:
        whole = bool(np.isfinite(group["error"][tile]).all())
        return whole and all(bool(np.isfinite(group[name][layout.where(copy)]).all()) for name in names for copy in layout.copies(tile))
    except ValueError:  # the checksum of a chunk
        return False


def write(path: Path, group: Any, layout: Layout, tile: Tile, arrays: Mapping[str, np.ndarray], error: np.ndarray) -> None:
    """Store a tile, and its transpose where the kernel is symmetric.

    Raises:
        StorageFailed: where it cannot be written; tiles finished before are not touched.
    """
    rows, columns = layout.where(tile)
    with storing(path):
        for name, array in arrays.items():
            cut = array[:rows.stop - rows.start, :columns.stop - columns.start]
            for copy in layout.copies(tile):
                group[name][layout.where(copy)] = cut if copy == tile else cut.T
        group["error"][tile] = error


@contextmanager
def storing(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageFailed:
        raise
    except OSError as error:
        where = path.parent if path.parent.exists() else Path()
        free = shutil.disk_usage(where).free / 1e9
        raise StorageFailed(f"out: {path} cannot be written ({error.strerror or error}; {free:.3g} GB free there). Tiles that are finished "
                            "are kept: make room and call again with the same arguments, or give another path") from error
