# %% [markdown]
# # Batch normalization without skips: gradients explode
#
# Normalization keeps every layer at variance 1, whatever the weights. It does not keep gradients: each layer multiplies E[g²] by a factor
# that no initialization of the weights can change, since their scale is divided out. For ReLU and large batches it is π/(π - 1) ≈ 1.467
# (Yang et al. 2019). Without an activation a batch of B examples gives (B - 2)/(B - 3). Over fifty ReLU layers it is 2·10⁸.

# %%
# %matplotlib inline
import sigprop as sp
from sigprop import meanfield as mf

study = sp.studies.batchnorm_explosion
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# The size of the batch is one knob that is left. A residual stream around the layer is another, which makes it harmless.

# %%
for examples in (8, 32, 128, 10**6):
    plain = mf.chi1("relu", 2.0, block=[mf.BatchNorm(examples)])
    print(f"batch of {examples:7}: {plain:.4f} per layer, {plain**50:.2g} over fifty")
for alpha in (0.9, 0.5, 0.1):
    block = [mf.BatchNorm(128), mf.Residual(alpha, (1 - alpha**2) ** 0.5)]
    print(f"branch of scale {alpha}: {mf.chi1('relu', 2.0, block=block):.4f} per layer")
