"""What a detailed report adds: laws of nodes, attention, Adam, number formats and spectra of kernels, each a dataset to be drawn later."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop import spectra
from sigprop.empirical import monte_carlo_kernel
from sigprop.errors import InvalidInput, SigpropError
from sigprop.infinite import infinite_kernel
from sigprop.precision import number_format, quantizer
from sigprop.predict import adam_advice, adam_second_moment, attention_entropy
from sigprop.predict.distribution import normal
from sigprop.predict.entries import Entries, Entry, entries
from sigprop.report.facts import Facts
from sigprop.tracing import evaluate, softmaxes

FORMATS = ("int8", "float16", "bfloat16", "float8_e4m3fn")
_SHOWN = 12  # nodes whose histograms are drawn
_BINS = 42
_TAIL = 5e-4  # on either side, beyond the bins
_SEEDS = 8  # draws of the parameters behind a histogram, and a measured spectrum
_OUTPUTS = 64  # entries of the output up to which a spectrum is measured too


def panels(known: Facts, x: tuple[Any, ...], flagged: Collection[str], loss: Any, y: Any, wanted: Collection[str]) -> dict[str, xr.Dataset]:
    """The panels that are wanted, by name; where one cannot be had, a dataset without variables whose ``reason`` says why.

    Args:
        known: of the network and its inputs.
        x: inputs.
        flagged: nodes that histograms are drawn of whatever their place.
        loss, y: of the Adam panel, as :func:`sigprop.report` takes them.
        wanted: some of :data:`PANELS`.
    """
    made: dict[str, xr.Dataset] = {}
    laws: list[Entries] = []  # found once for two panels

    def shared() -> Entries:
        laws[:] = laws or [entries(known.net, *x, backward=False)]
        return laws[0]

    ways: dict[str, Callable[[], xr.Dataset | None]] = {
        "histograms": lambda: _histograms(known, x, shared(), flagged), "attention": lambda: _attention(known, x),
        "adam": lambda: _adam(known, x, loss, y), "precision": lambda: _precision(known, shared()), "spectrum": lambda: _spectrum(known, x),
    }
    for name in wanted:
        try:
            found = ways[name]()
        except SigpropError as error:
            found = xr.Dataset(attrs={"reason": str(error)})
        if found is not None:
            made[name] = found
    return made


PANELS = ("histograms", "attention", "adam", "precision", "spectrum")


def chosen(details: Any) -> tuple[str, ...]:
    """The panels that ``details`` asks for: all for ``True``, none for ``False``.

    Raises:
        InvalidInput: for a name that is none.
    """
    if isinstance(details, bool):
        return PANELS if details else ()
    names = [*details] if isinstance(details, Collection) and not isinstance(details, str) else [details]
    unknown = [name for name in names if name not in PANELS]
    if unknown:
        raise InvalidInput(f"details: {unknown[0]!r} given; True, False, or some of {', '.join(PANELS)}")
    return tuple(name for name in PANELS if name in names)


def _histograms(known: Facts, x: tuple[Any, ...], laws: Entries, flagged: Collection[str]) -> xr.Dataset:
    """Shares of the entries by bin, predicted and over draws of the parameters. Zero is in the middle of a bin, for the atom of a ReLU."""
    rows = [row for row in known.trail.rows if _drawable(laws.rows[row.name])]
    even = {int(k) for k in np.linspace(0, len(rows) - 1, _SHOWN)} if rows else set()
    marked = [k for k, row in enumerate(rows) if row.name in flagged][: _SHOWN // 2]
    rows = [rows[k] for k in sorted({*sorted(even)[: _SHOWN - len(set(marked) - even)], *marked})]
    graph = known.net.graph(*x)
    values = jax.jit(lambda key: evaluate(graph, [*jax.tree.leaves(known.net.init(key)), *map(jnp.asarray, jax.tree.leaves(x))],
                                          [row.value for row in rows])[1])
    drawn = [values(key) for key in jax.random.split(jax.random.key(0), _SEEDS)]
    edges, predicted, measured = [], [], []
    for k, row in enumerate(rows):
        entry = laws.rows[row.name]
        assert isinstance(entry, Entry)
        law = entry.distribution
        low, high = law.quantile(_TAIL), law.quantile(1 - _TAIL)
        width = (high - low) / (_BINS - 2) or 1.0
        bins = (np.floor(low / width) + np.arange(_BINS + 1) - 0.5) * width
        below = [law.average(lambda t, e=e: (t <= e) * 1.0, lambda t, e=e: np.minimum(t, e)) for e in bins]
        edges.append(bins)
        predicted.append(np.diff(below))
        every = np.concatenate([np.ravel(np.asarray(d[k], np.float64)) for d in drawn])
        measured.append(np.histogram(every, bins)[0] / every.size)
    return xr.Dataset({"edge": (("node", "side"), np.array(edges)), "predicted": (("node", "bin"), np.array(predicted)),
                       "measured": (("node", "bin"), np.array(measured)),
                       "method": ("node", [laws.rows[row.name].method for row in rows])},  # type: ignore[union-attr]
                      {"node": [row.name for row in rows]}, {"seeds": _SEEDS})


def _drawable(found: Entry | SigpropError) -> bool:
    """Whether a law is known, random, and large enough for its squares to be numbers."""
    return isinstance(found, Entry) and found.method != "deterministic" and 1e-300 < found.distribution.variance < 1e300


def _attention(known: Facts, x: tuple[Any, ...]) -> xr.Dataset | None:
    """:func:`sigprop.attention_entropy`, measured too; ``None`` where nothing is normalized by a softmax."""
    return attention_entropy(known.net, *x, seeds=2 * _SEEDS) if softmaxes(known.net.graph(*x)) else None


def _adam(known: Facts, x: tuple[Any, ...], loss: Any, y: Any) -> xr.Dataset:
    """By parameter what Adam holds after its first step, and the settings that follow."""
    given = "the given loss" if loss is not None else "half the mean square of the output, in place of a loss"
    moments = adam_second_moment(known.net, loss or (lambda out: jnp.mean(out**2) / 2), (x, *(() if y is None else (y,))))
    advice = adam_advice(moments)
    leaves = moments.values()
    columns = {"rms_gradient": [leaf.second_moment**0.5 for leaf in leaves], "update": [leaf.update for leaf in leaves],
               "relative_update": [leaf.relative_update for leaf in leaves], "starved": [leaf.starved for leaf in leaves],
               "epsilon": [a.epsilon for a in advice.values()], "learning_rate": [a.learning_rate for a in advice.values()],
               "method": [leaf.method for leaf in leaves]}
    return xr.Dataset({name: ("parameter", column) for name, column in columns.items()}, {"parameter": list(moments)},
                      {"loss": given, "epsilon": advice.epsilon, "learning_rate": advice.learning_rate})


def _precision(known: Facts, laws: Entries) -> xr.Dataset:
    """By node and format: signal over noise of 8 bits with a scale, and what a cast loses. Gradients are taken to be normal."""
    rows = known.trail.rows
    sqnr, lost, flushed = (np.full((len(rows), len(FORMATS)), np.nan) for _ in range(3))
    for k, (row, size) in enumerate(zip(rows, np.asarray(known.predicted.grad_variance, np.float64), strict=True)):
        entry = laws.rows[row.name]
        for j, name in enumerate(FORMATS):
            kind = number_format(name)
            if _drawable(entry) and kind.digits is None:
                sqnr[k, j] = quantizer(entry.distribution, name, entries=known.probe.graph.avals[row.value].size).sqnr  # type: ignore
            if kind.digits is None:
                continue
            if isinstance(entry, Entry):
                law = entry.distribution
                lost[k, j] = kind.subnormal(law) + kind.flushed(law) + kind.overflowing(law)
            if np.isfinite(size):
                gradient = normal(float(size) ** 0.5)
                flushed[k, j] = kind.subnormal(gradient) + kind.flushed(gradient) + kind.overflowing(gradient)
    return xr.Dataset({"sqnr": (("node", "format"), sqnr), "lost": (("node", "format"), lost), "grad_lost": (("node", "format"), flushed)},
                      {"node": [row.name for row in rows], "format": list(FORMATS)})


def _spectrum(known: Facts, x: tuple[Any, ...]) -> xr.Dataset:
    """Eigenvalues of the NNGP and tangent kernels on the inputs, largest first: of infinite width, and means over draws."""
    one: Any = x[0] if len(x) == 1 else x
    found = infinite_kernel(known.net, diagonal="sites")(one)
    kernels = {"NNGP": np.asarray(found.nngp, np.float64), "NTK": np.asarray(found.ntk, np.float64)}
    sited = kernels["NNGP"].ndim > 2
    kernels = {name: k.mean(tuple(range(2, k.ndim))) if sited else k for name, k in kernels.items()}
    data: dict[str, Any] = {"predicted": (("kernel", "index"), np.stack([_eigenvalues(k) for k in kernels.values()]))}
    if not sited and len(kernels["NNGP"]) <= _OUTPUTS:
        mean, stderr = monte_carlo_kernel(known.net, seeds=2 * _SEEDS)(one)
        data["measured"] = (("kernel", "index"), np.stack([_eigenvalues(np.asarray(k, np.float64)) for k in (mean.nngp, mean.ntk)]))
        spread = [np.linalg.norm(np.asarray(e, np.float64)) for e in (stderr.nngp, stderr.ntk)]
        data["measured_stderr"] = ("kernel", np.array(spread))  # by which an eigenvalue moves at most (Weyl)
    numbers: Mapping[str, Callable[[Any], Any]] = {"trace": spectra.trace, "condition_number": spectra.condition_number,
                                                   "effective_rank": spectra.effective_rank}
    data |= {name: ("kernel", np.array([float(f(k)) for k in kernels.values()])) for name, f in numbers.items()}
    return xr.Dataset(data, {"kernel": list(kernels)}, {"sites": "averaged" if sited else "none", "seeds": 2 * _SEEDS})


def _eigenvalues(kernel: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh((kernel + kernel.T) / 2)[::-1]
