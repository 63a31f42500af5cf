"""The gradient of a loss with respect to the output, as a random field that the backward pass starts from.

In the infinite-width limit ``l = dL/dy`` is a function of the Gaussian output alone and independent of the weights that the backward
pass uses, so that ``E[g²] = sum E[l_p l_q] E[J_p J_q]`` over pairs of output entries, for the Jacobian ``J`` of any parameter (Yang 2020,
Tensor Programs III). Only the second moment of ``l`` matters; the field made of it is Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.engine import Context, Field, Known, Sampler, Value, interpret, known
from sigprop.engine.draws import normal
from sigprop.engine.labels import aligned, own_labels
from sigprop.engine.values import drawn
from sigprop.errors import InvalidInput
from sigprop.gaussian import normal_points, square_root
from sigprop.tracing import trace
from sigprop.types import EXACT, METHODS, Note

_BUDGET = 1 << 21  # numbers drawn in one scrambling
_REPLICATES = 8
_LINEAR = 1e-9  # relative departure from a linear function that is rounding, in float64
_ADDITIVE = 1e-6

Loss = Callable[..., Any]


class OutputGradient(NamedTuple):
    """Second moment of ``dL/dy`` over the draws of the parameters.

    Attributes:
        together: ``[n, n]`` over all entries of the output, batch first.
        apart: the same without what different examples have in common.
        note: relative error and method.
    """

    together: np.ndarray
    apart: np.ndarray
    note: Note


def output_gradient(context: Context, output: Value, loss: Loss, targets: Sequence[Any]) -> OutputGradient:
    """By scrambled Sobol' points of the joint Gaussian output; exact where ``dL/dy`` is linear in it.

    Raises:
        InvalidInput: where ``loss`` does not give a finite scalar.
        MissingRule, Unsound: where the output is not known, or has too many entries.
    """
    count, size, sample, note = _sampler(context, output)
    batch = output.shape[0]
    gradient = pullback(loss, output.shape, targets)
    exact = _linear(gradient, sample, count)
    if exact is not None:
        return OutputGradient(exact.T @ exact, _apart(exact, batch), note)
    points = 1 << int(np.clip(np.log2(_BUDGET / size), 6, 13))
    found = [gradient(sample(normal_points(points, count, r))) for r in range(_REPLICATES)]
    sizes = [[np.mean(g**2), np.mean(g.reshape(points, batch, -1).sum(1) ** 2)] for g in found]  # what own and joint parts add up to
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.std(sizes, axis=0, ddof=1) / np.mean(sizes, axis=0) / _REPLICATES**0.5
    every = np.concatenate(found) / (points * _REPLICATES) ** 0.5
    error = float(np.max(np.nan_to_num(errors)))
    return OutputGradient(every.T @ every, _apart(every, batch), Note.of([note, Note(error, METHODS.index("sampled"))]))


def as_field(context: Context, second: np.ndarray, shape: Sequence[int], key: str, note: Note = EXACT) -> Value:
    """A Gaussian array of the given shape and second moment ``[n, n]``, independent of everything and with a sign of its own."""
    size = np.max(np.abs(second), initial=0.0)
    root = square_root(second / size) * size**0.5 if size else second
    kept = np.max(np.abs(root), axis=0) > 1e-9 * np.max(np.abs(root), initial=0.0)
    if not np.any(kept):
        return known(np.zeros(shape))
    root = root[:, kept]
    leaf = drawn(context.pool, ("cotangent", key), (root.shape[1],), normal(), sign="cotangent")
    kinds = jax.ShapeDtypeStruct(root.shape, np.float32), jax.ShapeDtypeStruct(root.shape[1:], np.float32)
    graph = trace(lambda r, z: (r @ z).reshape(shape), *kinds)
    return interpret(context, graph, [known(root, note), leaf])[graph.outputs[0]]


def pullback(loss: Loss, shape: Sequence[int], targets: Sequence[Any]) -> Callable[[np.ndarray], np.ndarray]:
    """``outputs [m, *shape] -> dL/dy [m, n]`` in float64.

    Raises:
        InvalidInput: where ``loss(y, *targets)`` fails or is not a finite scalar.
    """
    def gradient(outputs: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            found = [np.asarray(part, np.float64) for part in _chunks(jax.jit(jax.vmap(jax.grad(loss), (0, *[None] * len(targets)))),
                                                                        outputs, [_double(t) for t in targets])]
        flat = np.concatenate(found).reshape(len(outputs), -1)
        if not np.all(np.isfinite(flat)):
            raise InvalidInput("loss: its gradient is NaN or infinite on outputs that the network gives")
        return flat

    check_loss(loss, shape, targets)
    return gradient


def check_loss(loss: Loss, shape: Sequence[int], targets: Sequence[Any]) -> None:
    """Refuse a loss that is not a real scalar function of the output.

    Raises:
        InvalidInput: saying what it gave.
    """
    if not callable(loss):
        raise InvalidInput(f"loss: {type(loss).__name__} is not a function loss(y, *targets)")
    y = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    try:
        out = jax.eval_shape(loss, y, *targets)
    except Exception as error:
        shapes = [tuple(np.shape(t)) for t in jax.tree.leaves(targets)]
        raise InvalidInput(f"loss: raised on an output of shape {tuple(shape)} and targets of shapes {shapes}: "
                           f"{type(error).__name__}: {error}") from error
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1 or not hasattr(leaves[0], "shape") or leaves[0].shape or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise InvalidInput(f"loss: it gives {out}, not one real number; average or sum over examples inside it")


def reduction(loss: Loss, shape: Sequence[int], targets: Sequence[Any]) -> str:
    """How the loss joins its examples: their ``"mean"``, their ``"sum"``, or ``"joint"`` for anything else."""
    y = np.random.default_rng(0).standard_normal(shape)
    whole = pullback(loss, shape, targets)(y[None]).reshape(shape[0], -1)
    try:
        check_loss(loss, (1, *shape[1:]), jax.tree.map(lambda t: t[:1], list(targets)))
    except InvalidInput:
        return "joint"
    with jax.enable_x64(True):
        alone = jax.jit(jax.vmap(jax.grad(loss)))(*jax.tree.map(lambda t: t[:, None], [y, *map(_double, targets)]))
    alone = np.asarray(alone, np.float64).reshape(whole.shape)
    for name, factor in (("mean", shape[0]), ("sum", 1)):
        if np.allclose(whole * factor, alone, rtol=_ADDITIVE, atol=_ADDITIVE * np.max(np.abs(alone), initial=0.0)):
            return name
    return "joint"


def _double(tree: Any) -> Any:
    return jax.tree.map(lambda t: np.asarray(t, np.float64) if jnp.issubdtype(jnp.result_type(t), jnp.floating) else np.asarray(t), tree)


def _chunks(function: Any, outputs: np.ndarray, targets: Sequence[Any]) -> list[Any]:
    step = max(1, (1 << 22) // max(outputs[0].size, 1))
    return [function(outputs[k:k + step], *targets) for k in range(0, len(outputs), step)]


def _sampler(context: Context, output: Value) -> tuple[int, int, Callable[[np.ndarray], np.ndarray], Note]:
    """Number of Gaussian variables behind the output, of its entries, the output at standard normal points ``[m, count]``, its note."""
    if isinstance(output, Known):
        array = np.asarray(output.array)
        return 0, array.size, lambda z: np.broadcast_to(array, (len(z), *array.shape)), output.note
    assert isinstance(output, Field)
    node, shape = output.node, output.shape
    labels = own_labels(node)
    sampler = Sampler(context.query, [(node, labels)], joint=True)
    factors = [f for axis in output.axes for f in axis]
    order = [labels[f.ref] for f in factors if f.ref is not None]

    def sample(z: np.ndarray) -> np.ndarray:
        found = sampler.evaluate(node, labels, sampler.draw(z))
        array = aligned(found, [sampler.point(len(z)), *order])
        sizes = iter(array.shape[1:])
        array = array.reshape(len(array), *(next(sizes) if f.ref is not None else 1 for f in factors))
        return np.broadcast_to(array, (len(z), *(f.size for f in factors))).reshape(len(z), *shape)

    return sampler.size, prod(shape), sample, sampler.note


def _linear(gradient: Callable[[np.ndarray], np.ndarray], sample: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray | None:
    """Rows ``a`` with ``E[l l^T] = a^T a`` where ``l`` is linear in the Gaussian variables, else ``None``."""
    trial = np.random.default_rng(0).standard_normal((3, count))
    origin, middle, *tried = gradient(sample(np.stack([0 * trial[0], (trial[0] + trial[1]) / 2, *trial])))
    origin, middle, tried = origin[None], middle - origin, np.stack(tried) - origin
    scale = np.max(np.abs(tried), initial=0.0)
    if np.max(np.abs(middle - (tried[0] + tried[1]) / 2), initial=0.0) > _LINEAR * scale:
        return None
    columns = gradient(sample(np.eye(count))) - origin if count else origin[:0]
    if np.max(np.abs(trial @ columns - tried), initial=0.0) > 1e3 * _LINEAR * scale:
        return None
    return np.concatenate([origin, columns])


def _apart(rows: np.ndarray, batch: int) -> np.ndarray:
    """``rows^T rows`` within each example only."""
    parts = rows.reshape(len(rows), batch, -1)
    own = np.einsum("sbo,sbp->bop", parts, parts)
    n, width = rows.shape[1], parts.shape[2]
    out = np.zeros((batch, width, batch, width))
    out[np.arange(batch), :, np.arange(batch), :] = own
    return out.reshape(n, n)
