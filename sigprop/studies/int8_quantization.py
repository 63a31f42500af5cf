"""INT8: the law that is predicted sets the scale that loses least, layer by layer, without data to calibrate on.

Pre-activations are Gaussian; residual streams, sums of Gaussian and rectified parts, are not, and a Gaussian's scale clips too much of
them. A scale for each channel gains what channels differ by. After training the laws of the weights are others: scales from these, pushed
through the layers as if the weights were independent, are compared with those from activations of training images, by the accuracy on
digits not seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx

from sigprop import nn, precision
from sigprop.init.checks import check_whole
from sigprop.inputs import digit_labels, load
from sigprop.network import Network, network
from sigprop.precision.channels import CHANNELS, channel_sqnr
from sigprop.precision.quantizer import decibels, noise
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, averaged, near, same
from sigprop.studies.study import initializer
from sigprop.studies.training import cross_entropy, fitted


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Known quantizers, and those of a ReLU network on digits.

    Attributes:
        init: of the network.
        depth, width: of the network, and of one with a residual stream, to which every block adds a rectified layer; at width 256 draws
            differ so much that more is clipped, and 3 % of the decibels are lost.
        sigma: standard deviation that the known quantizers are made for, 1 where they are right.
        trained: classifiers of digits with two hidden layers, three or more.
        units, steps: of these layers, and of Adam, 64 images each.
        calibration: training images that scales are calibrated on.
    """

    init: str = "he"
    depth: int = 3
    width: int = 1024
    sigma: float = 1.0
    trained: int = 12
    units: int = 64
    steps: int = 400
    calibration: int = 256
    seeds: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in {"depth": 1, "width": 1, "trained": 3, "units": 1, "steps": 1, "calibration": 2}.items():
            check_whole(name, getattr(self, name), least)


PRESETS = {"quick": Config(), "paper": Config(depth=4, width=2048, trained=16, units=128, steps=600, seeds=128)}
_KNOWN = {("gaussian", "int8"): (3.92, 40.5), ("gaussian", "int4"): (2.474, 18.9), ("rectified", "int8"): (4.215, 46.0),
          ("rectified", "int4"): (2.899, 24.3)}  # clip in units of sigma, SQNR in decibels
_SCALES = ("none", "calibrated", "theory", "initial laws", "per channel")
_FORMATS = ("int8", "int4")
_DRAWS = 16  # of the parameters, on which scales for each channel are measured
_SEEN = 1200  # images that are trained on; the others count for accuracies
_LAWS = {"gaussian": precision.normal, "rectified": precision.rectified}


class _Stream(nnx.Module):
    """A dense layer, and blocks that each add a rectified layer to what they are given."""

    def __init__(self, blocks: int, width: int, init: Any, rngs: nnx.Rngs) -> None:
        self.stem, *layers = (nnx.Linear(n, width, use_bias=False, kernel_init=init, rngs=rngs) for n in (64, *[width] * blocks))
        self.blocks = nnx.List(layers)

    def __call__(self, x: Any) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = x + nnx.relu(block(x))
        return x


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """``clip`` and ``sqnr`` of ``(law, format)``; of the layers ``(node, format)`` ``layer``, the SQNR with predicted scales, and
    ``calibrated``, with scales of one draw, ``clipped`` with the predicted ones; ``stream`` and ``gaussian``, SQNR of a residual stream
    ``(block, format)`` with scales of its law, and of a Gaussian one of its mean square; ``channel`` ``(tensor, format)``, SQNR of layers
    and kernels with a scale for each channel, and ``gain``, what these add; each predicted, ``*_measured`` and ``*_stderr``, in decibels
    or shares; ``accuracy`` of trained classifiers on digits not seen, in percent, ``(classifier, scales)``."""
    made = {key: precision.quantizer(_LAWS[key[0]](config.sigma), key[1]) for key in _KNOWN}
    known = {
        name: (("law", "format"), [[getattr(made[law, kind], name) for kind in _FORMATS] for law in _LAWS]) for name in ("clip", "sqnr")
    }
    ends = frame.over({"classifier": range(config.seed, config.seed + config.trained)}, partial(_accuracies, config), out,
                      "int8_quantization", {"value": ("scales",)}).value
    return xr.Dataset(
        {**_layers(config), **_streams(config), **known, "accuracy": ends},
        {"format": list(_FORMATS), "law": list(_LAWS), "scales": list(_SCALES)},
    )


def _layers(config: Config) -> dict[str, Any]:
    """Of the network: scales of theory and calibrated ones, for each layer and each of its channels."""
    init = initializer(config.init)
    net, x = _on_digits(lambda rngs: nn.MLP([64] + [config.width] * config.depth + [10], kernel_init=init, rngs=rngs))
    one = _analyzed(net, x)
    real = _measured(config, net, x, one)
    draws = [precision.values(net, net.init(key), x) for key in jax.random.split(config.key, _DRAWS)]
    nodes = [str(n) for n in one.node.values if str(n).startswith("layers/")][:-1]  # ten outputs are not wide
    kernels = [str(p) for p in one.parameter.values if str(p).endswith("kernel")][:-1]
    calibrated = _rescaled(one, {n: precision.of_samples(draws[0][n]) for n in nodes})
    found = _columns("layer", "node", "sqnr", one, real, nodes) | _columns("clipped", "node", "saturation", one, real, nodes)
    found |= _columns("calibrated", "node", "sqnr", calibrated, _measured(config, net, x, calibrated), nodes)
    theory = np.concatenate([one.sqnr.sel(node=nodes).values, one.weight_sqnr.sel(parameter=kernels).values])
    apart = np.array([[[_by_channel(draw[name], kind) for kind in _FORMATS] for name in (*nodes, *kernels)] for draw in draws])
    for name, predicted, values in (("channel", theory[..., 1], apart[..., 1]), ("gain", theory[..., 1] - theory[..., 0],
                                                                                 apart[..., 1] - apart[..., 0])):
        mean, error = values.mean(0), values.std(0, ddof=1) / _DRAWS**0.5
        found |= {f"{name}{end}": (("tensor", "format"), v) for end, v in (("", predicted), ("_measured", mean), ("_stderr", error))}
    return found


def _streams(config: Config) -> dict[str, Any]:
    """Of the residual stream: scales of its predicted law, and of a Gaussian law of the same mean square."""
    init = initializer(config.init)
    net, x = _on_digits(lambda rngs: _Stream(config.depth, config.width, init, rngs))
    one = _analyzed(net, x)
    sums = [str(n) for n in one.node.values if str(n).startswith("add")]
    gaussian = _rescaled(one, {n: precision.normal(float(one.rms.sel(node=n))) for n in sums})
    laws = precision.entries(net, x, backward=False).rows
    for node, kind in itertools.product(sums, _FORMATS):
        law, at = laws[node].distribution, {"node": node, "format": kind}  # type: ignore[union-attr]
        lost = noise(law, precision.number_format(kind), float(gaussian.scale.loc[at]))
        gaussian.sqnr.loc[at] = decibels(law.mean_square / lost)
    return {name: column for title, scales in (("stream", one), ("gaussian", gaussian))
            for name, column in _columns(title, "block", "sqnr", scales, _measured(config, net, x, scales), sums).items()}


def _on_digits(build: Any) -> tuple[Network, np.ndarray]:
    x = load("digits", 16, None, 2)
    return network(build, x), x


def _analyzed(net: Network, x: np.ndarray) -> xr.Dataset:
    return precision.analyze(net, x, dtypes=_FORMATS, backward=False)


def _measured(config: Config, net: Network, x: np.ndarray, scales: xr.Dataset) -> xr.Dataset:
    return precision.measure(net, x, analysis=scales, seeds=config.seeds, key=config.key, backward=False)


def _rescaled(one: xr.Dataset, laws: Mapping[str, precision.Distribution]) -> xr.Dataset:
    """An analysis with the scales of other laws for some nodes."""
    found = one.copy(deep=True)
    for node, law in laws.items():
        for kind in _FORMATS:
            found.scale.loc[{"node": node, "format": kind}] = precision.quantizer(law, kind, one_sided=False).scale
    return found


def _columns(title: str, dim: str, column: str, one: xr.Dataset, real: xr.Dataset, nodes: list[str]) -> dict[str, Any]:
    """A column of some rows, predicted and measured, for one scale per tensor."""
    every = {"": one[column], "_measured": real[column], "_stderr": real[f"{column}_stderr"]}
    tensor = {end: v.isel(granularity=0, missing_dims="ignore").sel(node=nodes) for end, v in every.items()}
    return {f"{title}{end}": ((dim, "format"), v.transpose("node", "format").values) for end, v in tensor.items()}


def _by_channel(values: Any, kind: str) -> list[float]:
    """SQNR of an array ``[numbers, channels]`` with one scale, and with one for each of the first channels."""
    values = np.asarray(values, np.float64).T[:CHANNELS]
    found = precision.number_format(kind)
    return [channel_sqnr(v, found, "mse", 0.0)[0] for v in (values.reshape(1, -1), values)]


def _accuracies(config: Config, classifier: int) -> np.ndarray:
    """Of one classifier in float32 and in INT8, in percent."""
    fresh, x, labels, train = _classifier(config)
    keys = jax.random.split(frame.draw_key(classifier))
    params = train(fresh.init(keys[0]), keys[1])
    net = network(fresh.apply, x[:8], params=params)
    wanted = precision.operands(net, x[:8])
    laws = [precision.quantizers(precision.analyze(n, x[:8], dtypes=["int8"], backward=False), "int8") for n in (net, fresh)]
    seen = precision.values(net, params, x[:config.calibration])
    calibrated = {name: precision.quantizer(precision.of_samples(seen[name])) for name in wanted}
    apart = laws[0] | {name: _for_channels(laws[0][name], seen[name]) for name in wanted if name.endswith("kernel")}
    functions = [net.apply, *(precision.quantized(net, {name: made[name] for name in wanted}) for made in (calibrated, *laws, apart))]
    return np.array([100 * float(np.mean(np.argmax(np.asarray(f(params, x[_SEEN:])), -1) == labels[_SEEN:])) for f in functions])


def _for_channels(one: precision.Quantizer, kernel: Any) -> precision.Quantizer:
    """The same law for every output channel of a kernel, with the mean square that the channel has."""
    kernel = np.asarray(kernel, np.float64)
    sizes = np.sqrt(np.mean(kernel**2, 0) / np.mean(kernel**2))
    return replace(one, scale=jnp.asarray(one.scale * np.maximum(sizes, 1e-6), jnp.float32))  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _classifier(config: Config) -> tuple[Network, np.ndarray, np.ndarray, Any]:
    """A network, all digits and their labels, and ``train(params, key)``, compiled once."""
    x, labels, init = load("digits", 1797, None, 2), digit_labels(), initializer(config.init)
    net = network(lambda rngs: nn.MLP([64, config.units, config.units, 10], kernel_init=init, rngs=rngs), x[:8])

    @jax.jit
    def train(params: Any, key: Any) -> Any:
        def cost(p: Any, chosen: Any) -> Any:
            return cross_entropy(net.apply(p, jnp.asarray(x)[chosen]), jnp.asarray(labels)[chosen])

        return fitted(cost, params, key, 0, config.steps, count=_SEEN)

    return net, x, labels, train


def claims(found: xr.Dataset) -> list[Claim]:
    """The clips of least error are those of Max (1960), and the network loses what its predicted laws say."""
    lines = []
    for (law, kind), (clip, sqnr) in _KNOWN.items():
        one = found.sel(law=law, format=kind)
        lines.append(same(f"{law}, {kind}: clip of least squared error, over sigma", clip, one["clip"], 5e-3))
        lines.append(same(f"{law}, {kind}: SQNR in dB", sqnr, one["sqnr"], 0.05))
    return lines + _of_layers(found) + _of_classifiers(found)


def _of_layers(found: xr.Dataset) -> list[Claim]:
    """Decibels and shares are those predicted, and calibration on one draw adds nothing to theory."""
    lines = []
    titles = {"layer": "of every layer", "channel": "of layers and kernels, a scale for each channel", "stream": "of a residual stream",
              "gaussian": "of this stream with a Gaussian's scale"}
    for kind in found.format.values:
        one = found.sel(format=kind)
        lines += [agrees(f"{kind}: measured over predicted SQNR in dB, {title}", one[name], one[f"{name}_measured"], one[f"{name}_stderr"],
                         0.05) for name, title in titles.items()]
        gap, error = one.layer_measured - one.calibrated_measured, np.hypot(one.layer_stderr, one.calibrated_stderr)
        k = int(np.argmin(gap.values))
        lines.append(above(f"{kind}: dB that scales from theory add to calibrated ones, least of all layers, measured", -0.5, gap[k],
                           error[k]))
    four = found.sel(format="int4")
    lines.append(agrees("int4: measured over predicted share that is clipped, of every layer", four.clipped, four.clipped_measured,
                        four.clipped_stderr, 0.25))
    return lines + _gained(found)


def _gained(found: xr.Dataset) -> list[Claim]:
    """What scales for each channel, and scales of a stream's own law, add in decibels."""
    layers, lines = slice(0, found.sizes["node"]), []
    for kind in found.format.values:
        one = found.sel(format=kind)
        gain, error = (one[f"gain_{end}"][layers].values for end in ("measured", "stderr"))
        k = int(np.argmin(gain))
        lines.append(above(f"{kind}: dB that a scale for each channel adds, least of all layers, measured", 1, gain[k], error[k]))
    eight = found.sel(format="int8")
    # the more blocks are added, the more of a mean there is, which hides tails in the mean square that a Gaussian's scale is made for
    lines.append(above("int8, stream: dB that the scale of its law adds to that of a Gaussian, least of all blocks", 0.25,
                       float((eight.stream - eight.gaussian).min()), 0.0))
    gap, error = eight.stream_measured - eight.gaussian_measured, np.hypot(eight.stream_stderr, eight.gaussian_stderr)
    return [*lines, above("int8, stream: the same, measured, mean of all blocks", 0.25, float(gap.mean()), float(error.mean()))]


def _of_classifiers(found: xr.Dataset) -> list[Claim]:
    """Trained classifiers keep their accuracy."""
    lines = []
    plain, calibrated, theory, _, apart = (found.accuracy.sel(scales=name) for name in _SCALES)
    lines.append(above("digits: accuracy before quantization, in percent", 90, *averaged(plain)))
    for name, other in (("with calibrated ones", calibrated), ("before quantization", plain)):
        lines.append(near(f"digits: accuracy with scales from theory less that {name}, in points", 0, *averaged(theory - other), 0.5))
    return [*lines, near("digits: accuracy with scales from theory for each channel of kernels less that before quantization, in points", 0,
                         *averaged(apart - plain), 0.5)]


def draw(found: xr.Dataset) -> Any:
    """SQNR by layer, and accuracies in INT8 less those before."""
    figure, (left, right) = drawing.panels(2)
    for k, kind in enumerate(found.format.values):
        one = found.sel(format=kind)
        for i, (name, title) in enumerate((("layer", "layers"), ("stream", "stream"))):
            drawing.curve(left, np.arange(1, found.sizes["node"] + 1), one[name], one[f"{name}_measured"], one[f"{name}_stderr"],
                          f"{kind}, {title}", 2 * k + i)
    drawing.labelled(left, "layer, or block of a residual stream", "SQNR, dB")
    gap = found.accuracy - found.accuracy.sel(scales="none")
    for k, name in enumerate(_SCALES[1:]):
        one = gap.sel(scales=name)
        drawing.curve(right, [name], None, [one.mean()], [one.std(ddof=1) / len(one) ** 0.5], "", k)
    right.axhline(0, color="black", linewidth=0.8)
    drawing.labelled(right, "scales from", "change of accuracy, points")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
