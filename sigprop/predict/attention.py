"""How sharp attention is at initialization: the law of the entropies of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.arrays import concrete, host, namespace
from sigprop.empirical import grouped_keys, streamed
from sigprop.engine import Field, Known, Label, Named, Query, Sampler, Value
from sigprop.engine.labels import aligned
from sigprop.engine.values import labelled
from sigprop.errors import InvalidInput
from sigprop.network import Network, check_inputs
from sigprop.predict.signal import Interpretation, interpretation
from sigprop.tracing import Softmax, evaluate, softmaxes

PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)
_REPLICATES = 8
_NUMBERS = 1 << 24  # logits, or normal numbers behind them, in one replicate
_MASKED = -1e3  # mean of a logit below which its key is masked: logits are of order one, masks add -1e4 or less


class _Layer(NamedTuple):
    """A softmax over keys: the axes of its logits by role. All other axes are those of heads."""

    softmax: Softmax
    name: str
    shape: tuple[int, ...]
    batch: int
    query: int
    key: int

    @property
    def head(self) -> tuple[int, ...]:
        return tuple(a for a in range(len(self.shape)) if a not in (self.batch, self.query, self.key))

    @property
    def heads(self) -> int:
        return prod(self.shape[a] for a in self.head)

    def arranged(self, array: Any) -> Any:
        """``[..., examples, heads, queries, keys]`` from ``[..., *shape]``; one head where all are alike."""
        lead = array.ndim - len(self.shape)
        moved = namespace(array).transpose(array, (*range(lead), *(lead + a for a in (self.batch, *self.head, self.query, self.key))))
        batch, query, key = (self.shape[a] for a in (self.batch, self.query, self.key))
        return moved.reshape(*array.shape[:lead], batch, -1, query, key)


def attention_entropy(net: Network, *x: Any, seeds: int = 0, key: Any = None) -> xr.Dataset:
    """Predict the entropies of the rows of every softmax over tokens, beside measured ones if ``seeds`` are given.

    Queries and keys are Gaussian fields in the limit of wide layers, whatever the size of a head: they are drawn jointly over all tokens
    on scrambled Sobol' points, so that products of few channels, and the query that a row of logits shares, are in the prediction.
    Rows of ``n`` independent Gaussian logits of variance ``s²`` have entropy ``ln n - s²/2`` while ``s² << 2 ln n``, and freeze onto few
    keys beyond ``s² = 2 ln n`` (the random-energy model; Derrida 1981).

    Args:
        net: from :func:`sigprop.network`.
        x: inputs, batch on axis 0.
        seeds: draws of the parameters to measure on, none or at least eight.
        key: of those draws, ``jax.random.key(0)`` by default.

    Returns:
        Dataset over ``layer`` (in order of evaluation) and ``head`` (NaN beyond a layer's heads), averaged over examples and rows:
        ``entropy_mean`` and ``entropy_std`` (nats; over parameters, root mean square over rows), ``entropy_quantile`` (also over
        ``probability``, pooled over examples and rows), ``effective_keys`` (E exp H), ``max_weight`` (E of a row's largest weight),
        ``logit_mean`` and ``logit_variance`` of open keys, ``row_variance`` (the part of the variance that differs between the keys of a
        row, which is what sharpens it), ``key_correlation`` between the logits of two keys (1: tokens have collapsed onto one, weights are
        uniform), ``entropy_small_variance`` (``ln n - row_variance / 2``, averaged over rows, for comparison), ``error``, ``std_error`` and
        ``logit_error`` (standard errors of the predicted ``entropy_mean``, ``entropy_std`` and ``logit_variance``). Over ``layer``:
        ``freezing_variance`` (``2 ln n`` for the longest row), ``method``. For each layer ``row_entropy_mean:LAYER`` and
        ``row_entropy_std:LAYER`` ``(input, head, query)`` and ``open_keys:LAYER`` ``(input, query)``. Rows whose keys are all masked count
        with the weights that the model gives them, and have no logits. With ``seeds``, variables ``measured_*`` and their ``*_stderr``.

    Raises:
        InvalidInput: for unusable inputs, a model without attention, fewer than eight seeds.
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    check_inputs(x)
    keys = grouped_keys(seeds, key) if seeds else None
    found = interpretation(net, *x)
    layers = _layers(net, found, x)
    if not layers:
        raise InvalidInput(f"model: {net.name} has no softmax over tokens, whose rows have entropies; give a model with attention "
                           "(probabilities of classes are none)")
    masks = [_open_keys(found, layer) for layer in layers]
    tables = [_predicted(found.values[layer.softmax.logits], found.context.query, layer, mask)
              for layer, mask in zip(layers, masks, strict=True)]
    heads = max(layer.heads for layer in layers)
    data: dict[str, Any] = {name: (("layer", *_DIMS.get(name, ("head",))), _padded([t[name] for t in tables], heads)) for name in _COLUMNS}
    for name in _ERRORS:
        data[name] = (("layer", "head"), _padded([t[name] for t in tables], heads))
    longest = [mask.sum(-1).max() for mask in masks]
    data["freezing_variance"] = ("layer", 2 * np.log([np.maximum(n, 1) for n in longest]) if all(map(concrete, longest))
                                 else 2 * jnp.log(jnp.maximum(jnp.stack(longest), 1)))
    data["method"] = ("layer", np.array([t["method"] for t in tables]))
    for layer, table, mask in zip(layers, tables, masks, strict=True):
        data |= _maps(layer, table, "", "")
        data[f"open_keys:{layer.name}"] = (("input", f"{layer.name}:query"), mask.sum(-1))
    if keys is not None:
        data |= _measured(net, x, layers, masks, keys)
    return xr.Dataset(data, {"layer": [layer.name for layer in layers], "probability": list(PROBABILITIES)}, {"seeds": seeds})


_COLUMNS = ("entropy_mean", "entropy_std", "entropy_quantile", "effective_keys", "max_weight", "logit_mean", "logit_variance",
            "row_variance", "key_correlation", "entropy_small_variance")
_ERRORS = ("error", "std_error", "logit_error")
_DIMS = {"entropy_quantile": ("head", "probability")}


def _maps(layer: _Layer, table: dict[str, Any], before: str, after: str) -> dict[str, Any]:
    dims = ("input", f"{layer.name}:head", f"{layer.name}:query")
    return {f"{before}row_{name}{after}:{layer.name}": (dims, table[f"row_{name}"]) for name in ("entropy_mean", "entropy_std")}


def _padded(columns: Sequence[Any], heads: int) -> Any:
    xp = namespace(*columns)
    return xp.stack([xp.concatenate([c, xp.full((heads - len(c), *c.shape[1:]), np.nan)]) for c in columns])


def _layers(net: Network, found: Interpretation, x: tuple[Any, ...]) -> list[_Layer]:
    """Softmaxes whose last axis but for the keys is that of the queries, the first one as long as the batch that of the examples."""
    graph, batch = net.graph(*x), jax.tree.leaves(x)[0].shape[0]
    made, names = [], set()
    for softmax in softmaxes(graph):
        shape = tuple(graph.avals[softmax.logits].shape)
        rest = [a for a in range(len(shape)) if a != softmax.axis]
        examples = next((a for a in rest[:-1] if shape[a] == batch), None)
        if examples is None or not _over_sites(found.values[softmax.logits], softmax.axis):
            continue
        name = softmax.path.removeprefix(net.root).lstrip("/") or "softmax"
        unique = next(n for n in (name, *(f"{name}#{k}" for k in range(2, len(graph.ops)))) if n not in names)
        names.add(unique)
        made.append(_Layer(softmax, unique, shape, examples, rest[-1], softmax.axis))
    return made


def _over_sites(value: Value, axis: int) -> bool:
    """Whether the entries along an axis are tokens, not channels such as the classes of a read-out."""
    return isinstance(value, Known) or (isinstance(value, Field) and all(
        f.ref is None or value.node.dims[f.ref].kind == "site" for f in value.axes[axis]))


# prediction

def _full(named: Named, labels: Sequence[Sequence[Label]], lead: Sequence[Label] = (), alike: Sequence[int] = ()) -> Any:
    """``[*lead, *shape]``, of size 1 along those axes ``alike`` along which nothing varies."""
    once = {la for axis in alike for la in labels[axis] if not set(labels[axis]) & set(named.labels)}
    rows = [[1 if la in once else la.size for la in row] for row in labels]
    array = aligned(named._replace(array=named.plain()), [*lead, *(la for row in labels for la in row)])
    sizes = [la.size for la in lead]
    return namespace(array).broadcast_to(array, [*sizes, *(n for row in rows for n in row)]).reshape(*sizes, *map(prod, rows))


def _open_keys(found: Interpretation, layer: _Layer) -> Any:
    """Which keys a row attends to, ``[examples, queries, keys]``; masks are the same for all heads."""
    value = found.values[layer.softmax.logits]
    if isinstance(value, Known):
        mean = value.array
    else:
        assert isinstance(value, Field)
        own, labels = labelled(value)
        mean = _full(found.context.query.moment([(value.node, own)]), labels)
    return layer.arranged(mean)[:, 0] > _MASKED


def _predicted(value: Value, query: Query, layer: _Layer, mask: Any) -> dict[str, Any]:
    """Columns of a layer, from one scrambling after the other."""
    if isinstance(value, Known):
        two = _moments(namespace(value.array).stack([layer.arranged(value.array)] * 2), mask)
        none = 0.0 * two["entropy_mean"]
        return {**_statistics(two, two)[0], **dict.fromkeys(_ERRORS, none), "method": "deterministic"}
    assert isinstance(value, Field)
    rows = [_moments(layer.arranged(drawn), mask) for drawn in _drawn(value, query, layer)]
    xp = namespace(*rows[0].values())
    stacked = {name: xp.stack([r[name] for r in rows]) for name in rows[0]}
    mean = {name: xp.mean(a, 0) for name, a in stacked.items()}
    spread = {name: xp.std(a, 0, ddof=1) / len(rows) ** 0.5 for name, a in stacked.items()}
    found, error = _statistics(mean, spread)
    table = {**found, "error": error["entropy_mean"], "std_error": error["entropy_std"], "logit_error": error["logit_variance"]}
    alike = layer.heads if table["error"].shape[0] == 1 else 1
    return {**{name: xp.repeat(a, alike, 1 if name.startswith("row_entropy") else 0) for name, a in table.items()}, "method": "sampled"}


def _drawn(value: Field, query: Query, layer: _Layer) -> Iterator[Any]:
    """Logits ``[points, *shape]``; the tokens of a row and of all rows are drawn jointly, other axes at the same points."""
    own, labels = labelled(value)
    rows = [k for k, la in enumerate(own) if la in (*labels[layer.query], *labels[layer.key])]
    rest = [k for k in range(len(own)) if k not in rows]
    dims = value.node.dims
    order = {k: n for n, k in enumerate((*rest, *rows))}
    joint = query.pool.reduce("attention", jnp.max, (value.node, tuple(order[k] for k in range(len(own)))), [dims[k] for k in rows],
                              [dims[k] for k in rest])
    sampler = Sampler(query, [(joint, tuple(own[k] for k in rest))])
    count = min(sampler.samples(_NUMBERS // _REPLICATES, least=4), max(4, _NUMBERS * layer.heads // prod(layer.shape)))
    for replicate in range(_REPLICATES):
        found = sampler.evaluate(value.node, own, sampler.draw(sampler.points(count, replicate)))
        yield _full(found, labels, [sampler.point(count)], layer.head)


def _moments(logits: Any, mask: Any) -> dict[str, Any]:
    """Moments by head and by row, unbiased whatever the number of draws, from logits ``[draws, examples, heads, queries, keys]``."""
    xp = namespace(logits)
    shifted = logits - xp.max(logits, -1, keepdims=True)
    terms = xp.exp(shifted)
    total = xp.sum(terms, -1)
    entropy = xp.log(total) - xp.sum(xp.where(terms > 0, shifted, 0.0) * terms, -1) / total  # [draws, examples, heads, queries]
    seen = mask[None, :, None]
    count = xp.sum(seen, -1)
    some = xp.maximum(count, 1)
    kept = xp.where(seen, logits, 0.0)
    mean, square = xp.sum(kept, -1) / some, xp.sum(kept**2, -1) / some
    flat = xp.moveaxis(entropy, 2, 0).reshape(entropy.shape[2], -1)
    return {
        "entropy_mean": _averaged(entropy), "entropy_variance": _averaged(xp.var(entropy, 0, keepdims=True, ddof=1)),
        "entropy_quantile": xp.moveaxis(xp.quantile(flat, np.asarray(PROBABILITIES), axis=-1), 0, -1),
        "effective_keys": _averaged(xp.exp(entropy)), "max_weight": _averaged(1 / total),
        "logit_mean": _averaged(mean, count > 0), "logit_square": _averaged(square, count > 0),
        "row_variance": _averaged(xp.maximum(square - mean**2, 0.0), count > 0),
        "pair": _averaged((count * mean**2 - square) / xp.maximum(some - 1, 1), count > 1), "paired": _averaged(square, count > 1),
        "row_length": _averaged(xp.log(some) + 0 * mean, count > 0),
        "row_entropy_mean": xp.mean(entropy, 0), "row_entropy_variance": xp.var(entropy, 0, ddof=1),
    }


def _averaged(array: Any, rows: Any = True) -> Any:
    """By head over draws, examples and some of the rows; NaN where there are none."""
    xp = namespace(array)
    weight = xp.broadcast_to(rows, array.shape) + 0 * array
    total = xp.sum(weight, (0, 1, 3))
    return xp.where(total > 0, xp.sum(array * weight, (0, 1, 3)) / xp.where(total > 0, total, 1), np.nan)


def _statistics(mean: dict[str, Any], stderr: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What moments tell, and standard errors (of functions of several moments at most so large)."""
    xp = namespace(*mean.values())
    value, error = dict(mean), dict(stderr)
    for name in ("entropy", "row_entropy"):
        value[f"{name}_std"] = value.pop(f"{name}_variance") ** 0.5
        error[f"{name}_std"] = error.pop(f"{name}_variance") / (2 * xp.maximum(value[f"{name}_std"], 1e-30))
    value["logit_variance"] = mean["logit_square"] - mean["logit_mean"] ** 2
    error["logit_variance"] = stderr["logit_square"] + 2 * xp.abs(mean["logit_mean"]) * stderr["logit_mean"]
    square = xp.where(mean["paired"] > 0, mean["paired"], np.nan)
    value["key_correlation"] = mean["pair"] / square
    error["key_correlation"] = (stderr["pair"] + xp.abs(value["key_correlation"]) * stderr["paired"]) / square
    value["entropy_small_variance"] = mean["row_length"] - mean["row_variance"] / 2
    error["entropy_small_variance"] = stderr["row_variance"] / 2
    return value, error


# measurement

def _measured(net: Network, x: tuple[Any, ...], layers: Sequence[_Layer], masks: Sequence[Any], keys: Any) -> dict[str, Any]:
    """Variables ``measured_*`` and their standard errors."""
    graph, wanted = net.graph(*x), [layer.softmax.logits for layer in layers]

    def step(group: Any) -> list[dict[str, Any]]:
        leaves = [jnp.asarray(a) for a in jax.tree.leaves(x)]
        logits = jax.vmap(lambda k: evaluate(graph, [*jax.tree.leaves(net.init(k)), *leaves], wanted)[1])(group)
        return [_moments(layer.arranged(a), mask) for layer, a, mask in zip(layers, logits, masks, strict=True)]

    plain = all(map(concrete, jax.tree.leaves((keys, x))))
    mean, stderr = streamed(step, keys, plain, lambda found: jax.tree.map(host, found))
    heads = max(layer.heads for layer in layers)
    data: dict[str, Any] = {}
    pairs = [_statistics(m, e) for m, e in zip(mean, stderr, strict=True)]
    for tables, after in (([m for m, _ in pairs], ""), ([e for _, e in pairs], "_stderr")):
        data |= {f"measured_{name}{after}": (("layer", *_DIMS.get(name, ("head",))), _padded([t[name] for t in tables], heads))
                 for name in _COLUMNS}
        for layer, table in zip(layers, tables, strict=True):
            data |= _maps(layer, table, "measured_", after)
    return data
