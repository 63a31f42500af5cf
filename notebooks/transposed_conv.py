# %% [markdown]
# # Transposed convolutions and the checkerboard
#
# A transposed convolution of stride s makes an image s times as large. Forward, what counts is how many inputs reach an output pixel: on
# average C_in k²/s² of them. Backward, it is how many outputs an input feeds, C_out k². Initializers that read the shape of the kernel
# count C_in k², and are low by s².
#
# Where s does not divide k the outputs are not alike: for k = 3 and s = 2 even pixels are reached by 2 taps along an axis and odd ones by
# 1, so that E[z²] differs by a factor of 4 between phases. This is the checkerboard of Odena et al. (2016), and it is there before
# training.

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.transposed_conv
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %% [markdown]
# Left, along a row of the output; right, the gradients of the inputs, which go as s² whatever k is.

# %%
study.draw(found)

# %% [markdown]
# The map of the output, away from the border, for a kernel that the stride divides and for one that it does not:

# %%
for k in (4, 3):
    one = study.predict(study.Study(k=k, stride=2, size=4), backward=False)
    print(f"k = {k}, s = 2:", one["site_variance:layers/2"].values[0, 2:6, 2:6].round(3), sep="\n")

# %% [markdown]
# ## Change one thing
#
# Give the initializer of your framework, which counts the kernel's shape: `study.Study(init=sp.init.he(), k=4, stride=2)`, and look for
# the factor of four. With `stride=3` it is nine.

# %%
for stride in (2, 3):
    by_shape, by_operation = (float(study.predict(study.Study(init=init, k=6, stride=stride), backward=False).second_moment[-1])
                              for init in (sp.init.he(), "he"))
    print(f"stride {stride}: low by {by_operation / by_shape:.4f}")
