# %% [markdown]
# # Sparse networks need larger weights, but how much larger?
#
# A random mask that keeps a fraction p of the weights multiplies E[z²] by p in every layer; weights of variance 2/(p n) make up for it
# (Evci et al. 2022). A mask of the *largest* weights is another matter: they hold most of the variance. Of normal weights the largest p
# keep
#
# p + 2 τ φ(τ), τ = Φ⁻¹(1 - p/2)
#
# of it, 0.44 for the largest tenth. Divided by p instead, every layer would be too large by a factor of four. Lottery tickets (Frankle &
# Carbin 2019) are found with such masks.

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.sparse_lottery
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %% [markdown]
# Left, E[z²] by layer. Right, training on digits: a winning ticket, which is the mask and the early weights of a network that was pruned
# step by step, beside the same mask with other weights, and beside a random mask of the same size.

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# Flax's He initializer draws *truncated* normal weights, whose tails are cut, and uniform weights have none: their largest tenth holds
# less. `sp.sparse.share` knows each law.

# %%
for name, init in {"normal": sp.init.Normal(1.0), "truncated normal": sp.init.TruncatedNormal(1.0)}.items():
    shares = [sp.sparse.share(init.law((64, 64)), kept).variance for kept in (0.5, 0.1, 0.01)]
    print(f"{name:17}", *(f"{s:.4f}" for s in shares))
