"""Reports on real data: a 40-layer autoencoder on digits, a convolutional network on a photo, a residual network on text.

Prints them, and writes ``out/*.html`` and ``out/*.png``.
"""

from __future__ import annotations

import time
from pathlib import Path

import flax.linen as nn
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import sigprop as sp
from sigprop.inputs import load

OUT = Path("out")
WIDTHS = [64] * 12 + [48] * 4 + [32] * 8 + [48] * 4 + [64] * 11
INITS = {"he": nn.initializers.he_normal(), "glorot": nn.initializers.glorot_normal(), "normal": nn.initializers.normal(0.01)}


def autoencoder(init):
    """40 dense layers, no normalization: which initializer keeps the signal alive?"""
    hidden = [layer for width in WIDTHS for layer in (nn.Dense(width, kernel_init=init), nn.relu)]
    return nn.Sequential([*hidden, nn.Dense(64, kernel_init=init)])


class PhotoNet(nnx.Module):
    """Depthwise and pointwise convolutions down, a transposed convolution up, Flax's default initializers."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 32, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(32, 32, (3, 3), strides=2, feature_group_count=32, rngs=rngs)
        self.pointwise = nnx.Conv(32, 64, (1, 1), rngs=rngs)
        self.up = nnx.ConvTranspose(64, 32, (4, 4), strides=(2, 2), rngs=rngs)
        self.head = nnx.Conv(32, 3, (3, 3), rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        x = nnx.relu(self.pointwise(self.depthwise(x)))
        return self.head(nnx.relu(self.up(x)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(hidden)


class Residual(nn.Module):
    """Characters, embedded, through pre-LN blocks."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(64, 64)(tokens)
        for _ in range(4):
            x = Block()(x)
        return nn.Dense(64)(nn.LayerNorm()(x))


def models():
    """Names, models, inputs, and the panels of their pages: those that take seconds."""
    digits = load("digits", 4, (64,), 64)
    for name, init in INITS.items():
        yield f"autoencoder_{name}", autoencoder(init), digits, ("histograms", "precision") if name == "normal" else False
    yield "photo", PhotoNet, load("photo", 2, (16, 16, 3), 64), ("histograms", "precision", "spectrum")
    yield "residual", Residual(), load("tokens", 2, (8,), 64), True


def main():
    OUT.mkdir(exist_ok=True)
    console = Console(width=None if Console().is_terminal else 130)
    jobs = list(models())
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reports", total=len(jobs))
        for name, model, x, details in jobs:
            progress.update(task, description=f"{name}: predicting and measuring")
            begin = time.perf_counter()
            found = sp.report(sp.network(model, x), x, seeds=64, name=name.replace("_", " "), details=details)
            found.to_html(OUT / f"{name}.html")
            found.plot().savefig(OUT / f"{name}.png", dpi=150)
            console.rule(f"{name} ({time.perf_counter() - begin:.0f} s)")
            console.print(found.table(rows=30))
            progress.advance(task)
    console.print(f"Written: {', '.join(sorted(str(p) for p in OUT.iterdir() if p.suffix in ('.html', '.png')))}")


if __name__ == "__main__":
    main()
