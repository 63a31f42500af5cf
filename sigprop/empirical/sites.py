"""Where parameters are used as weights of a contraction, so that their gradients are products of an input and a cotangent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from sigprop.tracing import Graph, Op, on_host

_MOVES = ("reshape", "transpose", "squeeze", "expand_dims", "slice", "copy", "convert_element_type")  # one to one on entries


@dataclass(frozen=True)
class Use:
    """One contraction of a parameter.

    Attributes:
        kind: ``dot``, ``conv`` or ``lookup``.
        weight: position of the parameter among the operands.
        scales: values that multiply the parameter (``True``) or divide it (``False``) on its way, each of one element.
        sizes: groups ``B``, positions ``S``, inputs ``I`` and outputs ``D``: the gradient of the block is
            ``sum_s h[b, s, i] delta[b, s, d]``.
        window: spatial shape of a convolution's kernel.
    """

    op: Op
    kind: str
    weight: int
    scales: tuple[tuple[int, bool], ...]
    sizes: tuple[int, int, int, int]
    window: tuple[int, ...] = ()

    @property
    def output(self) -> int:
        return self.op.outputs[0]


@dataclass(frozen=True)
class Site:
    """Uses of the same entries of one parameter: their positions can be laid end to end."""

    leaf: int
    uses: tuple[Use, ...]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        groups, _, inputs, outputs = self.uses[0].sizes
        return groups, sum(use.sizes[1] for use in self.uses), inputs, outputs


@dataclass(frozen=True)
class _Alias:
    """A value that holds entries of a parameter in another order, perhaps scaled."""

    leaf: int
    moves: tuple[Op, ...] = ()
    scales: tuple[tuple[int, bool], ...] = ()


def sites(graph: Graph, params: int) -> dict[int, tuple[Site, ...]]:
    """Sites of the parameters, the first ``params`` inputs of ``graph``, that are used in contractions only, by position.

    Parameters of which two uses overlap in part, or are contracted in different ways, are left out; so are unused ones.
    """
    alias = {value: _Alias(leaf) for leaf, value in enumerate(graph.inputs[:params])}
    made = {o: op for op in graph.ops for o in op.outputs}
    found: dict[int, list[tuple[_Alias, Use]]] = {}
    other = {alias[o].leaf for o in graph.outputs if o in alias}
    for op in graph.ops:
        held = [k for k, value in enumerate(op.inputs) if value in alias]
        if len(held) == 1:
            source = alias[op.inputs[held[0]]]
            moved = _moved(graph, made, op, held[0], source)
            use = None if moved else _use(graph, op, held[0], source.scales)
            if moved is not None:
                alias[op.outputs[0]] = moved
                other |= {source.leaf for o in graph.outputs if o == op.outputs[0]}
            elif use is not None:
                found.setdefault(source.leaf, []).append((source, use))
            else:
                other.add(source.leaf)
        elif len(held) == 2 and op.name == "dot_general" and len({alias[op.inputs[k]].leaf for k in held}) == 2:
            for k in held:  # a product of two parameters
                source = alias[op.inputs[k]]
                use = _use(graph, op, k, source.scales)
                assert use is not None
                found.setdefault(source.leaf, []).append((source, use))
        else:
            other.update(alias[op.inputs[k]].leaf for k in held)
    grouped = {leaf: _grouped(graph, leaf, uses) for leaf, uses in found.items() if leaf not in other}
    return {leaf: group for leaf, group in grouped.items() if group}


def _moved(graph: Graph, made: dict[int, Op], op: Op, held: int, source: _Alias) -> _Alias | None:
    """The output as an alias of the same parameter, where ``op`` moves or scales its entries."""
    if op.name in _MOVES:
        return _Alias(source.leaf, (*source.moves, op), source.scales)
    if op.name == "mul" or (op.name == "div" and held == 0):
        value = op.inputs[1 - held]
        if value in made and made[value].name == "broadcast_in_dim":
            value = made[value].inputs[0]
        if prod(graph.avals[value].shape) == 1 and graph.avals[op.outputs[0]].shape == graph.avals[op.inputs[held]].shape:
            return _Alias(source.leaf, source.moves, (*source.scales, (value, op.name == "mul")))
    return None


def _use(graph: Graph, op: Op, held: int, scales: tuple[tuple[int, bool], ...]) -> Use | None:
    shapes = [tuple(graph.avals[v].shape) for v in (*op.inputs, *op.outputs)]
    reader = {"dot_general": _dot, "conv_general_dilated": _conv, "gather": _lookup}.get(op.name)
    read = reader(op, held, shapes) if reader else None
    return None if read is None else Use(op, read[0], held, scales, *read[1:])


def _dot(op: Op, held: int, shapes: Sequence[tuple[int, ...]]) -> Any:
    contract, batch = (dims[held] for dims in op.params["dimension_numbers"])
    groups, inputs = prod(shapes[held][k] for k in batch), prod(shapes[held][k] for k in contract)
    positions = prod(shapes[1 - held]) // max(groups * inputs, 1)
    return "dot", (groups, positions, inputs, prod(shapes[held]) // max(groups * inputs, 1))


def _conv(op: Op, held: int, shapes: Sequence[tuple[int, ...]]) -> Any:
    if held != 1 or op.params["batch_group_count"] != 1:
        return None
    groups, spec = op.params["feature_group_count"], op.params["dimension_numbers"].rhs_spec
    outputs, window = shapes[1][spec[0]], tuple(shapes[1][k] for k in spec[2:])
    return "conv", (groups, prod(shapes[2]) // outputs, prod(shapes[1]) // outputs, outputs // groups), window


def _lookup(op: Op, held: int, shapes: Sequence[tuple[int, ...]]) -> Any:
    """Whole rows of a table, by one integer each."""
    numbers, table, positions = op.params["dimension_numbers"], shapes[0], shapes[1][:-1]
    offsets = tuple(range(len(positions), len(positions) + len(table) - 1))
    rows = (numbers.start_index_map == numbers.collapsed_slice_dims == (0,) and not numbers.operand_batching_dims
            and numbers.offset_dims == offsets and tuple(op.params["slice_sizes"]) == (1, *table[1:]))
    known = op.params["mode"] in (GatherScatterMode.CLIP, GatherScatterMode.FILL_OR_DROP, GatherScatterMode.PROMISE_IN_BOUNDS)
    return ("lookup", (1, prod(positions), table[0], prod(table[1:]))) if held == 0 and rows and known else None


def _grouped(graph: Graph, leaf: int, uses: list[tuple[_Alias, Use]]) -> tuple[Site, ...]:
    """Uses of equal entries together; empty where two groups overlap, or where a group is contracted in different ways."""
    if len(uses) == 1:
        return (Site(leaf, (uses[0][1],)),)
    shape = graph.avals[graph.inputs[leaf]].shape
    entries = np.arange(prod(shape), dtype=np.int64).reshape(shape)
    parts: list[tuple[np.ndarray, list[Use]]] = []
    for alias, use in uses:
        index = _entries(entries, alias.moves, use)
        same = next((group for known, group in parts if known.shape == index.shape and (known == index).all()), None)
        if same is not None:
            if (same[0].kind == "lookup") != (use.kind == "lookup"):
                return ()
            same.append(use)
        elif any(np.intersect1d(index, known).size for known, _ in parts):
            return ()
        else:
            parts.append((index, [use]))
    return tuple(Site(leaf, tuple(group)) for _, group in parts)


def _entries(entries: np.ndarray, moves: Sequence[Op], use: Use) -> np.ndarray:
    """Which entry of the parameter stands where in the gradient ``[B, I, D]`` of a use."""
    for op in moves:
        if op.name not in ("copy", "convert_element_type"):
            entries = on_host(op, [entries])[0]
    return as_block(entries, use)


def as_block(weight: Any, use: Use) -> Any:
    """The weight of a use as ``[B, I, D]``."""
    groups, _, inputs, outputs = use.sizes
    if use.kind == "dot":
        contract, batch = (dims[use.weight] for dims in use.op.params["dimension_numbers"])
        free = [k for k in range(weight.ndim) if k not in (*contract, *batch)]
        weight = weight.transpose(*batch, *contract, *free)
    elif use.kind == "conv":  # [out, in, *window] -> [groups, (window, in), out]
        spec = use.op.params["dimension_numbers"].rhs_spec
        weight = weight.transpose(*spec[2:], spec[1], spec[0]).reshape(inputs, groups, outputs).swapaxes(0, 1)
    return weight.reshape(groups, inputs, outputs)
