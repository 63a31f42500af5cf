# %% [markdown]
# # Kernels, and what wide networks learn
#
# Two kernels say what a wide network does. The NNGP kernel, E[f(x) f(x')] over draws of the parameters, is the covariance of its outputs
# at initialization: a wide network is a Gaussian process (Neal 1996; Lee et al. 2018; Matthews et al. 2018). The neural tangent kernel,
# Θ(x, x') = Σ_p ∂f(x)/∂p ∂f(x')/∂p, says how a step on x moves the output at x'; in the limit of infinite width it stays what it was, so
# that training is a linear differential equation (Jacot et al. 2018; Lee et al. 2019).
#
# Both are computed here of an ordinary model, compared with finite networks, and used to predict a training run.

# %%
# %matplotlib inline
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sigprop as sp
from sigprop import dynamics, spectra
from sigprop.inputs import digit_labels, load
from sigprop.studies import drawing

x = load("digits", 48, None, 2)  # [48, 64]
y = jnp.asarray(1.0 - 2.0 * (digit_labels()[:48] % 2))[:, None]  # 1 for even digits, -1 for odd ones
train, test, y_train, y_test = x[:32], x[32:], y[:32], y[32:]


def model(width):
    init = nn.initializers.he_normal()
    return nn.Sequential([nn.Dense(width, kernel_init=init), nn.relu, nn.Dense(width, kernel_init=init), nn.relu, nn.Dense(1)])


net = sp.network(model(512), train)
kernel = sp.infinite_kernel(net)
limit = kernel(train)
print("NNGP", limit.nngp.shape, "NTK", limit.ntk.shape, "error", float(limit.error))

# %% [markdown]
# The same call with two arguments gives the kernel between test and training inputs. Its spectrum decides what is learned first: along an
# eigenvector of eigenvalue λ the error falls as exp(-λ t / n).

# %%
print(f"condition number {float(spectra.condition_number(limit.ntk)):.0f}, effective rank {float(spectra.effective_rank(limit.ntk)):.1f}")
print(f"alignment with the targets {float(spectra.alignment(limit.ntk, y_train @ y_train.T)):.3f}")

# %% [markdown]
# ## How wide is wide?
#
# The tangent kernel of one draw differs from its limit by a relative amount that falls as 1/√width.

# %%
for width in (32, 128, 512):
    finite = sp.network(model(width), train)
    of_draw = sp.empirical_kernel(finite)
    drawn = [of_draw(finite.init(jax.random.key(k)), train).ntk for k in range(16)]
    here = sp.infinite_kernel(finite)(train).ntk  # grows with the width in the standard parameterization
    distance = np.mean([float(spectra.relative_distance(k, here)) for k in drawn])
    print(f"width {width:4}: distance {distance:.3f}, times √width {distance * width**0.5:.2f}")

# %% [markdown]
# ## Training, before training
#
# With the squared error, mean and covariance of the outputs over all initializations are known in closed form at any time. Beside them:
# one real network under gradient descent, and its linearization at the same parameters, which knows its own kernel.

# %%
steps = 200
rate = 0.5 * float(dynamics.max_learning_rate(limit.ntk))
times = np.arange(steps + 1)
path = dynamics.gradient_descent(limit, y_train, kernel(test, train), kernel(test), steps=times, learning_rate=rate)
run = dynamics.train_both(net, net.init(jax.random.key(0)), train, lambda f: jnp.mean((f - y_train) ** 2) / 2, optax.sgd(rate), steps, test)

figure, (left, right) = drawing.panels(2)
own = dynamics.gradient_descent(limit, y_train, limit, limit, steps=times, learning_rate=rate)
spread = np.diagonal(own.covariance, axis1=1, axis2=2).mean(1)
drawing.curve(left, times + 1, (np.mean((own.mean - y_train) ** 2, (1, 2)) + spread) / 2, None, None, "mean over networks, predicted", 0)
drawing.curve(left, times + 1, run.loss, None, None, "one network", 1)
drawing.curve(left, times + 1, run.linear_loss, None, None, "its linearization", 2)
drawing.labelled(left, "steps + 1", "loss", "xy")
for k in range(3):
    band = np.sqrt(path.covariance[:, k, k])
    drawing.curve(right, times + 1, path.mean[:, k, 0], None, None, f"test image {k}, mean", k)
    right.fill_between(times + 1, path.mean[:, k, 0] - band, path.mean[:, k, 0] + band, color=drawing.COLOURS[k], alpha=0.15, linewidth=0)
    right.plot(times + 1, run.output[:, k, 0], ":", color=drawing.COLOURS[k])
drawing.labelled(right, "steps + 1", "output (band: one standard deviation)", "x")
figure

# %% [markdown]
# The dotted lines are one network; they should leave the bands about as often as a Gaussian does. The gap between the network and its
# linearization is what the frozen kernel misses:

# %%
print(f"root mean square gap after {steps} steps: {float(run.gap[-1]):.3f}; parameters moved by {float(run.moved[-1]):.2%}")
process = dynamics.posterior(limit.nngp, y_train, kernel(test, train).nngp, kernel(test).nngp, ridge=1e-2)
for name, mean in (("gradient descent on all layers", path.mean[-1]), ("Gaussian process (last layer only)", process.mean)):
    print(f"{name}: {np.mean(np.sign(mean) == y_test):.0%} of the test images right")

# %% [markdown]
# ## Change one thing
#
# Replace `he_normal` by `lecun_normal`: the diagonal of the tangent kernel falls by a factor of two per hidden layer, so that the same
# learning rate takes longer, and the prediction at the start is less spread. Or put a `nn.LayerNorm()` before each ReLU, and read the
# condition number again.
