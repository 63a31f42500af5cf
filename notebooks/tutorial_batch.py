# %% [markdown]
# # A jitted batch study
#
# A question about initialization is rarely about one network. This tutorial asks it of 1,200 of them: for which scale of the weights does
# a deep tanh network keep its signal and its gradients, and how deep may it be? Every point of the grid is one network with its own draw
# of the parameters. Numbers are traced and mapped, so that XLA compiles once per depth, not once per network.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import sigprop as sp
from sigprop.studies import drawing, run

WIDTH = 64


def signals(depth, weight_variance, seed):
    """Mean square of the last pre-activations, and of the gradient that reaches the first ones."""
    keys = jax.random.split(jax.random.key(seed), depth + 1)
    weights = jnp.sqrt(weight_variance / WIDTH) * jax.vmap(lambda k: jax.random.normal(k, (WIDTH, WIDTH)))(keys[1:])
    x = jax.random.normal(keys[0], (WIDTH,))

    def forward(z):
        return jax.lax.scan(lambda z, w: (jnp.tanh(z) @ w, None), z, weights)[0]

    z, pull = jax.vjp(forward, x)
    gradient, = pull(jax.random.normal(jax.random.fold_in(keys[0], 1), z.shape))
    return {"forward": jnp.mean(z**2), "backward": jnp.mean(gradient**2)}


# %% [markdown]
# `run` evaluates a function on a grid, into a zarr store. What is named in `static` is compiled for, everything else is vmapped in
# chunks.

# %%
folder = Path(tempfile.mkdtemp())
grid = {"depth": [10, 20, 40], "weight_variance": np.linspace(0.6, 3.0, 10), "seed": range(40)}
found = run(grid, signals, folder / "study.zarr", static=["depth"], chunk=200)
print(found)

# %% [markdown]
# The result is an `xarray.Dataset` over the grid. A point that fails does not stop the others: it is NaN, and `found.error` says what it
# raised. Asked again, the store answers at once; after a kill, the same call goes on where it stopped, to the same bits.

# %%
again = run(grid, signals, folder / "study.zarr", static=["depth"], chunk=200)
print("identical:", bool((again.forward == found.forward).all()))

# %% [markdown]
# ## The prediction, on the same axes
#
# Mean-field theory gives both curves without a single draw (Poole et al. 2016; Schoenholz et al. 2017): the mean square by iterating its
# map, the gradient by the factor χ₁ = σ_w² E[tanh'(z)²] of each layer. Below σ_w² = 1 the signal dies; above, gradients explode.

# %%
figure, (left, right) = drawing.panels(2)
for k, depth in enumerate(grid["depth"]):
    paths = [sp.meanfield.trajectory("tanh", v, 0.0, depth=depth, q=1.0) for v in grid["weight_variance"]]
    for axes, name, line in ((left, "forward", [p.q[-1].item() for p in paths]),
                             (right, "backward", [p.jacobian_norm[-1].item() for p in paths])):
        one = found[name].sel(depth=depth)
        drawing.curve(axes, one.weight_variance, line, one.mean("seed"), one.std("seed") / len(grid["seed"]) ** 0.5, f"depth {depth}", k)
drawing.labelled(left, "$\\sigma_w^2$", "$E[z^2]$ of the last layer", "y")
drawing.labelled(right, "$\\sigma_w^2$", "$E[g^2]$, first over last", "y")
left.set_ylim(1e-8, 10)
right.set_ylim(1e-8, 1e8)
figure

# %% [markdown]
# In the chaotic phase the gradients of the deepest networks lie above their line: at width 64 every layer adds a little to the growth,
# and what forty layers add is seen (see the study `finite_width`).
#
# ## Change one thing
#
# Add an axis: `"bias_variance": [0.0, 0.05]` in the grid and in `signals`, and the critical variance moves to 1.76. Spread the same grid
# over processes or machines by passing an executor, as in `run(grid, signals, store,
# ProcessPoolExecutor(mp_context=get_context("spawn")), ...)` or dask's `client.get_executor()`.
