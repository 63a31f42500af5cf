# %% [markdown]
# # Half precision has a window of gains
#
# Float16 has 5 bits of exponent: the smallest normal number is 2⁻¹⁴ ≈ 6.1·10⁻⁵, the largest 65504. A ReLU network multiplies the mean
# square by σ_w² n / 2 in every layer, so after L layers it must still lie between the two:
#
# (6.1·10⁻⁵)^(2/L) ≤ σ_w² n / 2 ≤ 65504^(2/L).
#
# At 10 layers this is [0.14, 9.2], at 100 layers [0.82, 1.25]: in depth, half precision asks for He's factor 1 within 20 %. Below,
# numbers become subnormal and lose bits, then vanish; above, they are infinite. Gradients have their own window, and a scale of the loss
# moves them into it (Micikevicius et al. 2018).

# %%
# %matplotlib inline
import sigprop as sp

study = sp.studies.fp16_subnormals
found = study.compute(study.Config())
print(*study.claims(found), sep="\n")

# %% [markdown]
# Lines are the ends of the windows. Points are where networks that were executed in the format crossed them.

# %%
study.draw(found)

# %% [markdown]
# ## Change one thing
#
# Other formats trade range for precision. bfloat16 has the exponent of float32, fp8_e5m2 that of float16, fp8_e4m3 next to none.

# %%
for dtype in ("fp16", "bf16", "fp8_e4m3", "fp8_e5m2"):
    windows = [sp.precision.gain_window(dtype, depth=depth) for depth in (10, 50)]
    print(f"{dtype:9}", "   ".join(f"{depth} layers: [{w.low:.4g}, {w.high:.4g}]" for depth, w in zip((10, 50), windows, strict=True)))
