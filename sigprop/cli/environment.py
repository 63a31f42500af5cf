"""Commands about sigprop itself: the operations it knows, and whether it works here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import time
from collections import Counter
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from cyclopts import Parameter
from rich.console import Group
from rich.table import Table

from sigprop.cli.app import app, errors
from sigprop.cli.model import Model, Target
from sigprop.cli.output import Json, show, writable
from sigprop.engine import RULES
from sigprop.infinite import infinite_kernel
from sigprop.network import network

_CORE = ("jax", "jaxlib", "flax", "numpy", "scipy", "xarray", "rich", "cyclopts", "lineax", "jaxtyping")
_EXTRAS = {"studies": ("optax", "diffrax", "scikit-learn", "pillow", "zarr", "distributed"), "figures": ("matplotlib", "tueplots"),
           "docs": ("jupytext", "nbconvert"), "neural-tangents": ("neural-tangents", "frozendict")}


@app.command(name="rules")
def rules_command(
    target: Annotated[Target | None, Parameter(help="a model: only its operations, and what has no rule")] = None, /, *,
    model: Model = Model(), json: Json = None,
    strict: Annotated[bool, Parameter(help="exit with status 1 where an operation has no rule", negative=())] = False,
) -> int:
    """List the primitives of JAX that can be followed; of a model, those that it uses.

    What only numbers and no parameters reach needs no rule.
    """
    writable(json=json)
    if target is None:
        by_file: dict[str, list[str]] = {}
        for name, rule in sorted(RULES.items()):
            by_file.setdefault(getattr(rule, "__module__", "").rpartition(".")[2], []).append(name)
        table = Table("kind", "primitives", title=f"{len(RULES)} primitives have rules", title_justify="left")
        for kind, names in sorted(by_file.items()):
            table.add_row(kind, ", ".join(names))
        show(table, by_file, json)
        return 0
    arrays = model.arrays()
    ops = model.network(target, arrays).graph(*arrays).ops
    count, first = Counter(op.name for op in ops), {op.name: f"{op.path or 'the model'} ({op.source})" for op in reversed(ops)}
    content = {name: {"uses": n, "rule": name in RULES, "first": first[name]} for name, n in sorted(count.items())}
    table = Table("primitive", "uses", "rule", "first use", title=f"{sum(count.values())} operations", title_justify="left")
    for name, row in content.items():
        table.add_row(name, str(row["uses"]), "yes" if row["rule"] else "none", row["first"], style="" if row["rule"] else "red")
    show(table, content, json)
    return int(strict and not all(row["rule"] for row in content.values()))


@app.command(name="doctor")
def doctor_command(*, json: Json = None) -> int:
    """Show versions, devices and extras, and check a kernel against its closed form. Exit status 1 where something is missing or wrong."""
    writable(json=json)
    with errors.status("checking"):
        trial = _trial()
    versions = {name: _version(name) for name in _CORE}
    extras = {extra: {name: _version(name) for name in names} for extra, names in _EXTRAS.items()}
    place = {"sigprop": _version("sigprop"), "python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}",
             "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
             "devices": [str(d) for d in jax.devices()], "float64": jnp.result_type(float) == jnp.float64}
    show(_diagnosis(place, versions, extras, trial), {**place, "core": versions, "extras": extras, "trial": trial}, json)
    return int(not trial["right"] or "" in versions.values())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _trial() -> dict[str, Any]:
    """NNGP kernel of two ReLU layers on orthogonal unit inputs, against arccosine kernels (Cho & Saul 2009, equation 6), in float32."""
    start = time.perf_counter()
    layer = lambda: nn.Dense(64, kernel_init=nn.initializers.variance_scaling(2, "fan_in", "normal"))  # noqa: E731
    x = np.eye(2, 64, dtype=np.float32)
    made = infinite_kernel(network(nn.Sequential([layer(), nn.relu, layer(), nn.relu, nn.Dense(1)]), x), ntk=False)(x)

    def arccosine(c: float) -> float:
        return (np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / np.pi

    expected = np.array([1.0, arccosine(arccosine(0.0))]) / 64  # of 1/64 per pixel, which twice is doubled by He and halved by ReLU
    found = np.asarray(made.nngp)[0]
    error = float(np.abs(found / expected - 1).max())
    return {"relative error": error, "right": error < 1e-5, "seconds": time.perf_counter() - start}


def _diagnosis(place: dict[str, Any], versions: dict[str, str], extras: dict[str, dict[str, str]], trial: dict[str, Any]) -> Group:
    table = Table("", "", show_header=False, title="sigprop doctor", title_justify="left")
    for name, value in place.items():
        table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    table.add_row("needed", ", ".join(f"{n} {v or 'MISSING'}" for n, v in versions.items()))
    for extra, found in extras.items():
        absent = [n for n, v in found.items() if not v]
        here = [f"{n} {v}" for n, v in found.items() if v]
        missing = [f"not installed: {', '.join(absent)} (pip install 'sigprop\\[{extra}]')"] if absent else []
        table.add_row(f"for {extra}", "; ".join([", ".join(here)] * bool(here) + missing))
    verdict = "right" if trial["right"] else "WRONG"
    table.add_row("kernel against closed form", f"{verdict}, relative error {trial['relative error']:.1e}, {trial['seconds']:.1f} s")
    return Group(table)
