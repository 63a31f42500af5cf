"""A mended initialization: its gains, parameters and initializers, and what they do before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.empirical import Site, grouped_keys, streamed
from sigprop.engine import RULES, Named
from sigprop.errors import SigpropError
from sigprop.init import Initializer, Normal, Orthogonal, TruncatedNormal, Uniform
from sigprop.network import Law, Laws, Network
from sigprop.network.law import aligned
from sigprop.predict.balance import log10_mean, log10_variance
from sigprop.predict.gradients import gradients
from sigprop.predict.signal import interpretation, propagate
from sigprop.tracing import evaluate

_DRAWN = {"normal": Normal, "unknown": Normal, "truncated normal": TruncatedNormal, "uniform": Uniform}


@dataclass(frozen=True)
class Layer:
    """A weight and its output.

    Attributes:
        name: path of the parameter, and the number of the layer where it holds several.
        gain: factor of the weight.
        aim: size of the signal, or of a perturbation of it, that the output was to have.
        branch: whether it ends a residual branch.
        log10_before, log10_after: predicted variance of its output with the old and the new weights.
        value: that output in the program ``net.graph(*x)``.
    """

    name: str
    gain: float
    aim: float
    branch: bool
    log10_before: float
    log10_after: float
    value: int


@dataclass(frozen=True, eq=False, repr=False)
class Remedy:
    """What :func:`sigprop.remedy` found; it prints as a table.

    Attributes:
        net: the network as it was; ``network`` the one with rescaled weights, for :func:`sigprop.propagate`, ``measure``, ``report`` ...
        x: inputs that the gains were found for.
        target: what they keep.
        layers: in order of use.
        gains: factor of each weight by path: a number, or an array that broadcasts to the parameter where it holds several layers.
    """

    net: Network
    network: Network
    x: tuple[Any, ...]
    target: str
    layers: tuple[Layer, ...]
    gains: Mapping[str, Any]

    def params(self, key: Any) -> Any:
        """Initial parameters ``net.init(key)``, each weight times its gain; works under ``jax.jit`` and ``jax.vmap``."""
        return self.network.init(key)

    @property
    def laws(self) -> Laws:
        """Laws of the parameters after the remedy."""
        return self.network.laws

    @cached_property
    def initializers(self) -> dict[str, Initializer]:
        """By path an initializer to put into the model, with the law of the rescaled weight; printed it is the call that makes it.

        Weights that hold several layers, and those of families that :mod:`sigprop.init` lacks, are not there: multiply their own by
        ``gains``.
        """
        laws, shapes = dict(self.laws), self.laws.shapes
        found = {path: _initializer(laws[path], shapes[path]) for path, gain in self.gains.items() if np.ndim(gain) == 0}
        return {path: made for path, made in found.items() if made is not None}

    @cached_property
    def before(self) -> xr.Dataset:
        """:func:`sigprop.propagate` of the network as it was, gradients included."""
        return propagate(self.net, *self.x)

    @cached_property
    def after(self) -> xr.Dataset:
        """The same of the mended network."""
        return propagate(self.network, *self.x)

    @cached_property
    def gradients(self) -> dict[str, tuple[float, float]]:
        """Predicted log10 E[g²] at the output of each weight, before and after, as in :func:`sigprop.propagate`; NaN where not known."""
        rows = {row.value: row for row in self.net.rows(*self.x)}
        modules = {row.path: row for row in rows.values() if row.path}
        paths = {o: op.path for op in self.net.graph(*self.x).ops for o in op.outputs}
        found = [_log10_gradients(net, *self.x) for net in (self.net, self.network)]
        out = {}
        for layer in self.layers:
            row = rows.get(layer.value) or modules.get(paths[layer.value].removeprefix(f"{self.net.root}/"))
            known = [each.get(row.name, np.nan) if row else np.nan for each in found]
            out[layer.name] = (known[0], known[1])
        return out

    def measured(self, seeds: int = 64, key: Any = None) -> xr.Dataset:
        """The variance of the output of each weight over draws of the rescaled parameters, beside the predicted one.

        Args:
            seeds: at least eight; ``key`` of the draws, ``jax.random.key(0)`` by default.

        Returns:
            Dataset over ``weight``: ``predicted``, ``measured`` and its standard error ``measured_stderr``, averaged over examples, sites
            and channels.

        Raises:
            InvalidInput: for fewer than eight seeds.
        """
        graph = self.network.graph(*self.x)
        data = [jnp.asarray(a) for a in jax.tree.leaves(self.x)]

        def once(keys: Any) -> Any:
            def outputs(one: Any) -> Any:
                return evaluate(graph, [*jax.tree.leaves(self.network.init(one)), *data], [layer.value for layer in self.layers])[1]

            return jnp.stack([jnp.mean(jnp.var(v.astype(jnp.float32), axis=0, ddof=1)) for v in jax.vmap(outputs)(keys)])

        mean, stderr = streamed(once, grouped_keys(seeds, key), True)
        predicted = [10**layer.log10_after for layer in self.layers]
        return xr.Dataset({"predicted": ("weight", predicted), "measured": ("weight", mean), "measured_stderr": ("weight", stderr)},
                          {"weight": [layer.name for layer in self.layers]}, {"seeds": seeds})

    def __str__(self) -> str:
        """One line per weight: gain, what its output was to have, predicted variance before and after, gradients, initializer.

        E[g²], which takes a prediction of the backward pass, is shown where the target concerns more than the signal.
        """
        grads = {} if self.target == "forward" else self.gradients
        head = ("parameter", "gain", "aim", "variance", "after", *(("E[g²]", "after") if grads else ()), "initializer")
        texts = {path: _text(made) for path, made in self.initializers.items()}
        lines = []
        for layer in self.layers:
            shown = [f"{layer.gain:.4g}", f"{layer.aim:.4g}" + " (branch)" * layer.branch,
                     *(_power(p) for p in (layer.log10_before, layer.log10_after, *grads.get(layer.name, ())))]
            lines.append((layer.name, *shown, texts.get(layer.name, "times gain")))
        return aligned([head, *lines], right=set(range(1, len(head) - 1)))

    __repr__ = __str__


def output_variances(net: Network, found: Sequence[Site], *x: Any, rules: Mapping[str, Any] = RULES) -> tuple[list[float], list[int]]:
    """log10 of the predicted variance of each weight's first output that is not zero, and which value of the program that is.

    Raises:
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    context, values, _ = interpretation(net, *x, rules=rules)
    sizes, places = [], []
    for site in found:
        each = [(log10_variance(context, values[use.output]), use.output) for use in site.uses]
        size, place = next((pair for pair in each if np.isfinite(pair[0])), each[0])
        sizes.append(size)
        places.append(place)
    return sizes, places


def _log10_gradients(net: Network, *x: Any) -> dict[str, float]:
    """Of each row whose gradient is known."""
    found = interpretation(net, *x)
    try:
        rows = gradients(found.context, net, found.params, *x).rows
    except SigpropError:
        return {}
    return {name: log10_mean(moment) for name, moment in rows.items() if isinstance(moment, Named)}


def _initializer(law: Law, shape: tuple[int, ...]) -> Initializer | None:
    if law.family == "orthogonal" and law.mean == 0:
        return Orthogonal(sqrt(law.variance * max(prod(shape[:-1]), shape[-1])))
    return _DRAWN[law.family](float(law.variance), float(law.mean)) if law.family in _DRAWN else None


def _text(made: Initializer) -> str:
    """The call that makes it, to six digits."""
    numbers = [made.gain] if isinstance(made, Orthogonal) else [made.variance, made.mean]  # type: ignore[attr-defined]
    return f"sp.init.{type(made).__name__}({', '.join(f'{n:.6g}' for n in numbers if n or n is numbers[0])})"


def _power(exponent: float) -> str:
    """A number by its decimal logarithm, which may be beyond the range of floating numbers."""
    if not np.isfinite(exponent):
        return "0" if exponent < 0 else "-"
    return f"{10**exponent:.4g}" if abs(exponent) < 6 else f"1e{exponent:+.1f}"
