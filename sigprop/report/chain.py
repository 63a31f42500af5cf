"""Plain chains of layers, whose finite width is known: how much the mean square of one draw varies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sigprop.engine import Known
from sigprop.meanfield import finite_width
from sigprop.network import Law, parameter_paths
from sigprop.predict.probe import Probe
from sigprop.report.facts import Facts
from sigprop.tracing import Op, apply_op

_LAYERS = ("dot_general", "conv_general_dilated")
_SYMMETRIC = ("normal", "truncated normal", "uniform", "laplace", "rademacher")
_ROUNDING = 1e-4  # relative, of activations computed in the model's dtype; bfloat16 is too rough


class _Slopes(NamedTuple):
    """Of ``z -> above * max(z, 0) + below * min(z, 0)``: linear, ReLU, leaky ReLU, absolute value."""

    above: float
    below: float

    def activation(self, z: Any) -> Any:
        return self.above * jnp.maximum(z, 0) + self.below * jnp.minimum(z, 0)


def log_variances(known: Facts, values: Sequence[int]) -> np.ndarray:
    """Variance over draws of the logarithm of the mean square of values, for one input, to the first order in 1/width ``[values]``; NaN
    where it is not known.

    It is known of plain chains: products of the last axis with independent weights of a symmetric law, each used once, without random
    biases, and between them activations that are linear on either side of zero. There the expectation is that of infinite width at every
    width, each hidden layer of ``n`` units multiplies 1 + the relative variance by ``1 + 5 / n`` for ReLU (Hanin & Rolnick 2018;
    :func:`sigprop.meanfield.finite_width`), and the mean square of one draw is about lognormal (Hanin & Nica 2020), so that the logarithm
    of that product is the variance of its own. Convolutions, other activations and everything behind them are left out.
    """
    probe, weights = known.probe, _weights(known)
    sums: dict[int, float] = {}  # over the hidden layers before a layer's output
    links: dict[int, tuple[int, _Slopes]] = {}  # value: the layer's output that it is a function of
    for op in probe.graph.ops:
        data = _data(op, weights)
        if data is None:
            continue
        before = 0.0
        if not isinstance(probe.env[data], Known):
            if data not in links:
                continue
            before = sums[links[data][0]] + _growth(probe, *links[data])
        (made,) = op.outputs
        sums[made] = before
        links.update((value, (made, slopes)) for value, slopes in _functions(probe, made).items())
    return np.array([sums[links[v][0]] + _growth(probe, *links[v]) if v in links else np.nan for v in values])


def _growth(probe: Probe, source: int, slopes: _Slopes) -> float:
    """log(1 + relative variance) of the mean over units of ``f(z)^2``, for Gaussian ``z``."""
    scale = 2 / (slopes.above**2 + slopes.below**2)  # on which it does not depend
    one = finite_width(slopes.activation, scale, widths=(1,)).variance.values[-1]
    return float(np.log1p(one / probe.graph.avals[source].shape[-1]))


def _weights(known: Facts) -> set[int]:
    """Parameters of independent entries of one symmetric law, that one operation uses."""
    paths = parameter_paths(known.net.abstract_params)
    uses = [i for op in known.probe.graph.ops for i in op.inputs]
    return {n for path, n in zip(paths, known.probe.graph.inputs, strict=False) if uses.count(n) == 1 and _symmetric(known.laws[path])}


def _symmetric(law: Law) -> bool:
    return law.family in _SYMMETRIC and np.size(law.variance) == 1 and not np.any(law.mean) and bool(np.all(law.variance))


def _data(op: Op, weights: set[int]) -> int | None:
    """What a product sums up along its last axis with weights; ``None`` of other operations."""
    if op.name != "dot_general" or op.inputs[1] not in weights or op.params["dimension_numbers"][1] != ((), ()):
        return None
    return op.inputs[0]


def _functions(probe: Probe, start: int) -> dict[int, _Slopes]:
    """Values that are such a function of each entry of ``start`` by itself, as random numbers show."""
    aval = probe.graph.avals[start]
    z = np.random.default_rng(0).standard_normal(aval.shape)
    made: dict[int, Any] = {start: jnp.asarray(z, aval.dtype)}
    for op in probe.graph.ops:
        if op.name not in _LAYERS and made.keys() & set(op.inputs) and all(i in made or isinstance(probe.env[i], Known) for i in op.inputs):
            made.update(zip(op.outputs, apply_op(op, [made[i] if i in made else _array(probe, i) for i in op.inputs]), strict=True))
    return {value: slopes for value, a in made.items() if a.shape == z.shape and (slopes := _slopes(z, np.asarray(a, np.float64)))}


def _array(probe: Probe, value: int) -> Any:
    found, aval = probe.env[value], probe.graph.avals[value]
    assert isinstance(found, Known)
    return jnp.broadcast_to(jnp.asarray(found.array, aval.dtype), aval.shape)


def _slopes(z: np.ndarray, values: np.ndarray) -> _Slopes | None:
    above, below = (float(np.mean(values[side]) / np.mean(z[side])) if side.any() else 0.0 for side in (z > 0, z < 0))
    close = np.abs(values - _Slopes(above, below).activation(z)) <= _ROUNDING * np.hypot(above, below) * np.abs(z)
    return _Slopes(above, below) if (above or below) and bool(np.all(close)) else None
