"""Quantization and half precision of every node, parameter and gradient, from their predicted laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from sigprop.datasets import node_dataset
from sigprop.errors import InvalidInput, SigpropError
from sigprop.network import Network
from sigprop.network.checks import check_choice
from sigprop.precision.channels import CHANNELS, channel_quantizer, channel_spread, channel_sqnr, drawn, thinned
from sigprop.precision.formats import Format, number_format
from sigprop.precision.quantizer import SCHEMES, Quantizer, quantizer
from sigprop.precision.window import enough, held, lost
from sigprop.predict.distribution import Distribution
from sigprop.predict.entries import Entries, Entry, entries

DTYPES = ("int8", "int4", "float8_e4m3fn", "float8_e5m2", "float16", "bfloat16")
_SCALES = ("scale", "clip", "saturation")
_LOST = ("subnormal", "flushed", "overflow")

Laws = Mapping[str, Entry | SigpropError]


@dataclass(frozen=True)
class _Wanted:
    """What is asked for: formats by the name given, and how their scales are chosen."""

    formats: dict[str, Format]
    scheme: str
    saturation: float

    def quantizer(self, law: Distribution, name: str, size: int) -> Quantizer | None:
        """``None`` for a constant, which no scale suits."""
        try:
            return quantizer(law, name, self.scheme, saturation=self.saturation, entries=size)
        except InvalidInput:
            return None


def analyze(net: Network, *x: Any, dtypes: Sequence[Any] = DTYPES, scheme: str = "mse", saturation: float = 1e-4, backward: bool = True,
            cotangent_rms: float = 1.0, tolerance: float = 0.01, least_sqnr: float = 15.0) -> xr.Dataset:
    """Predict what number formats do to every row of :func:`sigprop.propagate`, to the parameters and to the gradients, at initialization.

    Laws are those of a random entry over draws of the parameters, pooled over examples, sites and channels, so that one scale serves a
    tensor. All channels of a wide layer have that same law before they are drawn; once drawn they differ, by ``channel_spread``, and
    ``granularity="channel"`` is what scales for each channel gain: of activations with the joint law of a channel over examples and sites,
    of weights with as many independent entries as an output channel has.

    Args:
        net: from :func:`sigprop.network`.
        x: inputs, batch on axis 0.
        dtypes: see :func:`number_format`; integers are unsigned (``one_sided``) where no number is negative, as after ReLU.
        scheme: ``"mse"``, ``"absmax"`` or ``"saturation"``, as in :func:`quantizer`; for ``"absmax"`` the entries of an array count as
            independent, which they are not where examples are alike: the largest is then overestimated.
        saturation: share that ``scheme="saturation"`` clips.
        backward: whether to look at gradients too.
        cotangent_rms: root mean square of the loss's derivative with respect to an entry of the output, times the loss scale in use.
        tolerance: share of numbers that may become subnormal or zero before a node is kept in float32.
        least_sqnr: decibels below which a node is kept in float32, of formats with a scale.

    Returns:
        Dataset over ``node`` (rows), ``parameter``, ``input`` (floating inputs, as data) and ``format``:
        ``scale``, ``clip``, ``saturation``, ``one_sided`` and ``sqnr`` (dB; also over ``granularity``) of activations, the same as
        ``weight_*`` and ``input_*``; ``channel_spread``, ``weight_channel_spread``. NaN for constants and for what cannot be drawn.
        ``channel_sqnr_stderr``: of ``sqnr`` with a scale for each channel, of the 64 channels that are drawn; ``channel_axes``: how many of
        the last axes are channels, 0 where they are not the last ones.
        ``subnormal``, ``flushed``, ``overflow``: shares of the numbers cast to a floating format without a scale, ``grad_*`` of the
        gradients at rows, ``parameter_grad_*`` of those of trained parameters; an entry that is exactly zero is none of them.
        ``rms``, ``grad_rms``; ``method`` and ``error`` (relative, of the second moment) of each law, ``grad_method``: ``gaussian`` where
        only the second moment of a gradient is known and its law is assumed; ``samples``: independent draws behind the law, infinite for
        quadrature.
        ``loss_scale``: the power of two by which to multiply the loss, ``keep_float32``: the nodes for which the format does not do.

    Raises:
        InvalidInput: for unusable inputs, unknown dtypes, and numbers out of range.
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    check_choice("scheme", scheme, SCHEMES)
    if isinstance(dtypes, str):
        raise InvalidInput(f"dtypes: {dtypes!r} is one name; give a list, [{dtypes!r}]")
    if not (np.isfinite(cotangent_rms) and cotangent_rms > 0 and 0 < tolerance < 1 and 0 < saturation < 1):
        raise InvalidInput(f"cotangent_rms, tolerance, saturation: {cotangent_rms!r}, {tolerance!r}, {saturation!r} given; the first must "
                           "be positive and finite, the others between 0 and 1")
    wanted = _Wanted({number_format(d).name: number_format(d) for d in dtypes}, scheme, saturation)
    found = entries(net, *x, backward=backward, channels=CHANNELS)
    rows = net.rows(*x)
    sizes = {row.name: prod(row.shape) for row in rows}
    shapes = net.laws.shapes
    weights = {path: _columns(shapes[path]) for path in found.parameters}
    channels = found.channels | {path: drawn(e.distribution, n[1]) for path, n in weights.items() if n[1] > 1
                                 for e in [found.parameters[path]] if isinstance(e, Entry)}
    axes = found.channel_axes | {path: 1 for path in weights if path in channels}
    data = _quantized("", "node", found.rows, sizes, channels, axes, wanted)
    data |= _quantized("weight_", "parameter", found.parameters, {p: n[0] for p, n in weights.items()}, channels, axes, wanted)
    data |= _quantized("input_", "input", found.inputs, {n: int(e.distribution.samples) for n, e in found.inputs.items()}, {}, {}, wanted)
    data |= _cast("", "node", found.rows, wanted) | _described(found.rows, [r.name for r in rows])
    scaled = _scaled(found, cotangent_rms)
    if backward:
        by_row = {row.name: scaled.row_gradients.get(row.name, SigpropError("inside a derivative rule")) for row in rows}
        data |= _cast("grad_", "node", by_row, wanted) | _cast("parameter_grad_", "parameter", _like(found, scaled), wanted)
        data["grad_rms"] = ("node", np.array([_rms(e) for e in by_row.values()]))
        data["grad_method"] = ("node", np.array([e.method if isinstance(e, Entry) else "unknown" for e in by_row.values()]))
        scales = _loss_scales(scaled, sizes | {p: n[0] for p, n in weights.items()}, wanted.formats, tolerance)
        data["loss_scale"] = ("format", np.array([*scales.values()]))
        data["keep_float32"] = _kept(found.rows, by_row, sizes, wanted, scales, tolerance, least_sqnr, data["sqnr"][1][..., 0])
    coords = {"format": list(wanted.formats), "granularity": ["tensor", "channel"], "parameter": list(found.parameters),
              "input": list(found.inputs)}
    return node_dataset(rows, data, {}, coords, {"scheme": scheme, "clipped": saturation, "cotangent_rms": cotangent_rms})


def quantizers(found: xr.Dataset, dtype: Any, values: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Quantizer]:
    """The quantizers of an analysis for one format, by name of row, path of parameter and ``x[0]``: what :func:`quantized` takes.

    Args:
        found: from :func:`analyze`.
        dtype: one of its formats.
        values: numbers by name, of which every channel gets its own scale, by the scheme of the analysis: all channels have the same law
            before they are drawn. Those of drawn or trained parameters, from ``values(net, params)``, give weights a scale for each output
            channel, the last axis; ``values(net, params, *x)`` gives one for each channel of rows too. What has no channels as last axes,
            biases and inputs among them, keeps the scale of its law.

    Raises:
        InvalidInput: for a format or a name that the analysis does not have, and for values of other shapes or signs than its laws.
    """
    name = number_format(dtype).name
    check_choice("dtype", name, [str(f) for f in found.format.values])
    one, made, known = found.sel(format=name), {}, set()
    for dim, prefix in (("node", ""), ("parameter", "weight_"), ("input", "input_")):
        known.update(map(str, found[dim].values))
        for k, key in enumerate(map(str, found[dim].values)):
            scale, saturation, one_sided = (one[f"{prefix}{v}"].values[k] for v in ("scale", "saturation", "one_sided"))
            axes = int(found[f"{prefix}channel_axes"].values[k])
            if np.isfinite(scale) and axes and key in values:
                made[key] = channel_quantizer(values[key], name, found.attrs["scheme"], axes=axes, saturation=found.attrs["clipped"],
                                              one_sided=bool(one_sided))
            elif np.isfinite(scale):
                sqnr = float(np.reshape(one[f"{prefix}sqnr"].values[k], -1)[0])
                made[key] = Quantizer(number_format(name, bool(one_sided)), float(scale), float(saturation), sqnr)
    for key in set(values) - known:
        raise InvalidInput(f"values: {key!r} is no row, parameter or input of the analysis; there are {sorted(known)}")
    return made


def _columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """Entries of a parameter, and of each of its output channels, which are its last axis."""
    return prod(shape), prod(shape[:-1])


def _quantized(prefix: str, dim: str, laws: Laws, sizes: Mapping[str, int], channels: Mapping[str, np.ndarray],
               axes: Mapping[str, int], wanted: _Wanted) -> dict[str, Any]:
    shape = (len(laws), len(wanted.formats))
    data: dict[str, Any] = {name: np.full(shape, np.nan) for name in _SCALES}
    sqnr, one_sided, spread = np.full((*shape, 2), np.nan), np.zeros(shape, bool), np.full(len(laws), np.nan)
    stderr = np.full(shape, np.nan)
    for i, (key, entry) in enumerate(laws.items()):
        if not isinstance(entry, Entry):
            continue
        values = channels.get(key)
        spread[i] = np.nan if values is None else channel_spread(values)
        for j, name in enumerate(wanted.formats):
            made = wanted.quantizer(entry.distribution, name, sizes[key])
            if made is None:
                continue
            for column in _SCALES:
                data[column][i, j] = getattr(made, column)
            one_sided[i, j] = not made.format.signed
            sqnr[i, j, 0] = made.sqnr
            if values is not None and made.format.scaled:
                sqnr[i, j, 1], stderr[i, j] = channel_sqnr(thinned(values), made.format, wanted.scheme, wanted.saturation)
            elif not made.format.scaled:
                sqnr[i, j, 1] = made.sqnr
    found = {f"{prefix}{name}": ((dim, "format"), a) for name, a in {**data, "one_sided": one_sided}.items()}
    return {**found, f"{prefix}sqnr": ((dim, "format", "granularity"), sqnr), f"{prefix}channel_sqnr_stderr": ((dim, "format"), stderr),
            f"{prefix}channel_spread": (dim, spread), f"{prefix}channel_axes": (dim, np.array([axes.get(key, 0) for key in laws], int))}


def _cast(prefix: str, dim: str, laws: Laws, wanted: _Wanted) -> dict[str, Any]:
    """Shares that a cast without a scale loses."""
    kinds = wanted.formats.values()
    table = np.array([[[np.nan] * 3 if not isinstance(e, Entry) or kind.digits is None else
                       [kind.subnormal(e.distribution), kind.flushed(e.distribution), kind.overflowing(e.distribution)]
                       for kind in kinds] for e in laws.values()]).reshape(len(laws), len(kinds), 3)
    return {f"{prefix}{name}": ((dim, "format"), table[..., k]) for k, name in enumerate(_LOST)}


def _described(laws: Laws, names: Sequence[str]) -> dict[str, Any]:
    found = [laws[name] for name in names]
    return {"rms": ("node", np.array([_rms(e) for e in found])),
            "method": ("node", np.array([e.method if isinstance(e, Entry) else "unknown" for e in found])),
            "error": ("node", np.array([e.error if isinstance(e, Entry) else np.nan for e in found])),
            "samples": ("node", np.array([e.distribution.samples if isinstance(e, Entry) else np.nan for e in found]))}


def _rms(entry: Entry | SigpropError) -> float:
    return entry.distribution.mean_square ** 0.5 if isinstance(entry, Entry) else np.nan


def _scaled(found: Entries, factor: float) -> Entries:
    """With gradients of a cotangent that is so many times as large."""
    def larger(some: Laws) -> dict[str, Entry | SigpropError]:
        return {name: e._replace(distribution=e.distribution.scaled(factor)) if isinstance(e, Entry) else e for name, e in some.items()}

    return found._replace(row_gradients=larger(found.row_gradients), parameter_gradients=larger(found.parameter_gradients))


def _like(found: Entries, scaled: Entries) -> Laws:
    """Gradients of all parameters, those not trained among them."""
    return {path: scaled.parameter_gradients.get(path, SigpropError("not trained")) for path in found.parameters}


def _loss_scales(found: Entries, sizes: Mapping[str, int], kinds: Mapping[str, Format], tolerance: float) -> dict[str, float]:
    """NaN where the format has no exponent."""
    laws = [(e.distribution, sizes[name]) for some in (found.row_gradients, found.parameter_gradients) for name, e in some.items()
            if isinstance(e, Entry) and e.distribution.nonzero]
    largest = max((law.expected_largest(size) for law, size in laws), default=0.0)
    return {name: np.nan if kind.digits is None else enough([law for law, _ in laws], held(largest, kind), kind, tolerance)
            for name, kind in kinds.items()}


def _kept(rows: Laws, gradients: Laws, sizes: Mapping[str, int], wanted: _Wanted, scales: Mapping[str, float], tolerance: float,
          least: float, sqnr: np.ndarray) -> Any:
    kept = np.zeros((len(rows), len(wanted.formats)), bool)
    for i, (name, entry) in enumerate(rows.items()):
        for j, (text, kind) in enumerate(wanted.formats.items()):
            if kind.digits is None:
                kept[i, j] = sqnr[i, j] < least
                continue
            if isinstance(entry, Entry):
                kept[i, j] = lost(entry.distribution, kind) > tolerance or kind.overflowing(entry.distribution) * sizes[name] > tolerance
            gradient = gradients[name]
            if isinstance(gradient, Entry):
                law = gradient.distribution.scaled(scales[text])
                kept[i, j] |= lost(law, kind) > tolerance or kind.overflowing(law) * sizes[name] > tolerance
    return ("node", "format"), kept
