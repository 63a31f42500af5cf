"""Kernels of a network of infinite width: second moments of its output (NNGP) and of its derivative along random tangents (NTK)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete, namespace, scaled
from sigprop.engine import RULES, Context, Field, Known, Label, Value, demand_exact, interpret, known, method_of
from sigprop.engine.labels import aligned, contract
from sigprop.engine.query import Query
from sigprop.engine.values import labelled
from sigprop.errors import InvalidInput, SigpropError, Unsound
from sigprop.infinite.apart import apart
from sigprop.infinite.tangent import PARAMETERIZATIONS, by_path, derivative, leaf_of, rates, tangents
from sigprop.infinite.tiles import tiled, worthwhile
from sigprop.network import Network, check_inputs, check_pair, parameters
from sigprop.tracing import rolled
from sigprop.types import EXACT, METHODS, Kernel, Note

_SHIFT = 1000  # between the labels of one output and of the other
_DIAGONALS = (False, True, "batch", "sites")


def infinite_kernel(net: Network, parameterization: str = "standard", learning_rates: Any = None, *, ntk: bool = True,
                    diagonal: bool | str = False, per_leaf: bool = False, exact_only: bool = False,
                    rules: Mapping[str, Any] = RULES) -> Callable[..., Kernel]:
    """``kernel(x1, x2=None)``: NNGP and NTK of ``net`` in the limit of infinite width.

    Both are averaged over the last (feature) axis of the output: ``[n1, n2]`` for outputs ``(n, features)``,
    ``[n1, n2, *sites1, *sites2]`` with site axes, ``[n, *sites]`` with ``diagonal=True``. The NTK is the second moment of the derivative
    of the output along independent tangents of the parameters (Jacot et al. 2018; Lee et al. 2018; Novak et al. 2019; Yang 2020).

    Args:
        net: from :func:`sigprop.network`.
        parameterization: ``"standard"``: the tangent of every trained parameter has variance 1, whatever the width, as in plain gradient
            descent. ``"ntk"``: it has the variance of the parameter's law, entry by entry, as if the parameter were its standard
            deviation times a standard one; a parameter that does not vary (a bias that starts at zero) then has no tangent. Running
            statistics, counters and random keys have none in either.
        learning_rates: non-negative factors of these variances, in a tree like the parameters or in a mapping by path
            (``{"Dense_0/kernel": 0.5}``); parameters that are not named have 1.
        ntk: ``False`` for the NNGP alone: ``Kernel.ntk`` is ``None``.
        diagonal: ``"batch"`` for pairs of the same example only, ``[n, *sites1, *sites2]``; ``"sites"`` for pairs of the same site only,
            ``[n1, n2, *sites]``; ``True`` for both, ``[n, *sites]``.
        per_leaf: ``Kernel.ntk`` is a dictionary by path of the contributions of the trained parameters, which add up to the NTK.
        exact_only: refuse kernels that are sampled, or rest on a field that is only nearly Gaussian.
        rules: table of primitive rules, to extend the interpreter.

    Raises:
        InvalidInput: for unusable arguments and inputs.
        MissingRule, Unsound: where the model cannot be predicted, or its kernel overflows.
    """
    if parameterization not in PARAMETERIZATIONS:
        raise InvalidInput(f"parameterization: {parameterization!r} is none of {', '.join(PARAMETERIZATIONS)}")
    if diagonal not in _DIAGONALS:
        raise InvalidInput(f"diagonal: {diagonal!r} is none of {_DIAGONALS}")
    factors = rates(net, learning_rates)

    def kernel(x1: Any, x2: Any = None) -> Kernel:
        check_inputs((x1,) if x2 is None else (x1, x2))
        if x2 is not None:
            check_pair(x1, x2)
        traced = not all(map(concrete, jax.tree.leaves((x1, x2))))
        if not traced:
            return compute(x1, x2)
        cut = diagonal is False and worthwhile(x1, x2) and apart(net, *(x1 if isinstance(x1, tuple) else (x1,)))
        return tiled(rolled(compute), x1, x2) if cut else rolled(compute)(x1, x2)

    def compute(x1: Any, x2: Any) -> Kernel:
        context = Context(rules)
        params, _ = parameters(context, net)
        along = tangents(context, net, params, parameterization, factors) if ntk else {}
        one = _outputs(context, net, params, along, x1)
        two = one if x2 is None else _outputs(context, net, params, along, x2)
        nngp = output_moment(context, one[0], two[0], diagonal)
        shares = {k: context.query.along(leaf_of(tangent)) for k, tangent in along.items()} if per_leaf else {-1: context.query}
        found = {k: _derivative_moment(context, one[1], two[1], diagonal, nngp[0], query) for k, query in shares.items()}
        if exact_only:
            for name, value, note in [("nngp", one[0], nngp[1]), *(("ntk", one[1], note) for _, note in found.values() if ntk)]:
                demand_exact(name, method_of(note, value.node.tails) if isinstance(value, Field) else METHODS[note.how])
        kind = jnp.result_type(float, *(a for a in jax.tree.leaves((x1, x2)) if jnp.issubdtype(jnp.result_type(a), jnp.floating)))
        return _kernel(net, kind, nngp, found if ntk else None, per_leaf)

    return kernel


def _kernel(net: Network, kind: Any, nngp: tuple[Any, Note], contributions: Mapping[int, tuple[Any, Note]] | None,
            per_leaf: bool) -> Kernel:
    one, error = _cast(nngp[0], kind), _error([nngp], kind)
    if contributions is None:
        return Kernel(one, None, error)
    arrays = {k: _cast(a, kind) for k, (a, _) in contributions.items()}
    if per_leaf:
        ntk: Any = by_path(net, {k: arrays.get(k, jnp.zeros_like(one)) for k, moves in enumerate(net.trainable) if moves})
    else:
        (ntk,) = arrays.values()
    return Kernel(one, ntk, error, _error([*contributions.values()], kind))


def _cast(array: Any, kind: Any) -> Any:
    with np.errstate(over="ignore"):
        cast = jnp.asarray(array, kind)
    if concrete(cast) and not np.all(np.isfinite(np.asarray(cast))):
        further = "float64 inputs under jax.enable_x64(True) reach further, and " if kind == jnp.float32 else ""
        raise Unsound(f"the kernel overflows {jnp.dtype(kind).name}: the signal explodes; {further}log10_second_moment of sp.propagate has "
                      "no such limit")
    return cast


def _error(found: Sequence[tuple[Any, Note]], kind: Any) -> Any:
    """The largest absolute error of arrays whose errors are relative to their largest entries."""
    errors = [abs(array).max() * note.error for array, note in found]
    return jnp.asarray(namespace(*errors).stack(errors).max() if errors else 0.0, kind)


def _outputs(context: Context, net: Network, params: Sequence[Value], moving: Mapping[int, Value], x: Any) -> tuple[Value, Value | None]:
    """The output, and its derivative along the tangents ``moving``, if there are any."""
    inputs = x if isinstance(x, tuple) else (x,)
    plain, data = net.graph(*inputs), [known(a) for a in jax.tree.leaves(inputs)]
    if not moving:
        return interpret(context, plain, [*params, *data])[plain.outputs[0]], None
    try:
        graph = derivative(net, list(moving), *inputs)
        env = interpret(context, graph, [*params, *moving.values(), *data])
    except SigpropError as error:
        interpret(context, plain, [*params, *data])  # where the model itself cannot be predicted, that is the error
        raise type(error)(f"{error} This concerns the derivative: ntk=False gives the NNGP alone.") from error
    return env[graph.outputs[0]], env[graph.outputs[1]]


def _derivative_moment(context: Context, one: Value | None, two: Value | None, diagonal: bool | str, like: Any,
                       query: Query) -> tuple[Any, Note]:
    """A derivative is odd in the tangents: where it is deterministic it is zero."""
    if not isinstance(one, Field) or not isinstance(two, Field):
        return namespace(like).zeros_like(like), EXACT
    return output_moment(context, one, two, diagonal, query)


def output_moment(context: Context, one: Value, two: Value, diagonal: bool | str = False, query: Query | None = None) -> tuple[Any, Note]:
    """E[y1 y2] with the feature index shared and averaged; batch and site indices are separate, or shared where ``diagonal`` says so."""
    if isinstance(one, Known) and isinstance(two, Known):
        return _known_moment(one, two, diagonal)
    if not isinstance(one, Field) or not isinstance(two, Field):
        raise Unsound("one output is random and the other is not")
    last = len(one.axes) - 1
    labels1, rows1 = labelled(one, 0)
    labels2, rows2 = labelled(two, _SHIFT)
    features = rows1[last] if last > 0 else []
    batch, sites = rows1[:1], rows1[1:max(last, 1)]
    equal = [*features, *_flat(batch if diagonal in (True, "batch") else []), *_flat(sites if diagonal in (True, "sites") else [])]
    shared = {label._replace(number=label.number + _SHIFT): label for label in equal}
    found = (query or context.query).moment([(one.node, labels1), (two.node, tuple(shared.get(la, la) for la in labels2))])
    mean = contract([found], features)
    other_batch, other_sites = rows2[:1], rows2[1:max(last, 1)]
    axes = [*batch, *([] if diagonal in (True, "batch") else other_batch), *sites, *([] if diagonal in (True, "sites") else other_sites)]
    flat = _flat(axes)
    array = namespace(mean.array).broadcast_to(aligned(mean, flat), [label.size for label in flat])
    array = array.reshape([prod(label.size for label in row) for row in axes]) / prod(label.size for label in features)
    return scaled(array, mean.exponent), found.note


def _known_moment(one: Known, two: Known, diagonal: bool | str) -> tuple[Any, Note]:
    rank = np.ndim(one.array)
    sites1, sites2 = "abcdefg"[: max(rank - 2, 0)], "ABCDEFG"[: max(rank - 2, 0)]
    batch2, sites2 = "i" if diagonal in (True, "batch") else "j", sites1 if diagonal in (True, "sites") else sites2
    out = "".join(dict.fromkeys(f"i{batch2}{sites1}{sites2}"))
    feature = "z" if rank > 1 else ""
    array = jnp.einsum(f"i{sites1}{feature},{batch2}{sites2}{feature}->{out}", one.array, two.array)
    return array / (one.array.shape[-1] if rank > 1 else 1), Note.of((one.note, two.note))


def _flat(rows: Sequence[Sequence[Label]]) -> list[Label]:
    return [label for row in rows for label in row]
