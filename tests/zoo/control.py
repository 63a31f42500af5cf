"""Control variates: statistics of one draw of the parameters whose mean is exactly zero at every width.

A value that is linear in weights used nowhere before has, given everything computed before it, mean zero, and a covariance between sites
and a characteristic function that are known exactly whatever the law of the weights; flipping the sign of those weights leaves the joint
law as it is. So what follows has mean zero at any width:

* products of two sites, averaged over channels, less their conditional mean;
* cosines of several frequencies, averaged over channels, less their conditional mean;
* averages and products of two sites of any later value, less those of the same value after the flip (its *mirror*).

They are martingale differences, and to first order in 1/sqrt(width) they span the fluctuations of second moments; taken off by regression
they leave noise of order 1/width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.stats import truncnorm

from sigprop.tracing import apply_op

FREQUENCIES = (0.7, 1.4, 2.1, 2.8, 3.5)  # in units of 1 / standard deviation
AHEAD = 4e6  # random parameters drawn at a time
SINE = 2.0  # the absolute frequency in the square of a sine
SITES = 64  # no controls for values with more sites
_VIEWS = {"reshape", "transpose", "broadcast_in_dim", "squeeze", "slice", "gather", "copy", "copy_p", "stop_gradient"}
_SAME = {"convert_element_type", "copy", "copy_p", "stop_gradient"}
_LINEAR = _SAME | {"add", "add_any", "sub", "mul", "div"}
_SITE_MAPS = ("cumsum",)  # linear maps over sites, channel by channel
_CONTRACTIONS = ("dot_general", "conv_general_dilated")
_NODES, _WEIGHTS = (a[12:] for a in np.polynomial.legendre.leggauss(24))  # on [0, 1], for even functions


def _symmetric(density, end):
    """Characteristic function less one of a symmetric density on ``[-end, end]``."""
    u, w = end * _NODES, _WEIGHTS * density(end * _NODES)
    return lambda t: -2 * sum(b * jnp.sin(a * t / 2) ** 2 for a, b in zip(u, w / w.sum(), strict=True))


_SPREAD = truncnorm.std(-2, 2)
CHARACTERISTIC: dict[str, Callable] = {  # less one, of the standardized entries: products of many need what is left of one
    "normal": lambda t: jnp.expm1(-(t**2) / 2), "uniform": _symmetric(np.ones_like, 3**0.5),
    "truncated normal": _symmetric(lambda u: np.exp(-((u * _SPREAD) ** 2) / 2), 2 / _SPREAD),
}


def product(less_one):
    """Product over the last axis of what is near one."""
    near = less_one > -0.5
    logs = jnp.where(near, jnp.log1p(jnp.where(near, less_one, 0)), jnp.log(abs(1 + less_one)))
    return jnp.prod(jnp.sign(1 + less_one), axis=-1, keepdims=True) * jnp.exp(jnp.sum(logs, axis=-1, keepdims=True))


@dataclass(frozen=True)
class Weight:
    """Independent symmetric entries: which entry of which leaves each is, standard deviation, characteristic function less one."""

    leaves: frozenset
    identity: np.ndarray
    scale: Any
    characteristic: Callable | None


@dataclass(frozen=True)
class Fresh:
    """A value whose ``part`` is linear in unused weights; the ``rest`` (0: none) was known before them.

    Attributes:
        covariance: of two sites, the same for all channels, ``[batch, sites, sites]``.
        characteristic: frequencies ``[batch, *sites, 1] ->`` conditional mean of the cosine; ``None`` where it differs between channels.
    """

    leaves: frozenset
    part: Any
    covariance: Any
    characteristic: Callable | None
    rest: Any = 0


def gram(u):
    """Products of two sites averaged over channels, ``[batch, *sites, channels] -> [batch, sites, sites]``."""
    flat = u.reshape(u.shape[0], -1, u.shape[-1])
    return jnp.einsum("bsc,btc->bst", flat, flat, precision="highest") / u.shape[-1]


@dataclass
class Walk:
    """One evaluation of the program, with what is known about each value."""

    net: Any
    graph: Any
    batch: int
    sites: int
    env: dict = field(default_factory=dict)
    depends: dict = field(default_factory=dict)  # value -> leaves
    laws: dict = field(default_factory=dict)  # drawn leaf -> law
    readers: dict = field(default_factory=dict)
    weights: dict = field(default_factory=dict)
    fresh: dict = field(default_factory=dict)
    mirror: dict = field(default_factory=dict)  # value -> (leaves, value after their flip)
    emitted: dict = field(default_factory=dict)  # value -> what is fresh in it

    def run(self, params, x):
        with jax.ensure_compile_time_eval():
            fixed = jax.tree.leaves(self.net.init(jax.random.key(0)))
        laws = jax.tree.leaves(self.net.laws.tree, is_leaf=lambda a: a is None)
        self.env = {**self.graph.constants, **dict(zip(self.graph.inputs, [*params, *x], strict=True))}
        self.depends = dict.fromkeys(self.env, frozenset())
        for op in self.graph.ops:
            for i in set(op.inputs):
                self.readers.setdefault(i, []).append(op)
        for k, (leaf, drawn) in enumerate(zip(self.graph.inputs, self.net.random, strict=False)):
            if not drawn:
                self.env[leaf] = np.asarray(fixed[k])
                continue
            self.depends[leaf], self.laws[leaf] = frozenset({leaf}), laws[k]
            if laws[k] is not None and laws[k].family in CHARACTERISTIC and abs(laws[k].mean) < 1e-6 * laws[k].variance**0.5:
                self.admit(leaf, laws[k])
        for op in self.graph.ops:
            self.step(op)

    def admit(self, leaf, law):
        """A leaf that one operation reads, or slices of it that do not overlap, each as a leaf of its own. Any leaf can be flipped."""
        readers = self.readers.get(leaf, [])
        ranges = [list(zip(op.params["start_indices"], op.params["limit_indices"], strict=True)) for op in readers if op.name == "slice"]
        apart = len(ranges) == len(readers) and all(
            any(a[1] <= b[0] or b[1] <= a[0] for a, b in zip(r, s, strict=True)) for i, r in enumerate(ranges) for s in ranges[:i])
        if len(readers) > 1 and not apart:
            self.mirror[leaf] = (frozenset({leaf}), -self.env[leaf])
            return
        for value in [op.outputs[0] for op in readers] if len(readers) > 1 else [leaf]:
            shape = self.graph.avals[value].shape
            identity = np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)
            self.weights[value] = Weight(frozenset({value}), identity, law.variance**0.5, CHARACTERISTIC[law.family])

    def step(self, op):
        ins, out, args = op.inputs, op.outputs[0], [self.env[i] for i in op.inputs]
        leaves = frozenset().union(*(self.depends[i] for i in ins))
        if not leaves:
            with jax.ensure_compile_time_eval():
                self.env.update(zip(op.outputs, map(np.asarray, apply_op(op, args)), strict=True))
            self.depends.update(dict.fromkeys(op.outputs, leaves))
            return
        for i in ins:
            if i in self.weights and op.name not in _VIEWS | _LINEAR | set(_CONTRACTIONS) and self.fits(self.env[i].shape):
                self.fresh[i] = self.emitted[i] = self.as_fresh(i, self.env[i].shape)
        self.env.update(zip(op.outputs, apply_op(op, args), strict=True))
        self.depends.update(dict.fromkeys(op.outputs, self.weights[out].leaves if out in self.weights else leaves))
        if out not in self.weights:
            self.follow_weight(op, out, ins, args)
        if out not in self.weights:
            self.contract(op, out, ins, args) if op.name in _CONTRACTIONS else self.follow_fresh(op, out, ins)
        for o in op.outputs:
            self.reflect(op, o, ins, args)

    def follow_weight(self, op, out, ins, args):
        """Views of a weight, and products with a number or with an independent mask."""
        weight = self.weights.get(ins[0])
        if weight and op.name in _SAME:
            self.weights[out] = weight
        elif weight and op.name in _VIEWS and not any(self.depends[i] for i in ins[1:]):
            with jax.ensure_compile_time_eval():
                self.weights[out] = replace(weight, identity=np.asarray(apply_op(op, [weight.identity, *args[1:]])[0]))
        elif op.name == "mul" and sum(i in self.weights for i in ins) == 1:
            w, g = ins if weight else ins[::-1]
            weight, law, factor = self.weights[w], self.laws.get(g), self.env[g]
            if not self.depends[g] and np.size(factor) == 1:
                self.weights[out] = replace(weight, scale=weight.scale * abs(float(np.reshape(factor, ()))))
            elif law is not None and law.family == "bernoulli" and len(self.readers[g]) == 1 and factor.shape == weight.identity.shape:
                p, old = law.mean, weight.characteristic
                self.weights[out] = replace(weight, leaves=weight.leaves | {g}, scale=weight.scale * p**0.5,
                                            characteristic=lambda t: p * old(t / p**0.5))

    def contract(self, op, out, ins, args):
        """A weight that meets values known before it: ``[batch, *sites, terms]`` of them reach each output."""
        weight, x, w = self.weights.get(ins[1]) or self.normalized(ins[1]), *args
        if weight is None or weight.leaves & self.depends[ins[0]] or x.shape[:1] != (self.batch,) or self.env[out].ndim < 2:
            return
        numbers = op.params["dimension_numbers"]
        if op.name == "dot_general":
            (over, within), (batched, _) = numbers
            if batched or 0 in over or len(within) != w.ndim - 1:
                return
            free = [k for k in range(x.ndim) if k not in over]
            terms = jnp.transpose(x, (*free, *over)).reshape(*(x.shape[k] for k in free), -1)
        else:
            if op.params["feature_group_count"] * op.params["batch_group_count"] != 1 or numbers.out_spec[1] != x.ndim - 1:
                return
            terms = lax.conv_general_dilated_patches(x, [w.shape[k] for k in numbers.rhs_spec[2:]], **{k: op.params[k] for k in (
                "window_strides", "padding", "lhs_dilation", "rhs_dilation")}, dimension_numbers=numbers)
        if not self.fits(terms.shape) or np.unique(weight.identity).size != w.size:
            return
        characteristic = weight.characteristic and (lambda t: product(weight.characteristic(t * weight.scale * terms)))
        covariance = gram(terms) * (terms.shape[-1] * weight.scale**2)
        self.fresh[out] = self.emitted[out] = Fresh(weight.leaves, self.env[out], covariance, characteristic)

    def normalized(self, value):
        """A function of one leaf alone that turns with it, such as a kernel over its norms: its entries are taken to be exchangeable."""
        leaves = self.mirror[value][0] if value in self.mirror else None
        if leaves is None or self.depends[value] != leaves:
            return None
        identity = np.arange(self.env[value].size, dtype=np.int32)
        return Weight(leaves, identity, jnp.sqrt(jnp.mean(self.env[value] ** 2)), None)

    def follow_fresh(self, op, out, ins):
        """Fresh values stay so under sums, and under products with what was known before."""
        shape = self.env[out].shape
        if op.name in _SITE_MAPS and ins[0] in self.fresh:
            self.fresh[out] = self.emitted[out] = mapped(op, self.fresh[ins[0]])
        if op.name not in _LINEAR or not self.fits(shape):
            return
        kept = [i for i in ins if i in self.fresh or i in self.weights]
        kept = [i for i in kept if not any(self.own(i) & self.depends[j] for j in ins if j != i)]
        parts = [self.as_fresh(i, shape) for i in kept]
        if not kept or None in parts:
            return
        made = None
        if op.name in ("add", "add_any") or (op.name == "sub" and kept == [ins[0]]):
            made = self.added(parts)
            rest = sum(-self.env[i] if op.name == "sub" else self.env[i] for i in ins if i not in kept and not self.zero(i))
            made = replace(made, rest=made.rest + rest)
        elif op.name in _SAME:
            made = parts[0]
        elif (op.name == "mul" or (op.name == "div" and kept == [ins[0]])) and len(kept) == 1:
            other = ins[1] if kept[0] == ins[0] else ins[0]
            made = self.multiplied(parts[0], self.env[other] if op.name == "mul" else 1 / self.env[other], shape, self.depends[other])
        if made is not None:
            self.fresh[out] = self.emitted[out] = made
            if len(kept) == 1 and (op.name not in ("mul", "div") or made.characteristic):
                self.emitted.pop(kept[0], None)  # the same statistics

    def added(self, parts):
        if len(parts) == 1:
            return parts[0]
        a, b = parts
        both = a.characteristic and b.characteristic
        return Fresh(a.leaves | b.leaves, a.part + b.part, a.covariance + b.covariance,
                     (lambda t: a.characteristic(t) * b.characteristic(t)) if both else None, a.rest + b.rest)

    def multiplied(self, a, factor, shape, leaves):
        """By one number the characteristic function stays the same for all channels."""
        plain = not leaves and np.ptp(factor) == 0
        number = float(np.ravel(factor)[0]) if plain else None
        characteristic = (lambda t: a.characteristic(t * number)) if plain and a.characteristic else None
        return Fresh(a.leaves, a.part * factor, a.covariance * gram(jnp.broadcast_to(factor, shape)), characteristic, a.rest * factor)

    def as_fresh(self, value, shape):
        """A fresh value, or a weight read as a value, whose entries are known by their identities."""
        if value in self.fresh:
            return self.fresh[value] if self.env[value].shape == shape else None
        weight = self.weights[value]
        identity = np.broadcast_to(weight.identity, shape).reshape(shape[0], -1, shape[-1])[..., 0]
        covariance = jnp.asarray((identity[:, :, None] == identity[:, None, :]) * weight.scale**2)
        characteristic = weight.characteristic
        return Fresh(weight.leaves, jnp.broadcast_to(self.env[value], shape), covariance, lambda t: 1 + characteristic(t * weight.scale))

    def fits(self, shape):
        return len(shape) > 1 and shape[0] == self.batch and np.prod(shape[1:-1], dtype=int) <= self.sites

    def own(self, value):
        return self.weights[value].leaves if value in self.weights else self.fresh[value].leaves

    def zero(self, value):
        return not self.depends[value] and not np.any(self.env[value])

    def reflect(self, op, out, ins, args):
        """The value after a flip of the newest weights that it depends on in a known way."""
        if out in self.weights:
            self.mirror[out] = (self.weights[out].leaves, -self.env[out])
        elif out in self.fresh:
            self.mirror[out] = (self.fresh[out].leaves, self.env[out] - 2 * self.fresh[out].part)
        else:
            turned = {i: (self.weights[i].leaves, -self.env[i]) for i in ins if i in self.weights}
            turned.update((i, self.mirror[i]) for i in ins if i in self.mirror)
            leaves = {i: turned[i][0] if i in turned else None for i in ins}
            newest = [i for i in turned if not any(leaves[i] & self.depends[j] for j in ins if leaves[j] != leaves[i])]
            if newest:
                flip = turned[max(newest)][0]
                flipped = [turned[i][1] if i in turned and turned[i][0] == flip else a for i, a in zip(ins, args, strict=True)]
                self.mirror[out] = (flip, dict(zip(op.outputs, apply_op(op, flipped), strict=True))[out])

    def controls(self, watch):
        """All controls of this draw, the size of what they are differences of, and their weights in a regression: three vectors."""
        read = [self.as_fresh(v, self.env[v].shape) for v in watch if v in self.weights and self.fits(self.env[v].shape)]
        found = [c for fresh in (*self.emitted.values(), *read) for c in fresh_controls(fresh)]
        read = {op.inputs[0] for op in self.graph.ops if op.name in _CONTRACTIONS}
        for value in sorted(read | set(watch)):
            odd = value in self.fresh and np.ndim(self.fresh[value].rest) == 0
            if value in self.mirror and not odd and self.fits(self.env[value].shape):
                found += mirror_controls(self.env[value], self.mirror[value][1])
        found += [(jnp.mean(c), size) for c, size in found if c.ndim == 2]  # coarse ones first catch what all sites share
        flat = [(jnp.ravel(c), jnp.full(c.size, size), np.full(c.size, c.size**-0.5)) for c, size in found]
        return tuple(map(jnp.concatenate, zip(*flat, strict=True)))


def mapped(op, fresh):
    """A fresh value after a linear map over its sites."""
    batch, *sites, _ = fresh.part.shape

    def apply(array):
        return apply_op(op, [array])[0]

    def one_side(covariance):
        out = apply(covariance.reshape(batch, *sites, -1))
        return jnp.swapaxes(out.reshape(batch, -1, out.shape[-1]), 1, 2)

    return Fresh(fresh.leaves, apply(fresh.part), one_side(one_side(fresh.covariance)), None,
                 apply(fresh.rest) if np.ndim(fresh.rest) else fresh.rest)


def fresh_controls(fresh):
    variance = jnp.diagonal(fresh.covariance, axis1=1, axis2=2)
    size = jnp.mean(variance)
    yield from _pairs(gram(fresh.part) - fresh.covariance, size)
    variance = variance.reshape(*fresh.part.shape[:-1], 1)
    if fresh.characteristic:
        unit = 1 / jnp.sqrt(jnp.where(variance > 0, variance, 1))
        for t in (*(f * unit for f in FREQUENCIES), jnp.full_like(unit, SINE)):
            yield _sites(jnp.mean(jnp.cos(t * fresh.part) - fresh.characteristic(t), axis=-1)), 1.0
        if np.ndim(fresh.rest):
            yield _sites(jnp.mean((fresh.part**2 - variance) * jnp.sign(fresh.rest), axis=-1)), size


def mirror_controls(value, turned):
    """Averages and products of two sites, before less after the flip."""
    size = jnp.mean(value**2)
    yield from _pairs(gram(value) - gram(turned), size)
    yield _sites(jnp.mean(value - turned, axis=-1)), jnp.sqrt(size)


def _sites(array):
    return array.reshape(array.shape[0], -1)


def _pairs(matrix, size):
    yield jnp.diagonal(matrix, axis1=1, axis2=2), size
    if matrix.shape[-1] > 1:
        yield matrix[:, *np.triu_indices(matrix.shape[-1], 1)], size


def controlled(net, x, sites):
    """``key -> (second moments of the rows, controls, their sizes, their weights in a regression)`` of one draw of the parameters."""
    graph, watch = net.graph(*x), [row.value for row in net.rows(*x)]
    inputs, batch = jax.tree.leaves(x), jax.tree.leaves(x)[0].shape[0]

    def one(key):
        walk = Walk(net, graph, batch, sites)
        walk.run(jax.tree.leaves(net.init(key)), inputs)
        return jnp.stack([jnp.mean(walk.env[v] ** 2) for v in watch]), *walk.controls(watch)

    return one


def sampler(net, x, sites=SITES):
    """``(seeds, key) ->`` second moments ``[seeds, nodes]``, controls ``[seeds, controls]``, their mean sizes and their weights.

    Values with more than ``sites`` sites, among them those with channels on a site axis, have no controls.
    There may be a few seeds more: they are drawn in groups, of one where the network is large.
    """
    size = sum(leaf.size for leaf in jax.tree.leaves(net.abstract_params))
    together = int(np.clip(AHEAD / size, 1, 32))
    step = jax.jit(jax.vmap(controlled(net, x, sites)))

    def draw(seeds, key):
        keys = jax.random.split(jax.random.key(key), -(-seeds // together) * together).reshape(-1, together)
        found = [[np.asarray(a) for a in step(k)] for k in keys]
        values, controls, sizes, weights = (np.concatenate(column) for column in zip(*found, strict=True))
        return values.astype(float), controls, sizes.mean(axis=0), weights[0]

    return draw
