# %% [markdown]
# # How many inputs does a 1×1 convolution have?
#
# A pointwise convolution (Lin et al. 2013) mixes the channels of one pixel and looks at no other: z = Σ_c w_c x_c. Its fan-in is the
# number of input channels, n = C_in, whatever the size of the image. For independent weights of mean zero and variance v,
#
# E[z²] = n v E[x²],
#
# and a ReLU in between halves what the next layer sees. So v = 2/n (He et al. 2015) keeps E[z²] from layer to layer for every C_in, v =
# 2/(n + m) (Glorot & Bengio 2010) depends on the number m of outputs too, and weights of variance 1 make it grow in proportion to C_in.

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.pointwise_conv
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %% [markdown]
# Each line is a test. Equalities of theory and measurement are tested by equivalence: noise too large to tell counts as a failure. In the
# figure lines are predicted, points are measured on real Flax modules.

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# Claim of Xavier what holds for He: the first line must fail, and the number that was found is the one that Glorot's formula gives, (n /
# 2) · 2 / (n + 64) for a second layer with 64 outputs.

# %%
wrong = study.compute(study.Config(init="xavier", others=(), seeds=64, channels=(16, 64)))
print(study.claims(wrong)[0])
print("expected of Xavier at C_in = 16:", 16 / (16 + 64))
