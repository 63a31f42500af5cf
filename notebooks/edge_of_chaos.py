# %% [markdown]
# # Order, chaos, and the edge between them
#
# Two inputs go through a deep network of random weights of variance σ_w²/n and biases of variance σ_b². Their mean squares settle at a
# fixed point q*, and their correlation moves by the slope
#
# χ₁ = σ_w² E[φ'(z)²], z ~ N(0, q*)
#
# at correlation 1 (Poole et al. 2016). Below 1, in the ordered phase, they become alike; above, in the chaotic one, they part. The same
# χ₁ is the factor of the mean square of gradients per layer (Schoenholz et al. 2017), so that both survive over a depth of about 1/|ln
# χ₁|: only near the edge, χ₁ = 1, can a network be deep.

# %%
# %matplotlib inline
import jax.numpy as jnp
import numpy as np

import sigprop as sp
from sigprop import meanfield
from sigprop.studies import drawing

study = sp.studies.edge_of_chaos
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %%
study.draw(found)

# %% [markdown]
# The depth scales diverge at the edge:

# %%
weights = np.linspace(0.8, 4, 200)
scales = meanfield.phase_diagram("tanh", weights, 0.05).isel(bias_variance=0)
figure, (axes,) = drawing.panels()
drawing.curve(axes, weights, scales.xi_c, None, None, "correlation", 0)
drawing.curve(axes, weights, np.abs(scales.xi_gradient), None, None, "gradient", 1)
drawing.labelled(axes, "$\\sigma_w^2$", "depth scale, layers", "y")
axes.set_ylim(1, 1000)
figure

# %% [markdown]
# ## Change one thing
#
# Which activation keeps signals longest off the edge? `meanfield` takes any: a name, or a function. A few per cent into the ordered phase,
# where correlations and gradients have one depth scale:

# %%
for name in ("tanh", "erf", "silu", jnp.arctan):
    critical = float(meanfield.critical_weight_variance(name, 0.05))
    scale = meanfield.depth_scales(name, 0.95 * critical, 0.05)
    print(f"{getattr(name, '__name__', name):6} critical at {critical:.4f}; at 0.95 of that: xi_c {scale.xi_c:.1f} layers, xi_gradient "
          f"{scale.xi_gradient:.1f}")
