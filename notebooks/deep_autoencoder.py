# %% [markdown]
# # Forty layers without normalization
#
# A deep autoencoder (Hinton & Salakhutdinov 2006) once needed pretraining layer by layer. What it needed is an initialization. In square
# ReLU layers Glorot's variance 1/n makes E[z²] fall by 1/2 per layer, 2^-40 ≈ 9·10⁻¹³ at the end of forty; N(0, 0.01²) with 64 inputs
# makes it fall by 0.0032 per layer, far below what float32 can hold; He's 2/n keeps it (He et al. 2015).
#
# A signal that small carries no error back: gradients are the same product from the other side. Training is then not slow but absent.

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.deep_autoencoder
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %% [markdown]
# Left, forty square layers, measured as far as float32 holds the numbers; middle, a network whose widths fall to a code and rise again;
# right, what Adam makes of each initialization on scikit-learn's digits. A loss of 1 is that of the mean image.

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# A bottleneck cannot be exact both ways: fan-in keeps E[z²] at any width, and the gradients follow n_out / n_in. Predict it for a code of
# 16 units:

# %%
one = study.predict(study.Study(depth=8, width=64, bottleneck=16))
one[["second_moment", "grad_variance"]].to_dataframe().round(3)
