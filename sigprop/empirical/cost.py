"""What each way to a kernel costs, and the cheapest that fits into memory.

A time is ``operations + BALANCE * bytes written``: the roofline model, with the operations that a machine does while it moves a byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

from sigprop.empirical.sites import Site
from sigprop.errors import InvalidInput
from sigprop.tracing import Graph

BALANCE = 10.0  # operations per byte; 5 to 20 on current processors and accelerators
FORMED, ASSEMBLED, OUTER, PRODUCTS = "formed", "assembled", "outer", "products"
METHODS = {"jacobian": (FORMED, ASSEMBLED), "structured": (FORMED, OUTER), "products": (PRODUCTS,)}


@dataclass(frozen=True)
class Problem:
    """Sizes that the cost depends on.

    Attributes:
        counts: numbers of examples of the two sets; the second is 0 where they are the same.
        places, features: outputs of an example that are kept apart, and that are averaged over.
        sizes: entries of each parameter that takes part, by position.
        sites: those that are used as weights only.
        width: bytes of a number.
    """

    counts: tuple[int, int]
    places: int
    features: int
    sizes: Mapping[int, int]
    sites: Mapping[int, Sequence[Site]]
    forward: float
    activations: int
    largest: int
    width: int


@dataclass(frozen=True)
class Plan:
    """``ways`` by parameter, and in how many parts each set of examples is taken."""

    ways: Mapping[int, str]
    parts: tuple[int, int]
    time: float
    bytes: float


def operations(graph: Graph) -> float:
    """Multiplications and additions of a contraction, one operation per element of anything else."""
    total = 0.0
    for op in graph.ops:
        size, shapes = sum(prod(graph.avals[o].shape) for o in op.outputs), [graph.avals[v].shape for v in op.inputs]
        if op.name == "dot_general":
            size *= 2 * prod(shapes[0][k] for k in op.params["dimension_numbers"][0][0])
        elif op.name == "conv_general_dilated":
            size *= 2 * prod(shapes[1]) // shapes[1][op.params["dimension_numbers"].rhs_spec[0]]
        total += size
    return total


def activations(graph: Graph) -> tuple[int, int]:
    """Elements of all results, and of the largest."""
    sizes = [sum(prod(graph.avals[o].shape) for o in op.outputs) for op in graph.ops]
    return sum(sizes), max(sizes, default=0)


def plan(problem: Problem, memory: float, method: str = "auto") -> Plan:
    """The fastest plan of at most ``memory`` bytes, over the ways for each parameter and the parts of the examples.

    Raises:
        InvalidInput: where one example at a time needs more than ``memory``.
    """
    allowed = METHODS.get(method, (FORMED, ASSEMBLED, OUTER, PRODUCTS))
    n, m = problem.counts
    halves = [[*(2**k for k in range((count - 1).bit_length())), count] for count in (n, m or n)]
    plans = [found for parts in product(*halves) for found in _plans(problem, parts, allowed)]
    least = min(plans, key=lambda p: p.bytes)
    if least.bytes > memory:
        raise InvalidInput(f"memory: {memory:.3g} bytes are too few; one example at a time needs about {least.bytes:.3g}")
    return min((p for p in plans if p.bytes <= memory), key=lambda p: p.time)


def _plans(problem: Problem, parts: tuple[int, int], allowed: Sequence[str]) -> list[Plan]:
    found = []
    if set(allowed) - {PRODUCTS}:
        best = {leaf: min(_ways(problem, leaf, parts, allowed), key=lambda w: w[1]) for leaf in problem.sizes}
        lean = {leaf: min(_ways(problem, leaf, parts, allowed), key=lambda w: w[2]) for leaf in problem.sizes}
        found += [_total(problem, parts, choice) for choice in (best, lean)]
    return [*found, _products(problem, parts)] if PRODUCTS in allowed else found


def _blocks(problem: Problem, parts: tuple[int, int]) -> tuple[int, int, int, int]:
    """Examples at a time of each set, for how many gradients are held at a time, and for how many they are computed in all."""
    n, m = problem.counts
    one, two = ceil(n / parts[0]), ceil((m or n) / parts[1])
    return (one, two, n, n) if parts == (1, 1) and not m else (one, two, one + two, n + parts[0] * (m or n))


def _ways(problem: Problem, leaf: int, parts: tuple[int, int], allowed: Sequence[str]) -> list[tuple[str, float, float]]:
    """Ways for one parameter with their time and bytes."""
    one, two, held, passes = _blocks(problem, parts)
    n, m = problem.counts
    pairs, outputs, size, width = n * (m or n), problem.places * problem.features, problem.sizes[leaf], problem.width
    contracted = 2.0 * pairs * outputs * problem.places * size
    gradient = passes * outputs * size
    if leaf not in problem.sites:
        return [(FORMED, contracted + (1 + BALANCE * width) * gradient, held * outputs * size * width)]
    ways = []
    b, s, i, d = (list(column) for column in zip(*(site.sizes for site in problem.sites[leaf]), strict=True))
    sums = list(zip(b, s, i, d, strict=True))
    cotangents = outputs * sum(b * s * d for b, s, _, d in sums)
    inputs = sum(b * s * i for b, s, i, _ in sums)
    if ASSEMBLED in allowed:
        time = contracted + (2.0 * max(s) + BALANCE * width) * gradient + BALANCE * width * passes * (cotangents + inputs)
        ways.append((ASSEMBLED, time, held * (outputs * size + cotangents + inputs) * width))
    if OUTER in allowed:
        each = sum(b * s * s * (2.0 * i + 2.0 * outputs * problem.places * d + 2 * problem.places**2) for b, s, i, d in sums)
        grams = sum(b * s * s for b, s, _, _ in sums) * (1 + problem.places**2)
        time = pairs * (each + BALANCE * width * grams) + BALANCE * width * passes * (cotangents + inputs)
        ways.append((OUTER, time, (one * two * grams + held * (cotangents + inputs)) * width))
    return ways


def _total(problem: Problem, parts: tuple[int, int], choice: Mapping[int, tuple[str, float, float]]) -> Plan:
    _, _, examples, passes = _blocks(problem, parts)
    outputs = problem.places * problem.features
    backward = passes * (1 + outputs) * problem.forward
    held = examples * problem.width * (problem.activations + 2 * outputs * problem.largest)
    result = problem.counts[0] * (problem.counts[1] or problem.counts[0]) * problem.places**2 * problem.width
    return Plan({leaf: way[0] for leaf, way in choice.items()}, parts, backward + sum(w[1] for w in choice.values()),
                held + result + sum(w[2] for w in choice.values()))


def _products(problem: Problem, parts: tuple[int, int]) -> Plan:
    """All parameters by one pull-back to the parameters and one push-forward for each output of the second set, one at a time."""
    n, m = problem.counts
    one, two, *_ = _blocks(problem, parts)
    size = sum(problem.sizes.values())
    pulled = (m or n) * problem.places * problem.features * parts[0]
    time = pulled * (3.0 * (1 + ceil(n / parts[0])) * problem.forward + BALANCE * problem.width * 3 * size)
    held = 3 * size + (2 + one) * problem.activations + 3 * one * problem.largest
    result = n * (m or n) * problem.places**2 + two * problem.places * problem.features * one * problem.places
    return Plan({leaf: PRODUCTS for leaf in problem.sizes}, parts, time, float((held + result) * problem.width))
