"""Predicted against measured variance, layer by layer, for a 40-layer ReLU autoencoder on scikit-learn's digits."""

import flax.linen as nn
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import sigprop as sp

WIDTHS = [64] * 12 + [48] * 4 + [32] * 8 + [48] * 4 + [64] * 11
INITS = {
    "He": nn.initializers.he_normal(),
    "Glorot": nn.initializers.glorot_normal(),
    "N(0, 0.01²)": nn.initializers.normal(0.01),
}


def autoencoder(init):
    hidden = [layer for width in WIDTHS for layer in (nn.Dense(width, kernel_init=init), nn.relu)]
    return nn.Sequential([*hidden, nn.Dense(64, kernel_init=init)])


def main():
    digits = load_digits().data[:4]
    x = ((digits - digits.mean()) / digits.std()).astype(np.float32)
    console = Console()
    for name, init in INITS.items():
        net = sp.network(autoencoder(init), x)
        with console.status(f"{name}: predicting and measuring"):
            predicted, measured = sp.propagate(net, x), sp.measure(net, x, seeds=64)
        table = Table("node", "shape", "predicted E[z²]", "measured ± s.e.", title=f"40-layer ReLU autoencoder, {name}")
        for k in [*range(0, predicted.sizes["node"], 8), predicted.sizes["node"] - 1]:
            p, m = predicted.isel(node=k), measured.isel(node=k)
            table.add_row(p.node.item(), p["shape"].item(), f"{p.second_moment.item():.4g}",
                          f"{m.second_moment.item():.4g} ± {m.second_moment_stderr.item():.1g}")
        console.print(table)


if __name__ == "__main__":
    main()
