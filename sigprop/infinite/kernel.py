"""The infinite-width kernel of a network: the second moment of its output (NNGP)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import namespace, scaled
from sigprop.engine import RULES, Context, Field, Known, Label, Value, interpret, known
from sigprop.engine.labels import aligned, contract
from sigprop.errors import Unsound
from sigprop.network import Network, check_inputs, check_pair, parameters
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
        if x2 is not None:
            check_pair(x1, x2)
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
    """E[y1 y2] with separate batch and site indices and the feature index shared and averaged."""
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
    found = context.query.moment([(one.node, labels1), (two.node, tuple(shared.get(la, la) for la in labels2))])
    mean = contract([found], features)
    axes = [rows1[0], rows2[0], *rows1[1:max(last, 1)], *rows2[1:max(last, 1)]]
    flat = [label for row in axes for label in row]
    array = namespace(mean.array).broadcast_to(aligned(mean, flat), [label.size for label in flat])
    array = array.reshape([prod(label.size for label in row) for row in axes]) / prod(label.size for label in features)
    return scaled(array, mean.exponent), found.note


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
