"""Forty ReLU layers without normalization: dead under Glorot or N(0, 0.01²), alive under He.

Square layers under Glorot halve E[z²] each: 2^-40 = 9.1e-13 after forty. Under He it stays exactly, and the gradient is multiplied by
n_out / n_in in each layer, which is not 1 on the way to a bottleneck (He et al. 2015, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop import nn
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_whole
from sigprop.inputs import load
from sigprop.network import Network, network
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, measure, predict
from sigprop.studies.training import trained


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """An autoencoder of scikit-learn's digits, 64 pixels, standardized.

    Attributes:
        depth: number of dense layers, even: half of them encode. ReLU follows all but the last.
        width: of the first hidden layer; the encoder's widths fall geometrically from it to the bottleneck.
        bottleneck: width of the code; fewer than 8 units are sampled, which takes minutes where several layers have so few.
    """

    depth: int = 40
    width: int = 64
    bottleneck: int = 64
    examples: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in {"depth": 4, "width": 1, "bottleneck": 1}.items():
            check_whole(name, getattr(self, name), least)
        if self.depth % 2:
            raise InvalidInput(f"depth: {self.depth} given; it must be even, since half of the layers encode and half decode")

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of the input and after each layer."""
        down = [int(round(w)) for w in np.geomspace(self.width, self.bottleneck, self.depth // 2)]
        return (64, *down, *down[-2::-1], 64)

    def images(self, count: int) -> np.ndarray:
        """The first digits, ``[count, 64]``."""
        return load("digits", count, None, 2)

    def network(self) -> Network:
        half = self.widths[1:self.depth // 2]
        init = initializer(self.init)
        return network(lambda rngs: nn.Autoencoder(64, half, self.bottleneck, kernel_init=init, rngs=rngs), self.images(self.examples))

    def nodes(self) -> list[str]:
        return [f"{part}/layers/{k}" for part in ("encoder", "decoder") for k in range(self.depth // 2)]


def train(study: Study, steps: int = 300, learning_rate: float = 1e-3, batch_size: int = 64, key: Any = None) -> xr.Dataset:
    """Reconstruct all digits with Adam, from a draw of the parameters.

    Returns:
        ``loss`` ``(step)``, the mean squared error of minibatches; ``chance``, that of the mean image.

    Raises:
        MissingDependency: where optax is not installed.
    """
    images = study.images(1797)
    found = trained(study.network(), (images,), images, lambda y, t: jnp.mean((y - t) ** 2), steps, learning_rate, batch_size, key)
    return found.assign(chance=float(np.mean((images - images.mean(0)) ** 2)))


__all__ = ["Study", "measure", "predict", "train"]
