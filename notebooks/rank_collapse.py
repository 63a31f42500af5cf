# %% [markdown]
# # Attention makes tokens alike
#
# A row of attention weights is an average over tokens, and averages of averages forget where they came from: without skips the tokens of
# a deep attention network collapse onto one (Dong et al. 2021). With uniform attention, where the logits vanish, one layer is enough:
# only the mean token is left.
#
# A residual stream holds them apart (Noci et al. 2022): a branch of scale α beside a stream of scale √(1 - α²) leaves 1 - α² of what
# tells tokens apart, per layer, in the worst case of uniform attention.

# %%
# %matplotlib inline
import math

import sigprop as sp

study = sp.studies.rank_collapse
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# The scale of the branch is the knob. How many layers until 1 % of the difference between tokens is left, under uniform attention?

# %%
for alpha in (0.1, 0.3, 0.6, 0.9):
    print(f"alpha = {alpha}: 1 % is left after {math.log(0.01) / math.log(1 - alpha**2):.0f} layers")
