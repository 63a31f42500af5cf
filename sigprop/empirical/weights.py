"""The weights of a program in the order in which the signal meets them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from sigprop.empirical.sites import Site, sites
from sigprop.tracing import Graph, evaluate


def weights(graph: Graph, params: int) -> list[Site]:
    """Products and convolutions of parameters, the first ``params`` inputs, with the signal, in order of their first use on it.

    Look-ups are not among them, and neither are weights that are not multiplied with the signal directly: normalized, masked or factorised.
    """
    live = set(graph.inputs[params:])
    order: dict[int, int] = {}
    for op in graph.ops:
        if live.intersection(op.inputs):
            live.update(op.outputs)
            order[op.outputs[0]] = len(order)
    found = [site for group in sites(graph, params).values() for site in group if site.uses[0].kind != "lookup"]
    met = [(min(order[u.output] for u in site.uses if u.output in order), site) for site in found
           if any(u.output in order for u in site.uses)]
    return [site for _, site in sorted(met, key=lambda pair: pair[0])]


def parts(graph: Graph, found: Sequence[Site], leaves: Sequence[Any]) -> list[Any]:
    """The entries of its parameter that each weight is made of: ``True`` for all, or a mask for those of one layer of a stack."""
    def operand(site: Site, leaf: Any) -> Any:
        use = site.uses[0]
        given = [leaf if k == site.leaf else value for k, value in enumerate(leaves)]
        return jnp.sum(evaluate(graph, given, [use.op.inputs[use.weight]])[1][0])

    alone = {site.leaf: sum(s.leaf == site.leaf for s in found) == 1 for site in found}
    return [jnp.ones((), bool) if alone[s.leaf] else jax.grad(partial(operand, s))(leaves[s.leaf]) != 0 for s in found]
