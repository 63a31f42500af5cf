# %% [markdown]
# # What infinite width leaves out
#
# Mean-field theory speaks of averages. In one network of width n the mean square Q of a layer fluctuates from draw to draw, and each
# layer multiplies in a new factor: for ReLU under He, E[Q²] / E[Q]² grows as Π (1 + 5/n_l) (Hanin & Rolnick 2018). Its logarithm is about
# the sum of 5/width over layers, so that the ratio of depth to width says whether a prediction holds for a single draw.
#
# The mean E[Q] has no correction at all for ReLU, which is why averages over many draws agree with theory at width 32 already.

# %%
# %matplotlib inline
import numpy as np

import sigprop as sp

study = sp.studies.finite_width
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# Widths that vary, other activations, any depth: the prediction needs no sampling. Forty layers of 100 units have a variance of seven
# times the square of the mean; as a pyramid of the same number of units they have more, since the narrow end pays most.

# %%
for name, widths in {"40 layers of 100": [100] * 40, "a pyramid": np.linspace(190, 10, 40).astype(int).tolist()}.items():
    print(f"{name:16} {1 + float(sp.meanfield.finite_width('relu', 2.0, widths=widths).variance[-1]):.2f}")
