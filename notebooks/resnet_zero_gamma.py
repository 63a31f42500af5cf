# %% [markdown]
# # Residual blocks that start as the identity
#
# Goyal et al. (2017) set the scale γ of the last batch normalization in each residual block to 0. The branch then adds γ² = 0 to the
# variance of the stream, and every block is the identity; at γ = 1 the variance grows by 1 per block.
#
# At γ = 0 the weights of the branch have no gradient at all, since nothing of them reaches the output. γ itself has one: the branch,
# which He's initialization keeps at variance 1, is ready, and fades in as γ moves. SkipInit (De & Smith 2020), ReZero (Bachlechner et al.
# 2020) and Fixup (Zhang et al. 2019) do the same without normalization.

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.resnet_zero_gamma
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %% [markdown]
# Left, the stream; right, γ of each block while Adam trains the networks on digits (bands: several runs).

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# Between 0 and 1 lies a family. Under running statistics, which are 0 and 1 at the start, the stream grows by a factor of 1 + γ² c per
# block. On images of 2 by 2 pixels c is (4/9)²: padding by zeros leaves 4 of 9 taps in each of the two convolutions.

# %%
for gamma in (0.0, 0.1, 0.5, 1.0):
    one = study.predict(study.Study(gamma=gamma, blocks=4, size=2, examples=2, batch_statistics=False), backward=False)
    print(f"gamma = {gamma:<4}", one.second_moment.values.round(3))
