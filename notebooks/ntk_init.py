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

# %% [markdown]
# Left, spectra of the two kernels, and what finite kernels are on average along the same eigenvectors. Middle, how far kernels of finite
# networks are from the limit. Right, training errors of real networks (points) and what the kernel predicts (lines).

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# Depth does opposite things to the two kernels of a ReLU network under He. Outputs of all inputs become alike, so that the condition number
# of the NNGP kernel grows. The tangent kernel of two inputs comes, slowly, to a quarter of its diagonal, and the condition number of such a
# matrix is (n + 3)/3 for n inputs (Xiao et al. 2020): 6.3 here.

# %%
x = load("digits", 16, None, 2)
for depth in (1, 3, 10, 30, 100):
    net = sp.network(lambda rngs, depth=depth: sp.nn.MLP([64] * (depth + 1) + [1], kernel_init=sp.init.he(), rngs=rngs), x)
    kernel = sp.infinite_kernel(net, "ntk")(x)
    nngp, ntk = (float(spectra.condition_number(k)) for k in (kernel.nngp, kernel.ntk))
    print(f"{depth:3} hidden layers: condition number of the NNGP kernel {nngp:9.1f}, of the tangent kernel {ntk:5.1f}")
