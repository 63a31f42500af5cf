"""The figure of the README: signals and gradients of a deep ReLU network on digits, for three initializers, predicted and measured.

    python scripts/readme_figure.py              writes docs/figure.png, a minute or two
"""

from __future__ import annotations

from pathlib import Path

import flax.linen as nn
import numpy as np
from matplotlib.figure import Figure

import sigprop as sp
from sigprop.inputs import load

OUT = Path(__file__).resolve().parents[1] / "docs" / "figure.png"
DEPTH, WIDTH, SEEDS = 20, 128, 32
INITS = {"He": (nn.initializers.he_normal(), "#0072b2"), "Glorot": (nn.initializers.glorot_normal(), "#d55e00"),
         "N(0, 0.05²)": (nn.initializers.normal(0.05), "#009e73")}
QUANTITIES = {"second_moment": "E[z²] of the layer's output", "grad_variance": "E[g²] of the gradient there"}


def network(init):
    hidden = [layer for _ in range(DEPTH) for layer in (nn.Dense(WIDTH, kernel_init=init), nn.relu)]
    return sp.network(nn.Sequential([*hidden, nn.Dense(10, kernel_init=init)]), load("digits", 4, (64,), 2))


def main() -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for name, (init, color) in INITS.items():
        net = network(init)
        predicted, measured = sp.propagate(net, *net.example), sp.measure(net, *net.example, seeds=SEEDS)
        layers = [k for k, op in enumerate(predicted.node.values) if str(op).startswith("layers_")][:DEPTH]
        place = np.arange(1, len(layers) + 1)
        for axes, quantity in zip(panels, QUANTITIES, strict=True):
            axes.plot(place, predicted[f"log10_{quantity}"][layers], color=color, label=name)
            axes.errorbar(place, measured[f"log10_{quantity}"][layers], measured[f"log10_{quantity}_stderr"][layers], fmt="o",
                          markersize=3.5, color=color, capsize=2)
    for axes, title in zip(panels, QUANTITIES.values(), strict=True):
        axes.set_title(f"log₁₀ {title}", fontsize=10, loc="left")
        axes.set_xlabel("layer (lines: predicted; points: measured)")
        axes.set_xticks(range(0, DEPTH + 1, 5))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(OUT, dpi=110)
    print(OUT)


if __name__ == "__main__":
    main()
