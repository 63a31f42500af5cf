# %% [markdown]
# # How sharp is attention before training?
#
# The logits of a row are products of one query with many keys. For square kernels, tokens of unit variance and division by √d, their
# variance is (n v_q)(n v_k): 4 under He, 1 under Xavier or LeCun, and 1/4 where Xavier is applied to one kernel for queries, keys and
# values, which has three times the outputs. A larger variance means sharper rows of weights at the first step.
#
# For n independent Gaussian logits of variance s² this is the random-energy model (Derrida 1981): the entropy of a row is ln n - s²/2
# while s² is small, and beyond s² = 2 ln n the weights freeze onto a few keys. Real logits share their query, so that rows differ in
# their variance; this too is predicted.

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.attention_entropy
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %% [markdown]
# Left, dotted lines are the variances at which rows freeze. Middle, longer sequences: in small heads queries differ more in length, so that
# rows differ more, and are wider on average, at the same variance of the logits. Right, row by row: under a causal mask the k-th token
# sees k keys.

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# Logits over d instead of √d (as muP has it), a causal mask, tokens that are alike: which of them makes attention uniform, and which only
# shortens the rows? exp(entropy) is the effective number of keys.

# %%
variants = {"plain": {}, "over d": {"power": 1.0}, "causal": {"causal": True}, "alike": {"similarity": 0.9}}
for name, options in variants.items():
    one = study.predict(study.Study(tokens=32, features=64, **options))
    print(f"{name:8} logit variance {float(one.logit_variance.mean()):6.3f}   entropy {float(one.entropy_mean.mean()):.3f}   "
          f"effective keys {float(one.effective_keys.mean()):5.1f} of 32")
