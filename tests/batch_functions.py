"""Functions of batch studies, where other processes can import them. As a program: a study until it is killed."""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import sigprop as sp

INITS = {"he": sp.init.he(), "orthogonal": sp.init.Orthogonal(2**0.5)}
GRID = {"init": INITS, "depth": [2, 3], "sigma_w": np.linspace(0.5, 1.5, 25).tolist(), "seed": range(100)}


def measured(init, depth, sigma_w, seed, width=16):
    """Of the output of a ReLU network whose weights are multiplied by sigma_w: the variance, and E[z²] of three units."""
    net = sp.nn.MLP([width] * (depth + 1), kernel_init=lambda *a, **k: sigma_w * init(*a, **k), rngs=nnx.Rngs(params=jax.random.key(seed)))
    z = net(jnp.ones((2, width)))
    return {"variance": jnp.var(z), "units": jnp.mean(z**2, 0)[:3]}


def line(a, b, power=1):
    return {"y": a * b**power, "pair": jnp.stack([a, b])}


def waiting(a, b):
    """Slow enough to be killed in between."""
    time.sleep(0.02)
    return a + b


SLOW = {"a": range(15), "b": range(20)}

if __name__ == "__main__":
    import batch_functions as this  # whose functions are named as they are elsewhere

    if sys.argv[2] == "measured":
        sp.studies.run(GRID, this.measured, sys.argv[1], static=["depth"])
    else:
        sp.studies.run(SLOW, this.waiting, sys.argv[1], static=["a", "b"])
