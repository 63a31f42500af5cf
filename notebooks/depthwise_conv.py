# %% [markdown]
# # Depthwise convolutions, and what zero padding takes away
#
# A depthwise convolution (Chollet 2017) filters each channel by itself: k² taps reach an output, and the number of channels does not
# matter. With groups, those of one group are mixed, and n = k² C_in / groups. Initializers that divide by k² C_in are wrong by the number
# of groups.
#
# At the border padding by zeros removes taps. A corner of a 3×3 convolution sees 4 of 9, so that E[z²] there is 4/9 of that in the
# middle: the variance is a map, not a number.

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.depthwise_conv
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %%
study.draw(found)

# %% [markdown]
# The whole map of one layer, predicted without drawing a weight. Backward it is the same story with outputs in place of inputs: a pixel
# at the border feeds fewer of them.

# %%
one = study.predict(study.Study(k=5, depth=1, size=6), backward=False)
print("E[z²] of outputs:", one["site_variance:layers/0"].values[0].round(3), sep="\n")
print("after two layers:", study.predict(study.Study(k=5, size=6), backward=False)["site_variance:layers/2"].values[0].round(3), sep="\n")

# %% [markdown]
# ## Change one thing
#
# `padding="CIRCULAR"` makes all pixels alike, and each layer keeps 2 everywhere; `init="xavier"` counts the outputs that an input feeds as
# well.

# %%
print(study.predict(study.Study(k=5, depth=1, size=6, padding="CIRCULAR"), backward=False)["site_variance:layers/0"].values[0].round(3))
