# %% [markdown]
# # Weight normalization: the gain is g, and nothing else
#
# Salimans & Kingma (2016) write a weight vector as w = g v / ‖v‖. Its length is g whatever v was drawn from, so the gain of a layer is g²
# exactly, not on average: E[z²] = g² E[x²] per unit of inputs that have E[x²] = ‖x‖²/n. Behind a ReLU half of that is left, and g = √2
# keeps the variance, as He's initialization does for plain weights.
#
# The scale of v is a choice without consequences forward. Backward, the gradient of v falls as one over that scale: v is seen through a
# projection and a division by ‖v‖, so that its scale is a learning rate in disguise.

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.weight_norm
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %%
study.draw(found)

# %% [markdown]
# Two other ways to bind the size of weights: standardized weights (Qiao et al. 2019), which have their mean removed too, and spectral
# normalization (Miyato et al. 2018), which divides by the largest singular value and so makes signals fall in every layer.

# %%
for kind in ("weight_norm", "standardized", "spectral"):
    one = study.predict(study.Study(kind=kind, depth=4), backward=False)
    print(f"{kind:13}", one.second_moment.values.round(4))

# %% [markdown]
# ## Change one thing
#
# `study.Config(gain=1.0)` claims that g = 1 keeps the variance; the first line then fails with 2^-(depth - 1). Or take `scale=1e4`, and
# see that only the gradients of v notice.
