"""One interpretation of a network, asked about any value of its program and not only about the rows that a user would name."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.engine import Field, Known, Label, Named
from sigprop.errors import SigpropError
from sigprop.network import Network, check_inputs
from sigprop.predict.signal import interpretation
from sigprop.tracing import Op


class Probe:
    """Predicted moments of the values of ``net.graph(*x)``, each computed when asked for.

    Attributes:
        live: values that depend on the inputs ``x``.
        producer: the operation that makes each value; inputs and constants have none.
        found: log10 E[z²] of the values asked for so far; what is known from elsewhere may be put there.

    Raises:
        InvalidInput, MissingRule, Unsound: as :func:`sigprop.propagate`.
    """

    def __init__(self, net: Network, *x: Any) -> None:
        check_inputs(x)
        self.graph = net.graph(*x)
        self.context, self.env, _ = interpretation(net, *x)
        self.inputs = self.graph.inputs[len(self.graph.inputs) - len(jax.tree.leaves(x)):]
        self.producer: dict[int, Op] = {o: op for op in self.graph.ops for o in op.outputs}
        self.live = set(self.inputs)
        for op in self.graph.ops:
            if self.live.intersection(op.inputs):
                self.live.update(op.outputs)
        self.found: dict[int, float] = {}

    def floating(self, value: int) -> bool:
        return bool(jnp.issubdtype(self.graph.avals[value].dtype, np.floating))

    def log10_mean_square(self, value: int) -> float:
        """log10 E[z²] averaged over the entries: ``-inf`` where identically zero, NaN where it cannot be predicted."""
        if value not in self.found:
            self.found[value] = self._log10_moment(value, 2)
        return self.found[value]

    def log10_mean(self, value: int) -> float:
        """log10 E[z] averaged over the entries of a value that is not negative, as above."""
        return self._log10_moment(value, 1)

    def zero(self, value: int) -> bool:
        """Whether the value vanishes identically, whatever the draw of the parameters."""
        found = self.env[value]
        return isinstance(found, Known) and self.floating(value) and not np.any(np.asarray(found.array))

    def _log10_moment(self, value: int, power: int) -> float:
        try:
            moment = self._moment(value, power)
        except SigpropError:
            return math.nan
        average = float(np.mean(np.asarray(moment.array, np.float64)))
        return math.log10(average) + int(moment.exponent) * math.log10(2) if average > 0 else -math.inf

    def _moment(self, value: int, power: int) -> Named:
        found = self.env[value]
        if isinstance(found, Known):
            return Named((), np.asarray(found.array, np.float64) ** power)
        assert isinstance(found, Field)
        labels = tuple(Label(k, d.kind, d.size) for k, d in enumerate(found.node.dims))
        return self.context.query.moment([(found.node, labels)] * power)
