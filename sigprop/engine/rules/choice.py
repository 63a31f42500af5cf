"""A random choice between fields: the derivative of every piecewise function is one.

``where(p(u), a(u) v, b(u) v)`` is ``where(p(u), a(u), 0) v + where(p(u), 0, b(u)) v``: functions of the predicate's own variables
stay inside, where closed forms are recognised, and what is independent of them becomes a factor of the expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sigprop.engine.build import Pool
from sigprop.engine.elementwise import variables
from sigprop.engine.interpreter import Context
from sigprop.engine.nodes import Add, Concat, Const, Dim, Mul, Node, Occurrence
from sigprop.engine.values import Value, combine, settle


def separated(context: Context, which: Value, cases: Sequence[Value], function: Callable[..., Any], key: Any) -> Value:
    """``function(which, *cases)``, which picks one of the cases."""
    pool = context.pool
    dims, children, axes = combine(pool, [which, *cases])

    def choice(children: Sequence[Occurrence], dims: Sequence[Dim]) -> Node:
        predicate, *options = children
        if all(pool.is_zero(node) for node, _ in options):  # the derivative of a constant
            return pool.const(np.zeros(()), ())
        if any(isinstance(n, Concat) for n, _ in children):
            return pool.into_concat(children, dims, choice)
        if all(_within(option, predicate) for option in options):
            return pool.map("select_n", function, children, dims, key)
        zero, terms = (pool.const(np.zeros(()), ()), ()), []
        for k, option in enumerate(options):
            for inside, outside in _products(pool, option, predicate, dims):
                arguments = [predicate, *(inside if j == k else zero for j in range(len(options)))]
                chosen = pool.over(arguments, dims, lambda c, d: pool.map("select_n", function, c, d, key))
                terms.append(pool.over([chosen, *outside], dims, pool.mul))
        return pool.add(terms, dims)

    return settle(choice(children, dims), dims, axes)


def _variables(occurrence: Occurrence) -> set[Occurrence] | None:
    node, index = occurrence
    found = variables(node)
    return None if found is None else {(n, tuple(index[j] for j in i)) for n, i in found}


def _within(occurrence: Occurrence, predicate: Occurrence) -> bool:
    """Whether the field is a function of the predicate's variables alone, or of its draws where it has no variables."""
    own, found = _variables(predicate), _variables(occurrence)
    if own is None:
        return not occurrence[0].leaves & ~predicate[0].leaves
    return found is not None and found <= own


def _products(pool: Pool, option: Occurrence, predicate: Occurrence, dims: Sequence[Dim]) -> Iterator[tuple[Occurrence, list[Occurrence]]]:
    """``option`` as a sum of products of a function of ``own`` and of other factors."""
    node, index = option
    one: Occurrence = (pool.const(np.ones(()), ()), ())
    if pool.is_zero(node):
        return
    if _within(option, predicate):
        yield option, []
    elif isinstance(node, Add):
        parts = [p for child, where in node.children for p in _products(pool, (child, tuple(index[j] for j in where)), predicate, dims)]
        yield from [(one, [option])] if all(inside == one for inside, _ in parts) else parts
    elif isinstance(node, Mul):
        factors = [(n, tuple(index[j] for j in i)) for n, i in node.children]
        inner = [f for f in factors if not isinstance(f[0], Const) and _within(f, predicate)]
        inside = pool.over(inner, dims, pool.mul) if inner else one
        yield inside, [f for f in factors if f not in inner]
    else:
        yield one, [option]
