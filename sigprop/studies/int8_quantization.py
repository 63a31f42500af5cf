"""INT8: the law that is predicted sets the scale that loses least, layer by layer, without data to calibrate on.

After training the laws of the weights are others: scales from these, pushed through the layers as if the weights were independent, are
compared with those from activations of training images, by the accuracy on digits not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop import nn, precision
from sigprop.init.checks import check_whole
from sigprop.inputs import digit_labels, load
from sigprop.network import Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, averaged, near, same
from sigprop.studies.study import initializer
from sigprop.studies.training import cross_entropy, fitted


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Known quantizers, and those of a ReLU network on digits.

    Attributes:
        init: of the network.
        depth, width: of the network; at width 256 draws differ so much that more is clipped, and 3 % of the decibels are lost.
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


PRESETS = {"quick": Config(), "paper": Config(depth=8, trained=32, units=256, steps=1000, seeds=128)}
_KNOWN = {("gaussian", "int8"): (3.92, 40.5), ("gaussian", "int4"): (2.474, 18.9), ("rectified", "int8"): (4.215, 46.0),
          ("rectified", "int4"): (2.899, 24.3)}  # clip in units of sigma, SQNR in decibels
_SCALES = ("none", "calibrated", "theory", "initial laws")
_SEEN = 1200  # images that are trained on; the others count for accuracies
_LAWS = {"gaussian": precision.normal, "rectified": precision.rectified}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """``clip`` and ``sqnr`` of ``(law, format)``; by ``node`` and ``format`` SQNR and saturation of the network, predicted and measured;
    ``accuracy`` of trained classifiers on digits not seen, in percent, ``(classifier, scales)``."""
    formats = ["int8", "int4"]
    made = {key: precision.quantizer(_LAWS[key[0]](config.sigma), key[1]) for key in _KNOWN}
    x, init = load("digits", 16, None, 2), initializer(config.init)
    net = network(lambda rngs: nn.MLP([64] + [config.width] * config.depth + [10], kernel_init=init, rngs=rngs), x)
    one = precision.analyze(net, x, dtypes=formats, backward=False)
    two = precision.measure(net, x, analysis=one, seeds=config.seeds, key=config.key, backward=False)
    nodes = [k for k, name in enumerate(one.node.values) if str(name).startswith("layers/")][:-1]  # ten outputs are not wide
    columns = {
        "predicted": one.sqnr.sel(granularity="tensor"),
        "measured": two.sqnr.sel(granularity="tensor"),
        "stderr": two.sqnr_stderr.sel(granularity="tensor"),
        "scale": one.scale,
        "clipped": one.saturation,
        "clipped_measured": two.saturation,
        "clipped_stderr": two.saturation_stderr,
    }
    found = {name: (("node", "format"), np.asarray(v.transpose("node", "format"))[nodes]) for name, v in columns.items()}
    known = {
        name: (("law", "format"), [[getattr(made[law, kind], name) for kind in formats] for law in _LAWS]) for name in ("clip", "sqnr")
    }
    ends = frame.over({"classifier": range(config.seed, config.seed + config.trained)}, partial(_accuracies, config), out,
                      "int8_quantization", {"value": ("scales",)}).value
    return xr.Dataset({**found, **known, "accuracy": ends},
                      {"node": [str(one.node.values[k]) for k in nodes], "format": formats, "law": list(_LAWS), "scales": list(_SCALES)})


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
    functions = [net.apply, *(precision.quantized(net, {name: made[name] for name in wanted}) for made in (calibrated, *laws))]
    return np.array([100 * float(np.mean(np.argmax(np.asarray(f(params, x[_SEEN:])), -1) == labels[_SEEN:])) for f in functions])


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
    for kind in found.format.values:
        one = found.sel(format=kind)
        lines.append(agrees(f"{kind}: measured over predicted SQNR in dB, of every layer", one.predicted, one.measured, one.stderr, 0.05))
    four = found.sel(format="int4")
    lines.append(agrees("int4: measured over predicted share that is clipped, of every layer", four.clipped, four.clipped_measured,
                        four.clipped_stderr, 0.25))
    plain, calibrated, theory = (found.accuracy.sel(scales=name) for name in _SCALES[:3])
    lines.append(above("digits: accuracy before quantization, in percent", 90, *averaged(plain)))
    for name, other in (("with calibrated ones", calibrated), ("before quantization", plain)):
        lines.append(near(f"digits: accuracy with scales from theory less that {name}, in points", 0, *averaged(theory - other), 0.5))
    return lines


def draw(found: xr.Dataset) -> Any:
    """SQNR by layer, and accuracies in INT8 less those before."""
    figure, (left, right) = drawing.panels(2)
    for k, kind in enumerate(found.format.values):
        one = found.sel(format=kind)
        drawing.curve(left, np.arange(1, found.sizes["node"] + 1), one.predicted, one.measured, one.stderr, str(kind), k)
    drawing.labelled(left, "layer", "SQNR, dB")
    gap = found.accuracy - found.accuracy.sel(scales="none")
    for k, name in enumerate(_SCALES[1:]):
        one = gap.sel(scales=name)
        drawing.curve(right, [name], None, [one.mean()], [one.std(ddof=1) / len(one) ** 0.5], "", k)
    right.axhline(0, color="black", linewidth=0.8)
    drawing.labelled(right, "scales from", "accuracy less that in float32, points")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
