"""Limit theorems for sums over many channels: a constant, a new Gaussian field, or what channels share.

A sum of ``n`` terms with mean ``m`` is ``n m`` to leading order (law of large numbers); with an exactly zero mean it is a Gaussian field
(central limit theorem). Exactly zero is decided by sign-flip parity, never by a small number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.arrays import concrete
from sigprop.engine.labels import Label, add, aligned, contract, is_nothing, multiply
from sigprop.engine.means import NARROW, least
from sigprop.engine.mixing import unknown_share
from sigprop.engine.nodes import (
    Add,
    Const,
    Dim,
    Leaf,
    Map,
    Mul,
    Node,
    Occurrence,
    Sum,
    Tails,
    Take,
    opened,
    parameter_only,
    placed,
    tied,
    whole,
)
from sigprop.engine.sampling import shares
from sigprop.engine.tails import fluctuation, normalised_excess
from sigprop.errors import Unsound
from sigprop.types import Note

if TYPE_CHECKING:
    from sigprop.engine.build import Pool

_NEARLY = 0.25  # excess kurtosis up to which a sum of few draws counts as Gaussian; it is passed on as an error
_SHARED = 0.2  # relative fluctuation of a channel mean beyond which the law of large numbers says nothing


def independent_channels(child: Occurrence, summed: Sequence[Dim], count: int) -> bool:
    """Whether the terms of a sum can be flipped one by one along each of its channel dims."""
    return all(flips for flips, wide in _dims(child, summed, count) if wide)


def _dims(child: Occurrence, summed: Sequence[Dim], count: int) -> list[tuple[bool, bool]]:
    """For each of the dims ``summed``: whether single terms can be flipped along it, and whether it is a channel dim.

    Weights that are used again count as independent of what they multiply.
    """
    node, index = child
    positions = [index.index(count + k) for k in range(len(summed))]
    anew = {j for n, where in opened(whole(node)) if parameter_only(n) and tied(n) for j in where}
    return [(p in anew or node.parity.odd_along(p), "chan" in (node.dims[p].kind, d.kind))
            for p, d in zip(positions, summed, strict=True)]


def limit(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    """The sum of a single term over index positions past ``len(dims)``, for many channels; few channels stay a sum."""
    node, index = child
    found = _dims(child, summed, len(dims))
    chan = [k for k, (_, wide) in enumerate(found) if wide]
    stuck = [k for k in chan if not found[k][0]]
    if stuck and prod(summed[k].size for k in stuck) >= NARROW and prod(d.size for d in summed) >= least(node, dims):
        return (_vanishing if node.parity.odd else _law_of_large_numbers)(pool, child, summed, dims)
    iid = tuple(flips and not stuck for flips, _ in found)
    wide = prod(summed[k].size for k in chan if iid[k])
    if chan and all(iid) and _dot_product(pool, node):
        return _sum(pool, child, summed, dims)
    tails, gaussian = _central_limit(node, index, len(dims), wide if any(iid) else 0)
    iid = iid if gaussian else (False,) * len(summed)
    unweighted = any(iid) and bool(chan) and not _weighted(pool, child, len(dims))
    return _sum(pool, child, summed, dims, gaussian=gaussian, tails=tails, iid=iid, unweighted=unweighted)


def _dot_product(pool: Pool, node: Node) -> bool:
    """Whether the terms are products of Gaussian fields, as logits are: their moments are known at any number of channels.

    Derivatives are summed again with weights of many channels, where their limit is all that counts.
    """
    fields = [n for n, _ in node.children if not isinstance(n, Const)] if isinstance(node, Mul) else []
    return len(fields) > 1 and not pool.shared_sign(node) and all(n.gaussian and not parameter_only(n) for n in fields)


def _sum(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...], mark: tuple = (), **fields: Any) -> Node:
    node, index = child
    kept = range(len(dims))
    default = {"tails": node.tails.moved(index).kept(kept), "iid": (False,) * len(summed), "unweighted": False}
    return pool._intern(Sum, (node.id, index, summed, *mark), dims, parity=node.parity.moved(index).kept(kept), child=child,
                        summed=summed, **(default | fields))


def _vanishing(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    """A sum that is odd although its single terms cannot be flipped, as ``sum_c x_c dx_c`` is in all tangents at once.

    Its mean is zero. Where different channels are uncorrelated it is of order sqrt(width), to which correlations of order 1/width
    contribute: its own moments are not known here, but as a mean over channels it vanishes beside terms of order one.
    """
    node, index = child
    factors = [f for c in placed(node.children, index) for f in opened(c)] if isinstance(node, Mul) else [child]
    moving = [k for k, (n, _) in enumerate(factors) if pool.shared_sign(n)]
    several = [k for k in moving if isinstance(factors[k][0], Add) and not factors[k][0].gaussian]
    # a Gaussian derivative is independent of the fields that it multiplies
    one, where = factors[moving[0]] if len(moving) == 1 and factors[moving[0]][0].gaussian else child
    if not several and _uncorrelated(pool, one, where, len(dims), len(summed)):
        return _sum(pool, child, summed, dims, unweighted=True)
    for k in several or range(len(factors)):
        total, where = factors[k]
        if isinstance(total, Add) and len(factors) > 1:
            others, every = factors[:k] + factors[k + 1:], (*dims, *summed)
            terms = [pool.over([*others, term], every, pool.mul) for term in placed(total.children, where)]
            return pool.add([whole(pool.sum(term, summed, dims)) for term in terms], dims)  # summed first: that shows what vanishes
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


def _weighted(pool: Pool, child: Occurrence, count: int) -> bool:
    """Whether the terms of a sum are products: of random factors (a derivative along a field counts as one), or of draws and data.

    A coefficient for each channel is no weight, a matrix of data is.
    """
    node, index = child
    factors = placed(node.children, index) if isinstance(node, Mul) else []
    random = [(n, i) for n, i in factors if not isinstance(n, Const)]
    theirs = {j for _, i in random for j in i}
    data = any(isinstance(n, Const) and max(i, default=0) >= count and not set(i) <= theirs for n, i in factors)
    weights = [n for n, i in random if parameter_only(n) and not (pool.shared_sign(n) and min(i, default=count) >= count)]
    return data or (len(random) > 1 and (not pool.shared_sign(node) or bool(weights)))


def _central_limit(node: Node, index: Sequence[int], count: int, wide: int) -> tuple[Tails, bool]:
    """Tails of the sum, and whether it is Gaussian; ``wide`` is its number of independent channels (1 for sites only, 0 for none).

    Sums of few terms stay what they are: given its inputs a depthwise convolution is Gaussian, but its variance is random.
    """
    tails = node.tails.moved(index)
    summed = [j for j in index if j >= count]
    if tails.loose is not None and wide >= NARROW:  # a true average where the sums of few terms vary along a summed channel
        averaged = any(j in tails.loose for j in summed)
        tails = Tails(0.0 if averaged else tails.latent)
    tails = tails.kept(range(count))
    if not wide:
        return tails, node.gaussian
    factors = [c for c in (node.children if isinstance(node, Mul) else ((node, tuple(range(len(node.dims)))),))
               if not isinstance(c[0], Const)]
    draws = [c for c in factors if parameter_only(c[0])]
    fields = [c for c in factors if not parameter_only(c[0])]
    if fields and not draws and wide < NARROW:  # of a few sites, or few channels
        return tails, node.gaussian
    if fields:
        if wide >= NARROW:  # Gaussian, whatever its inputs; what they lacked is in the error of its covariance
            return tails if tails.loose is not None else Tails(0.0 if node.tails.loose is None else tails.excess), True
        loose = frozenset(index[j] for _, where in fields for j in where if index[j] < count)
        terms = prod(node.dims[index.index(j)].size for j in summed)
        return Tails(tails.excess, loose, max(tails.latent, 15.0 / terms)), False  # 3 (E f^4 / (E f^2)^2 - 1) for rectified inputs
    excess = sum(abs(_leaf_excess(c)) for c, _ in draws) * _participation(node, index, summed)
    tails = tails._replace(excess=max(tails.excess, normalised_excess(node)))
    if len(draws) == 1 and excess <= _NEARLY:
        return tails._replace(excess=max(tails.excess, excess + normalised_excess(node))), True
    if len(draws) > 1 and wide >= NARROW:
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


def _law_of_large_numbers(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> Node:
    left = unknown_share(pool, child, [len(dims) + k for k, d in enumerate(summed) if d.kind == "chan"])
    given = _given_shared(pool, child, summed, dims, left)
    if given is not None:
        return given
    array, used, note = pool.query.mean_of_sum(child, summed, dims)
    spread = self_averaging(pool, child, summed, dims)
    if spread > _SHARED:
        return _sum(pool, child, summed, dims, ("shared",), shared=True)  # stays random, kept to be asked for its moments
    drawn = 0.0 if note.spread else fluctuation(pool.query, child, len(dims))  # what was normalized before does not fluctuate again
    note = Note.of((note, Note.systematic(spread), Note.systematic(left)))._replace(spread=drawn)
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
    along = [k for k, i in enumerate(index) if i in channels]
    if not concrete(mean.array):
        _check_traced(node, along)
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
    if first == 0 or not shares(node, along):
        return 0.0
    pair = query.moment([(node, sides[0]), (node, sides[1])])
    square = multiply([mean, mean])
    gap = add([pair, square._replace(array=-square.array)])
    noise = (pair.note.error + 2 * mean.note.error) * first  # to be taken for random by mistake costs time, for constant a wrong answer
    spread = float(np.sqrt(max(np.max(np.abs(gap.plain()), initial=0.0) - noise, 0.0) / first))
    return spread if spread > 1e-6 else 0.0


def _check_traced(node: Node, along: Sequence[int]) -> None:
    """Refuse a sum over the dims ``along`` of what some field behind it shares along them."""
    if shares(node, along):
        raise Unsound("channels share a random part (a gate, weights that mix tokens), whose size is not known while inputs are traced: "
                      "predict outside of jax.jit and jax.vmap")


def _given_shared(pool: Pool, child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...], left: Any) -> Node | None:
    """Sum over channels of a product of two Gaussian fields whose channels share a random part; ``None`` for any other.

    ``left`` is the relative error of taking what is independent at its mean.

    Given the shared parts ``m`` and ``m'``, which are the fields' own means over channels, the rest is independent between channels:
    ``mean_c z_c z'_c = m m' + E[z_c z'_c] - E[z_c z'_c']`` with ``c`` and ``c'`` apart (de Finetti).
    """
    every, count, fields = (*dims, *summed), len(dims), _pair_of_fields(child, summed, dims)
    if not fields:
        return None
    labels = [tuple(Label(j, every[j].kind, every[j].size) for j in i) for _, i in fields]
    apart = [tuple(la._replace(number=la.number + k * len(every), kind="apart") if la.number >= count else la for la in found)
             for k, found in enumerate(labels)]
    same, other = (pool.query.moment([(n, la) for (n, _), la in zip(fields, found, strict=True)]) for found in (labels, apart))
    if any(la.kind == "apart" for la in other.labels):
        return None  # the channels have means of their own, and are not alike
    if is_nothing(other):
        return None
    if not concrete(other.array):
        return _check_traced(child[0], [k for k, i in enumerate(child[1]) if i >= count])
    if np.max(np.abs(other.plain())) <= 1e-6 * np.max(np.abs(same.plain())):
        return None
    wide = [Label(count + k, d.kind, d.size) for k, d in enumerate(summed)]
    rest = contract([add([same, other._replace(array=-other.array)])], wide)
    used = tuple(sorted(la.number for la in rest.labels if isinstance(la, Label)))
    array = aligned(rest._replace(array=rest.plain()), [Label(j, dims[j].kind, dims[j].size) for j in used])
    constant = pool.const(array, [dims[j] for j in used], Note.of((rest.note, Note.systematic(left))))
    means = [whole(pool.sum(f, summed, dims)) for f in fields]
    product = pool.mul([(pool.const(np.asarray(1.0 / prod(d.size for d in summed)), ()), ()), *means], dims)
    return pool.add([(constant, used), whole(product)], dims)


def _pair_of_fields(child: Occurrence, summed: tuple[Dim, ...], dims: tuple[Dim, ...]) -> list[Occurrence]:
    """The two factors of a product of Gaussian fields that both vary along all summed dims; none if it is not one."""
    node, index = child
    fields = placed(node.children, index) if isinstance(node, Mul) else []
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
