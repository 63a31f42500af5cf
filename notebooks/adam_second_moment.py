# %% [markdown]
# # What Adam will hold, before the first step
#
# Adam (Kingma & Ba 2015) divides by √ν̂, the root of a running mean of squared gradients. At frozen parameters ν̂ is, on average, E[g²]
# of a minibatch: the square of the full gradient plus the noise of the minibatch, E[g_B²] = ḡ² + Var/B. All of it follows from the
# initialization, since E[g²] is predicted for every parameter.
#
# From it follow the size of the first update, about the learning rate wherever √ν̂ is far above ε, and where it is not: there Adam is SGD
# with a rate of lr/ε, and nobody notices.

# %%
# %matplotlib inline
import jax.numpy as jnp

import sigprop as sp
from sigprop.inputs import digit_labels, load
from sigprop.studies.training import cross_entropy

study = sp.studies.adam_second_moment
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %% [markdown]
# Left, what Adam divides by. Right, first steps: Adam, AdamW and Lion move all entries that have a gradient by the learning rate, RMSProp,
# which starts from zero without a correction, by three times as much, and Adafactor in proportion to the weights. Shampoo's factors, among
# the claims, have sums of E[g²] on their diagonals: by pixel they tell which inputs vary, by label how often each is seen.

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# The same question for any model, loss and optimizer: `sp.adam_second_moment`. With kernels half as large the gradients of the layers
# below fall, and Adam's first steps stay what they were: relative to the weights, they double.

# %%
x, labels = load("digits", 16, None, 2), digit_labels()[:16]
for scale in (1.0, 0.5):
    init = scale * sp.init.he()
    net = sp.network(lambda rngs, init=init: sp.nn.MLP([64, 128, 128, 10], kernel_init=init, act=jnp.tanh, rngs=rngs), x)
    print(sp.adam_second_moment(net, cross_entropy, (x, labels), batch_size=4, steps=5))
