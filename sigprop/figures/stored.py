"""Numbers of figures on disk, ``FOLDER/data.nc``: made by the paper preset, and drawn."""

from __future__ import annotations

import importlib
import json
import math
import shutil
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import xarray as xr

from sigprop.errors import InvalidInput, hint
from sigprop.figures.style import fitted, style
from sigprop.studies import results

CLASSICS = ("phase_diagram", "ntk_convergence", "learning_paths")
NAMES = (*results.NAMES, *CLASSICS)
DATA = "data.nc"

_LARGE = 20000


def named(name: str) -> ModuleType:
    """The module of a figure: ``Config``, ``PRESETS``, ``compute`` and ``draw``.

    Raises:
        InvalidInput: for an unknown name, with the nearest known one.
    """
    if name in CLASSICS:
        return importlib.import_module(f"sigprop.figures.{name}")
    if name not in results.NAMES:
        raise InvalidInput(f"NAME: there is no figure {name!r}{hint(name, NAMES)}; figures are {', '.join(NAMES)}")
    return results.named(name)


def recomputed(folder: Path, preset: str = "paper", work: Path = Path("out/paper")) -> Path:
    """Compute the numbers of the figure that ``folder`` is named after, and store them there with what made them.

    Args:
        preset: of the study.
        work: what is finished is kept here, so that an interrupted call is taken up again.

    Raises:
        InvalidInput: for an unknown name, and where what is kept is of another config or version.
        MissingDependency: where zarr is not installed.
    """
    name, build, place = folder.name, work / folder.name, folder / DATA
    module = named(name)
    build.mkdir(parents=True, exist_ok=True)
    found = results.computed(module, name, module.PRESETS[preset], build).assign_attrs(preset=preset)
    results.stored(found, place, _packed(found))
    shutil.rmtree(build)
    return place


def _packed(found: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Encodings of netCDF: large arrays, such as losses of long runs, in 16 bits of their range, where a line is as wide as a hundred."""
    ranges = {name: (float(v.min()), float(v.max())) for name, v in found.data_vars.items() if v.dtype.kind == "f" and v.size > _LARGE}
    return {str(name): {"dtype": "int16", "scale_factor": (high - low) / 65000, "add_offset": (high + low) / 2, "_FillValue": -32768}
            for name, (low, high) in ranges.items() if -math.inf < low < high < math.inf}


def redrawn(folder: Path, out: Path = Path("out/figures")) -> list[Path]:
    """Draw the stored numbers of the figure that ``folder`` is named after, as ``OUT/NAME.pdf`` and ``OUT/NAME.png``.

    Raises:
        InvalidInput: for an unknown name, where there are no numbers, and where they are of a version with other fields in its config.
        MissingDependency: where matplotlib or tueplots is not installed.
    """
    module = named(folder.name)
    if not (folder / DATA).is_file():
        raise InvalidInput(f"{folder.name}: no numbers in {folder / DATA}; compute them with python {folder / 'run.py'}")
    rules = style()
    from matplotlib import rc_context

    found = xr.load_dataset(folder / DATA, engine=results.ENGINE)
    _check_fields(found, module, folder)
    out.mkdir(parents=True, exist_ok=True)
    places = [out / f"{folder.name}{end}" for end in (".pdf", ".png")]
    with rc_context(rules):
        figure = fitted(module.draw(found))
        for place in places:
            # no date, so that a redrawn figure is the same file
            figure.savefig(place, dpi=300, metadata={"CreationDate": None} if place.suffix == ".pdf" else None)
    return places


def _check_fields(found: xr.Dataset, module: ModuleType, folder: Path) -> None:
    made, known = set(json.loads(found.attrs.get("config", "{}"))), {f.name for f in fields(module.Config)}
    if made != known:
        raise InvalidInput(f"{folder.name}: {folder / DATA} is of another version of sigprop: its config has {sorted(made - known)} and "
                           f"lacks {sorted(known - made)}; compute it anew with python {folder / 'run.py'}")


__all__ = ["CLASSICS", "DATA", "NAMES", "named", "recomputed", "redrawn"]
