"""Expectation of a product of functions of jointly Gaussian variables.

Independent groups of variables factorise. Within a group: one variable is a 1-D expectation, two functions of one variable each are a
2-D one (closed form or quadrature), anything else is sampled by quasi-Monte Carlo with an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from sigprop.engine.elementwise import Atom, Variable, evaluate, univariate
from sigprop.engine.labels import AnyLabel, Named, aligned, is_nothing, multiply, union
from sigprop.engine.nodes import Leaf
from sigprop.errors import Unsound
from sigprop.gaussian import moment1, moment2, moment_many

if TYPE_CHECKING:
    from sigprop.engine.query import Query

Covariances = dict[tuple[Variable, Variable], Named | None]


def group_moment(query: Query, atoms: Sequence[Atom]) -> list[list[Named]]:
    """Products whose sum is the expectation of the product of ``atoms``; empty when it vanishes identically."""
    for atom in atoms:
        _refuse(atom)
    found = tuple(dict.fromkeys(v for a in atoms for v in a.variables or ()))
    cov: Covariances = {}
    for u, v in itertools.combinations_with_replacement(found, 2):
        cov[u, v] = cov[v, u] = query.covariance(u, v)
    factors: list[Named] = []
    for group in _components(atoms, cov):
        value = _expectation(query, group, cov)
        if is_nothing(value):
            return []
        factors.append(value)
    return [factors]


def _refuse(atom: Atom) -> None:
    if atom.variables is None:
        raise Unsound(
            f"a nonlinear function ({getattr(atom.node, 'name', type(atom.node).__name__)}) is applied to a field that mixes sites "
            "of a non-Gaussian field (pooling, batch or instance statistics); this expectation is not available yet. "
            "Put a weighted layer in between, or use running statistics."
        )
    for node, _ in atom.variables:
        if not atom.linear and isinstance(node, Leaf) and node.family == "bernoulli":
            raise Unsound("a nonlinear function is applied to a field with dropout: only linear layers may follow dropout")


def _components(atoms: Sequence[Atom], cov: Covariances) -> list[list[Atom]]:
    """Atoms grouped so that different groups are independent."""
    groups: list[list[Atom]] = []
    for atom in atoms:
        linked = [g for g in groups if any(_linked(atom, other, cov) for other in g)]
        groups = [g for g in groups if g not in linked] + [[*itertools.chain.from_iterable(linked), atom]]
    return groups


def _linked(a: Atom, b: Atom, cov: Covariances) -> bool:
    return any(cov[u, v] is not None for u in a.variables or () for v in b.variables or ())


def _expectation(query: Query, group: Sequence[Atom], cov: Covariances) -> Named:
    linear = [a for a in group if a.linear]
    curved = [a for a in group if not a.linear]
    if not curved:
        return _isserlis(query, [a.variables[0] for a in linear if a.variables], cov)
    variables = tuple(dict.fromkeys(v for a in curved for v in a.variables or ()))
    means = {v: query.mean(v) for v in dict.fromkeys(v for a in group for v in a.variables or ())}
    every = [*cov.items()]
    involved = set(means)
    layout = union([
        *(n.labels for (u, v), n in every if n is not None and u in involved and v in involved),
        *(m.labels for m in means.values() if m is not None), *(_constant_labels(a) for a in curved),
    ])
    if len(variables) == 1:
        (u,) = variables
        if all(a.variables == (u,) for a in linear):
            return _one(query, curved, u, len(linear), means[u], cov[u, u], layout)
    if len(variables) == 2 and not linear and all(len(a.variables or ()) == 1 for a in curved):
        return _two(query, curved, variables, means, cov, layout)
    return _many(query, group, means, cov, layout)


def _constant_labels(atom: Atom) -> tuple[AnyLabel, ...]:
    from sigprop.engine.nodes import Add, Const, Map, Mul

    if isinstance(atom.node, Const):
        return atom.labels
    if atom.linear or not isinstance(atom.node, Add | Mul | Map):
        return ()
    inner = []
    for node, index in atom.node.children:
        inner.append(_constant_labels(Atom(node, tuple(atom.labels[j] for j in index), (), node.gaussian)))
    return union(inner)


def _array(named: Named | None, layout: Sequence[AnyLabel]) -> Any:
    return jnp.zeros((1,) * len(layout)) if named is None else aligned(named, layout)


def _named(query: Query, estimate: Any, layout: Sequence[AnyLabel]) -> Named:
    value, error, method = estimate
    query.methods.add(method)
    query.note_error(value, error)
    array = jnp.asarray(value)
    kept = [i for i, label in enumerate(layout) if array.shape[i] == label.size and label.size > 1]
    shape = [array.shape[i] for i in kept]
    return Named(tuple(layout[i] for i in kept), array.reshape(shape))


def _product(atoms: Sequence[Atom], layout: Sequence[AnyLabel]) -> Any:
    functions = [univariate(a, layout) for a in atoms]
    if len(functions) == 1:
        return functions[0]
    if len(functions) == 2 and functions[0] is functions[1]:
        return _Squared(functions[0])
    return _Product(tuple(functions))


class _Product:
    """A product of functions that is hashable by its factors, so that its recognition is cached."""

    def __init__(self, functions: tuple[Any, ...]) -> None:
        self.functions = functions

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Product) and self.functions == other.functions

    def __hash__(self) -> int:
        return hash(self.functions)

    def __call__(self, u: Any) -> Any:
        out = self.functions[0](u)
        for f in self.functions[1:]:
            out = out * f(u)
        return out


class _Squared(_Product):
    def __init__(self, function: Any) -> None:
        super().__init__((function, function))


def _one(query: Query, curved: Sequence[Atom], u: Variable, degree: int, mean: Named | None, var: Named | None,
         layout: Sequence[AnyLabel]) -> Named:
    variance = _array(var, layout)
    f = _product(curved, layout)
    if degree == 0 and len(curved) == 2 and mean is None and isinstance(f, _Squared):
        g = f.functions[0]
        return _named(query, moment2(g, g, variance, variance, variance), layout)
    centre = 0.0 if mean is None else _array(mean, layout)
    if degree and mean is not None:
        raise Unsound("a product of a field with a nonzero mean and a function of it is not available yet")
    return _named(query, moment1(f, centre, variance, degree), layout)


def _two(query: Query, curved: Sequence[Atom], variables: Sequence[Variable], means: dict, cov: Covariances,
         layout: Sequence[AnyLabel]) -> Named:
    u, v = variables
    f = _product([a for a in curved if a.variables == (u,)], layout)
    g = _product([a for a in curved if a.variables == (v,)], layout)
    centres = [0.0 if means[w] is None else _array(means[w], layout) for w in (u, v)]
    return _named(query, moment2(f, g, _array(cov[u, u], layout), _array(cov[v, v], layout), _array(cov[u, v], layout),
                                 *centres), layout)


def _many(query: Query, group: Sequence[Atom], means: dict, cov: Covariances, layout: Sequence[AnyLabel]) -> Named:
    names = list(means)
    shape = jnp.broadcast_shapes(*[_array(n, layout).shape for n in [*cov.values(), *means.values()]])
    full = [[jnp.broadcast_to(_array(cov[u, v], layout), shape) for v in names] for u in names]
    matrix = jnp.stack([jnp.stack(row, -1) for row in full], -2)
    centre = jnp.stack([jnp.broadcast_to(_array(means[u], layout), shape) for u in names], -1)

    def f(x: Any) -> Any:
        values = {u: x[..., k] for k, u in enumerate(names)}
        memo: dict = {}
        out: Any = 1.0
        for a in group:
            out = out * evaluate(a.node, a.labels, values, layout, memo)
        return out

    return _named(query, moment_many(f, centre, matrix), layout)


def _isserlis(query: Query, fields: Sequence[Variable], cov: Covariances) -> Named:
    """Moments of Gaussian fields by pairings (Isserlis 1918), means included."""
    terms = list(_pairings(list(fields)))
    out = []
    for pairs, single in terms:
        factors = [cov[u, v] for u, v in pairs] + [query.mean(w) for w in single]
        if all(f is not None for f in factors):
            out.append(multiply([f for f in factors if f is not None]))
    from sigprop.engine.labels import add

    return add(out)


def _pairings(fields: list[Variable]) -> Any:
    if not fields:
        yield [], []
        return
    first, rest = fields[0], fields[1:]
    for pairs, single in _pairings(rest):
        yield pairs, [first, *single]
    for i, other in enumerate(rest):
        for pairs, single in _pairings(rest[:i] + rest[i + 1:]):
            yield [(first, other), *pairs], single
