"""The way of the signal through a program: which operand carries it, which layers act on it, where normalization starts it afresh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sigprop.engine import Field, Known
from sigprop.network.laws import family
from sigprop.predict.normalizers import Normalizer, inverse_scales, normalizers
from sigprop.predict.probe import Probe
from sigprop.tracing import Op, Row

_LAYERS = ("dot_general", "conv_general_dilated")
_AFFINE = {"add", "add_any", "sub", "mul", "div", "neg", "reshape", "transpose", "squeeze", "convert_element_type", "broadcast_in_dim"}
_WEAK = 1.0  # a summand this many decades of mean square below the other does not carry the signal


@dataclass(frozen=True)
class Step:
    """A stretch of a trail that ends in a ``"layer"``, a ``"sum"`` or the trail's ``"end"``.

    Attributes:
        value: result of the contraction, of the sum, or the end.
        name: of its row.
        change: of log10 E[z²] along the stretch; a layer's stretch includes its bias and scales.
    """

    kind: str
    value: int
    name: str
    change: float


class Trail:
    """Follows the signal of ``probe`` backwards from any value.

    At a residual sum it follows the stream, elsewhere the operand with the largest mean square.
    """

    def __init__(self, probe: Probe, rows: Sequence[Row]) -> None:
        self.probe, self.rows = probe, rows
        self.normalizers: list[Normalizer] = normalizers(probe)
        self._scales = inverse_scales(probe, self.normalizers)
        self._starts: dict[int, int] = {}
        self._users: dict[int, list[Op]] = {}
        for op in probe.graph.ops:
            for i in set(op.inputs):
                self._users.setdefault(i, []).append(op)
        self._named = {r.value: r.name for r in rows}
        self._order = {o: k for k, op in enumerate(probe.graph.ops) for o in op.outputs}

    def name(self, value: int) -> str:
        """Name of the row of a value: its own, that of its module, or the nearest one before it, or after."""
        if value in self._named:
            return self._named[value]
        op, place = self.probe.producer.get(value), self._order.get(value, -1)
        path = "" if op is None else op.path
        for row in self.rows:
            if row.path and self._order.get(row.value, -1) >= place and (path == row.path or path.endswith("/" + row.path)):
                return row.name
        earlier = [r for r in self.rows if self._order.get(r.value, -1) < place and r.value in self._behind(value, -1)]
        later = [r for r in self.rows if self._order.get(r.value, -1) >= place]
        return earlier[-1].name if earlier else (later or list(self.rows))[0].name

    def _behind(self, value: int, limit: int) -> set[int]:
        """Values on the inputs' way to ``value`` (without it) that are made after operation ``limit``."""
        seen: set[int] = set()
        stack = [value]
        while stack:
            op = self.probe.producer.get(stack.pop())
            before = [] if op is None else [i for i in op.inputs if i in self.probe.live and self._order.get(i, -1) >= limit]
            stack += [i for i in before if i not in seen]
            seen.update(before)
        return seen

    def is_layer(self, op: Op) -> bool:
        """A contraction of data with something that is not data."""
        return op.name in _LAYERS and len(self.operands(op)) == 1 and len(op.inputs) > 1

    def settled(self, value: int) -> int:
        """What becomes of a layer's output before anything nonlinear: times constants and parameters, with its bias."""
        while len(users := self._users.get(value, ())) == 1 and users[0].name in _AFFINE and self.operands(users[0]) == [value]:
            (value,) = users[0].outputs
        return value

    def following(self, value: int) -> list[int]:
        """What the next layers after a layer's output take in."""
        found, seen, stack = [], {value}, [value]
        while stack:
            here = stack.pop()
            for op in self._users.get(here, ()):
                if self.is_layer(op):
                    found.append(here)
                else:
                    stack += [o for o in op.outputs if o not in seen]
                    seen.update(op.outputs)
        return list(dict.fromkeys(found))

    def operands(self, op: Op) -> list[int]:
        """Floating operands that depend on the inputs, without the factors that only normalize."""
        data = [i for i in dict.fromkeys(op.inputs) if i in self.probe.live and self.probe.floating(i)]
        kept = [i for i in data if i not in self._scales]
        return kept or data

    def carrier(self, op: Op) -> int | None:
        """The operand that carries the signal; ``None`` where a trail starts: a look-up, or the result of a normalization."""
        data = self.operands(op)
        if not data or self.normalizes(op):
            return None
        if len(data) == 1:
            return data[0]
        sizes = {i: s for i in data if not math.isnan(s := self.probe.log10_mean_square(i))}
        largest = max(sizes, key=lambda i: sizes[i], default=data[0])
        if op.name not in ("add", "add_any"):
            return largest
        streams = [i for i in data if sizes.get(i, -math.inf) >= sizes.get(largest, 0.0) - _WEAK and self._skips(i, data)]
        return streams[0] if streams else largest

    def _skips(self, value: int, data: Sequence[int]) -> bool:
        """Whether ``value`` is what the other summands were computed from, as the stream of a residual block is."""
        limit = self._order.get(value, -1)
        return all(value in self._behind(i, limit) for i in data if i != value)

    def normalizes(self, op: Op) -> bool:
        return op.name in ("mul", "div") and any(i in self._scales for i in op.inputs) and any(
            i in self.probe.live and i not in self._scales for i in op.inputs)

    def start(self, value: int) -> int:
        """Where the trail of ``value`` starts: an input, a look-up or the result of a normalization."""
        passed = []
        while value not in self._starts:
            passed.append(value)
            op = self.probe.producer.get(value)
            before = None if op is None else self.carrier(op)
            if before is None:
                self._starts[value] = value
            else:
                value = before
        self._starts.update(dict.fromkeys(passed, self._starts[value]))
        return self._starts[value]

    def change(self, value: int) -> float:
        """Change of log10 E[z²] along the trail of ``value``; NaN where it cannot be predicted."""
        return self.probe.log10_mean_square(value) - self.probe.log10_mean_square(self.start(value))

    def steps(self, value: int) -> list[Step]:
        """Stretches of the trail of ``value``, first to last. An activation counts with the layer after it."""
        cuts = [("end", value, value)]
        here: int | None = value
        while here is not None:
            op = self.probe.producer.get(here)
            before = None if op is None else self.carrier(op)
            if op is not None and before is not None:
                if self.is_layer(op):
                    cuts.append(("layer", here, self.settled(here)))
                elif op.name in ("add", "add_any") and len(self.operands(op)) > 1:
                    cuts += [("sum", here, here), ("summand", before, before)]
            here = before
        return self._measured(cuts[::-1], self.probe.log10_mean_square(self.start(value)))

    def _measured(self, cuts: Sequence[tuple[str, int, int]], last: float) -> list[Step]:
        out, pending = [], 0.0
        for kind, value, end in cuts:
            change, last = self.probe.log10_mean_square(end) - last, self.probe.log10_mean_square(end)
            if kind == "sum":
                out.append(Step(kind, value, self.name(value), change))
                continue
            pending += change
            if kind == "layer" or (kind == "end" and abs(pending) > 1e-9):
                out.append(Step(kind, value, self.name(value), pending))
                pending = 0.0
        return out

    @cached_property
    def carrying(self) -> set[int]:
        """Values that carry signal to the model's output: weak summands are passed over."""
        seen: set[int] = set()
        stack = [o for o in self.probe.graph.outputs if self.probe.floating(o)]
        while stack:
            value = stack.pop()
            op = self.probe.producer.get(value)
            if value not in seen and op is not None:
                stack += self._strong(op)
            seen.add(value)
        return seen

    @cached_property
    def layers(self) -> list[int]:
        """Layers among them, by their output, in program order."""
        producer = self.probe.producer
        return sorted((v for v in self.carrying if v in producer and self.is_layer(producer[v])), key=self._order.__getitem__)

    @cached_property
    def heads(self) -> set[int]:
        """Layers without a further layer between them and the output."""
        found: set[int] = set()
        stack, seen = list(self.probe.graph.outputs), set()
        while stack:
            value = stack.pop()
            op = self.probe.producer.get(value)
            if value in seen or op is None:
                continue
            seen.add(value)
            if self.is_layer(op):
                found.add(value)
            else:
                stack += [i for i in op.inputs if i in self.probe.live]
        return found

    @cached_property
    def crowding(self) -> dict[int, float]:
        """For each value the sum of 1/terms over the sums of random terms before it, along the worst way.

        That is the order of finite-width corrections. Terms are a layer's connections or the units of a normalization. A layer of
        normal weights on deterministic inputs is exactly Gaussian, and adds nothing.
        """
        found: dict[int, float] = {}
        for op in self.probe.graph.ops:
            before = max((found.get(i, 0.0) for i in op.inputs), default=0.0)
            own = 1 / averaged(self.probe, op) if self._averages(op) else 0.0
            found.update((o, before + own) for o in op.outputs)
        return found

    def _averages(self, op: Op) -> bool:
        if op.name == "reduce_sum":
            return op.inputs[0] in self.probe.live and not isinstance(self.probe.env[op.inputs[0]], Known)
        return self.is_layer(op) and not self._exact(op)

    def _exact(self, op: Op) -> bool:
        weight = next((self.probe.env[i] for i in op.inputs if i not in self.probe.live), None)
        data = isinstance(self.probe.env[self.operands(op)[0]], Known)
        return data and (isinstance(weight, Known) or (isinstance(weight, Field) and family(weight.node) == "normal"))

    def _strong(self, op: Op) -> list[int]:
        data = self.operands(op)
        if op.name not in ("add", "add_any", "sub") or len(data) < 2:
            return data
        sizes = [self.probe.log10_mean_square(i) for i in data]
        top = max((s for s in sizes if not math.isnan(s)), default=-math.inf)
        return [i for i, s in zip(data, sizes, strict=True) if math.isnan(s) or s >= top - _WEAK]


def averaged(probe: Probe, op: Op) -> float:
    """Mean number of terms that a sum, dot product or convolution adds up per output."""
    if op.name == "reduce_sum":
        shape = probe.graph.avals[op.inputs[0]].shape
        return float(math.prod(shape[axis] for axis in op.params["axes"])) or 1.0
    shape = probe.graph.avals[op.inputs[1]].shape
    if op.name == "dot_general":
        return float(math.prod(shape[axis] for axis in op.params["dimension_numbers"][0][1])) or 1.0
    spec = op.params["dimension_numbers"].rhs_spec
    taps = math.prod(shape[axis] for axis in spec[2:])
    return max(shape[spec[1]] * taps / math.prod(op.params["lhs_dilation"]), 1.0)
