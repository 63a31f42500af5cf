"""NNGP and NTK of a ReLU perceptron on N x 784 inputs, float32, to disk: seconds, peak resident memory, size.

    python scripts/bench/gram.py [--examples 20000] [--tile 2048] [--out out/gram.zarr]

Stopped and started again it goes on where it was.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from time import perf_counter

import flax.linen as nn
import numpy as np

import sigprop as sp

WIDTH, PIXELS = 128, 784


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--depth", type=int, default=3, help="hidden layers")
    parser.add_argument("--out", type=Path, default=Path("out/gram.zarr"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    he = nn.initializers.he_normal()
    layers = [layer for _ in range(options.depth) for layer in (nn.Dense(WIDTH, kernel_init=he), nn.relu)]
    x = np.random.default_rng(0).standard_normal((options.examples, PIXELS), np.float32)
    kernel = sp.infinite_kernel(sp.network(nn.Sequential([*layers, nn.Dense(1)]), x[:2]), "ntk")
    start = perf_counter()
    found = sp.gram(kernel, x, out=options.out, tile=options.tile)
    seconds, peak = perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    size = sum(p.stat().st_size for p in options.out.rglob("*") if p.is_file()) / 1e9
    print(f"N = {options.examples}, depth {options.depth}, tiles of {found.layout.tile}: {seconds:.0f} s, peak resident memory "
          f"{peak:.2f} GB, {size:.2f} GB on disk")


if __name__ == "__main__":
    main()
