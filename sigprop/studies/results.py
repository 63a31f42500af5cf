"""Carrying out named studies: presets, fields, results with their provenance on disk."""

from __future__ import annotations

import importlib
import json
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import xarray as xr

from sigprop.errors import InvalidInput, hint
from sigprop.studies.frame import Config, changed, written

NAMES = ("pointwise_conv", "depthwise_conv", "transposed_conv", "weight_norm", "deep_autoencoder", "attention_entropy",
         "resnet_zero_gamma", "densenet_bn", "edge_of_chaos", "finite_width", "batchnorm_explosion", "fp16_subnormals",
         "sparse_lottery", "int8_quantization", "adam_second_moment", "ntk_init", "pinn_derivatives", "rank_collapse")

ENGINE: Any = "scipy"  # netCDF 3, which needs nothing else


def named(name: str) -> ModuleType:
    """The module of a study.

    Raises:
        InvalidInput: for an unknown name, with the nearest known one.
    """
    if name not in NAMES:
        raise InvalidInput(f"NAME: there is no study {name!r}{hint(name, NAMES)}; studies are {', '.join(NAMES)}, or all")
    return importlib.import_module(f"sigprop.studies.{name}")


def configured(name: str, preset: str, values: Mapping[str, Any]) -> Config:
    """A preset of a study, with other values of some fields.

    Raises:
        InvalidInput: for unknown studies, presets and fields, and unusable values.
    """
    presets = named(name).PRESETS
    if preset not in presets:
        raise InvalidInput(f"--preset: {preset!r} is none of {', '.join(presets)}{hint(preset, presets)}")
    return changed(presets[preset], values)


def carried_out(name: str, config: Config, out: Path | None = None, resume: bool = False) -> xr.Dataset:
    """The results of a study, with ``study``, ``config``, ``seed``, versions and device among their attributes.

    Args:
        out: folder for ``NAME.nc``, and for stores of points that are finished (``NAME.zarr``) until all are.
        resume: whether to go on with what is there; otherwise it is computed anew.

    Raises:
        InvalidInput: where what is there is of another config or version.
        MissingDependency: where zarr is not installed.
    """
    module, place = named(name), None if out is None else out / f"{name}.nc"
    if place is not None and place.exists() and resume:
        return _read(place, name, config)
    if out is not None:
        _folder(out, name, resume)
    found = computed(module, name, config, out)
    if place is not None:
        stored(found, place)
    return found


def computed(module: ModuleType, name: str, config: Config, out: Path | None = None) -> xr.Dataset:
    """The results of a study, or of another module with its frame, with what made them among their attributes.

    Args:
        out: folder for stores of points that are finished, which are taken up again.

    Raises:
        InvalidInput: where a store is of another config or version.
        MissingDependency: where zarr is not installed.
    """
    return module.compute(config, out).assign_attrs(provenance(name, config))


def stored(found: xr.Dataset, place: Path, encoding: Mapping[str, Any] | None = None) -> None:
    """Write a file whole or not at all."""
    building = place.with_suffix(".nc.new")
    found.to_netcdf(building, engine=ENGINE, encoding=encoding)
    building.replace(place)


def provenance(name: str, config: Config) -> dict[str, Any]:
    """What made a result."""
    device = jax.devices()[0]
    return {"study": name, "config": written(config), "seed": config.seed, "sigprop": version("sigprop"), "jax": jax.__version__,
            "flax": version("flax"), "numpy": version("numpy"), "python": platform.python_version(),
            "device": f"{device.platform}: {device.device_kind}", "machine": platform.machine()}


def _folder(out: Path, name: str, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InvalidInput(f"--out: {out} is not a directory")
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        for store in out.glob(f"{name}*.zarr"):
            shutil.rmtree(store)


def _read(place: Path, name: str, config: Config) -> xr.Dataset:
    try:
        with xr.open_dataset(place, engine=ENGINE) as opened:
            found = opened.load()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"--resume: {place} cannot be read: {error}") from error
    made, now = found.attrs.get("sigprop"), version("sigprop")
    if found.attrs.get("study") != name or made is None:
        raise InvalidInput(f"--resume: {place} does not hold the study {name}")
    if made != now:
        raise InvalidInput(f"--resume: {place} is of sigprop {made}, this is {now}; choose another --out, or leave out --resume")
    if found.attrs["config"] != written(config):
        old, new = json.loads(found.attrs["config"]), json.loads(written(config))
        other = [f"{k}={old.get(k)!r}, not {new.get(k)!r}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        raise InvalidInput(f"--resume: {place} has another config: {'; '.join(other)}")
    return found
