"""Sums over dims: a constant, a new Gaussian field, or a linear map over sites.

Over a channel dim a sum of ``n`` terms with mean ``m`` is ``n m`` to leading order (law of large numbers); with an exactly zero mean
it is a Gaussian field (central limit theorem). Exactly zero is decided by sign-flip parity, never by a small number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from sigprop.arrays import concrete
from sigprop.engine.build import opened
from sigprop.engine.labels import Label, add, aligned, contract, is_nothing, multiply
from sigprop.engine.nodes import Add, Concat, Const, Dim, Leaf, Map, Mul, Node, Occurrence, Sum, Tails, Take, parameter_only
from sigprop.engine.sampling import shares
from sigprop.engine.tails import fluctuation, normalised_excess
from sigprop.engine.transpose import independent_copies, original, turns
from sigprop.errors import Unsound
from sigprop.types import Note

if TYPE_CHECKING:
    from sigprop.engine.build import Pool

_NARROW = 8  # channels below which neither the law of large numbers nor the central limit theorem is applied
_NEARLY = 0.25  # excess kurtosis up to which a sum of few draws counts as Gaussian; it is passed on as an error
_SHARED = 0.2  # relative fluctuation of a channel mean beyond which the law of large numbers says nothing


def build_sum(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    """Sum ``child`` over the index positions past ``len(dims)``; remembered, since sums of sums share their terms."""
    key = (child[0].id, tuple(child[1]), summed, dims)
    if key not in pool.sums:
        made = pool.sums[key] = _build(pool, child, summed, dims)
        if child[0].id in pool.vanishing and not isinstance(made, Const):
            pool.vanishing.add(made.id)
        parts = [n for n, _ in made.children] if isinstance(made, Add) else [made]
        if all(map(pool.unweighted, parts)):
            pool.counts[made.id] = prod(d.size for d in summed)
        vanishing = [pool.derivative(n) for n, _ in made.children] if isinstance(made, Add) else [pool.derivative(made)]
        if all(vanishing):
            pool.extents[made.id] = prod(d.size for d in summed)
        elif any(vanishing):
            pool.affine.add(made.id)
    return pool.sums[key]


def _build(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    node, index = child
    count = len(dims)
    absent = [k for k in range(len(summed)) if count + k not in index]
    if absent:
        scale = float(np.prod([summed[k].size for k in absent], dtype=float))
        kept = [k for k in range(len(summed)) if k not in absent]
        place = {count + k: count + j for j, k in enumerate(kept)}
        inner = (node, tuple(place.get(i, i) for i in index))
        body = build_sum(pool, inner, tuple(summed[k] for k in kept), dims) if kept else pool._lift(inner, dims)
        return pool.mul([(pool.const(np.asarray(scale), ()), ()), _spread(body, dims)], dims)
    if isinstance(node, Const):
        return _sum_const(pool, node, index, dims)
    if isinstance(node, Concat):
        return _sum_concat(pool, node, index, summed, dims)
    if isinstance(node, Add) and not _whole(node):
        return _sum_terms(pool, node, index, summed, dims)
    if isinstance(node, Mul):
        outside = [(n, tuple(index[j] for j in i)) for n, i in node.children]
        copied = independent_copies(pool, outside, count, _NARROW)
        if copied != outside:
            every = [*dims, *summed]
            return build_sum(pool, pool.over(copied, every, pool.mul), summed, dims)
        turned = _turned(pool, outside, summed, dims)
        if turned is not None:
            return turned
        free = [c for c in outside if all(j < count for j in c[1])]
        tied = [c for c in outside if any(j >= count for j in c[1])]
        if free and (len([c for c in tied if not isinstance(c[0], Const)]) or not tied):
            every = [*dims, *summed]
            inner = pool.over(tied, every, pool.mul)
            body = build_sum(pool, inner, summed, dims)
            return pool.mul([*free, _spread(body, dims)], dims, within=True)
    return _sum_random(pool, (node, tuple(index)), summed, dims)


def _turned(pool: Pool, factors: Sequence[Occurrence], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node | None:
    """``sum_i a_i sum_j W_ij u_j`` is ``sum_j u_j sum_i W_ij a_i``: the derivative along few inputs, as forward mode takes it.

    Each ``sum_j W_ij u_j`` is in the limit independent of the forward pass ``z_j = sum_i W_ij h_i``, but their sum over ``i``, of the
    same order, is not where ``a`` and ``h`` are correlated. With the sums exchanged that is a covariance of Gaussian fields.
    """
    count = len(dims)
    factors = [f for c in factors for f in (opened(c) if turns(pool, c[0]) else [c])]
    wide = {count + k for k, d in enumerate(summed) if d.kind == "chan"}
    carried = [(k, c) for k, c in enumerate(factors) if wide & set(c[1]) and turns(pool, c[0])]
    if len(carried) != 1 or not any(wide & set(c[1]) for c in factors if c is not carried[0][1]):
        return None
    (k, (node, index)), = carried
    others = [c for j, c in enumerate(factors) if j != k]
    behind = _union(n for n, _ in others if not pool.shared_sign(n))
    if not any(behind >> number & 1 and least < _NARROW for number, least in pool.fewest.items()):
        return None  # wide all through: a mean of it vanishes either way, and weights of many inputs are fields of their own
    if any(parameter_only(n) and not n.leaves & _union(c[0] for c in factors if c[0] is not n) for n, _ in others):
        return None  # weights of their own make the sum a new field
    if isinstance(node, Add):
        every = (*dims, *summed)
        return build_sum(pool, _spread(pool.distributed(others, carried[0][1], every), every), summed, dims)
    assert isinstance(node, Sum)
    inner, where = node.child
    room = len(node.summed)
    moved = tuple((index[w] if index[w] < count else index[w] + room) if w < len(node.dims) else count + w - len(node.dims) for w in where)
    shifted = [(n, tuple(j if j < count else j + room for j in i)) for n, i in others]
    middle = (*dims, *node.summed)
    every = (*middle, *summed)
    body = build_sum(pool, pool.over([(original(pool, inner), moved), *shifted], every, pool.mul), summed, middle)
    return build_sum(pool, _spread(body, middle), node.summed, dims)


def _union(nodes: Iterable[Node]) -> int:
    out = 0
    for node in nodes:
        out |= node.leaves
    return out


def _sum_terms(pool: Pool, node: Add, index: Sequence[int], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    """Term by term; sums of zero-mean fields over channels, of order sqrt(n), are dropped beside those of order n."""
    moved = [(n, tuple(index[j] for j in i)) for n, i in node.children]
    terms = [build_sum(pool, child, summed, dims) for child in moved]
    channels = {len(dims) + k for k, d in enumerate(summed) if d.kind == "chan"}
    if not parameter_only(node) and any(not all(n.parity.odd_along(i.index(c)) for c in channels if c in i) for n, i in moved):
        small = [isinstance(t, Sum) and t.unweighted and prod(d.size for d in t.summed) >= _NARROW for t in terms]
        terms = [t for t, drop in zip(terms, small, strict=True) if not drop] or terms
    return pool.add([_spread(t, dims) for t in terms], dims)


def _whole(node: Node) -> bool:
    """A centred Gaussian field is summed as one field."""
    return node.gaussian and node.parity.odd


def _spread(node: Node, dims: Sequence[Dim]) -> Occurrence:
    return node, tuple(range(len(node.dims)))


def _sum_const(pool: Pool, node: Const, index: Sequence[int], dims: Sequence[Dim]) -> Node:
    axes = tuple(k for k, i in enumerate(index) if i >= len(dims))
    kept = [i for i in index if i < len(dims)]
    array = node.array.sum(axis=axes)
    return pool._lift((pool.const(array, [dims[i] for i in kept], node.note), tuple(kept)), dims)


def _sum_concat(pool: Pool, node: Concat, index: Sequence[int], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    axis = index[node.axis]
    moved = [(n, tuple(index[j] for j in i)) for n, i in node.parts]
    if axis < len(dims):
        parts = []
        for part, size in zip(moved, node.sizes, strict=True):
            local = tuple(Dim(d.kind, size) if k == axis else d for k, d in enumerate(dims))
            parts.append(_spread(build_sum(pool, part, summed, local), local))
        return pool.concat(parts, node.sizes, axis, dims)
    terms = []
    for part, size in zip(moved, node.sizes, strict=True):
        local = tuple(Dim(d.kind, size) if k == axis - len(dims) else d for k, d in enumerate(summed))
        terms.append(_spread(build_sum(pool, part, local, dims), dims))
    return pool.add(terms, dims)


def _sum_random(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    node, index = child
    count = len(dims)
    positions = [index.index(count + k) for k in range(len(summed))]
    iid = tuple(map(node.parity.odd_along, positions))
    chan = [k for k, d in enumerate(summed) if node.dims[positions[k]].kind == "chan" or d.kind == "chan"]
    if any(not iid[k] for k in chan):
        split = _distributed(pool, child, summed, dims)
        if split is not None:
            return split
        if prod(summed[k].size for k in chan if not iid[k]) >= _NARROW:
            if node.parity.odd:
                return _vanishing(pool, child, summed, dims)
            return _law_of_large_numbers(pool, child, summed, dims)
        iid = (False,) * len(summed)  # few channels: their sum stays as it is
    wide = prod(summed[k].size for k in chan if iid[k])
    tails, gaussian = _central_limit(node, index, count, wide if any(iid) else 0)
    iid = iid if gaussian and any(iid) else (False,) * len(summed)
    unweighted = any(iid) and bool(chan) and not _weighted(pool, node, positions)
    key = (node.id, index, summed)
    return pool._intern(Sum, key, dims, parity=node.parity.moved(index).kept(range(count)), gaussian=gaussian, tails=tails,
                        child=child, summed=summed, iid=iid, unweighted=unweighted)


def _vanishing(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    """A sum that is odd although its single terms cannot be flipped, as ``sum_c x_c dx_c`` is in all tangents at once.

    Its mean is zero. Where different channels are uncorrelated it is of order sqrt(width), to which correlations of order 1/width
    contribute: its own moments are not known here, but as a mean over channels it vanishes beside terms of order one.
    """
    node, index = child
    factors = [(n, tuple(index[j] for j in i)) for n, i in node.children] if isinstance(node, Mul) else [(node, tuple(index))]
    moving = [k for k, (n, _) in enumerate(factors) if pool.shared_sign(n)]
    several = [k for k in moving if isinstance(factors[k][0], Add) and not factors[k][0].gaussian]
    # a Gaussian derivative is independent of the fields that it multiplies
    one, where = factors[moving[0]] if len(moving) == 1 and factors[moving[0]][0].gaussian else child
    if not several and _uncorrelated(pool, one, where, len(dims), len(summed)):
        return pool._intern(Sum, (node.id, index, summed), dims, parity=node.parity.moved(index).kept(range(len(dims))),
                            tails=node.tails.moved(index).kept(range(len(dims))), child=child, summed=summed,
                            iid=(False,) * len(summed), unweighted=True)
    for k in several or range(len(factors)):
        if isinstance(factors[k][0], Add) and len(factors) > 1:
            every = (*dims, *summed)
            total = pool.distributed(factors[:k] + factors[k + 1:], factors[k], every)
            return build_sum(pool, _spread(total, every), summed, dims)
    raise Unsound("a sum over channels has zero mean only through a factor shared by all channels: its infinite-width limit is not "
                  "Gaussian. Multiply by the shared factor after the sum.")


def _uncorrelated(pool: Pool, node: Node, index: Sequence[int], count: int, summed: int) -> bool:
    """Whether the covariance of different channels is exactly zero."""
    pair = pool.query.moment([(node, labels) for labels in _apart(node, index, count, summed)])
    return is_nothing(pair) or (concrete(pair.array) and not np.any(pair.array))


def _apart(node: Node, index: Sequence[int], count: int, summed: int) -> list[tuple[Label, ...]]:
    """Labels of two terms of a sum: at channels that never coincide, at equal indices of all other dims."""
    labels = tuple(Label(i, d.kind, d.size) for i, d in zip(index, node.dims, strict=True))
    channels = {la.number for la in labels if la.number >= count and la.kind == "chan"}
    return [tuple(Label(la.number + k * (count + summed), "apart", la.size) if la.number in channels else la for la in labels)
            for k in (0, 1)]


def _weighted(pool: Pool, node: Node, positions: Sequence[int]) -> bool:
    """Whether the terms of a sum are products: of random factors (a derivative along a field counts as one), or of draws and data."""
    if not isinstance(node, Mul):
        return False
    random = [(c, i) for c, i in node.children if not isinstance(c, Const)]
    data = any(isinstance(c, Const) and set(i) & set(positions) for c, i in node.children)
    weights = [c for c, i in random if parameter_only(c) and not (pool.shared_sign(c) and set(i) <= set(positions))]
    return data or (len(random) > 1 and (not pool.shared_sign(node) or bool(weights)))


def _central_limit(node: Node, index: Sequence[int], count: int, wide: int) -> tuple[Tails, bool]:
    """Tails of the sum, and whether it is Gaussian; ``wide`` is its number of independent channels (1 for sites only, 0 for none).

    Sums of few terms stay what they are: given its inputs a depthwise convolution is Gaussian, but its variance is random.
    """
    tails = node.tails.moved(index)
    summed = [j for j in index if j >= count]
    if tails.loose is not None and wide >= _NARROW:  # a true average where the sums of few terms vary along a summed channel
        averaged = any(j in tails.loose for j in summed)
        tails = Tails(0.0 if averaged else tails.latent)
    tails = tails.kept(range(count))
    if not wide:
        return tails, node.gaussian
    factors = [c for c in (node.children if isinstance(node, Mul) else ((node, tuple(range(len(node.dims)))),))
               if not isinstance(c[0], Const)]
    draws = [c for c in factors if parameter_only(c[0])]
    fields = [c for c in factors if not parameter_only(c[0])]
    if fields:
        if wide >= _NARROW or not draws:  # Gaussian, whatever its inputs; what they lacked is in the error of its covariance
            return tails if tails.loose is not None else Tails(0.0 if node.tails.loose is None else tails.excess), True
        loose = frozenset(index[j] for _, where in fields for j in where if index[j] < count)
        terms = prod(node.dims[index.index(j)].size for j in summed)
        return Tails(tails.excess, loose, max(tails.latent, 15.0 / terms)), False  # 3 (E f^4 / (E f^2)^2 - 1) for rectified inputs
    excess = sum(abs(_leaf_excess(c)) for c, _ in draws) * _participation(node, index, summed)
    tails = tails._replace(excess=max(tails.excess, normalised_excess(node)))
    if len(draws) == 1 and excess <= _NEARLY:
        return tails._replace(excess=max(tails.excess, excess + normalised_excess(node))), True
    if len(draws) > 1 and wide >= _NARROW:
        return tails, True
    return Tails(tails.excess, frozenset(index[j] for _, where in draws for j in where if index[j] < count), excess), False


def _leaf_excess(node: Node) -> float:
    """Excess kurtosis of one entry of a parameter."""
    if isinstance(node, Leaf):
        return node.draw.excess
    if isinstance(node, Take):
        return _leaf_excess(node.child[0])
    random = [c for c, _ in getattr(node, "children", ()) if not isinstance(c, Const)]
    if isinstance(node, Map) or (isinstance(node, Mul) and len(random) > 1):
        return 3.0  # a function of draws: at least of this order
    return max((abs(_leaf_excess(c)) for c in random), default=0.0)


def _participation(node: Node, index: Sequence[int], summed: Sequence[int]) -> float:
    """``sum_j a_j^4 / (sum_j a_j^2)^2`` for coefficients ``a``, averaged over rows by weight: one over the number of terms."""
    share = 1.0 / prod(node.dims[index.index(j)].size for j in summed)
    for child, where in node.children if isinstance(node, Mul) else ():
        axes = tuple(k for k, j in enumerate(where) if index[j] in summed)
        if isinstance(child, Const) and axes and concrete(child.array):
            squares = (child.array**2).sum(axis=axes)
            fourth = (child.array**4).sum(axis=axes)
            rest = prod(node.dims[index.index(j)].size for j in summed) / prod(child.array.shape[k] for k in axes)
            if squares.sum() > 0:
                share = float((fourth[squares > 0] / squares[squares > 0]).sum() / squares.sum()) / rest
    return share


def _distributed(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node | None:
    """A sum of terms that have no common sign symmetry, term by term.

    Weights with a mean, ``sum_j h_j (m + z_j)``, become ``m sum_j h_j``, with a mean, plus a Gaussian field.
    """
    node, index = child
    if isinstance(node, Sum):
        return _exchanged(pool, node, index, summed, dims)
    if isinstance(node, Take) and all(index[p] < len(dims) for p in node.position):
        return _beneath(pool, node, index, summed, dims)
    if isinstance(node, Add):
        return _sum_terms(pool, node, index, summed, dims)
    if not isinstance(node, Mul):
        return None
    factors = [(n, tuple(index[j] for j in i)) for n, i in node.children]
    for k, (factor, _) in enumerate(factors):
        alone = all(isinstance(n, Const) for j, (n, _) in enumerate(factors) if j != k)
        if isinstance(factor, Add) and not factor.parity.odd and (alone or parameter_only(factor)):
            every = (*dims, *summed)
            total = pool.distributed(factors[:k] + factors[k + 1:], factors[k], every)
            return build_sum(pool, _spread(total, every), summed, dims)
    return None


def _exchanged(pool: Pool, node: Sum, index: Sequence[int], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node | None:
    """``sum_c sum_t w_t h_tc`` is ``sum_t w_t sum_c h_tc``: weights shared by all channels stay outside their mean."""
    inner, where = node.child
    beyond = {w for w in where if w < len(node.dims) and index[w] >= len(dims)}
    common = isinstance(inner, Mul) and any(parameter_only(c) and not any(where[j] in beyond for j in i) for c, i in inner.children)
    if any(node.iid) and not common:
        return None
    count = len(dims)
    place = {k: index[k] for k in range(len(node.dims))}
    moved = tuple((place[w] if place[w] < count else place[w] + len(node.summed)) if w < len(node.dims)
                  else count + w - len(node.dims) for w in where)
    middle = (*dims, *node.summed)
    body = build_sum(pool, (inner, moved), summed, middle)
    return build_sum(pool, _spread(body, middle), node.summed, dims)


def _beneath(pool: Pool, node: Take, index: Sequence[int], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    """Sum before indexing another dim."""
    child, inner = node.child
    kept = [j for j in range(len(inner)) if j == node.axis or index[inner[j]] < len(dims)]
    place = tuple(kept.index(j) if j in kept else len(kept) + index[inner[j]] - len(dims) for j in range(len(inner)))
    local = tuple(child.dims[j] for j in kept)
    body = build_sum(pool, (child, place), summed, local)
    if len(body.dims) < len(local):
        return body
    where = tuple(-1 if j == node.axis else index[inner[j]] for j in kept)
    return pool.take((body, where), kept.index(node.axis), node.table, [index[p] for p in node.position], dims)


def _law_of_large_numbers(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    fields = _pair_of_fields(child, summed, dims)
    given = _given_shared(pool, fields, summed, dims) if fields else None
    if given is not None:
        return given
    array, used, note = pool.query.mean_of_sum(child, summed, dims)
    spread = self_averaging(pool, child, summed, dims)
    if spread > _SHARED:
        return _shared_sum(pool, child, summed, dims)
    drawn = 0.0 if note.spread else fluctuation(pool.query, child, len(dims))  # what was normalized before does not fluctuate again
    note = Note.of((note, Note(spread)))._replace(spread=drawn)
    return pool._lift((pool.const(array, [dims[i] for i in used], note), tuple(used)), dims)


def self_averaging(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> float:
    """Relative fluctuation of the sum that stays however wide the layer: zero when channels are independent.

    Raises:
        Unsound: where the mean vanishes without a sign symmetry, so that the fluctuations are all there is; or where a random quantity
            shared by all channels (a gate, tied weights) keeps the sum random.
    """
    node, index = child
    if isinstance(node, Mul) and any(parameter_only(c) for c, _ in node.children) and not parameter_only(node):
        raise Unsound("a sum weighted by parameters without a sign symmetry (squared or absolute weights, a weight used again in its "
                      "own nonlinear function, tied weights): its fluctuations are not known here")
    labels = tuple(Label(i, d.kind, d.size) for i, d in zip(index, node.dims, strict=True))
    channels = {i for i, d in zip(index, node.dims, strict=True) if i >= len(dims) and d.kind == "chan"}
    terms = _terms(node, index, len(dims), channels)
    size = prod(la.size for la in labels if la.number in channels)
    sides = _apart(node, index, len(dims), len(summed))
    query = pool.query
    mean = query.moment([(node, labels)])
    if not concrete(mean.array):
        return 0.0
    first = float(np.max(mean.plain() ** 2, initial=0.0))
    if first == 0 or terms < size or (mean.note.error > 1e-3 and not _square(node)):
        second = float(np.max(query.moment([(node, labels), (node, labels)]).plain(), initial=0.0))
        if second > 0 and (first <= 1e-18 * second or first * terms < second):
            raise Unsound(
                "a sum over channels whose mean is lost in its fluctuations although no sign symmetry of the weights says that it is "
                "zero (tied or repeated weights, a fixed matrix over channels, an activation centred for one variance): its "
                "infinite-width limit is not known here."
            )
    if first == 0 or not shares(node, [k for k, i in enumerate(index) if i in channels]):
        return 0.0
    pair = query.moment([(node, sides[0]), (node, sides[1])])
    square = multiply([mean, mean])
    gap = add([pair, square._replace(array=-square.array)])
    noise = 5 * (pair.note.error + 2 * mean.note.error) * first
    spread = float(np.sqrt(max(np.max(np.abs(gap.plain()), initial=0.0) - noise, 0.0) / first))
    return spread if spread > 1e-6 else 0.0


def _shared_sum(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    """A sum over channels that stays random through what they share, kept to be asked for its moments."""
    node, index = child
    kept = range(len(dims))
    return pool._intern(Sum, (node.id, index, summed, "shared"), dims, parity=node.parity.moved(index).kept(kept),
                        tails=node.tails.moved(index).kept(kept), child=child, summed=summed, iid=(False,) * len(summed),
                        unweighted=False, shared=True)


def _given_shared(pool: Pool, fields: Sequence[Occurrence], summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node | None:
    """Sum over channels of a product of two Gaussian fields whose channels share a random part; ``None`` where they do not.

    Given the shared parts ``m`` and ``m'``, which are the fields' own means over channels, the rest is independent between channels:
    ``mean_c z_c z'_c = m m' + E[z_c z'_c] - E[z_c z'_c']`` with ``c`` and ``c'`` apart (de Finetti).
    """
    every, count = (*dims, *summed), len(dims)
    labels = [tuple(Label(j, every[j].kind, every[j].size) for j in i) for _, i in fields]
    apart = [tuple(la._replace(number=la.number + k * len(every), kind="apart") if la.number >= count else la for la in found)
             for k, found in enumerate(labels)]
    same, other = (pool.query.moment([(n, la) for (n, _), la in zip(fields, found, strict=True)]) for found in (labels, apart))
    if any(la.kind == "apart" for la in other.labels):
        return None  # the channels have means of their own, and are not alike
    if is_nothing(other) or not concrete(other.array) or np.max(np.abs(other.plain())) <= 1e-6 * np.max(np.abs(same.plain())):
        return None
    wide = [Label(count + k, d.kind, d.size) for k, d in enumerate(summed)]
    rest = contract([add([same, other._replace(array=-other.array)])], wide)
    used = tuple(sorted(la.number for la in rest.labels if isinstance(la, Label)))
    array = aligned(rest._replace(array=rest.plain()), [Label(j, dims[j].kind, dims[j].size) for j in used])
    constant = pool.const(array, [dims[j] for j in used], rest.note)
    means = [_spread(build_sum(pool, f, summed, dims), dims) for f in fields]
    product = pool.mul([(pool.const(np.asarray(1.0 / prod(d.size for d in summed)), ()), ()), *means], dims)
    return pool.add([(constant, used), _spread(product, dims)], dims)


def _pair_of_fields(child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> list[Occurrence]:
    """The two factors of a product of Gaussian fields that both vary along all summed dims; none if it is not one."""
    node, index = child
    fields = [(n, tuple(index[j] for j in i)) for n, i in node.children] if isinstance(node, Mul) else []
    wide = set(range(len(dims), len(dims) + len(summed)))
    return fields if len(fields) == 2 and all(n.gaussian and wide <= set(i) for n, i in fields) else []


def _square(node: Node) -> bool:
    """A product of fields that come in pairs, which is never negative."""
    fields = Counter(c for c in node.children if not isinstance(c[0], Const)) if isinstance(node, Mul) else Counter()
    return bool(fields) and all(count % 2 == 0 for count in fields.values())


def _terms(node: Node, index: Sequence[int], count: int, channels: set[int]) -> float:
    """Effective number of terms: ``(sum_j a_j)^2 / sum_j a_j^2``, the least over rows, where fixed coefficients weigh the channels."""
    least = float(np.prod([d.size for i, d in zip(index, node.dims, strict=True) if i in channels], dtype=float))
    for child, where in getattr(node, "children", ()) if isinstance(node, Mul) else ():
        axes = tuple(k for k, j in enumerate(where) if index[j] in channels)
        if isinstance(child, Const) and axes and concrete(child.array):
            total, squares = child.array.sum(axis=axes) ** 2, (child.array**2).sum(axis=axes)
            rows = total[squares > 0] / squares[squares > 0]
            least = min(least, float(rows.min())) if rows.size else least
    return least
