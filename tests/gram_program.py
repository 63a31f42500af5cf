"""A kernel computed to a store by a process of its own: ``gram_program.py DIRECTORY [own | linear | pair | devices [PORT RANK]]``."""

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import sigprop as sp

TILE = 24
X = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32)


def kernel():
    model = nn.Sequential([nn.Dense(64, kernel_init=nn.initializers.he_normal()), nn.relu, nn.Dense(1)])
    return sp.infinite_kernel(sp.network(model, X[:2]), "ntk")


def linear(x1, x2=None, scale=1.0):
    """A kernel that is fast to compile."""
    k = scale * x1 @ (x1 if x2 is None else x2).T
    return sp.Kernel(k, 2 * k, jnp.float32(0.25), jnp.float32(0.5))


def mesh(devices):
    return jax.sharding.Mesh(np.asarray(devices).reshape(-1, 1), ("some", "axes"))


def main(out, what="own", port=None, rank=None):
    if port is not None:
        jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank))
    if what == "devices":
        for n in (1, 2, 4, 8):
            sp.gram(kernel(), X, out=Path(out) / f"{n}.zarr", tile=TILE, mesh=mesh(jax.devices()[:n]))
    elif what == "pair":
        sp.gram(kernel(), X, Y, Path(out) / "pair.zarr", tile=TILE, mesh=mesh(jax.devices()))
    else:
        sp.gram(kernel() if what == "own" else linear, X, out=Path(out) / f"{what}.zarr", tile=TILE)


if __name__ == "__main__":
    main(*sys.argv[1:])
