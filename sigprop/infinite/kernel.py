"""The infinite-width kernel of a network: the second moment of its output (NNGP)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import namespace, scaled
from sigprop.engine import RULES, Context, Field, Known, Label, Value, interpret, known
from sigprop.engine.labels import Named, aligned, contract, multiply
from sigprop.errors import InvalidInput, Unsound
from sigprop.network import Network, check_inputs, parameters
from sigprop.types import Kernel, Note

_SHIFT = 1000  # between the labels of one output and of the other


def infinite_kernel(net: Network, rules: Mapping[str, Any] = RULES) -> Callable[..., Kernel]:
    """``kernel(x1, x2=None)``: NNGP of ``net`` in the limit of infinite width (Lee et al. 2018; Novak et al. 2019).

    The result's ``nngp`` is averaged over the last (feature) axis of the output: ``[n1, n2]`` for outputs ``(n, features)``,
    ``[n1, n2, *sites1, *sites2]`` with site axes. ``ntk`` is ``None``: it is not available yet.

    Args:
        net: from :func:`sigprop.network`.
        rules: table of primitive rules, to extend the interpreter.

    Raises:
        InvalidInput: for unusable inputs.
        MissingRule, Unsound: where the model cannot be predicted.
    """

    def kernel(x1: Any, x2: Any = None) -> Kernel:
        check_inputs((x1,) if x2 is None else (x1, x2))
        if x2 is not None and jax.tree.map(lambda a: jnp.shape(a)[1:], x1) != jax.tree.map(lambda a: jnp.shape(a)[1:], x2):
            raise InvalidInput("x2: its examples differ in shape from those of x1")
        context = Context(rules)
        params, _ = parameters(context, net)
        one = _output(context, net, params, x1)
        two = one if x2 is None else _output(context, net, params, x2)
        nngp, note = output_moment(context, one, two)
        kind = jnp.result_type(float, *(a for a in jax.tree.leaves((x1, x2)) if jnp.issubdtype(jnp.result_type(a), jnp.floating)))
        return Kernel(jnp.asarray(nngp, kind), None, jnp.asarray(abs(nngp).max() * note.error, kind))

    return kernel


def _output(context: Context, net: Network, params: Sequence[Value], x: Any) -> Value:
    inputs = x if isinstance(x, tuple) else (x,)
    graph = net.graph(*inputs)
    env = interpret(context, graph, [*params, *(known(a) for a in jax.tree.leaves(inputs))])
    return env[graph.outputs[0]]


def output_moment(context: Context, one: Value, two: Value) -> tuple[Any, Note]:
    """E[y1 y2] with separate batch and site indices and the feature index shared and averaged.

    Site axes that are channels of some weight (mixing over tokens) hold independent copies: equal and different indices are two
    questions.
    """
    if isinstance(one, Known) and isinstance(two, Known):
        rank = np.ndim(one.array)
        sites1, sites2 = "abcdefg"[: max(rank - 2, 0)], "ABCDEFG"[: max(rank - 2, 0)]
        feature = "z" if rank > 1 else ""
        array = jnp.einsum(f"i{sites1}{feature},j{sites2}{feature}->ij{sites1}{sites2}", one.array, two.array)
        return array / (one.array.shape[-1] if rank > 1 else 1), Note.of((one.note, two.note))
    if not isinstance(one, Field) or not isinstance(two, Field):
        raise Unsound("one output is random and the other is not")
    last = len(one.axes) - 1
    labels1, rows1 = _labelled(one, 0)
    labels2, rows2 = _labelled(two, _SHIFT)
    features = rows1[last] if last > 0 else []
    shared = {label: label._replace(number=label.number - _SHIFT) for label in (rows2[last] if last > 0 else [])}
    copies = [label for row in rows2[: max(last, 1)] for label in row if label.kind == "chan" and label.size > 1]
    axes = [rows1[0], rows2[0], *rows1[1:max(last, 1)], *rows2[1:max(last, 1)]]
    flat = [label for row in axes for label in row]
    total, exponent, notes = np.zeros(()), 0, []
    for same in product((False, True), repeat=len(copies)):
        equal = {c: c._replace(number=c.number - _SHIFT) for c, yes in zip(copies, same, strict=True) if yes}
        rename = {**shared, **equal}
        found = context.query.moment([(one.node, labels1), (two.node, tuple(rename.get(la, la) for la in labels2))])
        mean = contract([found], features)
        weights = [_delta(c, yes) for c, yes in zip(copies, same, strict=True)]
        part = multiply([mean, *weights])
        top = part.exponent if not notes else max(exponent, part.exponent)
        total = scaled(total, exponent - top) + scaled(aligned(part, flat), part.exponent - top)
        exponent = top
        notes.append(found.note)
    xp = namespace(total)
    array = xp.broadcast_to(total, [label.size for label in flat]).reshape([prod(label.size for label in row) for row in axes])
    return scaled(array / prod(label.size for label in features), exponent), Note.largest(notes)


def _delta(label: Label, same: bool) -> Named:
    """Where the two indices of an axis of copies agree, or differ."""
    eye = np.eye(label.size)
    return Named((label._replace(number=label.number - _SHIFT), label), eye if same else 1 - eye)


def _labelled(value: Field, start: int) -> tuple[tuple[Label, ...], list[list[Label]]]:
    """Fresh labels for each factor of each axis: those of the node's dims, and by axis."""
    own: dict[int, Label] = {}
    rows, count = [], start
    for factors in value.axes:
        row = []
        for f in factors:
            label = Label(count, "site" if f.ref is None else value.node.dims[f.ref].kind, f.size)
            count += 1
            row.append(label)
            if f.ref is not None:
                own[f.ref] = label
        rows.append(row)
    return tuple(own[k] for k in range(len(value.node.dims))), rows
