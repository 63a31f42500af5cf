"""Self-attention whose logits are scaled, and whose kernels are stored, as one wants."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sigprop.init.checks import check_number, check_whole
from sigprop.nn.checks import check_callable, check_divides
from sigprop.nn.shared import XAVIER, Init


class SelfAttention(nnx.Module):
    """Softmax attention of tokens to each other, without biases (Vaswani et al. 2017).

    Args:
        features, heads: width, and the number of heads that divides it.
        fused: whether one kernel ``(features, 3 features)`` makes queries, keys and values, as in GPT-2.
        power: logits are divided by ``d_head ** power``: 0.5, or 1 as in muP (Yang et al. 2022).
        causal: whether a token sees those before it only.
        kernel_init: of all kernels.

    Raises:
        InvalidInput: for a width below 1, heads that do not divide it, a power that is not a finite number, and what cannot be called.
    """

    def __init__(self, features: int, heads: int, *, fused: bool = False, power: float = 0.5, causal: bool = False,
                 kernel_init: Init = XAVIER, rngs: nnx.Rngs) -> None:
        check_whole("features", features)
        check_divides("heads", heads, features, "features")
        check_number("power", power)
        check_callable(kernel_init=kernel_init)
        self.heads, self.power, self.causal = heads, power, causal
        sizes = [3 * features] if fused else [features] * 3
        self.projections = nnx.List([nnx.Linear(features, m, use_bias=False, kernel_init=kernel_init, rngs=rngs) for m in sizes])
        self.out = nnx.Linear(features, features, use_bias=False, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch tokens features"]) -> Float[Array, "*batch tokens features"]:
        made = [projection(x) for projection in self.projections]
        parts = made if len(made) == 3 else jnp.split(made[0], 3, -1)
        q, k, v = (a.reshape(*x.shape[:-1], self.heads, -1) for a in parts)
        logits = jnp.einsum("...qhd,...khd->...hqk", q, k) / q.shape[-1] ** self.power
        if self.causal:
            logits = jnp.where(jnp.tri(x.shape[-2], dtype=bool), logits, -jnp.inf)
        mixed = jnp.einsum("...hqk,...khd->...qhd", nnx.softmax(logits), v)
        return self.out(mixed.reshape(x.shape))
