"""Which weights end a residual branch: their outputs are added to a stream that goes on without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from sigprop.tracing import Graph, Op

_ADDED = {"add", "add_any", "sub"}
_CARRIED = {"mul", "div", "neg", "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type", "copy",
            "slice", "pad", "concatenate", "select_n", "reduce_sum", "reduce_precision", "optimization_barrier"}  # linear in the signal


def branch_ends(graph: Graph, params: int, owner: Mapping[int, int]) -> Counter[int]:
    """How many residual sums each weight feeds as the last of a branch; the others are not there.

    In a sum of two values the stream is the one that is an input of the other (an identity, perhaps normalized or activated on the way),
    or that one weight makes of such an input (a projection). Where it is neither or both, as in a sum of two products, nothing is a
    branch. The weights that end a branch are those from which the sum is reached by linear operations.

    Args:
        params: number of the inputs of ``graph`` that are parameters.
        owner: number of the weight by each value that it makes.
    """
    streams = _Streams(graph, params, owner)
    found: Counter[int] = Counter()
    for op in graph.ops:
        found.update(streams.ends(op))
    return found


class _Streams:
    def __init__(self, graph: Graph, params: int, owner: Mapping[int, int]) -> None:
        self.owner, self.shared = owner, Counter(owner.values())
        self.made = {o: op for op in graph.ops for o in op.outputs}
        self.before = {v: 1 << v for v in graph.inputs[params:]}  # bits of the values of the signal behind a value, itself included
        for op in graph.ops:
            behind = 0
            for value in op.inputs:
                behind |= self.before.get(value, 0)
            if behind:
                self.before.update((o, behind | 1 << o) for o in op.outputs)
        self.stream: dict[int, int] = {}  # of residual sums

    def ends(self, op: Op) -> list[int]:
        """Weights that end the branch of a residual sum; none for another operation."""
        data = self._data(op)
        if op.name not in _ADDED or len(data) != 2:
            return []
        crossed = [self._crossed(one, other) for one, other in (data, data[::-1])]
        if crossed[0] == crossed[1]:
            return []
        stream, branch = data if crossed[0] < crossed[1] else data[::-1]
        self.stream[op.outputs[0]] = stream
        return list(self._last(branch))

    def _data(self, op: Op) -> list[int]:
        return list(dict.fromkeys(v for v in op.inputs if v in self.before))

    def _crossed(self, value: int, other: int) -> int:
        """Weights between a value and the nearest input that it shares with ``other``: 0, 1, or 2 for more."""
        return next((crossed for here, crossed in self._back(value) if self.before[other] >> here & 1), 2)

    def _back(self, value: int) -> Iterator[tuple[int, int]]:
        """The value and what it is made of, as far as one value is made of one other, with the weights that lie between."""
        crossed = 0
        while True:
            yield value, crossed
            op = self.made.get(value)
            data = [self.stream[value]] if value in self.stream else self._data(op) if op else []
            if value in self.owner:
                crossed += 1 if self.shared[self.owner[value]] == 1 else 2
            if len(data) != 1 or crossed > 1:
                return
            value = data[0]

    def _last(self, value: int) -> Iterator[int]:
        op = self.made.get(value)
        if value in self.owner:
            yield self.owner[value]
        elif op is not None:
            data = self._data(op)
            if op.name in _ADDED or (op.name in _CARRIED and len(data) == 1):
                for one in data:
                    yield from self._last(one)
