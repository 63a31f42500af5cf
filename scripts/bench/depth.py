"""Time of tracing and predicting a ReLU network against its depth, as ratios within one run."""

import time

import flax.linen as nn
import numpy as np
from rich.console import Console
from rich.table import Table

import sigprop as sp

DEPTHS = (50, 100, 200, 400, 1000)


def model(depth):
    init = nn.initializers.he_normal()
    return nn.Sequential([layer for _ in range(depth) for layer in (nn.Dense(64, kernel_init=init), nn.relu)])


def seconds(depth, x):
    start = time.perf_counter()
    predicted = sp.propagate(sp.network(model(depth), x), x)
    taken = time.perf_counter() - start
    assert np.isfinite(predicted.log10_second_moment).all()
    return taken


def main():
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    seconds(10, x)  # imports and caches
    table = Table("layers", "seconds", "seconds per layer, relative to the first row", title="tracing and predicting")
    base = None
    for depth in DEPTHS:
        taken = seconds(depth, x)
        base = base or taken / depth
        table.add_row(str(depth), f"{taken:.2f}", f"{taken / depth / base:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
