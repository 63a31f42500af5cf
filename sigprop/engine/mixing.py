"""Weights that mix few sites and are the same in all channels, as in token mixing: what they leave random in means over channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from sigprop.arrays import namespace
from sigprop.engine.labels import Label, aligned
from sigprop.engine.nodes import Concat, Const, Mul, Node, Occurrence, Sum, Take, below, parameter_only, per_node, placed

if TYPE_CHECKING:
    from sigprop.engine.build import Pool


class Mixing(NamedTuple):
    """A sum over sites whose weights are shared along a dim."""

    total: Sum
    sites: int


def unknown_share(pool: Pool, child: Occurrence, summed: Sequence[int]) -> Any:
    """Relative error of taking a mean over the dims ``summed`` of a product at its own mean, although shared weights keep it random.

    Given weights that mix tokens, channels are independent, and their covariance is that of as many draws as the tokens have degrees of
    freedom, ``nu = (tr C)² / tr C²`` with ``C`` their covariance: a correlation ``r`` found by such a covariance is low by
    ``r (1 - r²) / (2 nu)`` (Hotelling, New light on the correlation coefficient, 1953), here averaged over pairs of tokens. Zero where
    nothing is mixed so.
    """
    node, index = child
    found = [m for k, m in mixings(node).items() if index[k] in summed]
    return 0.0 if not found else _attenuation(pool, min(found, key=lambda m: (m.sites, -m.total.id)).total)


@per_node
def mixings(node: Node) -> dict[int, Mixing]:
    """By position of a channel dim: the sum over the fewest sites, behind the node, whose weights that dim shares."""
    found = dict.fromkeys(_shared_along(node), Mixing(node, prod(d.size for d in node.summed))) if isinstance(node, Sum) else {}
    for child, index in below(node):
        for k, mixing in mixings(child).items():
            at = _position(node, index, k)
            if at is not None and (at not in found or mixing.sites < found[at].sites):
                found[at] = mixing
    return found


def _position(node: Node, index: Sequence[int], k: int) -> int | None:
    """Where dim ``k`` of a child is in the node; ``None`` for one that is summed, or indexed, or joined with others."""
    cut = node.axis if isinstance(node, Take | Concat) else None
    if (isinstance(node, Take) and k == cut) or (isinstance(node, Concat) and index[k] == cut) or index[k] >= len(node.dims):
        return None
    return index[k]


def _shared_along(node: Sum) -> set[int]:
    """Channel dims of a sum over sites that its fields have and its weights lack."""
    child, index = node.child
    if any(d.kind != "site" for d in node.summed) or not isinstance(child, Mul):
        return set()
    factors = placed(child.children, index)
    weights = {j for n, i in factors if parameter_only(n) for j in i}
    fields = {j for n, i in factors if not parameter_only(n) and not isinstance(n, Const) for j in i}
    return {j for j in fields - weights if j < len(node.dims) and node.dims[j].kind == "chan"} if weights else set()


def _attenuation(pool: Pool, total: Sum) -> Any:
    """That bias for the covariance over the summed sites of what is weighted, at its largest over all else."""
    child, index = total.child
    every = (*total.dims, *total.summed)
    count, shift = len(total.dims), len(every)
    fields = [(n, i) for n, i in placed(child.children, index) if not parameter_only(n) and not isinstance(n, Const)]  # type: ignore[attr-defined]
    one = [(n, tuple(Label(j, every[j].kind, every[j].size) for j in i)) for n, i in fields]
    two = [(n, tuple(la._replace(number=la.number + shift) if la.number >= count else la for la in labels)) for n, labels in one]
    own = dict.fromkeys(la for _, labels in one for la in labels if la.number >= count)
    other = [la._replace(number=la.number + shift) for la in own]
    found = pool.query.moment([*one, *two])
    rest = [la for la in found.labels if la not in own and la not in other]
    size = prod(la.size for la in own)
    xp = namespace(found.array)
    full = xp.broadcast_to(aligned(found, [*rest, *own, *other]), [la.size for la in (*rest, *own, *other)]).reshape(-1, size, size)
    variance = xp.einsum("aii->ai", full)
    scale = xp.sqrt(xp.maximum(variance[:, :, None] * variance[:, None, :], 0.0))
    r = xp.abs(xp.where(scale > 0, full / xp.where(scale > 0, scale, 1.0), 0.0))
    freedom = _share(xp, variance.sum(1) ** 2, xp.sum(full**2, (1, 2)))
    return xp.max(_share(xp, xp.sum(r * (1 - xp.minimum(r, 1.0) ** 2), (1, 2)), xp.sum(r, (1, 2))) / (2 * xp.maximum(freedom, 1.0)))


def _share(xp: Any, part: Any, of: Any) -> Any:
    return xp.where(of > 0, part / xp.where(of > 0, of, 1.0), 0.0)


__all__ = ["unknown_share"]
