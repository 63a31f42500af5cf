"""Random fields as an immutable, hash-consed graph.

A node is a field over *dims*. A ``site`` dim has arbitrary joint statistics (batch, pixels, tokens); along a ``chan`` dim entries are
independent copies, as the units of a wide layer are. A node lists only the dims it varies along: broadcasting is the absence of a
dim. Children are held as ``(node, index)`` where ``index[j]`` is the position of the child's dim ``j`` in the parent; in ``Sum``
positions past the parent's own dims are summed over.

Every node knows its parity under sign flips of the random leaves; odd means an exactly zero mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from sigprop.engine.draws import Draw
from sigprop.engine.parity import Parity, indexed_dims
from sigprop.types import Note

T = TypeVar("T")


class Dim(NamedTuple):
    """One factor of an axis: ``kind`` is ``"site"`` or ``"chan"``."""

    kind: str
    size: int


Occurrence = tuple["Node", tuple[int, ...]]


class Tails(NamedTuple):
    """What is not Gaussian about a field although it is treated as one, or is built on one that is not.

    Attributes:
        excess: largest excess kurtosis that was dropped.
        loose: dims along which the sums of few terms behind the field vary independently, ``None`` where there are none.
        latent: excess kurtosis of those sums.
    """

    excess: float = 0.0
    loose: frozenset[int] | None = None
    latent: float = 0.0

    def moved(self, index: Any) -> Tails:
        return self if self.loose is None else self._replace(loose=frozenset(index[d] for d in self.loose))

    def indexed(self, index: Any, axis: int, position: Any) -> Tails:
        return self if self.loose is None else self._replace(loose=indexed_dims(self.loose, index, axis, position))

    def kept(self, dims: Any) -> Tails:
        return self if self.loose is None else self._replace(loose=self.loose & frozenset(dims))


def joint_tails(children: Sequence[Occurrence]) -> Tails:
    """Of an operation on ``children``."""
    found = [node.tails.moved(index) for node, index in children]
    loose = [t.loose for t in found if t.loose is not None]
    return Tails(max((t.excess for t in found), default=0.0), frozenset.intersection(*loose) if loose else None,
                 max((t.latent for t in found), default=0.0))


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """Base of the graph. ``id`` orders nodes by creation; equality is identity, since nodes are hash-consed.

    ``leaves`` are the bits of all draws behind the node: nodes that share none are independent.
    """

    id: int
    dims: tuple[Dim, ...]
    leaves: int = field(repr=False)
    parity: Parity = field(repr=False)
    gaussian: bool
    tails: Tails = field(repr=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}#{self.id}{[f'{d.kind}:{d.size}' for d in self.dims]}"


@dataclass(frozen=True, eq=False, repr=False)
class Const(Node):
    """A deterministic array over exactly its dims."""

    array: Any
    note: Note


@dataclass(frozen=True, eq=False, repr=False)
class Leaf(Node):
    """Independent, centred entries of the given variance: what a random generator draws.

    ``tied`` to another leaf they are the same draws, which count as independent of what they multiply (see ``reuse``).
    """

    number: int
    draw: Draw
    tied: Leaf | None = None

    @property
    def variance(self) -> float:
        return self.draw.variance

    @property
    def family(self) -> str:
        return self.draw.family


@dataclass(frozen=True, eq=False, repr=False)
class Add(Node):
    children: tuple[Occurrence, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Mul(Node):
    """Product of at most one ``Const`` (first) and fields."""

    children: tuple[Occurrence, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Map(Node):
    """An elementwise function of its children."""

    name: str
    function: Callable[..., Any] = field(repr=False)
    children: tuple[Occurrence, ...]
    key: Any
    symmetry: str | None


@dataclass(frozen=True, eq=False, repr=False)
class Take(Node):
    """``child[..., table, ...]``: dim ``axis`` of the child is indexed by ``table``, whose own axes are the parent's dims ``position``."""

    child: Occurrence
    axis: int
    table: Any = field(repr=False)
    position: tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Sum(Node):
    """A sum over ``summed`` dims of the child; ``iid`` marks those over which terms are independent with zero mean.

    With an ``iid`` dim the sum is a new Gaussian field by the central limit theorem; ``unweighted`` marks a sum over channels of fields,
    without weights, whose mean is zero. Without an ``iid`` dim such a sum is known to vanish as a mean, and its moments are not known.
    ``shared`` marks a sum over many channels that stays random through what they share: in its moments the channels of one sum never
    coincide with those of another, which is all that is left of them in the limit.
    """

    child: Occurrence
    summed: tuple[Dim, ...]
    iid: tuple[bool, ...]
    unweighted: bool
    shared: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Reduce(Node):
    """What ``function(array, axes)``, which is not linear, makes of the child's entries along the ``summed`` dims: their largest, say."""

    child: Occurrence
    summed: tuple[Dim, ...]
    name: str
    function: Callable[..., Any] = field(repr=False)


@dataclass(frozen=True, eq=False, repr=False)
class Concat(Node):
    """Parts side by side along dim ``axis``; every part has all the parent's dims in the parent's order, or lacks some."""

    parts: tuple[Occurrence, ...]
    sizes: tuple[int, ...]
    axis: int


def below(node: Node) -> Sequence[Occurrence]:
    """Children of any node."""
    if isinstance(node, Add | Mul | Map):
        return node.children
    if isinstance(node, Take | Sum | Reduce):
        return [node.child]
    return node.parts if isinstance(node, Concat) else []


def placed(children: Sequence[Occurrence], index: Sequence[int]) -> list[Occurrence]:
    """Children of a node that is itself a child at ``index``, in terms of its parent's dims."""
    return [(node, tuple(index[j] for j in where)) for node, where in children]


def whole(node: Node) -> Occurrence:
    """The node in a parent that starts with its dims."""
    return node, tuple(range(len(node.dims)))


def opened(child: Occurrence) -> list[Occurrence]:
    """All factors of a product, products among them opened."""
    node, index = child
    return [f for c in placed(node.children, index) for f in opened(c)] if isinstance(node, Mul) else [child]


def parameter_only(node: Node) -> bool:
    """Whether the node is an elementwise function of draws and of constants over their own axes: a parameter, not yet a field."""
    if isinstance(node, Leaf):
        return True
    if isinstance(node, Take):
        return parameter_only(node.child[0]) and all(node.dims[p].kind == "chan" for p in node.position)
    if isinstance(node, Add | Mul | Map):
        return all(parameter_only(c) or (isinstance(c, Const) and all(d.kind == "chan" for d in c.dims)) for c, _ in node.children)
    return False


def tied(weight: Node) -> bool:
    """Whether a function of parameters reads a leaf that is tied to another one."""
    return weight.tied is not None if isinstance(weight, Leaf) else any(tied(child) for child, _ in below(weight))


def per_node(function: Callable[[Node], T]) -> Callable[[Node], T]:
    """``function`` asked once of every node, for as long as the node lives: a graph has exponentially many paths."""
    found: WeakKeyDictionary[Node, T] = WeakKeyDictionary()

    @wraps(function)
    def asked(node: Node) -> T:
        if node not in found:
            found[node] = function(node)
        return found[node]

    return asked
