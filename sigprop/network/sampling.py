"""Drawing parameters from declared laws, and measuring laws on samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

from sigprop.errors import InvalidInput
from sigprop.network.law import Laws, is_law
from sigprop.network.paths import parameter_paths
from sigprop.types import FAMILIES, Law

_CERTAIN = 5.0  # standard errors beyond which a measured mean counts as different from zero
_SLIGHT = 0.01  # a correlation that would not be seen in moments


def is_random(leaf: Any) -> bool:
    """Whether a parameter can have a law: floating numbers, neither keys nor counters."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def draw(key: Any, law: Law, shape: tuple[int, ...], dtype: Any) -> Any:
    """Independent entries of the given law (orthonormal rows or columns, scaled, for ``orthogonal``)."""
    unit = {
        "uniform": lambda: jax.random.uniform(key, shape, dtype, -(3.0**0.5), 3.0**0.5),
        "laplace": lambda: jax.random.laplace(key, shape, dtype) / 2**0.5,
        "rademacher": lambda: jax.random.rademacher(key, shape, dtype),
        "truncated normal": lambda: jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) / 0.87962566103423978,
        "constant": lambda: jnp.zeros(shape, dtype),
    }
    if law.family == "orthogonal":
        rows = int(np.prod(shape[:-1], dtype=int))
        matrix = jax.nn.initializers.orthogonal(column_axis=-1)(key, (rows, shape[-1]), dtype)
        standard = matrix.reshape(shape) * max(rows, shape[-1]) ** 0.5
    else:
        standard = unit.get(law.family, lambda: jax.random.normal(key, shape, dtype))()
    return jnp.asarray(law.mean, dtype) + jnp.sqrt(jnp.asarray(law.variance, dtype)) * standard


def drawn(base: Callable[[Any], Any], declared: list[Any]) -> Callable[[Any], Any]:
    """``base`` with the leaves that have a declared law drawn from it."""
    def init(key: Any) -> Any:
        leaves, tree = jax.tree.flatten(base(key))
        keys = jax.random.split(jax.random.fold_in(key, 1), max(len(leaves), 1))
        return jax.tree.unflatten(tree, [draw(k, law, leaf.shape, leaf.dtype) if is_law(law) else leaf
                                         for k, law, leaf in zip(keys, declared, leaves, strict=True)])
    return init


def measured_law(samples: np.ndarray) -> Law:
    """Pooled mean and variance of ``samples``; a mean within five standard errors of zero is taken to be zero.

    The standard error counts each sample as independent; the variance is about the mean that is returned.
    """
    array = np.asarray(samples, np.float64)
    mean, spread = float(array.mean()), float(array.std())
    if spread == 0.0:
        return Law(mean, 0.0, "constant", "measured")
    if abs(mean) < _CERTAIN * spread / array.size**0.5:
        mean = 0.0
    return Law(mean, float(np.mean((array - mean) ** 2)), "unknown", "measured")


def depend(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether entries of two parameters ``[seeds, ...]`` at the same place are seen to depend on each other.

    Correlations of their values and squares over the entries of a seed, and Student's test over the seeds: false alarm 1e-6.
    """
    features = [[(a - a.mean(axis=1, keepdims=True)) for a in (flat, flat**2)] for flat in (x.reshape(len(x), -1) for x in (one, two))]
    for a, b in product(*features):
        scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
        found = (a * b).sum(axis=1)[scale > 0] / scale[scale > 0]
        if len(found) > 1 and abs(found.mean()) > max(_SLIGHT, -stdtrit(len(found) - 1, 1e-6 / 8) * found.std(ddof=1) / len(found) ** 0.5):
            return True
    return False


def laws_of_arrays(params: Any) -> list[Any]:
    """Per leaf the measured law of an array's own entries; the array itself where it is a constant, a single number, a key or a counter."""
    out: list[Any] = []
    for leaf in jax.tree.leaves(params):
        plain = is_random(leaf) and leaf.size > 1
        law = measured_law(np.asarray(leaf, np.float64)) if plain else None
        out.append(leaf if law is None or law.variance == 0 else law)
    return out


def match(laws: Any, params: Any) -> list[Any]:
    """Leaves of ``laws`` in the order of those of ``params``, ``None`` for those that it lacks.

    Args:
        laws: a tree like ``params`` of :class:`Law` (``None`` or absent leaves are missing), or :class:`Laws`.

    Raises:
        InvalidInput: naming the first law that has no parameter, or that does not fit its parameter.
    """
    paths, leaves = parameter_paths(params), jax.tree.leaves(params)
    tree = laws.tree if isinstance(laws, Laws) else laws
    given = jax.tree.leaves(tree, is_leaf=is_law)
    found = dict(zip(parameter_paths(tree, is_leaf=is_law), given, strict=True))
    for name in found:
        if name not in paths:
            raise InvalidInput(f"laws: there is no parameter {name!r}; the parameters are {paths}")
    for name, leaf in zip(paths, leaves, strict=True):
        if name in found:
            found[name] = _checked(name, found[name], leaf)
    return [found.get(name) for name in paths]


def _checked(name: str, law: Any, leaf: Any) -> Law:
    if not is_law(law):
        raise InvalidInput(f"laws[{name!r}]: {type(law).__name__} is not a sp.Law(mean, variance)")
    if not is_random(leaf):
        raise InvalidInput(f"laws[{name!r}]: the parameter has dtype {leaf.dtype}; only floating parameters have laws")
    if law.family not in FAMILIES and law.source != "declared":  # taken from the table of a network
        law = replace(law, family="normal")
    if law.family not in FAMILIES:
        raise InvalidInput(f"laws[{name!r}]: unknown family {law.family!r}; known are {', '.join(FAMILIES)}")
    for part in ("mean", "variance"):
        value = np.asarray(getattr(law, part))
        try:
            fits = np.broadcast_shapes(value.shape, leaf.shape) == tuple(leaf.shape)
        except ValueError:
            fits = False
        if not fits:
            raise InvalidInput(f"laws[{name!r}]: {part} of shape {value.shape} does not broadcast to the parameter's shape {leaf.shape}")
        if not np.issubdtype(value.dtype, np.number) or not np.all(np.isfinite(value)):
            raise InvalidInput(f"laws[{name!r}]: {part} {getattr(law, part)!r} is not a finite number")
    if np.any(np.asarray(law.variance) < 0):
        raise InvalidInput(f"laws[{name!r}]: negative variance {law.variance!r}")
    if law.family == "constant" and np.any(np.asarray(law.variance) > 0):
        raise InvalidInput(f"laws[{name!r}]: a constant has variance 0, not {law.variance!r}")
    if law.family == "orthogonal" and len(leaf.shape) < 2:
        raise InvalidInput(f"laws[{name!r}]: an orthogonal parameter needs two axes or more, not shape {leaf.shape}")
    return replace(law, source="declared")
