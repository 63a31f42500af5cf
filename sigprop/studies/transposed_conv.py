"""Transposed convolutions: forward, the inputs that reach an output pixel count; backward, the outputs that an input pixel feeds.

On average C_in k²/s² inputs reach an output. Where the stride s does not divide k they differ by phase, which makes a checkerboard
(``site_variance:NODE``); each input feeds C_out k² outputs away from the border (``site_grad_variance:NODE``). Initializers that count
the shape of the kernel, such as ``sp.init.he()``, take C_in k² and are low by s² (Dumoulin & Visin 2016; Odena et al. 2016).
"""

from __future__ import annotations

from dataclasses import dataclass

from sigprop import nn
from sigprop.init.checks import check_whole
from sigprop.init.scaling import he
from sigprop.network import Network
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, measure, predict, stack, unit_inputs


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """A pointwise convolution under He, and transposed convolutions under ``init``, with ReLU in between.

    The images that the first transposed convolution sees, row ``relu``, have a second moment of 1.

    Attributes:
        k: taps along an axis.
        stride: how often the image grows in each layer.
        channels: C_in of every transposed convolution.
        features: C_out of the last one; the others have ``channels``.
        depth: number of transposed convolutions.
        size: height and width of the first image.
        padding: ``"SAME"`` (k/s times the image, cropped), ``"VALID"`` or ``"CIRCULAR"``.
    """

    k: int = 4
    stride: int = 2
    channels: int = 32
    features: int = 32
    depth: int = 1
    size: int = 6
    padding: str = "SAME"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "features", "depth", "size"):
            check_whole(name, getattr(self, name))
        self._layer()

    def _layer(self) -> nn.Transposed:
        return nn.Transposed(self.k, self.stride, self.padding)

    def network(self) -> Network:
        x = unit_inputs((self.examples, self.size, self.size, self.channels), self.seed)
        layer = self._layer()
        widths = [self.channels] * (self.depth + 1) + [self.features]
        inits = [he()] + [initializer(self.init, layer.fans)] * self.depth
        return stack([nn.Pointwise()] + [layer] * self.depth, widths, inits, x)

    def nodes(self) -> list[str]:
        return ["layers/0", "relu", *(f"layers/{2 * k}" for k in range(1, self.depth + 1))]


__all__ = ["Study", "measure", "predict"]
