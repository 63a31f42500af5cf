"""One example through a network: its outputs, and what the gradient of each parameter is made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import GatherScatterMode

from sigprop.empirical.sites import Site, Use
from sigprop.tracing import Graph, apply_op


class Outer(NamedTuple):
    """A gradient ``sum_s inputs[b, s, i] cotangents[q, f, b, s, d]`` that is not formed; a look-up's inputs are row numbers ``[s]``."""

    inputs: Any
    cotangents: Any


def example(graph: Graph, formed: Sequence[int], products: Sequence[Site], features: int,
            leaves: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Outputs and gradients of one example; to be mapped over examples.

    Args:
        formed: parameters whose gradient is formed by reverse mode.
        products: sites whose gradient stays a product.
        features: size of the last output axis, or 1 to treat every output apart.
        leaves: parameters and data of one example, as the graph's inputs.

    Returns:
        Outputs ``[q, features]``, gradients ``[q, features, *shape]`` of each ``formed``, and an :class:`Outer` for each of ``products``.
    """
    uses = [use for site in products for use in site.uses]
    zeros = {use.output: jnp.zeros(graph.avals[use.output].shape, graph.avals[use.output].dtype) for use in uses}  # two share a product

    def run(shifts: dict[int, Any], params: list[Any]) -> Any:
        given = list(leaves)
        for leaf, value in zip(formed, params, strict=True):
            given[leaf] = value
        return _shifted(graph, given, shifts, uses)

    outputs, back, found = jax.vjp(run, zeros, [leaves[leaf] for leaf in formed], has_aux=True)
    basis = jnp.eye(outputs.size, dtype=outputs.dtype).reshape(-1, features, *outputs.shape)
    deltas, gradients = jax.vmap(jax.vmap(lambda e: back(e)))(basis)
    pairs = iter([(made, deltas[use.output]) for use, made in zip(uses, found, strict=True)])
    return outputs.reshape(-1, features), gradients, [_outer(site, [next(pairs) for _ in site.uses]) for site in products]


def _shifted(graph: Graph, leaves: Sequence[Any], shifts: dict[int, Any], uses: Sequence[Use]) -> tuple[Any, list[Any]]:
    """The output where each use's result is shifted, so that cotangents are derivatives by shifts; the uses' inputs and scales."""
    env: dict[int, Any] = {**graph.constants, **dict(zip(graph.inputs, leaves, strict=True))}
    for op in graph.ops:
        env.update(zip(op.outputs, apply_op(op, [env[i] for i in op.inputs]), strict=True))
        if op.outputs[0] in shifts:
            env[op.outputs[0]] = env[op.outputs[0]] + shifts[op.outputs[0]]
    return env[graph.outputs[0]], [(_input(use, env), _scale(use, env)) for use in uses]


def _input(use: Use, env: dict[int, Any]) -> Any:
    """``[b, s, i]`` of a use, or the row numbers ``[s]`` of a look-up, ``-1`` where there is none."""
    return {"dot": _dot_input, "conv": _patches, "lookup": _rows}[use.kind](use, env[use.op.inputs[1 - use.weight]])


def _scale(use: Use, env: dict[int, Any]) -> Any:
    """What the parameter is multiplied by on its way."""
    scale: Any = 1.0
    for value, times in use.scales:
        factor = jnp.reshape(jnp.asarray(env[value]), ())
        scale = scale * factor if times else scale / factor
    return scale


def _dot_input(use: Use, array: Any) -> Any:
    contract, batch = (dims[1 - use.weight] for dims in use.op.params["dimension_numbers"])
    free = [k for k in range(array.ndim) if k not in (*contract, *batch)]
    groups, positions, inputs, _ = use.sizes
    return array.transpose(*batch, *free, *contract).reshape(groups, positions, inputs)


def _patches(use: Use, array: Any) -> Any:
    """Windows of the input, as the convolution meets them."""
    params, numbers = use.op.params, use.op.params["dimension_numbers"]
    groups, positions, inputs, _ = use.sizes
    array = array.transpose(numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    borders = [(low, high, grown - 1) for (low, high), grown in zip(params["padding"], params["lhs_dilation"], strict=True)]
    array = lax.pad(array, jnp.zeros((), array.dtype), [(0, 0, 0), *borders, (0, 0, 0)])
    steps, gaps = params["window_strides"], params["rhs_dilation"]
    spans = [gap * (length - 1) + 1 for gap, length in zip(gaps, use.window, strict=True)]
    counts = [(size - span) // step + 1 for size, span, step in zip(array.shape[1:-1], spans, steps, strict=True)]
    shifted = []
    for offset in product(*map(range, use.window)):
        start = [o * gap for o, gap in zip(offset, gaps, strict=True)]
        stop = [s + (count - 1) * step + 1 for s, count, step in zip(start, counts, steps, strict=True)]
        shifted.append(lax.slice(array, (0, *start, 0), (array.shape[0], *stop, array.shape[-1]), (1, *steps, 1)))
    stacked = jnp.stack(shifted, -2).reshape(positions, len(shifted), groups, -1)  # [s, window, group, channel]
    return stacked.transpose(2, 0, 1, 3).reshape(groups, positions, inputs)


def _rows(use: Use, array: Any) -> Any:
    rows, last = array.reshape(-1), use.sizes[2] - 1
    if use.op.params["mode"] is GatherScatterMode.CLIP:
        return jnp.clip(rows, 0, last)
    return jnp.where((rows >= 0) & (rows <= last), rows, -1)


def _outer(site: Site, pairs: Sequence[tuple[Any, Any]]) -> Outer:
    inputs = [h for (h, _), _ in pairs]
    deltas = [_cotangent(use, delta) * jnp.asarray(scale, delta.dtype) for use, ((_, scale), delta) in zip(site.uses, pairs, strict=True)]
    return Outer(jnp.concatenate(inputs, 0 if site.uses[0].kind == "lookup" else 1), jnp.concatenate(deltas, 3))


def _cotangent(use: Use, delta: Any) -> Any:
    """``[q, f, b, s, d]`` from the cotangents ``[q, f, *shape]`` of the use's result."""
    groups, positions, _, outputs = use.sizes
    lead = delta.shape[:2]
    if use.kind == "conv":  # [n, *positions, channels]
        spec = [k + 2 for k in use.op.params["dimension_numbers"].out_spec]
        delta = delta.transpose(0, 1, spec[0], *spec[2:], spec[1]).reshape(*lead, positions, groups, outputs)
        return delta.swapaxes(2, 3)
    if use.kind == "dot" and use.weight == 0:  # [groups, outputs, positions]
        return delta.reshape(*lead, groups, outputs, positions).swapaxes(3, 4)
    return delta.reshape(*lead, groups, positions, outputs)
