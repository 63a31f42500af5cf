"""Contractions of the gradients of two sets of examples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sigprop.empirical.factors import Outer
from sigprop.empirical.sites import Site


def einsum(subscripts: str, *arrays: Any) -> Any:
    """``jnp.einsum`` in full precision, of half-precision arrays accumulated in float32."""
    kind = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    return jnp.einsum(subscripts, *arrays, precision="highest", preferred_element_type=kind)


def assembled(site: Site, outer: Outer) -> Any:
    """The gradient of one example, formed from its product: ``[q, (b, i, f, d)]``."""
    inputs, cotangents = outer
    if site.uses[0].kind == "lookup":
        inputs = jax.nn.one_hot(inputs, site.sizes[2], dtype=cotangents.dtype)[None]
    gradient = einsum("bsi,qfbsd->biqfd", inputs, cotangents)  # as the product of matrices leaves it
    return jnp.moveaxis(gradient, 2, 0).reshape(cotangents.shape[0], -1)


def contraction(one: Any, two: Any) -> Any:
    """``sum_f <gradient of output (q, f) of n, gradient of output (r, f) of m>`` as ``[n, m, q, r]``.

    Args:
        one, two: gradients ``[n, q, k]``, with features and entries of the parameter in ``k``, or :class:`Outer` with ``[n, b, s, i]`` and
            ``[n, q, f, b, s, d]``. Of the latter, inputs meet inputs and cotangents meet cotangents at each pair of positions, and no
            gradient is formed (structured derivatives of Novak, Sohl-Dickstein & Schoenholz 2022).
    """
    if not isinstance(one, Outer):
        return einsum("nqk,mrk->nmqr", one, two)
    if jnp.issubdtype(one.inputs.dtype, jnp.integer):  # rows of a table: equal or orthogonal
        left, right = one.inputs[:, :, None, None], two.inputs[None, None]
        inputs = ((left == right) & (left >= 0))[None].astype(one.cotangents.dtype)
    elif one.cotangents.shape[3:5] == two.cotangents.shape[3:5] == (1, 1):  # one use at one place: a matrix that biases have too
        cotangents = contraction(*(side.cotangents.reshape(*side.cotangents.shape[:2], -1) for side in (one, two)))
        return einsum("ni,mi->nm", one.inputs[:, 0, 0], two.inputs[:, 0, 0])[:, :, None, None] * cotangents
    else:
        inputs = einsum("nbsi,mbti->bnsmt", one.inputs, two.inputs)
    cotangents = einsum("nqfbsd,mrfbtd->bnqsmrt", one.cotangents, two.cotangents)
    return einsum("bnsmt,bnqsmrt->nmqr", inputs, cotangents)
