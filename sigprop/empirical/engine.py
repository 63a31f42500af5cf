"""The kernels of a function at given parameters, by the plan of least cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sigprop.empirical.contract import assembled, contraction, einsum
from sigprop.empirical.cost import ASSEMBLED, FORMED, OUTER, PRODUCTS, Plan, Problem, activations, operations, plan
from sigprop.empirical.factors import example
from sigprop.empirical.sites import Site, sites
from sigprop.errors import InvalidInput, SigpropError
from sigprop.network.checks import check_program
from sigprop.tracing import Graph, evaluate, trace

# primitives with derivative rules of their own, and loops of unknown length
_WHOLE = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin", "cond")


class Split(NamedTuple):
    """Axes of an output: those kept apart, and the number that is averaged over."""

    kept: tuple[int, ...]
    features: int


class Setting(NamedTuple):
    """What is fixed when a kernel is compiled. ``active`` are the positions of the parameters that have tangents."""

    apply: Callable[..., Any]
    active: tuple[int, ...]
    outputs: str
    memory: float
    method: str


class Task(NamedTuple):
    """One example's program, the sites of its parameters, and how its kernel is computed."""

    graph: Graph
    split: Split
    sites: dict[int, tuple[Site, ...]]
    plan: Plan


def kernels(setting: Setting, params: Any, x1: Any, x2: Any, variances: Sequence[Any]) -> tuple[Any, Any, Any]:
    """NNGP and NTK ``[n1, n2, *kept, *kept]``, and whether examples of a batch influence each other; traceable.

    Args:
        x1, x2: tuples of inputs; ``x2`` may be ``None``.
        variances: of the tangents of all parameters.
    """
    task = prepare(setting, params, x1, x2)
    leaves, active = jax.tree.leaves(params), {leaf: variances[leaf] for leaf in task.plan.ways}
    one = jax.tree.leaves(x1)
    two = None if x2 is None else jax.tree.leaves(x2)
    if task.plan.parts == (1, 1):
        nngp, ntk = _block(task, leaves, one, two, active)
    else:
        nngp, ntk = _blocks(task, leaves, one, one if two is None else two, active)
    kept, features = task.split
    shape = (*nngp.shape[:2], *kept, *kept)
    mixed = _mixed(setting.apply, params, x1, x1 if x2 is None else x2, task)
    return nngp.reshape(shape) / features, ntk.reshape(shape) / features, mixed


def prepare(setting: Setting, params: Any, x1: Any, x2: Any) -> Task:
    """Trace one example and choose a plan.

    Raises:
        InvalidInput: for outputs that are not one array ``(n, *sites, features)``, or too little memory.
    """
    graph, count = example_graph(setting.apply, params, x1), len(jax.tree.leaves(params))
    shape = tuple(graph.avals[graph.outputs[0]].shape)
    split = Split(shape[:-1], shape[-1]) if setting.outputs == "trace" else Split(shape, 1)
    reaching = {i for op in graph.ops for i in op.inputs} | set(graph.outputs)
    sizes = {leaf: prod(graph.avals[graph.inputs[leaf]].shape) for leaf in setting.active if graph.inputs[leaf] in reaching}
    found = {leaf: group for leaf, group in sites(graph, count).items() if leaf in sizes}
    counts = tuple(0 if x is None else jax.tree.leaves(x)[0].shape[0] for x in (x1, x2))
    kind = jnp.promote_types(graph.avals[graph.outputs[0]].dtype, jnp.float32)
    problem = Problem((counts[0], counts[1]), prod(split.kept), split.features, sizes, found, operations(graph), *activations(graph),
                      kind.itemsize)
    return Task(graph, split, found, plan(problem, setting.memory, setting.method))


def example_graph(apply: Callable[..., Any], params: Any, x: Any) -> Graph:
    """The flat program of one example without its batch axis.

    Raises:
        InvalidInput: naming what a kernel cannot be made of.
    """
    def single(params: Any, *x: Any) -> Any:
        return jax.tree.map(lambda a: a[0], apply(params, *jax.tree.map(lambda a: a[None], x)))

    name = getattr(apply, "__name__", type(apply).__name__)
    params, x = (jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), tree) for tree in (params, x))
    try:
        whole = jax.eval_shape(apply, params, *x)
    except SigpropError:
        raise
    except Exception as error:
        shapes = [a.shape for a in jax.tree.leaves(x)]
        raise InvalidInput(f"model: {name} raised on inputs of shape {shapes}: {type(error).__name__}: {error}") from error
    check_output(whole, jax.tree.leaves(x)[0].shape[0])
    try:
        graph = trace(single, params, *jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x), keep=_WHOLE)
    except Exception as error:
        raise InvalidInput(f"model: {name} does not run on a batch of one example: {type(error).__name__}: {error}") from error
    if graph.avals[graph.outputs[0]].shape != jax.tree.leaves(whole)[0].shape[1:]:
        raise InvalidInput(f"model: outputs of {name} have shape {jax.tree.leaves(whole)[0].shape[1:]} an example, in a batch of one "
                           f"{graph.avals[graph.outputs[0]].shape}")
    check_program(graph, name, [jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(params)])
    return graph


def check_output(output: Any, examples: int) -> None:
    """Refuse what is not one floating array ``(n, *sites, features)``.

    Raises:
        InvalidInput: saying what the output is instead.
    """
    arrays = jax.tree.leaves(output)
    if len(arrays) != 1:
        raise InvalidInput(f"model: returns {len(arrays)} arrays; a kernel is of one output, (n, features) or (n, *sites, features)")
    shape, kind = tuple(arrays[0].shape), arrays[0].dtype
    if len(shape) < 2:
        raise InvalidInput(f"model: outputs of shape {shape} have no feature axis; return y[:, None] for a scalar output")
    if shape[0] != examples:
        raise InvalidInput(f"model: outputs of shape {shape} for {examples} examples; axis 0 must be the batch")
    if not jnp.issubdtype(kind, jnp.floating):
        raise InvalidInput(f"model: outputs of dtype {kind}; a kernel needs floating numbers")


def _block(task: Task, leaves: Sequence[Any], one: Sequence[Any], two: Sequence[Any] | None, variances: dict[int, Any]) -> tuple[Any, Any]:
    """Both kernels of two sets of examples ``[n, m, q, r]``; ``two`` is ``None`` for the same set."""
    left = _side(task, leaves, one)
    return _pair(task, leaves, left, left if two is None else _side(task, leaves, two), one, one if two is None else two, variances)


def _blocks(task: Task, leaves: Sequence[Any], one: Sequence[Any], two: Sequence[Any], variances: dict[int, Any]) -> tuple[Any, Any]:
    """The same, a part at a time."""
    counts = one[0].shape[0], two[0].shape[0]
    rows, columns = _parts(one, task.plan.parts[0]), _parts(two, task.plan.parts[1])

    def row(x: Any) -> Any:
        left = _side(task, leaves, x)
        return lax.map(lambda y: _pair(task, leaves, left, _side(task, leaves, y), x, y, variances), columns)

    def joined(blocks: Any) -> Any:  # [parts1, parts2, n, m, q, r]
        whole = jnp.swapaxes(blocks, 1, 2)
        return whole.reshape(whole.shape[0] * whole.shape[1], -1, *whole.shape[4:])[: counts[0], : counts[1]]

    return jax.tree.map(joined, lax.map(row, rows))


def _parts(arrays: Sequence[Any], parts: int) -> list[Any]:
    """Equal parts along axis 0; the last example fills the last part."""
    count = arrays[0].shape[0]
    size = -(-count // parts)
    index = jnp.minimum(jnp.arange(size * parts), count - 1)
    return [a[index].reshape(parts, size, *a.shape[1:]) for a in arrays]


def _side(task: Task, leaves: Sequence[Any], x: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Outputs ``[n, q, f]`` and gradients of one set of examples, for the sites and parameters of :func:`_owners` in order."""
    ways = task.plan.ways
    formed = [leaf for leaf, way in ways.items() if way == FORMED]
    factored = [site for leaf, way in ways.items() if way in (ASSEMBLED, OUTER) for site in task.sites[leaf]]

    def one(*data: Any) -> Any:
        outputs, gradients, outers = example(task.graph, formed, factored, task.split.features, [*leaves, *data])
        outers = [assembled(site, o) if ways[site.leaf] == ASSEMBLED else o for site, o in zip(factored, outers, strict=True)]
        return outputs, [*(g.reshape(outputs.shape[0], -1) for g in gradients), *outers]

    return jax.vmap(one)(*x) if PRODUCTS not in ways.values() else (jax.vmap(lambda *data: _outputs(task, leaves, data))(*x), [])


def _owners(task: Task) -> list[int]:
    """The parameter that each gradient of :func:`_side` belongs to."""
    formed = [leaf for leaf, way in task.plan.ways.items() if way == FORMED]
    return formed + [leaf for leaf, way in task.plan.ways.items() if way in (ASSEMBLED, OUTER) for _ in task.sites[leaf]]


def _outputs(task: Task, leaves: Sequence[Any], data: Sequence[Any]) -> Any:
    return evaluate(task.graph, [*leaves, *data])[0][0].reshape(-1, task.split.features)


def _pair(task: Task, leaves: Sequence[Any], left: Any, right: Any, one: Any, two: Any, variances: dict[int, Any]) -> tuple[Any, Any]:
    nngp = einsum("nqf,mrf->nmqr", left[0], right[0])
    if PRODUCTS in task.plan.ways.values():
        return nngp, _by_products(task, leaves, one, two, variances).astype(nngp.dtype)
    ntk = jnp.zeros_like(nngp)
    for leaf, g, h in zip(_owners(task), left[1], right[1], strict=True):
        ntk = ntk + jnp.asarray(variances[leaf], nngp.dtype) * contraction(g, h)
    return nngp, ntk


def _by_products(task: Task, leaves: Sequence[Any], one: Any, two: Any, variances: dict[int, Any]) -> Any:
    """``[n, m, q, r]``: each output of ``two`` pulled back to the parameters, and pushed forward to all of ``one``."""
    chosen, features = list(variances), task.split.features

    def outputs(params: Sequence[Any], data: Sequence[Any]) -> Any:
        given = list(leaves)
        for leaf, value in zip(chosen, params, strict=True):
            given[leaf] = value
        return _outputs(task, given, data)

    at = [leaves[leaf] for leaf in chosen]
    push = jax.linearize(lambda p: jax.vmap(lambda *data: outputs(p, data))(*one), at)[1]
    basis = jnp.arange(prod(task.split.kept) * features)

    def row(data: Sequence[Any]) -> Any:
        values, pull = jax.vjp(lambda p: outputs(p, data), at)

        def column(k: Any) -> Any:
            (tangent,) = pull((basis == k).astype(values.dtype).reshape(values.shape))
            scaled = [t * jnp.asarray(variances[leaf], t.dtype) for leaf, t in zip(chosen, tangent, strict=True)]
            return push(scaled)[..., k % features]  # [n, q]

        return lax.map(column, basis)  # [(r, f), n, q]

    found = lax.map(row, list(two))
    m, _, n, q = found.shape
    return found.reshape(m, -1, features, n, q).sum(2).transpose(2, 0, 3, 1)


def _mixed(apply: Callable[..., Any], params: Any, x1: Any, x2: Any, task: Task) -> Any:
    """Whether the outputs of two examples change by more than half their digits when they share a batch."""
    pair = jax.tree.map(lambda a, b: jnp.stack([a[0], b[-1]]), x1, x2)
    together = jax.tree.leaves(apply(params, *pair))[0].reshape(2, -1)
    apart = jax.vmap(lambda *data: _outputs(task, jax.tree.leaves(params), data))(*jax.tree.leaves(pair)).reshape(2, -1)
    allowed = jnp.finfo(together.dtype).eps ** 0.5 * jnp.max(jnp.abs(apart))
    return ~(jnp.max(jnp.abs(together - apart)) <= allowed)
