# %% [markdown]
# # Differential equations at initialization
#
# A physics-informed network (Raissi et al. 2019) is trained on a residual, such as r = u_tt - c² u_xx of the wave equation. At
# initialization u is a random function, and so are its derivatives:
#
# E[r²] = E[u_tt²] + c⁴ E[u_xx²] - 2 c² E[u_tt u_xx],
#
# and for one hidden layer with isotropic weights E[u_tt u_xx] = E[u_tt²] / 3 at the origin, and on average around it, but not at one point
# elsewhere, where u depends on the same weights; SIRENs (Sitzmann et al. 2020), whose first weights are uniform and so not isotropic, have
# 5/9. The constant of the equation thus sets the balance of the loss before anything is learned: E[r²] grows as c⁴, and at large c the
# other terms are not heard.
#
# A ReLU network has u_xx = 0 almost everywhere. Such a residual is refused, rather than called small.

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.pinn_derivatives
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")
print("of a ReLU network:", found.attrs["relu"])

# %% [markdown]
# Left, the residual against the wave speed; middle, its share of the loss at the first step; right, losses of real training, with what the
# tangent kernel predicts of gradient descent.

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# Other equations, other activations: `sp.pinn.loss_balance` and `sp.pinn.recommended_weights` take any residual that JAX can
# differentiate. Here E[r²] against c from the moments above, and where the two second derivatives weigh the same.

# %%
one = found.isel(activation=0, depth=0).moment
tt, xx, cross = (float(one.sel(pair=pair)) for pair in ("u_tt²", "u_xx²", "u_tt u_xx"))
for c in (0.1, 1.0, 10.0):
    print(f"c = {c:<5} E[r²] = {tt + c**4 * xx - 2 * c**2 * cross:.4g}")
print(f"least where c² = {cross / xx:.3f}")
