"""Time of tracing and predicting ReLU networks, plain and residual, against their depth, as ratios within one run."""

import time

import flax.linen as nn
import numpy as np
from rich.console import Console
from rich.table import Table

import sigprop as sp

DEPTHS = {"plain": (50, 100, 200, 400, 1000), "residual": (10, 20, 40, 100)}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(64)(nn.relu(nn.Dense(64)(nn.LayerNorm()(x))))


def model(kind, depth):
    if kind == "residual":
        return nn.Sequential([nn.Dense(64), *(Block() for _ in range(depth))])
    init = nn.initializers.he_normal()
    return nn.Sequential([layer for _ in range(depth) for layer in (nn.Dense(64, kernel_init=init), nn.relu)])


def seconds(kind, depth, x):
    start = time.perf_counter()
    predicted = sp.propagate(sp.network(model(kind, depth), x), x, backward=False)
    taken = time.perf_counter() - start
    assert np.isfinite(predicted.log10_second_moment).all()
    return taken


def main():
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    table = Table("network", "layers or blocks", "seconds", "seconds per layer, relative to its first row", title="tracing and predicting")
    for kind, depths in DEPTHS.items():
        seconds(kind, 5, x)  # imports and caches
        base = None
        for depth in depths:
            taken = seconds(kind, depth, x)
            base = base or taken / depth
            table.add_row(kind, str(depth), f"{taken:.2f}", f"{taken / depth / base:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
