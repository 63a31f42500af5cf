"""Depth scales predict trainability: tanh networks of many depths and weight variances, each trained on digits for the same time.

    python scripts/trainability.py [--steps 300] [--out out/trainability]

Writes the accuracies as NumPy arrays and draws them beside ``xi = min(xi_c, |xi_gradient|)`` (Schoenholz et al. 2017, figure 5). All
networks have the same minibatches and random numbers, and the best of three rates; the weight variance and the depth differ. Prints the
depth from which on less than half of the images are told, in units of ``xi``.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from sigprop import meanfield as mf

WIDTH, BATCH, BIAS = 64, 64, 0.05
RATES = (3e-3, 1e-2, 3e-2)
WEIGHTS = np.array([1.0, 1.2, 1.4, 1.6, 1.76, 2.0, 2.5, 3.0, 4.0])
DEPTHS = (8, 16, 24, 32, 48, 64, 96)


def layers(key, weight, depth):
    keys = jax.random.split(key, 2)
    kernels = jnp.sqrt(weight / WIDTH) * jax.random.normal(keys[0], (depth, WIDTH, WIDTH))
    return kernels, BIAS**0.5 * jax.random.normal(keys[1], (depth, WIDTH))


def loss(params, x, labels):
    def step(z, layer):
        return jnp.tanh(z @ layer[0] + layer[1]), None

    z = jax.lax.scan(step, x, params)[0]
    logits = z[:, :10]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (logits.argmax(-1) == labels).mean()


@partial(jax.jit, static_argnums=(1, 2))
def trained(weights, depth, steps, x, labels):
    """Accuracy on all images after so many minibatches, for each weight variance."""
    batches = jax.random.randint(jax.random.key(1), (steps, BATCH), 0, len(x))

    def one(weight, rate):
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate, momentum=0.9))
        params = layers(jax.random.key(0), weight, depth)

        def step(carry, batch):
            params, state = carry
            grads = jax.grad(lambda p: loss(p, x[batch], labels[batch])[0])(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jax.lax.scan(step, (params, optimizer.init(params)), batches)[0][0]
        return loss(params, x, labels)[1]

    every = jax.vmap(jax.vmap(one, (0, None)), (None, 0))(weights, jnp.array(RATES))
    return every.max(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("out/trainability"))
    arguments = parser.parse_args()
    x, labels = load_digits(return_X_y=True)
    x = x - x.mean(0)
    x = (x / np.sqrt((x**2).mean())).astype(np.float32)
    found = np.stack([np.asarray(trained(jnp.asarray(WEIGHTS, jnp.float32), depth, arguments.steps, x, labels)) for depth in DEPTHS])
    scales = np.array([mf.trainability_length("tanh", w, BIAS, multiple=1.0) for w in WEIGHTS])
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.savez(arguments.out / "accuracy.npz", accuracy=found, weights=WEIGHTS, depths=DEPTHS, scales=scales)
    draw(found, scales).savefig(arguments.out / "accuracy.png", dpi=150)
    for weight, scale, column in zip(WEIGHTS, scales, found.T, strict=True):
        lost = next((d for d, a in zip(DEPTHS, column, strict=True) if a < 0.5), None)
        print(f"sigma_w^2 {weight:5.2f}  xi {scale:7.1f}  accuracy {np.round(column, 2)}  below half "
              f"{'nowhere' if lost is None else f'at {lost}, {lost / scale:.1f} xi'}")


def draw(accuracy: np.ndarray, scales: np.ndarray) -> Figure:
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    mesh = axes.pcolormesh(WEIGHTS, DEPTHS, accuracy, shading="nearest", vmin=0, vmax=1)
    fine = np.linspace(WEIGHTS[0], WEIGHTS[-1], 200)
    chart = mf.phase_diagram("tanh", fine, BIAS).isel(bias_variance=0)
    xi = np.minimum(chart.xi_c, abs(chart.xi_gradient))
    for multiple, style in ((1, ":"), (3, "--"), (6, "-")):
        axes.plot(fine, multiple * xi, "w" + style, label=f"{multiple} ξ")
    axes.set(xlabel="weight variance", ylabel="depth", ylim=(DEPTHS[0] / 2, DEPTHS[-1]))
    axes.legend(facecolor="gray")
    figure.colorbar(mesh, label="accuracy on digits")
    return figure


if __name__ == "__main__":
    main()
