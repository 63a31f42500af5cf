"""Seconds of empirical NTKs in float32, in one process: ours, the contraction of plain Jacobians, and neural-tangents where it can be had.

    python scripts/bench/empirical.py [--skip jacobian]
"""

import argparse
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import sigprop as sp

REPEATS = 3


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


def seconds(run):
    """First call, then the best of a few in wall and processor seconds, and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    first, best = time.perf_counter() - start, (np.inf, np.inf)
    for _ in range(REPEATS):
        wall, own = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        best = min(best, (time.perf_counter() - wall, time.process_time() - own))
        if best[0] > 10:
            break
    return first, *best, np.asarray(result)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--skip", nargs="*", default=(), help="first words of implementations to leave out")
    skip = tuple(parser.parse_args().skip)
    for title, (model, shape, count) in MODELS.items():
        x = jnp.asarray(np.random.default_rng(0).standard_normal((count, *shape)), jnp.float32)
        params = model.init(jax.random.key(0), x)
        table = Table("implementation", "first call", "seconds", "processor seconds", "largest relative difference", title=title)
        reference = None
        for name, run in peers(model.apply, params, x).items():
            if skip and name.startswith(skip):
                continue
            first, wall, own, found = seconds(run)
            reference = found if reference is None else reference
            gap = np.abs(found - reference).max() / np.abs(reference).max()
            table.add_row(name, f"{first:.2f}", f"{wall:.3f}", f"{own:.3f}", f"{gap:.1e}")
        Console().print(table)


if __name__ == "__main__":
    main()
