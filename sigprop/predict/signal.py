"""Predicted statistics of every node that a user would name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from sigprop.arrays import namespace, scaled
from sigprop.datasets import PROBABILITIES, node_dataset
from sigprop.engine import RULES, Context, Named, Value, demand_exact, interpret, known
from sigprop.errors import SigpropError, Unsound
from sigprop.network import Network, check_inputs, check_network, parameters
from sigprop.predict.gradients import Gradients, gradients, mean_square
from sigprop.predict.repeated import SecondMoments, repeated
from sigprop.predict.statistics import Statistics, statistics
from sigprop.tracing import Row
from sigprop.types import METHODS


class Interpretation(NamedTuple):
    """The interpreter's value of every number of the network's graph, those of the parameters among them."""

    context: Context
    values: dict[int, Value]
    params: list[Value]


def interpretation(net: Network, *x: Any, rules: Mapping[str, Any] = RULES, scrambling: int = 0) -> Interpretation:
    """Interpret ``net`` on inputs ``x``; what is sampled has other points, and fewer, for a ``scrambling`` above 0.

    Raises:
        InvalidInput: for a model that is no network yet.
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    context = Context(rules, scrambling=scrambling)
    params, _ = parameters(context, check_network(net))
    return Interpretation(context, interpret(context, net.graph(*x), [*params, *(known(a) for a in jax.tree.leaves(x))]), params)


def propagate(net: Network, *x: Any, rules: Mapping[str, Any] = RULES, backward: bool = True, exact_only: bool = False) -> xr.Dataset:
    """Predict the statistics of each node on inputs ``x`` (batch on axis 0), in the infinite-width limit.

    Concrete inputs are predicted in float64; under ``jax.jit`` and ``jax.vmap`` in JAX's own precision.

    Args:
        net: from :func:`sigprop.network`.
        x: inputs, batch on axis 0.
        rules: table of primitive rules, to extend the interpreter.
        backward: whether to predict gradients too, which takes about twice as long as the rest.
        exact_only: refuse what is sampled, or rests on a field that is only nearly Gaussian; gradients that are so are NaN.

    Returns:
        Dataset over ``node``, in order of evaluation, the output last:
        ``mean``, ``variance`` (over parameters) and ``second_moment``, averaged over examples, sites and channels;
        ``log10_second_moment``, finite however deep the network, ``-inf`` where the node is exactly zero;
        ``input_second_moment`` ``(node, input)`` and ``correlation`` ``(node, input, input2)`` between examples (uncentred);
        ``quantile`` ``(node, probability)``, pooled over examples, sites and channels;
        ``site_variance:NODE`` ``(input, axes)`` for nodes with site axes (pixels, tokens);
        ``gaussian`` (whether the limit is Gaussian), ``method`` and ``error`` (estimated absolute error of ``second_moment``; errors of
        sampling are added up along the network, up to 5 %: beyond, all is predicted three times more with a quarter of the points, and
        the standard deviation of these predictions is what counts, except under ``jit``);
        ``grad_variance`` and ``log10_grad_variance``: E[g²] of the gradient ``g`` of ``<c, y>`` with respect to the node, ``y`` the
        output and ``c`` independent standard normal, averaged over entries, and ``grad_error`` (estimated absolute error). NaN where
        they are not asked for or cannot be predicted, for the reason given in ``attrs["gradients"]``.
        ``site_grad_variance:NODE`` ``(input, axes)``, where they are known, is E[g²] by site;
        ``parameter_grad_variance`` and ``parameter_grad_error`` ``(parameter)``, those with respect to the entries of each trained
        parameter, NaN for the reason in ``attrs["parameter_gradients"]``.

    Raises:
        InvalidInput: for unusable inputs.
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    check_network(net)
    check_inputs(x)
    rows = net.rows(*x)

    found = interpretation(net, *x, rules=rules)
    batch = jax.tree.leaves(x)[0].shape[0]
    table = [statistics(found.context, found.values[row.value], batch) for row in rows]
    if exact_only:
        for row, t in zip(rows, table, strict=True):
            demand_exact(row.name, t.method)
    sites = {row.name: t.site_axes for row, t in zip(rows, table, strict=True) if t.site_axes}
    if backward:
        grads, reason = _backward(found, net, x, sites, exact_only)
    else:
        reason = "not asked for: backward=False"
        grads = _missing(net, rows, Unsound(reason))
    table, grads = _with_errors(table, grads, lambda scrambling: _second_moments(net, x, rules, backward, scrambling))
    columns = [_summary(t) for t in table]
    data: dict[str, Any] = {name: (("node", *dims), _stacked([c[name] for c in columns])) for name, dims in _DIMS.items()}
    data["gaussian"] = ("node", np.array([t.gaussian for t in table]))
    data["method"] = ("node", np.array([t.method for t in table]))
    data |= _columns("node", "grad", [grads.rows[row.name] for row in rows], "log10_grad_variance")
    data |= _columns("parameter", "parameter_grad", list(grads.parameters.values()))
    maps = {f"site_variance:{row.name}": _variance(t) for row, t in zip(rows, table, strict=True) if t.site_axes}
    maps |= {f"site_grad_variance:{name}": grads.sites[name] for name in sites if name in grads.sites}
    coords = {"probability": list(PROBABILITIES), "parameter": list(grads.parameters)}
    unknown = next((str(g) for g in grads.parameters.values() if isinstance(g, SigpropError)), "")
    return node_dataset(rows, data, maps, coords, {"gradients": reason, "parameter_gradients": unknown})


def _second_moments(net: Network, x: tuple[Any, ...], rules: Mapping[str, Any], backward: bool, scrambling: int) -> SecondMoments:
    """All second moments, and nothing else, by other points."""
    found = interpretation(net, *x, rules=rules, scrambling=scrambling)
    made = _backward(found, net, x, {}, False)[0] if backward else Gradients({}, {}, {})
    return SecondMoments([mean_square(found.context, found.values[row.value]) for row in net.rows(*x)], made.rows, made.parameters)


def _with_errors(table: list[Statistics], grads: Gradients, again: Callable[[int], SecondMoments]) -> tuple[list[Statistics], Gradients]:
    rows = [Named((), t.gram.diagonal().mean(), t.exponent, t.note) for t in table]
    found = repeated(SecondMoments(rows, grads.rows, grads.parameters), again)
    return ([t._replace(note=row.note) for t, row in zip(table, found.rows, strict=True)],
            grads._replace(rows=dict(found.row_gradients), parameters=dict(found.parameter_gradients)))


def _missing(net: Network, rows: Sequence[Row], reason: SigpropError) -> Gradients:
    return Gradients(dict.fromkeys([row.name for row in rows], reason), dict.fromkeys(net.trained_paths, reason), {})


def _backward(found: Interpretation, net: Network, x: tuple[Any, ...], sites: dict[str, tuple[int, ...]],
              exact_only: bool) -> tuple[Gradients, str]:
    """Gradients of all rows and trained parameters, and why they are missing where they are."""
    rows = net.rows(*x)
    try:
        made = gradients(found.context, net, found.params, *x, sites=sites)
    except (SigpropError, MemoryError) as error:
        made = _missing(net, rows, error if isinstance(error, SigpropError) else Unsound("the gradients need more memory than there is"))
    inside = Unsound("a function with a derivative rule of its own has no gradients inside")
    found_rows = {row.name: made.rows.get(row.name, inside) for row in rows}
    made = made._replace(rows=found_rows)
    if exact_only:
        by_row, by_leaf = ({name: _exact(name, g) for name, g in some.items()} for some in (made.rows, made.parameters))
        made = Gradients(by_row, by_leaf, {name: a for name, a in made.sites.items() if isinstance(by_row[name], Named)})
    reason = next((str(g) for g in made.rows.values() if isinstance(g, SigpropError) and g is not inside), "")
    return made, reason


def _columns(dim: str, name: str, found: Sequence[Named | SigpropError], log10: str = "") -> dict[str, Any]:
    """E[g²] and its error, and its decimal logarithm under the name ``log10``; NaN where it is not known."""
    known = [g if isinstance(g, SigpropError) else g._replace(array=namespace(g.array).maximum(g.array, 0.0)) for g in found]
    triples = [(np.nan, np.nan, np.nan) if isinstance(g, SigpropError) else
               (g.plain(), g.plain() * g.note.error, _log10(g.array, g.exponent)) for g in known]
    names = (f"{name}_variance", f"{name}_error", log10)
    columns = [_stacked(column) for column in zip(*triples, strict=True)] or [np.zeros(0)] * 3
    return {key: (dim, column) for key, column in zip(names, columns, strict=True) if key}


def _exact(name: str, gradient: Named | SigpropError) -> Named | SigpropError:
    """The gradient, or the error that it is not exact."""
    if isinstance(gradient, Named):
        try:
            demand_exact(f"gradient at {name}", METHODS[gradient.note.how])
        except Unsound as error:
            return error
    return gradient


def _log10(array: Any, exponent: Any) -> Any:
    with np.errstate(divide="ignore"):
        return namespace(array, exponent).log10(array) + exponent * np.log10(2.0)


_DIMS: dict[str, tuple[str, ...]] = {
    "mean": (), "variance": (), "second_moment": (), "log10_second_moment": (), "error": (), "input_second_moment": ("input",),
    "quantile": ("probability",), "correlation": ("input", "input2"),
}


def _stacked(values: Sequence[Any]) -> Any:
    return namespace(*values).stack(values)


def _summary(t: Statistics) -> dict[str, Any]:
    second = t.gram.diagonal().mean()
    plain = scaled(second, t.exponent)
    size = scaled(t.gram.diagonal(), t.exponent)
    return {"mean": t.mean, "second_moment": plain, "variance": _variance(t).mean(), "log10_second_moment": _log10(second, t.exponent),
            "error": plain * t.note.error, "input_second_moment": size, "quantile": t.quantile, "correlation": _normalised(t.gram)}


def _variance(t: Statistics) -> Any:
    """Over the parameters, ``[batch, *sites]``; zero where deterministic."""
    if t.method == "deterministic":
        return 0.0 * t.sites
    xp = namespace(t.sites, t.site_mean)
    return xp.maximum(scaled(t.sites, t.exponent) - t.site_mean**2, 0.0)


def _normalised(gram: Any) -> Any:
    xp = namespace(gram)
    scale = xp.sqrt(xp.maximum(gram.diagonal(), 0.0))
    product = scale[:, None] * scale[None, :]
    return xp.where(product > 0, gram / xp.where(product > 0, product, 1.0), 0.0)


__all__ = ["Interpretation", "interpretation", "propagate"]
