"""Fans of the operations that use a parameter, beside the fans that its initializer counted.

Initializers read fans off the shape of the kernel. The variance of a unit is set by the operation: a strided transposed convolution
reads a share of the taps, a kernel stored as (out, in) is contracted along its last axis. The two are listed side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete, is_key
from sigprop.errors import InvalidInput
from sigprop.network.counted import Assumption, Counted, assumption, counted
from sigprop.network.degree import depends_on_key
from sigprop.network.following import NEVER, Followed
from sigprop.network.law import aligned
from sigprop.network.network import Network
from sigprop.network.paths import parameter_paths
from sigprop.network.supports import folded
from sigprop.network.uses import Use, uses
from sigprop.types import Law


@dataclass(frozen=True)
class Fan:
    """Fans of a parameter, averaged over its uses: contractions of data if it has any, else of parameters, else look-ups, else others.

    Attributes:
        shape: of the parameter.
        uses: all of them, in program order, each with its counts per site.
        counted: what the initializer can have counted.
        note: why there are no uses.
    """

    shape: tuple[int, ...]
    uses: tuple[Use, ...]
    counted: Counted
    note: str = ""

    @property
    def main(self) -> tuple[Use, ...]:
        """The uses that are averaged."""
        sums = [u for u in self.uses if u.contracts]
        return tuple([u for u in sums if u.live] or sums or [u for u in self.uses if u.operation == "gather"] or self.uses)

    @property
    def is_weight(self) -> bool:
        """Whether inputs are contracted with it or look it up; biases, scales and tables of constants are not."""
        return any(u.contracts or u.operation == "gather" for u in self.uses)

    @property
    def operation(self) -> str:
        """Primitive of the first of them, empty where there is none."""
        return self.main[0].operation if self.uses else ""

    @property
    def fan_in(self) -> float:
        """Mean number of terms of the parameter that reach one output unit, borders included; 0 where it is never used, NaN where
        it is not counted."""
        return self._mean([u.fan_in.mean for u in self.main])

    @property
    def fan_out(self) -> float:
        """Mean number of output units that one input unit feeds; NaN where it has no input, as a bias."""
        return self._mean([u.fan_out.mean for u in self.main])

    @property
    def inner(self) -> tuple[float, float]:
        """Mean fan-in and fan-out far from the borders, where zero padding takes nothing away: what an initializer should count."""
        return self._mean([u.fan_in.inner for u in self.main]), self._mean([u.fan_out.inner for u in self.main])

    def _mean(self, numbers: Sequence[float]) -> float:
        return float(np.mean(numbers)) if numbers else 0.0 if self.note == NEVER else np.nan

    @property
    def fan_in_sites(self) -> np.ndarray:
        """Fan-in per output pixel (of a matrix product: per entry of the free axes of the data) of the first use."""
        return self.main[0].fan_in.sites if self.uses else np.zeros(())

    @property
    def fan_out_sites(self) -> np.ndarray:
        """Fan-out per input pixel, as above."""
        return self.main[0].fan_out.sites if self.uses else np.zeros(())

    def assumption(self, law: Law, parts: int = 1) -> Assumption | None:
        """What the initializer counted, where its variance tells; ``parts`` of the outputs are used separately."""
        fan_in, fan_out = self.inner
        return assumption(float(np.mean(law.variance)), law.family, self.counted, fan_in, fan_out / parts)


@dataclass(frozen=True, eq=False)
class Fans(Mapping[str, Fan]):
    """The :class:`Fan` of each floating parameter by path as in ``net.laws``; ``print(fans)`` shows a table."""

    found: Mapping[str, Fan]
    laws: Mapping[str, Law] = field(default_factory=dict)

    def __getitem__(self, path: str) -> Fan:
        if path not in self.found:
            raise KeyError(f"{path!r}: no such parameter; there are {list(self.found)}")
        return self.found[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __str__(self) -> str:
        """One line per parameter: path, shape, operation, fan-in and fan-out (mean, smallest, largest), the fan its initializer counted."""
        head = ("parameter", "shape", "operation", "fan-in", "min", "max", "fan-out", "min", "max", "initializer counted")
        return aligned([head, *(self._line(path, fan) for path, fan in self.found.items())], right={3, 4, 5, 6, 7, 8})

    __repr__ = __str__

    def _line(self, path: str, fan: Fan) -> tuple[str, ...]:
        if not fan.uses:
            none = "0" if fan.note == NEVER else "-"
            return path, str(fan.shape), fan.note, none, "", "", none, "", "", ""
        times = f" x{len(fan.main)}" if len(fan.main) > 1 else ""
        cells = []
        for mean, counts in ((fan.fan_in, [u.fan_in for u in fan.main]), (fan.fan_out, [u.fan_out for u in fan.main])):
            cells += [mean, min(c.low for c in counts), max(c.high for c in counts)]
        shown = fan.assumption(self.laws[path]) if path in self.laws and fan.is_weight else None
        made = "" if shown is None else f"{shown.mode} {shown.counted:.6g}"
        return path, str(fan.shape), fan.operation + times, *("-" if np.isnan(c) else f"{c:.6g}" for c in cells), made


def fans(net: Network, *x: Any) -> Fans:
    """Fan-in and fan-out of each floating parameter, counted on the operations that use it.

    The fan-in is the number of terms of the parameter in the sum that makes one output unit of the operation, the fan-out the number of
    output units that one input unit feeds: of independent entries of variance v, the variance of an output is v times fan-in times the
    mean square of the input, and that of an input's gradient v times fan-out times the mean square of the output's (He et al. 2015,
    section 2.2, there for dense kernels). They are counted per site and averaged with equal weights over output sites (input
    sites), since variances add up. Taps that fall on padding are not counted; terms that a mask of constants removes are not either.

    A parameter is followed through changes of shape, slices, products and sums with other parameters, masks and elementwise functions
    until it meets data. A slice that is used by itself, or one layer of a stack, is a use of its own.

    Args:
        net: from :func:`sigprop.network`.
        x: inputs, batch on axis 0; by default those that ``net`` was made with.

    Returns:
        A mapping from paths to :class:`Fan`, which prints as a table. A parameter that no output depends on has fan 0, and a note.

    Raises:
        InvalidInput: for what is not a network, where there are no inputs, or where the model does not run on them.
    """
    laws = dict(check_network(net).laws)
    return Fans(counted_fans(net, laws, *x), laws)


def counted_fans(net: Network, laws: Mapping[str, Law], *x: Any) -> dict[str, Fan]:
    """:func:`fans` without their table; ``laws`` by path."""
    x = x or net.example
    if not x:
        raise InvalidInput("x: fans depend on the operations, give example inputs, fans(net, x)")
    graph, names, shapes = net.graph(*x), parameter_paths(net.abstract_params), counted(net)
    params = graph.inputs[:len(names)]
    tables = {p: (table, moves) for p, table, moves in zip(params, _tables(net), net.trainable, strict=True) if table is not None}
    masks: dict[int, Any] = {p: table != 0 for p, (table, moves) in tables.items() if moves}
    masks |= {p: share for p, name, moves in zip(params, names, net.trainable, strict=True)
              if not moves and name in laws and (share := _kept(laws[name])) < 1}
    followed = Followed(graph, params, {p: table for p, (table, moves) in tables.items() if not moves}, masks)
    out = {}
    for name, value, count in zip(names, params, shapes, strict=True):
        if jnp.issubdtype(graph.avals[value].dtype, jnp.floating):
            found = tuple(uses(followed, value)) if value in followed.meetings else ()
            out[name] = Fan(tuple(graph.avals[value].shape), found, count, "" if found else followed.note(value))
    return out


def _kept(law: Law) -> float:
    """Probability that an entry of a random mask is not zero; 1 for other laws."""
    mean, variance = float(np.mean(law.mean)), float(np.mean(law.variance))
    return mean**2 / (mean**2 + variance) if law.family == "bernoulli" and mean else 1.0


def check_network(net: Any) -> Network:
    """Refuse what is not a network.

    Raises:
        InvalidInput: saying what was given.
    """
    if not isinstance(net, Network):
        raise InvalidInput(f"net: {type(net).__name__} is not a network; make one with sp.network(model, x)")
    return net


def _tables(net: Network) -> list[Any]:
    """Per parameter leaf its numbers where they are the same for every key and some, not all, are zero: masks."""
    if net.declared is not None:
        values: list[Any] = [None if isinstance(g, Law) else g for g in net.declared]
    else:
        graph = net.init_graph
        known = folded(graph)
        values = [None if drawn else known.get(o) for o, drawn in zip(graph.outputs, depends_on_key(graph), strict=True)]
    return [v if _mixed(v) else None for v in values]


def _mixed(value: Any) -> bool:
    return value is not None and concrete(value) and not is_key(value) and 0 < int(np.count_nonzero(value)) < np.size(value)
