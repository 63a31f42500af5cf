"""Elementwise functions of jointly Gaussian fields: which variables they have, and how to evaluate them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sigprop.arrays import concrete, same_array
from sigprop.engine.labels import AnyLabel, Named, aligned
from sigprop.engine.nodes import Add, Const, Leaf, Map, Mul, Node, Occurrence, Take
from sigprop.gaussian import IDENTITY, Function

Variable = tuple[Node, tuple[AnyLabel, ...]]

_VARIABLES: WeakKeyDictionary[Node, tuple[Occurrence, ...] | None] = WeakKeyDictionary()


def variables(node: Node) -> tuple[Occurrence, ...] | None:
    """The Gaussian fields that ``node`` is an elementwise function of; ``None`` when it is not one (it mixes sites in between)."""
    if node not in _VARIABLES:
        _VARIABLES[node] = _find(node)
    return _VARIABLES[node]


def is_variable(node: Node) -> bool:
    """A Gaussian field that is not just another one scaled or shifted by a number."""
    if not node.gaussian:
        return False
    if isinstance(node, Mul | Add):
        numbers = [c for c in node.children if isinstance(c[0], Const) and not c[0].dims]
        return not (numbers and len(numbers) == len(node.children) - 1)
    return True


def skewed(node: Node) -> bool:
    """Whether the field is a draw of another family than the normal one, scaled, shifted or indexed: more than its variance matters."""
    if isinstance(node, Leaf):
        return node.draw.quantile is not None
    if isinstance(node, Take):
        return skewed(node.child[0])
    return isinstance(node, Mul | Add) and node.gaussian and any(skewed(n) for n, _ in node.children)


def _find(node: Node) -> tuple[Occurrence, ...] | None:
    if isinstance(node, Const):
        return ()
    if is_variable(node):
        return ((node, tuple(range(len(node.dims)))),)
    if not isinstance(node, Add | Mul | Map):
        return None
    found: dict[Occurrence, None] = {}
    for child, index in node.children:
        inner = variables(child)
        if inner is None:
            return None
        found.update(dict.fromkeys((n, tuple(index[j] for j in i)) for n, i in inner))
    return tuple(found)


@dataclass(frozen=True)
class Atom:
    """A factor of an expectation with its Gaussian variables; ``linear`` when it is one of them."""

    node: Node
    labels: tuple[AnyLabel, ...]
    variables: tuple[Variable, ...] | None
    linear: bool


def atom_of(node: Node, labels: tuple[AnyLabel, ...]) -> Atom:
    if node.gaussian:
        return Atom(node, labels, ((node, labels),), True)
    found = variables(node)
    placed = None if found is None else tuple((n, tuple(labels[j] for j in i)) for n, i in found)
    return Atom(node, labels, placed, False)


def rescaled(factors: Sequence[Variable]) -> tuple[list[Named], list[Variable]]:
    """Linear factors in terms of the variables that functions beside them have: ``x`` beside ``f(c x)`` is ``1/c`` times ``c x``."""
    used = {v for n, labels in factors if not n.gaussian for v in atom_of(n, labels).variables or ()}
    multiples = {_multiplied(v): v for v in used if _fixed(v[0]) is not None}
    scales, out = [], []
    for factor in factors:
        node, labels = factor
        if node.gaussian and factor not in used:
            if _fixed(node) is not None and _multiplied(factor) in used:
                scales.append(_coefficient(factor))
                factor = _multiplied(factor)
            elif factor in multiples:
                inverse = _coefficient(multiples[factor])
                if not concrete(inverse.array) or inverse.array.all():
                    scales.append(inverse._replace(array=1 / inverse.array))
                    factor = multiples[factor]
        out.append(factor)
    return scales, out


def _fixed(node: Node) -> Const | None:
    """The coefficient ``c``, which may vary over sites, of a Gaussian field ``c x``."""
    head = node.children[0][0] if isinstance(node, Mul) and node.gaussian else None
    return head if isinstance(head, Const) else None


def _multiplied(variable: Variable) -> Variable:
    node, labels = variable
    assert isinstance(node, Mul)
    child, index = node.children[1]
    return child, tuple(labels[j] for j in index)


def _coefficient(variable: Variable) -> Named:
    node, labels = variable
    assert isinstance(node, Mul) and isinstance(node.children[0][0], Const)
    head, index = node.children[0]
    return Named(tuple(labels[j] for j in index), head.array, note=head.note)  # type: ignore[attr-defined]


def evaluate(node: Node, labels: tuple[AnyLabel, ...], values: Mapping[Variable, Any], layout: Sequence[AnyLabel],
             memo: dict | None = None) -> Any:
    """The field's value where its variables have ``values``; trailing axes follow ``layout``."""
    memo = {} if memo is None else memo
    key = (node, labels)
    if key in values:
        return values[key]
    if key not in memo:
        if isinstance(node, Const):
            memo[key] = node.array if not labels else aligned(Named(labels, node.array), layout)
        else:
            assert isinstance(node, Add | Mul | Map)
            args = [evaluate(n, tuple(labels[j] for j in i), values, layout, memo) for n, i in node.children]
            memo[key] = _apply(node, args)
    return memo[key]


def _apply(node: Add | Mul | Map, args: list[Any]) -> Any:
    if isinstance(node, Map):
        return node.function(*args)
    out = args[0]
    for arg in args[1:]:
        out = out + arg if isinstance(node, Add) else out * arg
    return out


def signature(node: Node) -> Any:
    """Structure of a function of one variable without site-dependent constants; ``None`` where it has some."""
    if is_variable(node):
        return "u"
    if isinstance(node, Const):
        return ("constant", same_array(node.array)) if not node.dims else None
    assert isinstance(node, Add | Mul | Map)
    inner = tuple(signature(n) for n, _ in node.children)
    head = (node.name, node.key) if isinstance(node, Map) else (type(node).__name__,)
    return None if any(s is None for s in inner) else (*head, *inner)


def univariate(atom: Atom, layout: Sequence[AnyLabel]) -> Function:
    """``atom`` as a function of its one variable."""
    assert atom.variables is not None
    if atom.linear:
        return IDENTITY
    (variable,) = atom.variables
    opaque = not all(map(concrete, _constants(atom.node)))
    key = None if opaque else signature(atom.node)
    return Function(lambda u: evaluate(atom.node, atom.labels, {variable: u}, layout), key, opaque)


def _constants(node: Node) -> list[Any]:
    if isinstance(node, Const):
        return [node.array]
    if is_variable(node):
        return []
    assert isinstance(node, Add | Mul | Map)
    return [array for child, _ in node.children for array in _constants(child)]
