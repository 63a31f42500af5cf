"""Seconds of empirical NTKs in float32, in one process: ours, the contraction of plain Jacobians, and neural-tangents where it can be had.

    python scripts/bench/empirical.py [--skip jacobian] [--readme]

By turns, medians. Contractions of plain Jacobians take minutes and gigabytes.
"""

import argparse
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from readme import put, table  # noqa: E402

import sigprop as sp  # noqa: E402

TURNS = 20
SLOW = 2.0  # seconds from which a call is not repeated
OURS = "ours, auto"
MARKS = "<!-- empirical table: written by make bench -->", "<!-- end of empirical table -->"


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.relu(nn.Conv(64, (3, 3))(x))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


MODELS = {  # model, shape of an example, number of examples
    "MLP 784-1024-1024-10, N=100": (nn.Sequential([nn.Dense(1024), nn.relu, nn.Dense(1024), nn.relu, nn.Dense(10)]), (784,), 100),
    "CNN 3 x 3x3x64 on 16x16, N=50": (Cnn(), (16, 16, 3), 50),
}


def jacobian(apply, params, x):
    found = jax.tree.leaves(jax.jacrev(apply)(params, x))
    return sum(jnp.einsum("nfp,mfp->nm", j, j) / j.shape[1] for j in (j.reshape(*j.shape[:2], -1) for j in found))


def peers(apply, params, x):
    """Ours and others, each a function without arguments."""
    plain = jax.jit(lambda p, x: jacobian(apply, p, x))
    out = {f"ours, {method}": lambda method=method: sp.empirical_ntk(apply, params, x, method=method) for method in ("auto", "jacobian")}
    out["jacobian: jax.jacrev"] = lambda: plain(params, x)
    try:
        from sigprop.interop import neural_tangents

        nt = neural_tangents.load()
    except ImportError:
        return out
    for name in ("STRUCTURED_DERIVATIVES", "NTK_VECTOR_PRODUCTS", "JACOBIAN_CONTRACTION"):
        kernel = nt.empirical_ntk_fn(apply, trace_axes=(-1,), vmap_axes=0,
                                     implementation=getattr(nt.NtkImplementation, name))
        compiled = jax.jit(lambda p, x, kernel=kernel: kernel(x, None, p))
        out[f"neural-tangents, {name.lower()}"] = lambda compiled=compiled: compiled(params, x)
    return out


def timed(runs, note):
    """By name the first call in seconds, the median of later ones by turns, and the result; slow ones are called once more only."""
    first, results, later = {}, {}, {name: [] for name in runs}
    for name, run in runs.items():
        note(f"{name}: first call")
        start = time.perf_counter()
        results[name] = np.asarray(run())
        first[name] = time.perf_counter() - start
    for turn in range(TURNS):
        note(f"turn {turn + 1} of {TURNS}")
        for name, run in runs.items():
            if not turn or later[name][0] < SLOW:
                start = time.perf_counter()
                jax.block_until_ready(run())
                later[name].append(time.perf_counter() - start)
    return {name: (first[name], float(np.median(later[name])), results[name]) for name in runs}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--skip", nargs="*", default=(), help="first words of implementations to leave out")
    parser.add_argument("--readme", action="store_true", help="write the table into the page of docs that has it")
    options = parser.parse_args()
    console, rows = Console(), [["model, implementation", "s", "over ours", "first call, s", "largest relative difference"]]
    for title, (model, shape, count) in MODELS.items():
        x = jnp.asarray(np.random.default_rng(0).standard_normal((count, *shape)), jnp.float32)
        params = model.init(jax.random.key(0), x)
        runs = {name: run for name, run in peers(model.apply, params, x).items() if not name.startswith(tuple(options.skip))}
        with console.status(title) as status:
            found = timed(runs, lambda text, status=status, title=title: status.update(f"{title}: {text}"))
        ours = found[OURS]
        for name, (first, median, result) in found.items():
            gap = np.abs(result - ours[2]).max() / np.abs(ours[2]).max()
            rows.append([f"{title}: {name}", f"{median:.2g}", f"{median / ours[1]:.2g}", f"{first:.2g}", f"{gap:.0e}"])
    text = table(rows)
    print(text)
    if options.readme:
        put(text, MARKS, [row[0] for row in rows[1:]])


if __name__ == "__main__":
    main()
