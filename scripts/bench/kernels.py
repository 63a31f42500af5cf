"""Kernels against neural-tangents, both jitted in float32, in one process, run by turns: ratios of medians, compiling apart."""

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import sigprop as sp

ROUNDS = 7
nt = sp.interop.neural_tangents.load()
INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
STD = 2**0.5


class Case(NamedTuple):
    name: str
    get: str
    shape: tuple[int, ...]
    ours: list[Callable[..., Any]]
    theirs: list[Any]


def dense(depth: int, ours: Callable[..., Any], theirs: Any) -> tuple[list[Any], list[Any]]:
    s = nt.stax
    return ([*(layer for _ in range(depth) for layer in (nn.Dense(64, use_bias=False, kernel_init=INIT), ours)),
             nn.Dense(1, use_bias=False, kernel_init=INIT)],
            [*(layer for _ in range(depth) for layer in (s.Dense(64, W_std=STD), theirs)), s.Dense(1, W_std=STD)])


def convolutions(depth: int, ours: Callable[..., Any], theirs: Any) -> tuple[list[Any], list[Any]]:
    s = nt.stax
    return ([*(layer for _ in range(depth) for layer in (nn.Conv(16, (3, 3), use_bias=False, kernel_init=INIT), nn.relu)), ours,
             nn.Dense(1, use_bias=False, kernel_init=INIT)],
            [*(layer for _ in range(depth) for layer in (s.Conv(16, (3, 3), padding="SAME", W_std=STD), s.Relu())), theirs,
             s.Dense(1, W_std=STD)])


def cases() -> list[Case]:
    s = nt.stax
    return [
        *(Case(f"dense ReLU, depth {depth}, N = 1000", "nngp", (1000, 256), *dense(depth, nn.relu, s.Relu())) for depth in (3, 10, 50)),
        Case("dense erf, depth 10, N = 1000", "nngp", (1000, 256), *dense(10, jax.scipy.special.erf, s.Erf())),
        Case("5 convolutions 8 x 8, flattened, N = 200", "nngp", (200, 8, 8, 3),
             *convolutions(5, lambda x: x.reshape(len(x), -1), s.Flatten())),
        Case("5 convolutions 8 x 8, pooled, N = 20", "nngp", (20, 8, 8, 3), *convolutions(5, lambda x: x.mean((1, 2)), s.GlobalAvgPool())),
        Case("dense ReLU, depth 3, N = 1000", "ntk", (1000, 256), *dense(3, nn.relu, s.Relu())),
        Case("dense erf, depth 3, N = 1000", "ntk", (1000, 256), *dense(3, jax.scipy.special.erf, s.Erf())),
        Case("2 convolutions 8 x 8, flattened, N = 100", "ntk", (100, 8, 8, 3),
             *convolutions(2, lambda x: x.reshape(len(x), -1), s.Flatten())),
    ]


def seconds(f: Callable[..., Any], x: Any) -> float:
    start = perf_counter()
    jax.block_until_ready(f(x))
    return perf_counter() - start


def compare(case: Case) -> tuple[list[float], list[float], float]:
    """First calls and medians, ours and theirs, and the largest difference relative to the largest entry."""
    x = np.random.default_rng(0).standard_normal(case.shape).astype(np.float32)
    ours = sp.interop.kernel_fn_of(sp.network(nn.Sequential(case.ours), x[:2]), parameterization="ntk")
    both = [jax.jit(partial(f, x2=None, get=case.get)) for f in (ours, nt.stax.serial(*case.theirs)[2])]
    x = jnp.asarray(x)
    first = [seconds(f, x) for f in both]
    rounds = [[seconds(f, x) for f in both] for _ in range(ROUNDS)]
    one, two = (np.asarray(f(x), np.float64) for f in both)
    return first, [median(column) for column in zip(*rounds, strict=True)], float(abs(one - two).max() / abs(two).max())


def main() -> None:
    table = Table("kernel", "", "run, s", "theirs", "ratio", "first call, s", "theirs", "ratio", "difference",
                  title="kernels against neural-tangents (ratio: ours / theirs)")
    console = Console(width=140)
    for case in cases():
        console.log(case.name, case.get)
        first, run, gap = compare(case)
        cells = [text for ours, theirs in (run, first) for text in (f"{ours:.3g}", f"{theirs:.3g}", f"{ours / theirs:.2f}")]
        table.add_row(case.name, case.get, *cells, f"{gap:.0e}")
    console.print(table)


if __name__ == "__main__":
    main()
