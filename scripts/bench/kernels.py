"""Kernels against neural-tangents: both jitted in float32, in one process, run by turns; medians, first calls and errors apart.

    python scripts/bench/kernels.py [--only TEXT ...] [--rounds 5] [--readme]

The error is the largest relative one over the entries of a corner of the kernel, against sigprop in float64, which the tests hold to
neural-tangents in float64. Widths are such that the scales of the weights are powers of two.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import sigprop as sp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from readme import put, table  # noqa: E402

MARKS = "<!-- kernel table: written by make bench -->", "<!-- end of kernel table -->"
CORNER = 8  # examples
nt = sp.interop.neural_tangents.load()
s = nt.stax
STD = 2**0.5
Dense = partial(nn.Dense, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"))
Conv = partial(nn.Conv, kernel_size=(3, 3), use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"))


class Case(NamedTuple):
    name: str
    shape: tuple[int, ...]
    ours: Callable[[], nn.Module]
    theirs: Callable[[], Any]
    kernels: tuple[str, ...] = ("nngp", "ntk")


def dense(depth: int, n: int, name: str, ours: Callable[..., Any], theirs: Any) -> Case:
    return Case(f"dense {name}, depth {depth}, N = {n}", (n, 512),
                lambda: nn.Sequential([*(layer for _ in range(depth) for layer in (Dense(128), ours)), Dense(1)]),
                lambda: s.serial(*(layer for _ in range(depth) for layer in (s.Dense(128, W_std=STD), theirs())), s.Dense(1, W_std=STD)))


def their_conv(strides: tuple[int, int] = (1, 1)) -> Any:
    return s.Conv(16, (3, 3), strides, padding="SAME", W_std=STD)


def convolutions(n: int, name: str, ours: Callable[..., Any], theirs: Any) -> Case:
    return Case(f"5 convolutions 8 x 8, {name}, N = {n}", (n, 8, 8, 3),
                lambda: nn.Sequential([*(layer for _ in range(5) for layer in (Conv(16), nn.relu)), ours, Dense(1)]),
                lambda: s.serial(*(layer for _ in range(5) for layer in (their_conv(), s.Relu())), theirs(), s.Dense(1, W_std=STD)))


class WideResNet(nn.Module):
    """Two residual blocks, the second with stride 2."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = Conv(16)(x)
        x = x + Conv(16)(nn.relu(Conv(16)(nn.relu(x))))
        branch = Conv(16)(nn.relu(Conv(16, strides=(2, 2))(nn.relu(x))))
        return Dense(1)(pooled(nn.relu(branch + Conv(16, strides=(2, 2))(x))))


def their_wide_resnet() -> Any:
    def block(strides: tuple[int, int], shortcut: Any) -> Any:
        branch = s.serial(s.Relu(), their_conv(strides), s.Relu(), their_conv())
        return s.serial(s.FanOut(2), s.parallel(branch, shortcut), s.FanInSum())

    return s.serial(their_conv(), block((1, 1), s.Identity()), block((2, 2), their_conv((2, 2))), s.Relu(), s.GlobalAvgPool(),
                    s.Dense(1, W_std=STD))


class Attention(nn.Module):
    """Structured attention (Hron et al. 2020): logits without a softmax are sums of independent products, whose limit is closed."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        project = partial(nn.DenseGeneral, (4, 16), use_bias=False, kernel_init=nn.initializers.lecun_normal())
        q, k, v = project()(x), project()(x), project()(x)
        y = jnp.einsum("bhts,bshd->bthd", jnp.einsum("bthd,bshd->bhts", q, k) / 4, v)
        y = nn.DenseGeneral(64, axis=(-2, -1), use_bias=False, kernel_init=nn.initializers.lecun_normal())(y)
        return Dense(1)(y.mean(1))


def their_attention() -> Any:
    return s.serial(s.GlobalSelfAttention(64, 16, 16, 4, linear_scaling=False, attention_mechanism="IDENTITY"), s.GlobalAvgPool(),
                    s.Dense(1, W_std=STD))


def pooled(x: Any) -> Any:
    return x.mean((1, 2))


def flat(x: Any) -> Any:
    return x.reshape(len(x), -1)


CASES = [
    *(dense(depth, n, "ReLU", nn.relu, s.Relu) for depth in (3, 10, 50) for n in (1000, 4000)),
    dense(3, 1000, "erf", jax.scipy.special.erf, s.Erf),
    dense(10, 2000, "erf", jax.scipy.special.erf, s.Erf),
    convolutions(200, "flattened", flat, s.Flatten),
    convolutions(20, "pooled", pooled, s.GlobalAvgPool),
    Case("WideResNet, 2 blocks 8 x 8, pooled, N = 20", (20, 8, 8, 3), WideResNet, their_wide_resnet),
    Case("structured attention, 16 tokens, N = 40", (40, 16, 32), Attention, their_attention),
]


def seconds(f: Callable[..., Any], x: Any) -> float:
    start = perf_counter()
    jax.block_until_ready(f(x))
    return perf_counter() - start


def error(found: Any, exact: Any) -> float:
    return float(np.max(abs(np.asarray(found[:CORNER, :CORNER], np.float64) - exact) / abs(exact)))


def compare(case: Case, get: str, rounds: int) -> list[tuple[float, float]]:
    """Pairs, ours and theirs: medians of the time of a call, first calls, errors."""
    x = np.random.default_rng(0).standard_normal(case.shape).astype(np.float32)
    model = case.ours()
    ours = sp.interop.kernel_fn_of(sp.network(model, x[:2]), parameterization="ntk")
    both = [jax.jit(partial(f, x2=None, get=get)) for f in (ours, case.theirs()[2])]
    first = [seconds(f, jnp.asarray(x)) for f in both]
    times = [[seconds(f, jnp.asarray(x)) for f in both] for _ in range(rounds)]
    with jax.enable_x64(True):
        corner = x[:CORNER].astype(np.float64)
        exact = np.asarray(sp.interop.kernel_fn_of(sp.network(model, corner), parameterization="ntk")(corner, get=get))
    found = [error(f(jnp.asarray(x)), exact) for f in both]
    jax.clear_caches()
    return [tuple(map(median, zip(*times, strict=True))), tuple(first), tuple(found)]  # type: ignore[return-value]


def markdown(rows: list[tuple[str, list[tuple[float, float]]]]) -> str:
    lines = [["kernel", "s", "theirs", "ratio", "first call, s", "theirs", "ratio", "error", "theirs"]]
    for name, (run, first, wrong) in rows:
        lines.append([name, *(f"{v:.2g}" for a, b in (run, first) for v in (a, b, a / b)), *(f"{v:.0e}" for v in wrong)])
    return table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="cases with one of these in their names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--readme", action="store_true", help="write the table into the page of docs that has it")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*FanIn.*independent")
    console, rows = Console(width=150), []
    for case in CASES:
        for get in case.kernels:
            name = f"{case.name}: {get.upper()}"
            if any(text in name for text in options.only):
                rows.append((name, compare(case, get, options.rounds)))
                console.log(markdown(rows[-1:]).splitlines()[-1], f"load {os.getloadavg()[0]:.0f}", markup=False)
    text = markdown(rows)
    print(text)
    if options.readme:
        put(text, MARKS, [f"{case.name}: {get.upper()}" for case in CASES for get in case.kernels])


if __name__ == "__main__":
    main()
