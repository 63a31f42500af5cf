# %% [markdown]
# # He, Xavier, and two different kernels
#
# The tangent kernel Θ(x, x') = Σ_p ∂f(x)/∂p ∂f(x')/∂p decides what gradient descent learns and how fast (Jacot et al. 2018). It depends
# on the initialization: in L hidden square ReLU layers without biases and weights of variance s/n the diagonal of the NNGP kernel goes as
# (s/2)^L, and the tangent kernel under Xavier (s = 1) is 2^-L times that under He (s = 2). Same architecture, same learning rate, and a
# network that learns 2^L times as slowly.
#
# Finite networks have a random kernel, which comes to its limit as 1/√width; real gradient descent then follows the linear prediction
# (Lee et al. 2019).

# %%
# %matplotlib inline
import sigprop as sp
from sigprop import spectra
from sigprop.inputs import load

study = sp.studies.ntk_init
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# Depth makes inputs alike and the kernel ill-conditioned: read the condition number of He's tangent kernel against depth.

# %%
x = load("digits", 16, None, 2)
for depth in (1, 3, 10, 30):
    net = sp.network(lambda rngs, depth=depth: sp.nn.MLP([64] * (depth + 1) + [1], kernel_init=sp.init.he(), rngs=rngs), x)
    kernel = sp.infinite_kernel(net, "ntk")(x).ntk
    print(f"{depth:2} hidden layers: condition number {float(spectra.condition_number(kernel)):8.1f}, "
          f"effective rank {float(spectra.effective_rank(kernel)):.2f} of 16")
