"""Expectation of a product of functions of jointly Gaussian variables.

Independent groups of variables factorise. Within a group: one variable is a 1-D expectation, two functions of one variable each are a
2-D one (closed form or quadrature). Linear factors beside them add Hermite polynomials, by regression. Anything else is sampled by
quasi-Monte Carlo with an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.arrays import concrete, namespace, power, scaled
from sigprop.engine import sampling
from sigprop.engine.drawn import Drawn
from sigprop.engine.draws import of_normal
from sigprop.engine.elementwise import Atom, Variable, skewed, univariate
from sigprop.engine.groups import connected
from sigprop.engine.labels import AnyLabel, Named, add, aligned, dense, difference, is_nothing, multiply, total, union
from sigprop.engine.nodes import Add, Const, Leaf, Map, Mul, Take
from sigprop.engine.tails import covariance_note, gram_charlier
from sigprop.errors import Unsound
from sigprop.gaussian import Function, homogeneous, moment1, moment2, rescale, rounding, triangular
from sigprop.types import METHODS, Estimate, Note

if TYPE_CHECKING:
    from sigprop.engine.query import Query

_SMOOTH = 1e-6  # relative error beyond which a function of a draw has jumps that quadrature has not found
_NOTICEABLE = 1e-3  # relative error of a variance whose effect on the expectation is followed

Sources = Mapping[Atom, Sequence[Variable]]
Covariances = dict[tuple[Variable, Variable], Named | None]


def group_moment(query: Query, atoms: Sequence[Atom]) -> list[list[Named | Drawn]]:
    """Products whose sum is the expectation of the product of ``atoms``; empty when it vanishes identically."""
    sources = {a: a.variables if a.variables is not None else sampling.sources(a.node, a.labels) for a in atoms}
    found = tuple(dict.fromkeys(v for a in atoms for v in sources[a]))
    cov: Covariances = {}
    for u, v in itertools.combinations_with_replacement(found, 2):
        cov[u, v] = cov[v, u] = query.covariance(u, v)
    factors: list[Named | Drawn] = []
    for group in connected(atoms, lambda a, b: _linked(sources[a], sources[b], cov)):
        if any(a.variables is None for a in group):
            factors.append(Drawn(query.sampled, tuple((a.node, a.labels) for a in group)))
            continue
        value = _expectation(query, group, cov)
        if is_nothing(value):
            return []
        factors.append(value)
    return [factors]


def _linked(one: Sequence[Variable], two: Sequence[Variable], cov: Covariances) -> bool:
    return any(u == v or cov[u, v] is not None for u in one for v in two)


def _expectation(query: Query, group: Sequence[Atom], cov: Covariances) -> Named:
    other = any(skewed(v[0]) for a in group for v in a.variables or ())
    if all(a.linear for a in group) and not (other and len(group) > 2):
        return _isserlis(query, [a.variables[0] for a in group if a.variables], cov)
    if other:
        found = _of_draw(group)
        return query.sampled([(a.node, a.labels) for a in group]) if found is None else found
    scope = _Scope(query, group, cov)
    single = all(len(a.variables or ()) == 1 for a in group)
    if single and len(scope.variables) == 1:
        return _one(scope)
    if single and len(scope.variables) == 2:
        return _two(scope)
    kept = tuple(dict.fromkeys(v for a in group if not a.linear for v in a.variables or ()))
    if single and len(kept) <= 2:
        return _regressed(scope, kept)
    return query.sampled([(a.node, a.labels) for a in group])


class _Scope:
    """Standardised covariances and means of the variables of one group, as arrays over a common layout of labels.

    Each variable is measured in units of ``2**(exponents / 2)``, so that tiny and huge fields stay representable.
    """

    def __init__(self, query: Query, group: Sequence[Atom], cov: Covariances) -> None:
        self.group = group
        self.variables = tuple(dict.fromkeys(v for a in group for v in a.variables or ()))
        means = {v: query.mean(v) for v in self.variables}
        found = {(u, v): cov[u, v] for u in self.variables for v in self.variables}
        pairs = {pair: None if n is None else dense(n) for pair, n in found.items()}
        inputs = [n for n in (*pairs.values(), *means.values()) if n is not None]
        self.note = Note.of([Note.largest(covariance_note(n, *(pairs[v, v] for v in pair)) for pair, n in pairs.items() if n is not None),
                             Note.largest(n.note for n in means.values() if n is not None)])
        largest = sorted(inputs, key=lambda n: -len(n.labels))  # arrays over all pairs keep their order of axes
        self.exponents: dict[Variable, Any] = {}
        self.layout = union([*(n.labels for n in largest), *(_constant_labels(a) for a in group if not a.linear)])
        for u in self.variables:
            pairs[u, u], self.exponents[u] = self._unit(query, u, pairs[u, u])
        self.cov = {(u, v): self._array(n, self.exponents[u], self.exponents[v]) for (u, v), n in pairs.items()}
        self.means = {u: 0.0 if n is None else self._array(n, self.exponents[u], 0) for u, n in means.items()}
        self.given = self.note
        self.note = Note.of([self.note, Note.largest(map(self._not_gaussian, self.variables))])

    def _not_gaussian(self, variable: Variable) -> Note:
        excess = variable[0].tails.excess
        functions = self.functions(variable)[0] if excess else ()
        return gram_charlier(excess, functions, self.means[variable], self.cov[variable, variable], len(self.variables) > 1)

    def _unit(self, query: Query, variable: Variable, variance: Named | None) -> tuple[Named | None, Any]:
        """The variance and the exponent of its unit; none where that is traced and a function has a scale, hence unknown asymptotes."""
        if variance is None or (concrete(variance.array) and isinstance(variance.exponent, int)):
            return variance, 0 if variance is None else variance.exponent
        if not all(homogeneous(univariate(a, self.layout)) for a in self.group if a.variables == (variable,)):
            return variance, 0
        variance = query.in_unit(variance)
        return variance, variance.exponent

    def _array(self, named: Named | None, one: Any, two: Any) -> Any:
        if named is None:
            return np.zeros((1,) * len(self.layout))
        array, shift = aligned(named, self.layout), difference(named.exponent, one if one is two else one + two >> 1)
        return scaled(array, shift) if isinstance(shift, int) else array * power(shift, array.dtype)

    def functions(self, variable: Variable) -> tuple[tuple[Function, ...], int]:
        """The atoms of ``variable`` as functions of it in its unit, and the power of the unit that they take out."""
        found = [rescale(univariate(a, self.layout), self.exponents[variable])
                 for a in self.group if a.variables == (variable,)]
        return tuple(f for f, _ in found), sum(d for _, d in found)

    def exponent(self, factors: Sequence[Variable]) -> Any:
        """Of the product of the units of variables, square roots of ``2**exponents``."""
        units = [self.exponents[u] for u in factors]
        return units[0] if len(units) == 2 and units[0] is units[1] else total([e >> 1 for e in units])

    def named(self, estimate: Estimate, exponent: Any = 0) -> Named:
        array = estimate.value
        if concrete(array) and not np.all(np.isfinite(array) & np.isfinite(estimate.error)):
            names = sorted({getattr(a.node, "name", type(a.node).__name__) for a in self.group})
            raise Unsound(f"the expectation of {', '.join(names)} of a Gaussian field is not finite, or rests on values beyond 8.5 "
                          "standard deviations: the function grows too fast for the variance that it meets; bound it, or scale or "
                          "normalize its input")
        kept = [i for i, label in enumerate(self.layout) if array.shape[i] == label.size and label.size > 1]
        note = Note.of((self.note, Note.systematic(_relative(estimate), METHODS.index(estimate.method))))
        return Named(tuple(self.layout[i] for i in kept), array.reshape([array.shape[i] for i in kept]), exponent, note)


def _relative(estimate: Estimate) -> Any:
    if estimate.method == METHODS[0]:
        return rounding(estimate.value.dtype)
    xp = namespace(estimate.value, estimate.error)
    scale = xp.max(xp.abs(estimate.value))
    error = xp.max(estimate.error) / xp.where(scale > 0, scale, 1.0)
    return float(error) if xp is np else error


def _one(scope: _Scope) -> Named:
    """A function of one variable; the error of its variance counts by what it changes."""
    (u,) = scope.variables
    functions, power_of_u = scope.functions(u)
    found = moment1(functions, scope.means[u], scope.cov[u, u])
    given = scope.given.error
    if concrete(found.value) and isinstance(given, float) and given > _NOTICEABLE and np.all(np.isfinite(found.value)):
        moved = moment1(functions, scope.means[u], scope.cov[u, u] * (1 + given)).value
        change = _relative(found._replace(error=abs(moved - found.value)))
        scope.note = Note.of((scope.note, scope.given.scaled(max(0.0, change / given - 1))))
    return scope.named(found, scope.exponent([u] * power_of_u))


def _of_draw(group: Sequence[Atom]) -> Named | None:
    """Functions of one entry of a draw, over the normal variable whose quantiles it has; ``None`` for others, which are sampled.

    Points of a sample that are spread evenly fall on the same side of a jump in nearly all of its replicates, which then do not show how
    wrong they are.
    """
    (leaf, _), *more = dict.fromkeys(v for a in group for v in a.variables or ())
    while isinstance(leaf, Take):
        leaf = leaf.child[0]
    if more or not isinstance(leaf, Leaf) or any(_constant_labels(a) for a in group if not a.linear):
        return None
    functions = [of_normal(univariate(a, ()), leaf.draw) for a in group]
    if any(f.opaque for f in functions):
        return None
    found = moment1(functions, 0.0, np.ones(()))
    error = _relative(found)
    return Named((), found.value, 0, Note.systematic(error, METHODS.index(found.method))) if error < _SMOOTH else None


def _two(scope: _Scope) -> Named:
    u, v = scope.variables
    (f, one), (g, two) = scope.functions(u), scope.functions(v)
    cov = (scope.cov[u, u], scope.cov[v, v], scope.cov[u, v])
    return scope.named(moment2(f, g, *cov, scope.means[u], scope.means[v]), scope.exponent([u] * one + [v] * two))


def _regressed(scope: _Scope, kept: tuple[Variable, ...]) -> Named:
    """E[L1 L2 .. f(u) g(v)] for Gaussian ``L`` beside functions of ``kept``, one or two variables.

    The product of the ``L`` is a sum over pairings of covariances times Wick powers of the rest (Isserlis 1918, Janson 1997, Theorem
    3.15). Of a Wick power only its projection on ``u, v`` counts: with each ``L`` regressed on the standardised ``z1, z2`` that is a sum
    of products of Hermite polynomials of them.
    """
    fields = [a.variables[0] for a in scope.group if a.linear and a.variables and a.variables[0] not in kept]
    found = [scope.functions(u) for u in kept]
    exponent = scope.exponent([*(u for u, (_, n) in zip(kept, found, strict=True) for _ in range(n)), *fields])
    slopes = {w: _slopes(scope, w, kept) for w in fields}
    powers: dict[tuple[int, ...], Any] = {}
    for pairs, single in _pairings(fields):
        term = {(0,) * len(kept): prod((scope.cov[pair] for pair in pairs), start=np.ones(()))}
        for w in single:
            term = _times(term, scope.means[w], slopes[w])
        for key, value in term.items():
            powers[key] = powers[key] + value if key in powers else value
    cov = [scope.cov[u, v] for u, v in ((kept[0], kept[0]), (kept[-1], kept[-1]), (kept[0], kept[-1]))]
    value: Any = 0.0
    error: Any = 0.0
    for key, factor in powers.items():
        if len(kept) == 1:
            moment = moment1(found[0][0], scope.means[kept[0]], cov[0], key[0])
        else:
            moment = moment2(found[0][0], found[1][0], *cov, scope.means[kept[0]], scope.means[kept[1]], degrees=key)  # type: ignore[arg-type]
        value, error = value + factor * moment.value, error + abs(factor) * moment.error
    return scope.named(Estimate(value, error, METHODS[1]), exponent)


def _slopes(scope: _Scope, w: Variable, kept: tuple[Variable, ...]) -> list[Any]:
    """Covariances of ``w`` with the standardised variables ``kept``: with ``z1, z2`` of :func:`triangular`."""
    one, two = scope.cov[w, kept[0]], scope.cov[w, kept[-1]]
    s1, slope, rest = triangular(scope.cov[kept[0], kept[0]], scope.cov[kept[-1], kept[-1]], scope.cov[kept[0], kept[-1]])
    first = _quotient(one, s1)
    return [first] if len(kept) == 1 else [first, _quotient(two - slope * first, rest)]


def _quotient(a: Any, b: Any) -> Any:
    """``a / b``, zero where ``b`` is: what has no variance has no covariance."""
    xp = namespace(a, b)
    return xp.where(b > 0, a / xp.where(b > 0, b, 1.0), 0.0)


def _times(polynomial: dict[tuple[int, ...], Any], mean: Any, slopes: Sequence[Any]) -> dict[tuple[int, ...], Any]:
    """A polynomial by its coefficients, times ``mean + sum_i slopes_i z_i``."""
    out = {} if isinstance(mean, float) and mean == 0 else {key: value * mean for key, value in polynomial.items()}
    for key, value in polynomial.items():
        for i, slope in enumerate(slopes):
            raised = tuple(n + (i == j) for j, n in enumerate(key))
            out[raised] = out[raised] + value * slope if raised in out else value * slope
    return out


def _constant_labels(atom: Atom) -> tuple[AnyLabel, ...]:
    if isinstance(atom.node, Const):
        return atom.labels
    if atom.linear or not isinstance(atom.node, Add | Mul | Map):
        return ()
    inner = []
    for node, index in atom.node.children:
        inner.append(_constant_labels(Atom(node, tuple(atom.labels[j] for j in index), (), node.gaussian)))
    return union(inner)


def _isserlis(query: Query, fields: Sequence[Variable], cov: Covariances) -> Named:
    """Moments of Gaussian fields by pairings (Isserlis 1918), means included."""
    terms = list(_pairings(list(fields)))
    out = []
    for pairs, single in terms:
        factors = [cov[u, v] for u, v in pairs] + [query.mean(w) for w in single]
        if all(f is not None for f in factors):
            out.append(multiply([f for f in factors if f is not None]))
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
