"""Residual blocks whose branches start at zero: every block is the identity, and a He-initialized branch waits to fade in.

On the statistics of the batch a last normalization of scale gamma adds gamma² to the variance of the stream in every block: linear growth
at 1, none at 0 (Goyal et al. 2017, section 5.1). At 0 the gradients of the weights of the branch are exactly 0, that of gamma is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from flax import nnx

from sigprop import nn
from sigprop.init.checks import check_choice, check_number, check_whole
from sigprop.inputs import digit_labels, load
from sigprop.network import Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, averaged, same
from sigprop.studies.study import Study as Base
from sigprop.studies.study import compared, initializer, measure, predict, unit_inputs
from sigprop.studies.training import cross_entropy, trained

_STARTS = ("gamma", "skip_init", "rezero", "fixup", "layer_scale", "plain")


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """One stage of pre-activation blocks of two 3 by 3 convolutions, without downsampling in between.

    Attributes:
        gamma: of the start ``"gamma"``: scale of the last normalization of each branch.
        start: ``"gamma"``, ``"skip_init"``, ``"rezero"``, ``"fixup"``, ``"layer_scale"`` (for this number of blocks) or ``"plain"``, whose
            branches have no last normalization.
        blocks: residual blocks.
        width: channels.
        size: height and width of an image.
        batch_statistics: whether normalizations use the statistics of the batch, as in training, or running ones, which are 0 and 1 at the
            start and change nothing.
    """

    gamma: float = 0.0
    start: str = "gamma"
    blocks: int = 4
    width: int = 16
    size: int = 4
    batch_statistics: bool = True
    examples: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("gamma", self.gamma)
        check_choice("start", self.start, _STARTS)
        for name in ("blocks", "width", "size"):
            check_whole(name, getattr(self, name))

    def network(self) -> Network:
        return self.on(unit_inputs((self.examples, self.size, self.size, 3), self.seed))

    def on(self, images: np.ndarray) -> Network:
        """The network of ten outputs for images of any size and number of channels."""
        starts = {"gamma": nn.Gamma(self.gamma), "skip_init": nn.SkipInit(), "rezero": nn.ReZero(), "fixup": nn.Fixup(),
                  "layer_scale": nn.LayerScale(self.blocks), "plain": nn.Plain()}
        init = initializer(self.init)
        return network(lambda rngs: nn.ResNet(images.shape[-1], [self.width], 10, blocks=self.blocks, start=starts[self.start],
                                              kernel_init=init, rngs=rngs), images, train=self.batch_statistics)

    def nodes(self) -> list[str]:
        return ["stem", *(f"blocks/{k}/add" for k in range(self.blocks))]

    def scales(self) -> list[str]:
        """Paths of what multiplies the branches: parameters that start at 0 but for some starts."""
        end = {"gamma": "last_norm/scale", "plain": "norms/1/scale"}.get(self.start, "gain/scale")
        return [f"blocks/{k}/{end}" for k in range(self.blocks)]


def train(study: Study, steps: int = 200, learning_rate: float = 1e-3, batch_size: int = 64, key: Any = None) -> xr.Dataset:
    """Classify scikit-learn's digits with Adam, from a draw of the parameters; or from several, where ``key`` is ``[draws]``.

    Returns:
        ``loss`` ``(step)``, the cross-entropy of minibatches, and ``rms`` ``(step, parameter)``, root mean squares of
        ``study.scales()``; with ``draw`` first for several.

    Raises:
        InvalidInput, MissingDependency: where scikit-learn or optax is not installed.
    """
    images, labels = load("digits", 1797, (8, 8, 1), 2), digit_labels()

    net = study.on(images[:batch_size])
    return trained(net, (images,), labels, cross_entropy, steps, learning_rate, batch_size, key, watch=study.scales())


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """The stream of blocks whose branches start at zero, beside those that do not, and training on digits.

    Attributes:
        init: of the kernels.
        gamma: scale of the last normalization of the blocks of which it is claimed that they start as the identity.
        starts: other starts, of which the same is claimed.
        grown: gammas under which the stream grows.
        blocks, width: of the networks.
        steps: of Adam, 32 images each.
        runs: of training, three or more.
    """

    init: str = "he"
    gamma: float = 0.0
    starts: tuple[str, ...] = ("skip_init", "rezero", "fixup")
    grown: tuple[float, ...] = (0.5, 1.0)
    blocks: int = 2
    width: int = 16
    steps: int = 100
    runs: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("runs", self.runs, 3)


PRESETS = {"quick": Config(), "paper": Config(blocks=4, steps=250, runs=6, seeds=512)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``start`` and ``node``: E[z²] of the stream, predicted; ``branch`` and ``scale``, the largest E[g²] of a branch weight and the
    smallest of what multiplies the branches. By ``gamma`` E[z²] of the stream on the statistics of the batch, ``stream``, predicted and
    measured; ``layer_scale``, how much the stream grows in a block under that start; ``loss`` and ``rms`` in training."""
    def study(start: str, gamma: float = config.gamma, batch: bool = True) -> Study:
        return Study(init=config.init, start=start, gamma=gamma, blocks=config.blocks, width=config.width, size=2, examples=4,
                     batch_statistics=batch)

    def point(start: str) -> dict[str, Any]:
        made = study(start, batch=False)  # the identity whatever the statistics
        one = predict(made)
        sizes = dict(zip(one.parameter.values, one.parameter_grad_variance.values, strict=True))
        weights = [v for name, v in sizes.items() if "/convs/" in name and name.endswith("kernel")]
        return {"predicted": one.second_moment.values, "branch": max(weights), "scale": min(sizes[name] for name in made.scales())}

    found = frame.over({"start": ["gamma", *config.starts]}, point, out, "resnet_zero_gamma", frame.layers("predicted", dim="node"))

    def stream(gamma: float) -> dict[str, Any]:
        return {f"stream{end}": v for end, v in zip(("", "_uncertain", "_measured", "_stderr"),
                                                    compared(study("gamma", gamma), config.seeds, config.key).values(), strict=True)}

    names = [f"stream{end}" for end in ("", "_uncertain", "_measured", "_stderr")]
    streams = frame.over({"gamma": list(dict.fromkeys((config.gamma, *config.grown)))}, stream, out, "resnet_zero_gamma_streams",
                         frame.layers(*names, dim="node"))
    scaled = predict(study("layer_scale", batch=False), backward=False).second_moment.values
    run = train(study("gamma"), config.steps, 1e-2, 32, key=jax.random.split(config.key, config.runs))
    more = {"layer_scale": (scaled[-1] / scaled[0]) ** (1 / config.blocks), "loss": (("run", "step"), run.loss.values),
            "rms": (("run", "step", "block"), run.rms.values)}
    gain = nn.LayerScale(config.blocks).gain(1, nnx.Rngs(0)).scale[...].item()
    return found.merge(streams).assign(more).assign_attrs(first_gain=gain, gamma=config.gamma)


def claims(found: xr.Dataset) -> list[Claim]:
    """Each block starts as the identity, with branch weights that have no gradients and scales that have; then the scales fade in."""
    lines = []
    for start in found.start.values:
        one = found.sel(start=start)
        lines.append(same(f"{start}: E[z²] of the stream after all blocks over that before", 1, one.predicted[-1] / one.predicted[0], 1e-9))
        lines.append(same(f"{start}: largest E[g²] of a branch weight", 0, one.branch, 0))
        if start != "fixup":  # whose head is zero too
            lines.append(above(f"{start}: smallest E[g²] of what multiplies a branch", 0.01, one.scale, 0))
    gain = found.attrs["first_gain"] * 4 / 9  # images of 2 by 2 pixels leave 4 of 9 taps to each of the two convolutions
    lines.append(same("layer_scale: factor of E[z²] per block, less 1, over that of the taps that padding leaves times its first gain "
                      "squared", 1, (found.layer_scale - 1) / gain**2, 1e-3))
    for gamma in found.gamma.values:
        one = found.sel(gamma=gamma)
        if gamma:
            step = np.diff(one.stream) / gamma**2
            lines.append(same(f"gamma = {gamma:g}: growth of E[z²] per block, over gamma²", 1, step[np.argmax(np.abs(step - 1))], 2e-3))
        lines.append(agrees(f"gamma = {gamma:g}: measured over predicted E[z²]", one.stream, one.stream_measured, one.stream_stderr, 0.15))
    left = found.loss[:, -20:].mean("step") / np.log(10)
    return [*lines, above("share of chance's loss that training takes away", 0.5, *averaged(1 - left)),
            above("smallest root mean square of a gamma after training", 0.01, *averaged(found.rms[:, -1].min("block")))]


def draw(found: xr.Dataset) -> Any:
    """E[z²] of the stream by block, gammas in training, and losses: means and standard deviations over runs."""
    figure, (left, right, last) = drawing.panels(3)
    for k, gamma in enumerate(found.gamma.values):
        one = found.sel(gamma=gamma)
        drawing.curve(left, np.arange(found.sizes["node"]), one.stream, one.stream_measured, one.stream_stderr, f"$\\gamma$ = {gamma:g}", k)
    for k in range(found.sizes["block"]):
        drawing.band(right, np.arange(found.sizes["step"]), found.rms[:, :, k], f"block {k}", k)
    drawing.labelled(left, "blocks passed", "$E[z^2]$ of the stream")
    drawing.labelled(right, "step of Adam", r"root mean square of $\gamma$")
    drawing.band(last, np.arange(found.sizes["step"]), found.loss, f"$\\gamma$ = {found.attrs['gamma']:g} at the start", 0)
    drawing.labelled(last, "step of Adam", "cross-entropy, nats", "y")
    return figure


__all__ = ["Config", "PRESETS", "Study", "claims", "compute", "draw", "measure", "predict", "train"]
