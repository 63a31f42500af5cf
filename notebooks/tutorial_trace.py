# %% [markdown]
# # Trace your own Flax model
#
# A network at initialization is a random object: its weights are drawn from laws that the initializers set. Its statistics can therefore
# be computed before anything is trained, layer by layer, in the limit of wide layers. This tutorial does that for a model that nobody
# rewrote for the purpose: plain Flax, with a mistake in it that costs the signal a factor of four.

# %%
# %matplotlib inline
import jax
import numpy as np
from flax import nnx

import sigprop as sp
from sigprop.inputs import load


class Upsampler(nnx.Module):
    """Small images in, images of twice the size out."""

    def __init__(self, rngs):
        he = nnx.initializers.he_normal()
        self.encode = nnx.Conv(1, 64, (3, 3), kernel_init=he, rngs=rngs)
        self.up = nnx.ConvTranspose(64, 64, (4, 4), strides=(2, 2), kernel_init=he, rngs=rngs)
        self.head = nnx.Conv(64, 1, (3, 3), kernel_init=he, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.encode(x))
        return self.head(nnx.relu(self.up(x)))


images = load("digits", 4, (8, 8, 1), 2)  # [4, 8, 8, 1], standardized
net = sp.network(Upsampler, images)

# %% [markdown]
# `sp.network` takes a factory of an nnx module, a linen module, or a pure function with its `init`. Nothing was run on numbers yet: the
# program was traced to a graph of JAX primitives, and so were the initializers. `net.laws` is what they draw from:

# %%
print(net.laws)

# %% [markdown]
# ## Prediction
#
# One pass over the graph carries the joint law of all nodes instead of their values. A sum over many independent weights becomes
# Gaussian, an activation becomes an expectation over that Gaussian (Neal 1996; Lee et al. 2018). Gradients are the backward pass of the
# same program, interpreted in the same way (Schoenholz et al. 2017). Each row says how it was obtained, and how wrong it may be.

# %%
predicted = sp.propagate(net, images)
predicted[["second_moment", "grad_variance", "method", "error"]].to_dataframe()

# %% [markdown]
# Look at the column of second moments. `encode` doubles what it is given and ReLU halves that again, as He's variance intends; `up`
# should do the same and falls short. The initializer counted 64 · 4 · 4 inputs, the size of the kernel, but at stride 2 only a quarter of
# the taps reach any one output pixel.
#
# ## Measurement
#
# Predictions are worth what a measurement says about them. `sp.measure` draws the parameters many times, runs the real model, and gives
# the same rows with standard errors.

# %%
measured = sp.measure(net, images, seeds=64)
for node in ("encode", "up", "head"):
    row, real = predicted.sel(node=node), measured.sel(node=node)
    print(f"{node:8} predicted {float(row.second_moment):8.4f}   measured {float(real.second_moment):8.4f} ± "
          f"{float(real.second_moment_stderr):.4f}")

# %% [markdown]
# ## What is wrong, and what mends it
#
# `sp.lint` compares the fan that an initializer counted with the one that the operation has, and names the initializer to use instead.
# `sp.report` puts all of it on one page (`.to_html(path)`, or `sigprop report my_model.py:Upsampler` from a shell).

# %%
for finding in sp.lint(net, checks="fans"):
    print(finding)

# %%
sp.report(net, images, seeds=32).plot()

# %% [markdown]
# A remedy needs no change of the model: gains of the weights that bring every layer back, from the prediction alone.

# %%
fixed = sp.remedy(net, images)
print(fixed)

# %%
after = sp.propagate(fixed.network, images, backward=False)
{node: round(float(after.second_moment.sel(node=node)), 4) for node in ("encode", "up", "head")}

# %% [markdown]
# ## Change one thing
#
# Put your own model in place of `Upsampler`: any class that takes `rngs`, or a linen module. Or keep it and repair the one line yourself,
# with fans that are said rather than guessed:

# %%
right = sp.init.he(sp.init.Fans(transposed_stride=2))
print("law of the kernel counted by its shape:", net.laws["up/kernel"])
print("and by what reaches an output pixel:   ", right.law((4, 4, 64, 64)))
params = fixed.params(jax.random.key(0))  # a draw of the mended parameters, for training
print("largest parameter:", max(float(np.abs(p).max()) for p in jax.tree.leaves(params)))
