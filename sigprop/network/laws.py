"""Laws of parameters, read off the initializer by interpreting it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from sigprop.arrays import is_key
from sigprop.engine import RULES, Context, Field, Known, Unknown, Value, interpret, known
from sigprop.engine.draws import standard
from sigprop.engine.labels import own_labels
from sigprop.engine.rules.elementwise import add, mul
from sigprop.engine.values import drawn
from sigprop.errors import InvalidInput, SigpropError, Unsound
from sigprop.network.degree import degrees, family, hidden_draws, is_plain
from sigprop.network.fans import counted_fans
from sigprop.network.law import Laws, is_law
from sigprop.network.network import Network
from sigprop.network.paths import parameter_paths
from sigprop.network.sampling import depend, is_random, measured_law
from sigprop.types import Law

_EXACT = ("normal",)  # families whose every moment the engine knows; of others it knows the first two
_SAMPLES = 200_000  # numbers drawn to measure a law: they give a Gaussian variance to 0.3 %
_GROUP = 16  # seeds at a time
_DEPENDENT = "measured, depends on "


def parameters(context: Context, net: Network) -> tuple[list[Value], list[str]]:
    """Each parameter as a value over independent leaves, and where its law comes from.

    In this order: ``declared``; ``traced``, the initializer interpreted; ``measured`` where it cannot be followed: entries that are the
    same for every seed stay, the others become independent with their pooled mean and variance.

    Raises:
        Unsound: where a measured parameter is seen to depend on another one, as a mask does that sorts the weights it is for.
    """
    values, sources = _every(context, net)
    paths = parameter_paths(net.abstract_params)
    for path, source in zip(paths, sources, strict=True):
        if source.startswith(_DEPENDENT):
            raise Unsound(f"the law of the parameter {path!r} had to be measured, and it depends on {source.removeprefix(_DEPENDENT)!r}: "
                          "their joint law is not known. Compute it inside the model from what it depends on, make it of operations that "
                          "can be followed (a comparison with a number instead of a sort), or declare laws=.")
    return values, sources


def _every(context: Context, net: Network) -> tuple[list[Value], list[str]]:
    leaves = jax.tree.leaves(net.abstract_params)
    given = net.declared or [None] * len(leaves)
    read = _traced(context, net) if any(g is None for g in given) else []
    values, sources = [], []
    for i, (law, leaf) in enumerate(zip(given, leaves, strict=True)):
        if law is None:
            value, source = read[i]
        elif isinstance(law, Law):
            value, source = _iid(context, ("declared", i), leaf.shape, law), law.source
        else:
            value, source = known(law), "measured"
        values.append(value)
        sources.append(source)
    return values, sources


def _traced(context: Context, net: Network) -> list[tuple[Value, str]]:
    graph = net.init_graph
    with jax.ensure_compile_time_eval():  # concrete also while the caller is traced
        key = jax.random.key(0)
    env = interpret(context, graph, [Known(key)], lenient=True)
    values: list[Any] = [env[o] for o in graph.outputs]
    hidden, leaves = hidden_draws(graph), jax.tree.leaves(net.abstract_params)
    failed = []
    for i, (output, leaf) in enumerate(zip(graph.outputs, leaves, strict=True)):
        if output in hidden or not _followed(context, values[i]):
            if is_random(leaf):
                failed.append(i)
            elif output in hidden and not is_key(leaf):
                values[i] = Unknown(InvalidInput("a parameter of random integers has no law"), tuple(leaf.shape))
    sources = ["traced"] * len(values)
    for i, (law, other) in zip(failed, _measure(net, failed), strict=True):
        values[i] = _iid(context, ("measured", i), leaves[i].shape, law)
        sources[i] = "measured" if other is None else f"{_DEPENDENT}{parameter_paths(net.abstract_params)[other]}"
    return list(zip(values, sources, strict=True))


def _followed(context: Context, value: Value) -> bool:
    """Whether the engine can give the moments of a value exactly."""
    if isinstance(value, Known):
        return True
    if isinstance(value, Unknown):
        return False
    if is_plain(value.node):
        return True
    if any(degree > 1 and leaf.family not in _EXACT for leaf, degree in degrees(value.node).items()):
        return False
    try:
        return bool(np.isfinite(_moments(context, value)).all())
    except SigpropError:
        return False


def _measure(net: Network, wanted: list[int]) -> list[tuple[Law, int | None]]:
    """Laws of the leaves ``wanted``, over as many seeds as give about 200,000 numbers for the smallest (between 16 and 1024), and for each
    a leaf of the same shape that it depends on."""
    if not wanted:
        return []
    leaves = jax.tree.leaves(net.abstract_params)
    smallest = min(leaves[i].size for i in wanted)
    groups = int(np.clip(_SAMPLES // (_GROUP * max(smallest, 1)), 1, 64))
    beside = {i: [j for j, leaf in enumerate(leaves) if j != i and is_random(leaf) and leaf.shape == leaves[i].shape] for i in wanted}
    drawn = sorted({*wanted, *(j for others in beside.values() for j in others)})
    sample = jax.jit(jax.vmap(lambda key: [jax.tree.leaves(net.init(key))[i] for i in drawn]))
    draws: dict[int, list[np.ndarray]] = {i: [] for i in drawn}
    with jax.ensure_compile_time_eval():
        for keys in jax.random.split(jax.random.key(1), groups * _GROUP).reshape(groups, _GROUP):
            for i, array in zip(drawn, sample(keys), strict=True):
                draws[i].append(np.asarray(array, np.float64))
    every = {i: np.concatenate(d) for i, d in draws.items()}
    return [(_structured(every[i]), next((j for j in beside[i] if depend(every[i], every[j])), None)) for i in wanted]


def _structured(samples: np.ndarray) -> Law:
    """Pooled law of the entries that vary over seeds; the others keep their value."""
    fixed = (samples == samples[:1]).all(axis=0)
    if not fixed.any():
        return measured_law(samples)
    if fixed.all():
        return Law(samples[0], np.zeros(()), "table", "measured")
    law = measured_law(samples[:, ~fixed])
    return Law(np.where(fixed, samples[0], law.mean), np.where(fixed, 0.0, law.variance), "unknown", "measured")


def _iid(context: Context, key: Any, shape: tuple[int, ...], law: Law) -> Value:
    """Independent entries of mean and variance ``law``, which may vary over the parameter."""
    mean, variance = (np.asarray(v, np.float64) for v in (law.mean, law.variance))
    if not variance.any():
        return known(np.array(np.broadcast_to(mean, shape)))
    name = "orthogonal" if law.family == "orthogonal" else "normal" if law.family in ("normal", "unknown") else law.family
    leaf: Value = mul(context, None, drawn(context.pool, key, shape, standard(name)), _constant(np.sqrt(variance), shape))[0]
    return leaf if not mean.any() else add(context, None, leaf, _constant(mean, shape))[0]  # type: ignore[arg-type]


def _constant(array: np.ndarray, shape: tuple[int, ...]) -> Known:
    return Known(array.reshape((1,) * (len(shape) - array.ndim) + array.shape) if array.ndim else array)


def _moments(context: Context, value: Field) -> tuple[float, float]:
    """Mean and second moment, averaged over entries."""
    node = value.node
    labels = own_labels(node)
    first = context.query.moment([(node, labels)])
    second = context.query.moment([(node, labels), (node, labels)])
    return float(np.mean(first.plain())), float(np.mean(second.plain()))


def summary(context: Context, value: Value, source: str) -> Law:
    """Mean and variance of a parameter, pooled over its entries."""
    if isinstance(value, Known):
        array = np.asarray(value.array, np.float64)
        return Law(float(array.mean()), float(array.var()), "constant" if array.var() == 0 else "table", source)
    assert isinstance(value, Field)
    mean, second = _moments(context, value)
    return Law(mean, second - mean**2, "unknown" if source.startswith("measured") else family(value.node), source)


def law_table(net: Network) -> Laws:
    """The laws of ``net`` in a tree like its parameters, with true fans where it has an example input."""
    context = Context(RULES)
    values, sources = _every(context, net)
    paths, (leaves, tree) = parameter_paths(net.abstract_params), jax.tree.flatten(net.abstract_params)
    laws = [summary(context, v, s) if is_random(leaf) else None for leaf, v, s in zip(leaves, values, sources, strict=True)]
    for i, law in enumerate(net.declared or ()):
        if is_law(law) and np.ndim(law.mean) == np.ndim(law.variance) == 0:
            laws[i] = law
    shapes = {path: tuple(leaf.shape) for path, leaf in zip(paths, leaves, strict=True)}
    known = {path: law for path, law in zip(paths, laws, strict=True) if law is not None}
    fan_in = {path: fan.inner[0] for path, fan in counted_fans(net, known).items() if fan.is_weight} if net.example else {}
    return Laws(jax.tree.unflatten(tree, laws), shapes, fan_in)
