"""Weight normalization: with W = g v / |v| the gain is g, whatever the scale of v, and g = sqrt(2) keeps the variance through ReLU.

The variance of layer l is ``(g²/2)^l`` times that of the first; the gradient of g does not depend on the scale of v, that of v is inverse
to it (Salimans & Kingma 2016). Beside it are weight standardization (Qiao et al. 2019) and spectral normalization (Miyato et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt

from flax import nnx

from sigprop import nn
from sigprop.init.checks import check_choice, check_number, check_whole
from sigprop.init.initializer import Scaled
from sigprop.network import Network, network
from sigprop.nn.shared import Init
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, measure, predict, unit_inputs

_KINDS = ("weight_norm", "standardized", "spectral")


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """A dense network of equal widths with ReLU in between, on inputs with a mean square of 1.

    Attributes:
        gain: first value of g of every unit, above 0; a spectral norm has none.
        scale: of v, which is drawn from ``init``.
        kind: ``"weight_norm"``; ``"standardized"``, after a plain first layer, predicted up to terms of order 1/width; or ``"spectral"``
            (Flax's, one step of power iteration, from a random start: a norm of s sqrt(n + m), not of s (sqrt(n) + sqrt(m))).
        depth: number of layers.
        width: of all layers.
    """

    gain: float = sqrt(2)
    scale: float = 1.0
    kind: str = "weight_norm"
    depth: int = 10
    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("gain", self.gain, above=0.0)
        check_number("scale", self.scale, above=0.0)
        check_choice("kind", self.kind, _KINDS)
        check_whole("depth", self.depth)
        check_whole("width", self.width)

    def network(self) -> Network:
        standardized = partial(nn.StandardizedLinear, gain=self.gain)
        layers = {"weight_norm": partial(nn.WeightNormLinear, gain=self.gain), "spectral": _spectral,
                  "standardized": [nnx.Linear] + [standardized] * (self.depth - 1)}
        init = Scaled(initializer(self.init), self.scale)
        x = unit_inputs((self.examples, self.width), self.seed)
        return network(lambda rngs: nn.MLP([self.width] * (self.depth + 1), layer=layers[self.kind], kernel_init=init, rngs=rngs), x,
                       train=self.kind == "spectral")

    def nodes(self) -> list[str]:
        inner = "/layer_instance" if self.kind == "spectral" else ""
        return [f"layers/{k}{inner}" for k in range(self.depth)]


def _spectral(in_features: int, out_features: int, *, kernel_init: Init, bias_init: Init, rngs: nnx.Rngs) -> nnx.SpectralNorm:
    return nnx.SpectralNorm(nnx.Linear(in_features, out_features, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs), rngs=rngs)


__all__ = ["Study", "measure", "predict"]
