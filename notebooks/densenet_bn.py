# %% [markdown]
# # Dense blocks: many channels, new features of one size
#
# In a dense block (Huang et al. 2017) each layer sees all channels before it and adds a few of its own. Without normalization He's 2/n
# keeps the mean over the channels there are, whatever their number: every new feature map has E[z²] of the first one. Glorot's 2/(n + m)
# also counts the m new channels and lowers it by n/(n + m) in each layer.
#
# With batch normalization, inputs have variance 1, ReLU leaves 1/2, He doubles it: every new feature has variance 1 by itself, not by
# what came before. In deep networks without skips the same normalization makes gradients explode, which is the study
# `batchnorm_explosion`.

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.densenet_bn
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# What Glorot loses in a block does not depend on the growth rate k: the first layer adds k channels to 2 k, and keeps 2 k / (2 k + k). What
# it loses before, where the first convolution makes 2 k channels of 3, does.

# %%
for growth in (12, 48):
    for init in ("he", "xavier"):
        one = study.predict(study.Study(init=init, growth=growth, layers=4, size=3, examples=1, norm=False), backward=False)
        print(f"growth {growth:2}, {init:7}", one.second_moment.values.round(3))
