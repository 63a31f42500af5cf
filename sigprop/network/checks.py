"""Refusing what no prediction can be made for, with an error that names what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete, is_key
from sigprop.errors import InvalidInput
from sigprop.tracing import Graph, Op

_MOVES = {"reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "slice", "copy", "convert_element_type"}


def check_inputs(x: tuple[Any, ...]) -> None:
    """Refuse inputs that are not non-empty finite arrays with the batch on axis 0.

    Raises:
        InvalidInput: naming the input and what is wrong with it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(x)
    if not leaves:
        raise InvalidInput("x: give at least one example input, with the batch on axis 0")
    for path, array in leaves:
        name = "x" + jax.tree_util.keystr(path)
        abstract = isinstance(array, jax.ShapeDtypeStruct) or not concrete(array)
        try:
            dtype = array.dtype if abstract else jnp.result_type(array)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{name}: {type(array).__name__} is not an array of numbers") from error
        if not np.shape(array):
            raise InvalidInput(f"{name}: a scalar; inputs carry the batch on axis 0")
        if 0 in np.shape(array):
            raise InvalidInput(f"{name}: shape {np.shape(array)} is empty; give at least one example")
        if not abstract and jnp.issubdtype(dtype, jnp.inexact) and not np.all(np.isfinite(np.asarray(array, np.result_type(dtype, "f4")))):
            raise InvalidInput(f"{name}: has NaN or infinite entries; clean or mask the data first")


def check_pair(x1: Any, x2: Any) -> None:
    """Refuse a pair of inputs whose examples differ in structure, shape or kind of number.

    Raises:
        InvalidInput: naming what differs.
    """
    check_inputs((x1,))
    check_inputs((x2,))
    _same_kind("x2", x2, "x1", x1)
    for one, two in zip(jax.tree.leaves(x1), jax.tree.leaves(x2), strict=True):
        if np.shape(one)[1:] != np.shape(two)[1:]:
            raise InvalidInput(f"x2: its examples have shape {np.shape(two)[1:]}, those of x1 {np.shape(one)[1:]}")


def check_like(x: tuple[Any, ...], example: tuple[Any, ...]) -> None:
    """Refuse inputs of another structure, rank or kind of number than the example that the network was made with."""
    _same_kind("x", x, "the example that the network was made with", example)
    for number, (given, made) in enumerate(zip(jax.tree.leaves(x), jax.tree.leaves(example), strict=True)):
        if np.ndim(given) != np.ndim(made):
            raise InvalidInput(f"x[{number}]: rank {np.ndim(given)}, shape {np.shape(given)}; the network was made with rank "
                               f"{np.ndim(made)}, shape {np.shape(made)}; axis 0 is the batch")


def _same_kind(name: str, x: Any, other: str, y: Any) -> None:
    if jax.tree.structure(x) != jax.tree.structure(y):
        raise InvalidInput(f"{name}: structure {jax.tree.structure(x)} differs from that of {other}, {jax.tree.structure(y)}")
    for one, two in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        if _kind(one) is not _kind(two):
            raise InvalidInput(f"{name}: numbers of dtype {jnp.result_type(one)}, those of {other} are {jnp.result_type(two)}")


def _kind(array: Any) -> Any:
    return next((k for k in (jnp.bool_, jnp.integer, jnp.inexact) if jnp.issubdtype(jnp.result_type(array), k)), None)


def check_program(graph: Graph, name: str, random: Sequence[bool]) -> None:
    """Refuse a model whose parameters do not reach its output, or that computes with integers as if they were measurements.

    Args:
        random: for each parameter whether it is drawn at random; the graph's other inputs are data.

    Raises:
        InvalidInput: naming the model or the input.
    """
    params, data = graph.inputs[:len(random)], graph.inputs[len(random):]
    reaching = _reaching(graph)
    used = [p in reaching for p in params]
    drawn = any(r and not is_key(graph.avals[p]) for p, r in zip(params, random, strict=True))
    if not any(used) or (drawn and not any(u and r for u, r in zip(used, random, strict=True))):
        raise InvalidInput(
            f"model: no random parameter of {name} reaches its output. It seems to close over concrete parameters "
            "(use those passed in, apply(params, x), or give the factory that builds the module), or to be constant in them, as second "
            "derivatives of a ReLU network are."
        )
    for number, value in enumerate(data):
        op = _converted(graph, value)
        if op is not None:
            raise InvalidInput(
                f"x[{number}]: integers ({graph.avals[value].dtype}) that the model turns into floating numbers at {op.source}. "
                "Pass floating numbers; tokens go into an embedding or a one-hot code."
            )


def check_initializer(graph: Graph, name: str, depends: Sequence[bool]) -> None:
    """Refuse an initializer that makes the same numbers whatever its key.

    Args:
        depends: per output, whether it depends on the key.

    Raises:
        InvalidInput: where nothing but fixed numbers that differ from each other comes out.
    """
    floating = [k for k, o in enumerate(graph.outputs) if jnp.issubdtype(graph.avals[o].dtype, jnp.floating)]
    if any(depends[k] for k in floating):
        return
    tables = [graph.constants[graph.outputs[k]] for k in floating if graph.outputs[k] in graph.constants]
    drawn = any(op.name.startswith(("random:", "random_bits")) for op in graph.ops)
    if drawn or any(np.ptp(np.asarray(t, np.float64)) > 0 for t in tables):
        raise InvalidInput(f"model: the initializer of {name} ignores its key, so that every seed gives the same parameters. Draw them "
                           "from the key or rngs that it is given; for an existing nnx.Module give the module itself.")


def _reaching(graph: Graph) -> set[int]:
    """Values that an output depends on (the program has no dead code, but an input may be dead)."""
    return {i for op in graph.ops for i in op.inputs} | set(graph.outputs)


def _converted(graph: Graph, value: int) -> Op | None:
    """The operation that turns an integer input into floating numbers, if one does."""
    if not jnp.issubdtype(graph.avals[value].dtype, jnp.integer):
        return None
    same = {value}
    for op in graph.ops:
        if op.name in (*_MOVES, "dot_general", "conv_general_dilated") and same.intersection(op.inputs):
            if jnp.issubdtype(graph.avals[op.outputs[0]].dtype, jnp.inexact):
                return op
            if jnp.issubdtype(graph.avals[op.outputs[0]].dtype, jnp.integer):
                same.update(op.outputs)
    return None


def check_same(first: Graph, second: Graph, what: str) -> None:
    """Refuse a function whose two tracings differ.

    Raises:
        InvalidInput: naming ``what`` and the first difference.
    """
    advice = "it depends on something that changes between calls, such as numpy.random, a counter or the time"
    if len(first.ops) != len(second.ops):
        raise InvalidInput(f"model: {what} is not deterministic, {advice}: {len(first.ops)} operations, then {len(second.ops)}")
    for a, b in zip(first.ops, second.ops, strict=True):
        if (a.name, a.inputs, a.outputs) != (b.name, b.inputs, b.outputs) or _plain(a) != _plain(b):
            raise InvalidInput(f"model: {what} is not deterministic, {advice}: '{a.name}' at {a.source}, then '{b.name}' at {b.source}")
    for number, value in first.constants.items():
        if not _equal(value, second.constants.get(number)):
            users = [op.source for op in first.ops if number in op.inputs]
            raise InvalidInput(f"model: {what} is not deterministic, {advice}: a constant changes at {users[0] if users else 'the output'}")


def _plain(op: Op) -> tuple[Any, ...]:
    return tuple((k, v) for k, v in sorted(op.params.items()) if isinstance(v, bool | int | float | str | tuple))


def _equal(one: Any, two: Any) -> bool:
    if one is two:
        return True
    if is_key(one) and is_key(two):
        return bool(jnp.array_equal(jax.random.key_data(one), jax.random.key_data(two)))
    one, two = np.asarray(one), np.asarray(two)
    return one.shape == two.shape and one.dtype == two.dtype and one.tobytes() == two.tobytes()


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Refuse an option that is none of those allowed.

    Raises:
        InvalidInput: naming the option and its values.
    """
    if value not in allowed:
        raise InvalidInput(f"{name}: {value!r} is none of {', '.join(map(repr, allowed))}")
