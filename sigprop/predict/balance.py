"""Gains of weights, each found from the predicted size of its output while those before it are rescaled already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, log10, prod, sqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import scaled
from sigprop.empirical import Site, sites, weights
from sigprop.engine import RULES, Context, Known, Named, Value, interpret, known
from sigprop.engine.draws import normal
from sigprop.engine.labels import own_labels
from sigprop.engine.rules.elementwise import mul
from sigprop.engine.values import drawn
from sigprop.errors import Unsound
from sigprop.infinite.tangent import derivative, tangents
from sigprop.network import Network, parameters
from sigprop.predict.branches import branch_ends
from sigprop.predict.gradients import mean_square
from sigprop.tracing import Graph, Op

TARGETS = ("forward", "backward", "mean", "critical")


class Weight(NamedTuple):
    """A weight that gets a gain.

    Attributes:
        site: where ``net.graph(*x)`` uses it; ``part`` numbers those of one parameter in order of use.
        first: whether it meets the inputs themselves, before any other parameter.
        last: whether no other weight meets what becomes of its output.
        aim: what its output is to have, the variance that is asked for or a share of it.
        ends: how many residual sums it feeds.
    """

    site: Site
    part: int
    first: bool
    last: bool
    aim: float
    ends: int

    @property
    def key(self) -> tuple[int, int]:
        return self.site.leaf, self.part


def found_weights(net: Network, variance: float, growth: float, *x: Any) -> list[Weight]:
    """All that a gain can rescale, in order of use."""
    graph, params = net.graph(*x), len(net.trainable)
    sites = weights(graph, params)
    owner = {use.output: k for k, site in enumerate(sites) for use in site.uses}
    ends = branch_ends(graph, params, owner)
    beside = _dependent(graph, graph.inputs[:params])
    out, seen = [], dict[int, int]()
    for k, site in enumerate(sites):
        part = seen[site.leaf] = seen.get(site.leaf, -1) + 1
        first = all(use.op.inputs[1 - use.weight] not in beside for use in site.uses)
        after = _dependent(graph, [use.output for use in site.uses])
        last = not any(use.op.inputs[1 - use.weight] in after for other in sites for use in other.uses)
        out.append(Weight(site, part, first, last, variance * (growth / ends.total() if ends[k] else 1.0), ends[k]))
    return out


def _dependent(graph: Graph, inputs: Sequence[int]) -> set[int]:
    """Values that depend on some inputs."""
    found = set(inputs)
    for op in graph.ops:
        if found.intersection(op.inputs):
            found.update(op.outputs)
    return found


def balanced(net: Network, target: str, chosen: Sequence[Weight], *x: Any, rules: Mapping[str, Any] = RULES) -> list[float]:
    """The gain of each weight in one interpretation of the model: 0 where nothing varies, infinite where no perturbation arrives.

    Raises:
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    context = Context(rules)
    params, _ = parameters(context, net)
    data = [known(a) for a in jax.tree.leaves(x)]
    if target == "forward":
        balance = _Balance(context, target, chosen, [_Uses(w, {u.output for u in w.site.uses}, set(), None, 0.0) for w in chosen])
        interpret(context, net.graph(*x), [*params, *data], after=balance)
        return balance.gains
    along = _perturbation(context, net, params, *x)
    graph = derivative(net, list(along), *x)
    pairs = _paired(net, graph, len(along), chosen, *x)
    balance = _Balance(context, target, chosen, pairs)
    interpret(context, _together(graph, pairs), [*params, *along.values(), *data], after=balance)
    return balance.gains


def _perturbation(context: Context, net: Network, params: Sequence[Value], *x: Any) -> dict[int, Value]:
    """Where a perturbation starts, by number of the leaf, inputs after parameters.

    Each input times independent noise, which is as large as the input and has no direction in common with it; where inputs are integers
    a copy of what is looked up.
    """
    looked_up = {k for k, group in sites(net.graph(*x), len(params)).items() if group[0].uses[0].kind == "lookup"}
    found = tangents(context, net, params, "ntk", [float(k in looked_up) for k in range(len(params))])
    for k, array in enumerate(jax.tree.leaves(x), len(params)):
        if jnp.issubdtype(jnp.result_type(array), jnp.floating):
            noise = drawn(context.pool, ("noise", k), np.shape(array), normal(), sign="noise", sites=max(np.ndim(array) - 1, 1))
            found[k] = mul(context, None, noise, known(array))[0]
    return found


class _Uses(NamedTuple):
    """Values that a weight makes in the program that is interpreted.

    Attributes:
        signal: from the signal; ``moved`` from its perturbation.
        pair: the first that it makes of a perturbation, and that of the signal which is computed beside it.
        entries: of one example's perturbation where it starts, over entries of one example's output.
    """

    weight: Weight
    signal: set[int]
    moved: set[int]
    pair: tuple[int, int] | None
    entries: float


class _Balance:
    """Rescales each value that a weight makes, once it is known by how much."""

    def __init__(self, context: Context, target: str, chosen: Sequence[Weight], uses: Sequence[_Uses]) -> None:
        self.context, self.target, self.uses = context, target, uses
        self.gains = [0.0] * len(chosen)
        self.owner = {o: k for k, u in enumerate(uses) for o in u.signal | u.moved}
        self.sizes: list[dict[str, float]] = [{} for _ in chosen]
        self.waiting: list[list[int]] = [[] for _ in chosen]

    def __call__(self, op: Op, env: dict[int, Value]) -> None:
        out = op.outputs[0]
        k = self.owner.get(out)
        if k is None:
            return
        self.waiting[k].append(out)
        if not self.gains[k]:
            self._look(k, out, env[out])
        if 0 < self.gains[k] < inf:
            factor = Known(np.asarray(self.gains[k]))
            for value in self.waiting[k]:
                env[value] = mul(self.context, None, env[value], factor)[0]
            self.waiting[k].clear()

    def _look(self, k: int, out: int, value: Value) -> None:
        """Note a size, and find the gain when all that it takes are there."""
        uses, sizes = self.uses[k], self.sizes[k]
        kind = "signal" if out in uses.signal else "moved"
        if kind not in sizes:
            size = log10_variance(self.context, value) if kind == "signal" or isinstance(value, Known) else (
                log10_mean(mean_square(self.context, value)))
            if size > -inf:
                sizes[kind] = 10**size
                self._check(uses, out)
        plain = self.target == "forward" or uses.weight.first or uses.weight.last
        if "signal" in sizes and (plain or "moved" in sizes or not uses.moved):
            self.gains[k] = self._gain(uses, sizes, plain)

    def _check(self, uses: _Uses, out: int) -> None:
        """Refuse a product that is used before the perturbation is there that decides about its gain."""
        if out in uses.signal and uses.pair and out != uses.pair[1] and not (uses.weight.first or uses.weight.last):
            raise Unsound("a weight is used on what no perturbation reaches before it is used on what one reaches, so that its gain is not "
                          "known in time; target='forward' needs no perturbation")

    def _gain(self, uses: _Uses, sizes: Mapping[str, float], plain: bool) -> float:
        aim = uses.weight.aim
        forward = sqrt(aim / sizes["signal"])
        if plain:
            return forward
        if "moved" not in sizes:
            return inf
        backward = sqrt(aim * (1.0 if self.target == "critical" else uses.entries) / sizes["moved"])
        return sqrt(forward * backward) if self.target == "mean" else backward


def log10_variance(context: Context, value: Value) -> float:
    """Of the variance over the parameters, averaged over examples, sites and channels; ``-inf`` for what is not random.

    Raises:
        MissingRule, Unsound: where it is not known.
    """
    if isinstance(value, Known):
        return -inf
    second = mean_square(context, value)
    labels = own_labels(value.node)  # type: ignore[union-attr]
    first = context.query.moment([(value.node, labels)])  # type: ignore[union-attr]
    if not np.any(first.array):
        return log10_mean(second)
    centre = float(np.mean(np.square(scaled(np.asarray(first.array, np.float64), first.exponent))))
    left = float(np.mean(second.plain())) - centre
    return log10(left) if left > 0 else -inf


def log10_mean(moment: Named) -> float:
    size = float(np.mean(np.asarray(moment.array, np.float64)))
    return log10(size) + int(moment.exponent) * log10(2) if size > 0 else -inf


def _paired(net: Network, graph: Graph, moving: int, chosen: Sequence[Weight], *x: Any) -> list[_Uses]:
    """What each weight makes of the signal and of its perturbation, in the program with the derivative."""
    params, batch = len(net.trainable), jax.tree.leaves(x)[0].shape[0]
    perturbed = _dependent(graph, graph.inputs[params:params + moving])
    made = _by_key(weights(graph, params))
    shapes = net.graph(*x).avals
    starts = [prod(shapes[w.site.uses[0].output].shape) for w in chosen if w.first] or [prod(shapes[chosen[0].site.uses[0].output].shape)]
    start = float(np.mean(starts)) / batch
    maker = {o: k for k, op in enumerate(graph.ops) for o in op.outputs}
    out = []
    for weight in chosen:
        outputs = {u.output: u.op.inputs[1 - u.weight] in perturbed for u in made[weight.key].uses}
        signal, moved = ({o for o, yes in outputs.items() if yes is kind} for kind in (False, True))
        size = prod(graph.avals[next(iter(signal))].shape) / batch
        pair = None
        if moved:
            last = min(moved, key=lambda o: maker[o])
            behind = _behind(graph, last)
            pair = next(((last, o) for o in sorted(signal, key=lambda o: maker[o]) if o not in behind), None)
        out.append(_Uses(weight, signal, moved, pair, start / size))
    return out


def _behind(graph: Graph, value: int) -> set[int]:
    """A value and all that it is computed from."""
    found = {value}
    for op in reversed(graph.ops):
        if found.intersection(op.outputs):
            found.update(op.inputs)
    return found


def _by_key(sites: Sequence[Site]) -> dict[tuple[int, int], Site]:
    """Sites by parameter and position among those of the parameter."""
    found: dict[tuple[int, int], Site] = {}
    seen: dict[int, int] = {}
    for site in sites:
        seen[site.leaf] = seen.get(site.leaf, -1) + 1
        found[site.leaf, seen[site.leaf]] = site
    return found


def _together(graph: Graph, pairs: Sequence[_Uses]) -> Graph:
    """The same program, with the products of each pair next to each other."""
    made = {o: k for k, op in enumerate(graph.ops) for o in op.outputs}
    partner = {made[u.pair[1]]: made[u.pair[0]] for u in pairs if u.pair}
    order: dict[int, None] = {}

    def emit(last: int) -> None:
        waiting = [last]
        while waiting:
            k = waiting[-1]
            beside = [k, *([partner[k]] if k in partner else [])]
            missing = [made[i] for b in beside for i in graph.ops[b].inputs if i in made and made[i] not in order and made[i] not in beside]
            if not missing or k in order:
                waiting.pop()
                order.update(dict.fromkeys(beside))
            waiting += [m for m in missing if k not in order]

    for k in range(len(graph.ops)):
        if k not in order:
            emit(k)
    return replace(graph, ops=tuple(graph.ops[k] for k in order))


__all__ = ["TARGETS", "Weight", "balanced", "found_weights", "log10_mean", "log10_variance"]
