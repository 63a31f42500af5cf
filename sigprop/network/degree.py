"""How often a parameter uses each of its random draws, and which steps of an initializer hide a draw."""

from __future__ import annotations

from typing import Any

from sigprop.engine.nodes import Add, Concat, Const, Leaf, Map, Mul, Node, Sum, Take, below
from sigprop.tracing import Graph

_PLUMBING = {  # operations that make keys from keys
    "random_seed", "random_split", "random_fold_in", "random_wrap", "random_unwrap", "random_clone", "slice", "squeeze", "reshape",
    "broadcast_in_dim", "transpose", "concatenate", "gather", "dynamic_slice", "expand_dims", "copy",
}


def hidden_draws(graph: Graph) -> set[int]:
    """Values computed from random bits by other means than the generators that the interpreter keeps whole.

    Evaluated with one key they look deterministic, which they are not.
    """
    keys, hidden = set(graph.inputs), set[int]()
    for op in graph.ops:
        if hidden.intersection(op.inputs):
            hidden.update(op.outputs)
        elif keys.intersection(op.inputs) and not op.name.startswith("random:"):
            (keys if op.name in _PLUMBING else hidden).update(op.outputs)
    return hidden


def depends_on_key(graph: Graph) -> list[bool]:
    """Per output of an initializer, whether it depends on the key."""
    live = set(graph.inputs)
    for op in graph.ops:
        if live.intersection(op.inputs):
            live.update(op.outputs)
    return [o in live for o in graph.outputs]


def children(node: Node) -> tuple[Node, ...]:
    return tuple(child for child, _ in below(node))


def degrees(node: Node, memo: dict[Node, dict[Leaf, int]] | None = None) -> dict[Leaf, int]:
    """Polynomial degree of a field in each of its random leaves; a nonlinear function counts as 2.

    A sum of many independent terms is Gaussian whatever its leaves, and has none.
    """
    memo = {} if memo is None else memo
    if node not in memo:
        memo[node] = _degrees(node, [degrees(c, memo) for c in children(node)])
    return memo[node]


def _degrees(node: Node, below: list[dict[Leaf, int]]) -> dict[Leaf, int]:
    if isinstance(node, Leaf):
        return {node: 1}
    if isinstance(node, Sum) and any(node.iid):
        return {}
    out: dict[Leaf, int] = {}
    for found in below:
        for leaf, degree in found.items():
            if isinstance(node, Map):
                out[leaf] = 2
            elif isinstance(node, Mul):
                out[leaf] = out.get(leaf, 0) + degree
            else:
                out[leaf] = max(out.get(leaf, 0), degree)
    return out


def is_plain(node: Node) -> bool:
    """Whether the field is one draw times and plus constants."""
    random = [c for c in children(node) if not isinstance(c, Const)]
    return isinstance(node, Leaf) or (isinstance(node, Take | Mul | Add) and len(random) == 1 and is_plain(random[0]))


def family(node: Any) -> str:
    """Family of the draw behind a field, ``derived`` where it depends on several or on a function of one."""
    if isinstance(node, Leaf):
        return node.family
    below = {family(c) for c in children(node) if not isinstance(c, Const)}
    linear = not isinstance(node, Map | Sum) and (isinstance(node, Concat) or is_plain(node))
    return below.pop() if linear and len(below) == 1 else "derived"
