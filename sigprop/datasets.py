"""Results as ``xarray.Dataset``: usable as outputs of ``jax.jit`` and ``jax.vmap``, with traced arrays inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

PROBABILITIES = (0.001, 0.5, 0.999)  # of the quantiles, predicted and measured


def node_dataset(rows: Sequence[Any], data: dict[str, Any], maps: dict[str, Any], coords: dict[str, Any],
                 attrs: dict[str, Any] | None = None) -> xr.Dataset:
    """Dataset over ``node``; ``maps`` are arrays ``[batch, *axes]`` of single nodes, by names such as ``site_variance:NODE``."""
    for name, array in maps.items():
        key = name.partition(":")[2]
        data[name] = (("input", *(f"{key}:{k}" for k in range(1, np.ndim(array)))), array)
    coords = {
        "node": [r.name for r in rows], "path": ("node", [r.path for r in rows]), "op": ("node", [r.op for r in rows]),
        "shape": ("node", [str(r.shape) for r in rows]), **coords,
    }
    return xr.Dataset(data, coords, attrs)


def plain(value: Any) -> Any:
    """Datasets, arrays, dicts and lists as what strict JSON holds: not-a-number and infinities are strings."""
    if isinstance(value, xr.Dataset):
        variables = {str(name): {"dims": list(map(str, v.dims)), "dtype": str(v.dtype), "shape": list(v.shape), "data": plain(v.values)}
                     for name, v in value.variables.items()}
        return {"variables": variables, "coords": list(map(str, value.coords)), "attrs": plain(value.attrs)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def decoded(content: dict[str, Any]) -> xr.Dataset:
    """The dataset of which :func:`plain` made ``content``."""
    variables = {name: (v["dims"], np.asarray(v["data"], v["dtype"]).reshape(v["shape"])) for name, v in content["variables"].items()}
    coords = {name: variables.pop(name) for name in content["coords"]}
    return xr.Dataset(variables, coords, content["attrs"])


class _Static:
    """Everything of a dataset but its numbers; compares by content, as tree structures must."""

    def __init__(self, dataset: xr.Dataset, names: Sequence[str]) -> None:
        self.rest = dataset.drop_vars(list(names))
        self.dims = tuple((name, dataset[name].dims) for name in names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.dims == other.dims and self.rest.identical(other.rest)

    def __hash__(self) -> int:
        return hash(self.dims)


def _flatten(dataset: xr.Dataset) -> tuple[list[Any], _Static]:
    names = [str(n) for n, v in dataset.data_vars.items() if not isinstance(v.data, np.ndarray) or v.dtype.kind in "fciO"]
    return [dataset[n].data for n in names], _Static(dataset, names)


def _unflatten(static: _Static, leaves: Sequence[Any]) -> xr.Dataset:
    found = {}
    for (name, dims), leaf in zip(static.dims, leaves, strict=True):
        extra = np.ndim(leaf) - len(dims)
        found[name] = ((*(f"mapped{k}" for k in range(extra)), *dims) if extra >= 0 else (), leaf)
    return static.rest.assign(found)


def register() -> None:
    """Make datasets pytrees, unless another library already has."""
    try:
        jax.tree_util.register_pytree_node(xr.Dataset, _flatten, _unflatten)
    except ValueError:
        return


register()
