"""Commands that compute infinite-width kernels: on the terminal, or by tiles to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from rich.console import Group
from rich.table import Table

from sigprop import spectra
from sigprop.cli.app import app, errors
from sigprop.cli.model import Model, Target
from sigprop.cli.output import Json, show, writable
from sigprop.errors import InvalidInput
from sigprop.gram import gram
from sigprop.infinite import infinite_kernel

_SHOWN = 8  # examples of a kernel that is printed entry by entry
Parameterization = Annotated[str, Parameter(help="of the tangent kernel: standard or ntk")]
Tangent = Annotated[bool, Parameter(name="ntk", help="compute the tangent kernel beside the NNGP kernel")]


@app.command(name="kernel")
def kernel_command(
    target: Target, /, *, model: Model = Model(), json: Json = None, parameterization: Parameterization = "standard", ntk: Tangent = True,
    out: Annotated[Path | None, Parameter(help="write the matrices nngp and ntk to this FILE.npz")] = None,
) -> int:
    """Compute the NNGP and tangent kernels of a model on its inputs, and their spectra."""
    writable(json=json, out=out)
    arrays = model.arrays()
    with errors.status("computing"):
        made = infinite_kernel(model.network(target, arrays), parameterization, ntk=ntk)(_as_one(arrays))
    found = {name: np.asarray(k) for name, k in (("nngp", made.nngp), ("ntk", made.ntk)) if k is not None and (ntk or name == "nngp")}
    content = {name: {"kernel": k, **(_spectrum(k) if k.ndim == 2 else {})} for name, k in found.items()}
    if out is not None:
        with out.open("wb") as file:
            np.savez(file, **found)  # type: ignore[arg-type]
    show(Group(*(part for name, k in found.items() for part in _shown(name, k, content[name]))), content, json)
    return 0


def _as_one(arrays: list[Any]) -> Any:
    """Inputs as kernels take them: one array, or a tuple of several."""
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def _spectrum(kernel: np.ndarray) -> dict[str, Any]:
    return {"eigenvalues": np.asarray(spectra.spectrum(kernel)), "trace": float(spectra.trace(kernel)), "rank": int(spectra.rank(kernel)),
            "condition_number": float(spectra.condition_number(kernel)), "effective_rank": float(spectra.effective_rank(kernel))}


def _shown(name: str, kernel: np.ndarray, content: dict[str, Any]) -> list[Any]:
    title = {"nngp": "NNGP kernel", "ntk": "Tangent kernel (NTK)"}[name]
    if kernel.ndim != 2:
        return [f"{title}: {' x '.join(map(str, kernel.shape))}, averaged over the last axis of the output"]
    summary = (f"{title}, {len(kernel)} x {len(kernel)}: trace {content['trace']:.6g}, rank {content['rank']}, condition number "
               f"{content['condition_number']:.4g}, effective rank {content['effective_rank']:.4g}")
    table = Table(show_header=False, box=None)
    for row in kernel[:_SHOWN, :_SHOWN]:
        table.add_row(*(f"{entry:.6g}" for entry in row), *(["..."] if len(kernel) > _SHOWN else []))
    return [summary, table]


@app.command(name="gram")
def gram_command(
    target: Target, /, *, model: Model = Model(), out: Annotated[Path, Parameter(help="directory of the zarr group")],
    parameterization: Parameterization = "standard", ntk: Tangent = True,
    tile: Annotated[int, Parameter(help="largest number of rows and columns of a tile")] = 1024, json: Json = None,
) -> int:
    """Compute the kernels of many inputs by tiles to disk; run again, it goes on where it was stopped."""
    writable(json=json)
    if not out.resolve().parent.is_dir():
        raise InvalidInput(f"--out: there is no directory {out.resolve().parent}")
    arrays = model.arrays()
    net = model.network(target, [a[:2] for a in arrays])
    stored = gram(infinite_kernel(net, parameterization, ntk=ntk), _as_one(arrays), out=out, tile=tile)
    content = {"path": str(out), "shape": stored.shape, "kernels": stored.names, "damaged": len(stored.verify())}
    show(f"{out}: {' and '.join(stored.names)}, {stored.shape[0]} x {stored.shape[1]}, checksums right; "
         f"read with sigprop.open_gram('{out}')", content, json)
    return 0
