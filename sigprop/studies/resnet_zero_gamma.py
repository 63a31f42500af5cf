"""Residual blocks whose branches start at zero: every block is the identity, and a He-initialized branch waits to fade in.

On the statistics of the batch a last normalization of scale gamma adds gamma² to the variance of the stream in every block: linear growth
at 1, none at 0 (Goyal et al. 2017, section 5.1). At 0 the gradients of the weights of the branch are exactly 0, that of gamma is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop import nn
from sigprop.init.checks import check_choice, check_number, check_whole
from sigprop.inputs import digit_labels, load
from sigprop.network import Network, network
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, measure, predict, unit_inputs
from sigprop.studies.training import trained

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
    """Classify scikit-learn's digits with Adam, from a draw of the parameters.

    Returns:
        ``loss`` ``(step)``, the cross-entropy of minibatches, and ``rms`` ``(step, parameter)``, root mean squares of ``study.scales()``.

    Raises:
        InvalidInput, MissingDependency: where scikit-learn or optax is not installed.
    """
    images, labels = load("digits", 1797, (8, 8, 1), 2), digit_labels()

    def entropy(y: Any, t: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(y), t[:, None], -1))

    net = study.on(images[:batch_size])
    return trained(net, (images,), labels, entropy, steps, learning_rate, batch_size, key, watch=study.scales())


__all__ = ["Study", "measure", "predict", "train"]
