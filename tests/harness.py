"""Statistical comparison of predictions with Monte Carlo, each stating its false-alarm rate and what it can detect.

A comparison of ``m`` entries raises a false alarm with probability at most ``false_alarm`` (Bonferroni: each entry is tested at
``false_alarm / m`` with Student's t). It detects a relative discrepancy of ``detects`` in any entry with probability ``POWER`` at
least; where the sample is too small for that, it fails as inconclusive instead of passing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import sigprop as sp
from sigprop.network import parameter_paths

POWER = 0.99
ROUNDING = 64 * float(np.finfo(np.float32).eps)  # relative, of one float32 forward pass through a few layers
GROUP = 32  # seeds averaged into one observation, so that observations are close to normal
CHUNK = 64  # observations per compiled call
LIMIT = 300  # chunks


class Disagreement(AssertionError):
    """Prediction and measurement differ by more than chance and the allowance explain."""


class Inconclusive(AssertionError):
    """The sample is too small to see the discrepancy that the comparison promises to detect."""


class Sample(NamedTuple):
    """Mean of independent observations, its standard error (same shape) and degrees of freedom."""

    mean: np.ndarray
    stderr: np.ndarray
    dof: float


@dataclass(frozen=True)
class Agreement:
    """Outcome of a comparison that passed: the largest gap, and the smallest discrepancy visible, relative to the scale."""

    gap: float
    visible: float
    entries: int


def sample(observations: Any) -> Sample:
    """Sample statistics over axis 0 of independent, nearly normal observations."""
    observations = np.asarray(observations, np.float64)
    count = len(observations)
    return Sample(observations.mean(0), observations.std(0, ddof=1) / np.sqrt(count), count - 1)


def agree(predicted: Any, measured: Sample, *, scale: Any = None, false_alarm: float = 1e-6, detects: float = 0.02,
          allowance: Any = 0.0) -> Agreement:
    """Compare entry by entry.

    Args:
        predicted: array like ``measured.mean``.
        scale: what discrepancies are relative to, by default ``|predicted|``; entries of scale 0 must vanish in both.
        allowance: largest relative bias of the measurement (finite width), derived where it is passed.

    Raises:
        Disagreement, Inconclusive: naming the worst entry.
    """
    predicted = np.asarray(predicted, np.float64)
    mean, stderr, dof = (np.asarray(a, np.float64) for a in measured)
    assert predicted.shape == mean.shape, (predicted.shape, mean.shape)
    scale = np.broadcast_to(np.abs(predicted) if scale is None else np.asarray(scale, np.float64), predicted.shape)
    if not np.all(np.isfinite(predicted)):
        raise Disagreement("the prediction is not finite")
    critical = stats.t.isf(false_alarm / max(predicted.size, 1) / 2, dof)
    bias = np.asarray(allowance) * scale + ROUNDING * max(float(scale.max()), 1e-30)
    gap = np.abs(predicted - mean)
    excess = gap - critical * stderr - bias
    if np.any(excess > 0):
        k = np.unravel_index(np.argmax(excess), gap.shape)
        raise Disagreement(f"entry {tuple(map(int, k))}: predicted {predicted[k]:.6g}, measured {mean[k]:.6g} +- {stderr[k]:.2g} (s.e., "
                           f"{float(dof):.0f} dof), {gap[k] / max(stderr[k], 1e-300):.1f} s.e. apart, {critical:.1f} allowed")
    live = scale > 0
    visible = (critical - stats.t.isf(POWER, dof)) * stderr[live] + bias[live]
    worst = float(np.max(visible / scale[live], initial=0.0))
    if worst > detects:
        raise Inconclusive(f"only discrepancies above {worst:.2%} are visible, not {detects:.0%}: use more seeds")
    return Agreement(float(np.max(gap[live] / scale[live], initial=0.0)), worst, predicted.size)


class Weights:
    """Source of parameters for a function ``f(weights, x)``: each call is one independent Gaussian parameter.

    ``weights(*shape)`` has variance ``std**2``; by default ``std = 1 / sqrt(product of all but the last axis)``.
    """

    def __init__(self, key: Any = None, given: Any = None) -> None:
        self.key, self.made = key, []
        self.given = None if given is None else iter(given)

    def __call__(self, *shape: int, std: float | None = None) -> Any:
        if self.given is not None:
            return next(self.given)
        std = max(prod(shape[:-1]), 1) ** -0.5 if std is None else std
        self.made.append(std * jax.random.normal(jax.random.fold_in(self.key, len(self.made)), shape))
        return self.made[-1]

    def dense(self, x: Any, features: int, std: float = 1.0) -> Any:
        return x @ self(x.shape[-1], features, std=std / np.sqrt(x.shape[-1]))


def network(function: Any, *x: Any) -> sp.Network:
    """The network of ``function(weights, *x)``; its parameters are the list that ``weights`` made."""

    def init(key: Any) -> Any:
        source = Weights(key)
        function(source, *map(jnp.asarray, x))
        return source.made

    return sp.network(lambda params, *inputs: function(Weights(given=params), *inputs), *x, init=init)


def predict(net: sp.Network, *x: Any) -> np.ndarray:
    """``[P, P]`` second moments between all positions (batch and sites) of the output, averaged over its last axis."""
    return _square(sp.infinite_kernel(net, ntk=False)(x if len(x) > 1 else x[0]).nngp)


def predict_ntk(net: sp.Network, parameterization: str, *x: Any) -> np.ndarray:
    """``[P, P]`` NTK between all positions, averaged over the last axis of the output."""
    return _square(sp.infinite_kernel(net, parameterization)(x if len(x) > 1 else x[0]).ntk)


def _square(kernel: Any) -> np.ndarray:
    found = np.asarray(kernel, np.float64)
    sites = (found.ndim - 2) // 2
    order = [0, *range(2, 2 + sites), 1, *range(2 + sites, 2 + 2 * sites)]
    found = found.transpose(order)
    return found.reshape(prod(found.shape[: 1 + sites]), -1)


def second_moments(apply: Any, params: Any, x: tuple) -> tuple[Any, Any]:
    """``[P, P]`` products of the output, averaged over its last axis, and its mean."""
    y = apply(params, *x).astype(jnp.float32)
    y = y.reshape(-1, y.shape[-1])
    return jnp.matmul(y, y.T, precision="highest") / y.shape[-1], jnp.mean(y)


def tangent_kernel(net: sp.Network, parameterization: str) -> Callable[..., tuple[Any, Any]]:
    """The empirical NTK ``[P, P]`` from the Jacobian by reverse mode, averaged over the last axis of the output; and its mean."""
    leaves, tree = jax.tree.flatten(net.abstract_params)
    laws = dict(zip(parameter_paths(net.laws.tree), jax.tree.leaves(net.laws.tree), strict=True))
    paths = parameter_paths(net.abstract_params)
    weights = {k: laws[paths[k]].variance if parameterization == "ntk" else 1.0 for k, moves in enumerate(net.trainable) if moves}

    def observe(apply: Any, params: Any, x: tuple) -> tuple[Any, Any]:
        given = dict(enumerate(jax.tree.leaves(params)))

        def output(changed: dict[int, Any]) -> Any:
            y = apply(jax.tree.unflatten(tree, [{**given, **changed}[k] for k in range(len(leaves))]), *x)
            return y.reshape(-1, y.shape[-1])

        jacobian = jax.jacrev(output)({k: given[k] for k in weights})
        flat = {k: j.reshape(*j.shape[:2], -1) for k, j in jacobian.items()}
        kernel = sum(weights[k] * jnp.einsum("pfw,qfw->pq", j, j, precision="highest") for k, j in flat.items())
        return kernel / next(iter(flat.values())).shape[1], jnp.mean(output({}))

    return observe


@partial(jax.jit, static_argnums=(0, 1, 2))
def _chunk(observe: Any, apply: Any, init: Any, keys: Any, x: tuple) -> tuple[Any, Any]:
    def one(key: Any) -> tuple[Any, Any]:
        return observe(apply, init(key), x)

    def group(some: Any) -> tuple[Any, Any]:
        grams, means = jax.vmap(one)(some)
        return jnp.mean(grams, 0), jnp.mean(means)

    return jax.lax.map(group, keys)


def measure(net: sp.Network, *x: Any, chunks: Any = (0,), observe: Any = second_moments) -> tuple[Sample, Sample]:
    """Measured second moments ``[P, P]`` as in :func:`predict`, and the mean over all entries, from numbered chunks of seeds."""
    inputs = tuple(jnp.asarray(a) for a in x)
    found = []
    for chunk in chunks:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(20), chunk), (CHUNK, GROUP))
        found.append([np.asarray(a, np.float64) for a in _chunk(observe, net.apply, net.init, keys, inputs)])
    return sample(np.concatenate([g for g, _ in found])), sample(np.concatenate([m for _, m in found]))


def chunks_needed(pilot: Sequence[Sample], scale: Sequence[Any], detects: float, limit: int = LIMIT, false_alarm: float = 1e-6) -> int:
    """Chunks of seeds for which fresh samples detect ``detects``, judged by pilots of one chunk; with a fifth to spare."""
    most = 1.0
    for one, unit in zip(pilot, scale, strict=True):
        live = np.broadcast_to(unit, one.mean.shape) > 0
        noise = np.max(one.stderr[live] / np.broadcast_to(unit, one.mean.shape)[live], initial=0.0)
        reach = stats.t.isf(false_alarm / one.mean.size / 2, CHUNK - 1) - stats.t.isf(POWER, CHUNK - 1)
        most = max(most, 1.2 * (reach * noise / max(detects - 2 * ROUNDING, 1e-9)) ** 2)
    if most > limit:
        raise Inconclusive(f"{most:.0f} chunks of {CHUNK * GROUP} seeds would be needed; the limit is {limit}")
    return int(np.ceil(most))


def predict_mean(net: sp.Network, *x: Any) -> float:
    return float(sp.propagate(net, *x, backward=False)["mean"].values[-1])


def check(net: sp.Network, *x: Any, detects: float = 0.02) -> Agreement:
    """Second moments between all positions, and the mean, of a model whose moments do not depend on its width."""
    gram, mean = predict(net, *x), predict_mean(net, *x)
    unit, root = scales(gram), np.sqrt(np.mean(np.diagonal(gram)))
    count = chunks_needed(measure(net, *x), (unit, root), detects)
    grams, means = measure(net, *x, chunks=range(1, 1 + count))
    agree(mean, means, scale=root, detects=detects)
    return agree(gram, grams, scale=unit, detects=detects)


def check_limit(build: Callable[[int], sp.Network], width: int, *x: Any, detects: float = 0.02, limit: int = LIMIT,
                kernel: str = "nngp") -> Agreement:
    """The same for a model whose moments approach their limit as 1/width: Richardson's extrapolation from two widths.

    With moments ``k + a/n + b/n^2`` the estimate ``2 wide - narrow`` from widths n and 2n has no bias of order 1/n, and
    ``2 (narrow - wide)`` is ``a/n``. What is left is of second order. Leading corrections of layers, each up to 5/n (that of a ReLU
    layer, E|h|^4 / (E|h|^2)^2 - 1), may cancel in ``a`` but not in ``b``: the allowance is ``(a/n)^2 + (5/n)^2`` of the scale.
    ``kernel`` is ``"nngp"``, or the parameterization of the NTK; all is relative to the prediction of each width, since the NTK of the
    standard parameterization grows with it.
    """
    nets = [build(width), build(2 * width)]
    grams = [predict(net, *x) if kernel == "nngp" else predict_ntk(net, kernel, *x) for net in nets]
    observers = [second_moments if kernel == "nngp" else tangent_kernel(net, kernel) for net in nets]
    unit = (scales(grams[0]) > 0) * 1.0

    def gaps(chunks: Any) -> list[Sample]:
        found = [measure(net, *x, chunks=chunks, observe=o)[0] for net, o in zip(nets, observers, strict=True)]
        safe = [np.where(unit > 0, scales(gram), 1.0) for gram in grams]
        return [Sample((f.mean - g) / s, f.stderr / s, f.dof) for f, g, s in zip(found, grams, safe, strict=True)]

    def second_order(narrow: Sample, wide: Sample) -> np.ndarray:
        return (2 * (narrow.mean - wide.mean)) ** 2 + (5 / width) ** 2

    pilots = gaps((0,))
    noise = (detects - 1.2 * float(np.max(second_order(*pilots)[unit > 0], initial=0.0))) / 5**0.5  # s.e. of 2 wide - narrow
    count = chunks_needed(pilots, (unit, unit), noise, limit)
    narrow, wide = gaps(range(1, 1 + count))
    limits = Sample(2 * wide.mean - narrow.mean, np.sqrt(4 * wide.stderr**2 + narrow.stderr**2), narrow.dof)
    return agree(np.zeros_like(unit), limits, scale=unit, detects=detects, allowance=second_order(narrow, wide))


def scales(gram: np.ndarray) -> np.ndarray:
    """Scale of each second moment: the root of the product of the two variances."""
    root = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    return root[:, None] * root[None, :]
