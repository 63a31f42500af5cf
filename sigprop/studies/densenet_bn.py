"""Dense blocks: channels accumulate, and batch normalization with He keeps every new feature at variance 1 (Huang et al. 2017).

Normalized inputs leave ReLU with a second moment of 1/2, which He doubles and Glorot, that counts the few outputs too, does not. Without
skips, batch normalization makes gradients explode: by pi / (pi - 1) per ReLU layer for large batches (Yang et al. 2019), see
:class:`Perceptron`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flax import nnx

from sigprop import nn
from sigprop.init.checks import check_choice, check_whole
from sigprop.network import Network, network
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, measure, predict, unit_inputs


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """One dense block of 3 by 3 convolutions after a first one to ``2 growth`` channels, on images whose pixels have a mean square of 1.

    Attributes:
        growth: the growth rate, channels that each layer adds.
        layers: of the block.
        norm: whether there is batch normalization.
        batch_statistics: whether it uses the statistics of the batch, as in training, or running ones, which are 0 and 1 at the start and
            change nothing.
        size: height and width of an image.
        padding: ``"CIRCULAR"``, under which all pixels are alike, or ``"SAME"`` (by zeros), which removes taps at the border.
    """

    growth: int = 12
    layers: int = 3
    norm: bool = True
    batch_statistics: bool = True
    size: int = 4
    padding: str = "CIRCULAR"
    examples: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("growth", "layers", "size"):
            check_whole(name, getattr(self, name))
        nn.Convolution(padding=self.padding)

    def network(self) -> Network:
        x = unit_inputs((self.examples, self.size, self.size, 3), self.seed)
        init, norm = initializer(self.init), nnx.BatchNorm if self.norm else nn.no_norm
        return network(lambda rngs: nn.DenseNet(3, self.growth, 10, blocks=1, layers=self.layers, norm=norm, padding=self.padding,
                                                kernel_init=init, rngs=rngs), x, train=self.batch_statistics)

    def nodes(self) -> list[str]:
        return ["stem", *(f"blocks/0/{k}/conv" for k in range(self.layers))]


@dataclass(frozen=True, kw_only=True)
class Perceptron(Base):
    """Dense layers with batch normalization on the statistics of the batch and an activation after each but the last.

    Attributes:
        width, depth: of all layers, and their number.
        act: ``"relu"`` or ``"identity"``.
    """

    width: int = 64
    depth: int = 4
    act: str = "relu"
    examples: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("width", self.width)
        check_whole("depth", self.depth, 2)
        check_choice("act", self.act, ("relu", "identity"))

    def network(self) -> Network:
        init = initializer(self.init)

        def build(rngs: nnx.Rngs) -> nnx.Module:
            layers: list[Any] = []
            for _ in range(self.depth):
                layers += [nnx.Linear(self.width, self.width, use_bias=False, kernel_init=init, rngs=rngs),
                           nnx.BatchNorm(self.width, rngs=rngs), *([nnx.relu] if self.act == "relu" else [])]
            return nnx.Sequential(*layers[:-2 if self.act == "relu" else -1])

        return network(build, unit_inputs((self.examples, self.width), self.seed), train=True)

    def nodes(self) -> list[str]:
        return [f"layers/{(3 if self.act == 'relu' else 2) * k}" for k in range(self.depth)]


__all__ = ["Perceptron", "Study", "measure", "predict"]
